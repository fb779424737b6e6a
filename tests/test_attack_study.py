"""Studies under attack: the plan, what an attack job leaves, comparisons of clean with attacked, backdoors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rows import by, pairs
from torch import Tensor, nn

import sj_cka
from sj_cka import jobs, recipe
from sj_cka.attacks import ATTACKS, Attack, pixel_model, success_rate
from sj_cka.attacks.model import Target
from sj_cka.data import DATASETS, Frames, Images, Samples, digits, digits_dvs
from sj_cka.figures.robustness import masking
from sj_cka.job import Job
from sj_cka.jobs.attack import attack_files, read_inputs
from sj_cka.jobs.compare import read_result
from sj_cka.jobs.weights import read_network
from sj_cka.plan import Plan, plan
from sj_cka.recipe import RecipeError
from sj_cka.recipe.blocks import Poison
from sj_cka.store import Store

Write = Callable[..., Path]
IMAGES = 24

ATTACKED = """\
title: Attacked
question: What is left?
data: {name: digits, train: 400}
model: {name: convnet, channels: [6, 8]}
snn: {T: 2}
train: {epochs: 20, batch_size: 20, ann: {momentum: 0.8}, trained_at: 0.5}
seeds: 1
variants:
  base: {}
  third: {model: {channels: [8, 6]}}
  poisoned:
    train: {poison: {target: 3, share: 0.2, size: 2}}
attack:
  images: 24
  batch_size: 10
  networks: [base.snn, base.ann]
  eps: [0.1, 0.3]
  by:
    pgd: {steps: 3}
    square: {queries: 5}
    middle: {name: pgd, steps: 3, eps: 0.3}
    from_snn: {name: transfer, source: "*.snn"}
    third: {name: transfer, source: third.ann, attack: fgsm, eps: 0.3}
    half: {name: pgd, steps: 3, rate: 0.5, eps_max: 0.8}
    noise: {name: noise_like, like: half}
    paper: {name: pgd_paper, eps: 0.5}
    noise_paper: {name: noise_like, like: paper}
    third_paper: {name: transfer, source: third.ann, attack: pgd_paper, eps: 0.5}
compare:
  - {name: under, x: base.snn, y: base.snn, attack_y: pgd}
  - {name: half_snn, x: base.snn, y: base.snn, attack_y: half}
  - {name: half_ann, x: base.ann, y: base.ann, attack_y: half}
  - {name: noise_snn, x: base.snn, y: base.snn, attack_y: noise}
  - {name: noise_ann, x: base.ann, y: base.ann, attack_y: noise}
  - {name: poisoned, x: poisoned.snn, y: poisoned.ann}
figures:
  - {name: robustness}
  - {name: curve, comparison: under}
  - {name: backdoors}
claims:
  - test: greater
    says: It stands more.
    source: nobody
    a: {measure: accuracy, network: base.snn, attack: pgd, eps: 0.1}
    b: {measure: accuracy, network: base.ann, attack: pgd, eps: 0.1}
  - test: greater_in_all
    says: It keeps more.
    source: nobody
    pairs:
      - a: {measure: paired_cka, comparison: half_snn}
        b: {measure: paired_cka, comparison: half_ann}
      - a: {measure: paired_cka, comparison: half_snn, minus: noise_snn}
        b: {measure: paired_cka, comparison: half_ann, minus: noise_ann}
  - test: less
    says: The trigger works less.
    source: nobody
    a: {measure: backdoor_success, network: poisoned.snn}
    b: {measure: backdoor_success, network: poisoned.ann}
"""


@pytest.fixture
def attack_file(writer: Callable[[str, str], Write]) -> Write:
    """`attack_file((old, new), ...)`: the recipe above with texts replaced."""
    return writer(ATTACKED, "attacked.yaml")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    """The study above and where its finished jobs lie."""
    folder = tmp_path_factory.mktemp("attacked")
    path = folder / "attacked.yaml"
    path.write_text(ATTACKED, encoding="utf-8")
    return plan(recipe.read(path)), Store(folder / "store")


def attacks_of(plan: Plan) -> dict[tuple[Any, ...], Job]:
    """(network, entry of attack.by, eps, seed) -> the job that attacks it so."""
    return by(plan, "attack", "network", "attack", "eps", "seed")


def finished(job: Job, store: Store) -> Callable[[str], bytes]:
    """Runs a job with all that it needs; gives its files."""
    for needed in job.inputs.values():
        finished(needed, store)
    if not store.has(job.key):
        store.write(job.key, jobs.run(job, store.read))
    return lambda name: store.read(job.key, name)


def attack(study: tuple[Plan, Store], network: str, name: str, eps: float | None) -> tuple[dict[str, float], Tensor]:
    """What an attack job tells, and the pixels that the network was shown."""
    read = finished(attacks_of(study[0])[network, name, eps, 0], study[1])
    return json.loads(read("attack.json")), pixels(read_inputs(read("inputs.safetensors")))


def pixels(inputs: Tensor) -> Tensor:
    data = digits(train=400)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    return inputs * std + mean


def network(study: tuple[Plan, Store], name: str) -> nn.Module:
    return read_network(finished(study[0].trained[name, 0], study[1])("weights.safetensors"))


CLEAN, LABELS = digits(train=400).x_test[:IMAGES], digits(train=400).y_test[:IMAGES]


# the plan


def test_every_network_is_under_every_attack_of_every_strength_but_what_was_made_on_itself(
    study: tuple[Plan, Store],
) -> None:
    strengths = {
        "pgd": [0.1, 0.3], "square": [0.1, 0.3], "middle": [0.3], "from_snn": [0.1, 0.3],
        "third": [0.3], "half": [None], "noise": [None], "paper": [0.5], "noise_paper": [0.5], "third_paper": [0.5],
    }  # fmt: skip
    wanted = {
        (name, entry, eps, 0)
        for name in ("base.snn", "base.ann")
        for entry, own in strengths.items()
        for eps in own
        if (name, entry) != ("base.snn", "from_snn")
    }
    assert set(attacks_of(study[0])) == wanted
    assert {name for name, _ in study[0].trained} == {
        "base.snn", "base.ann", "third.ann", "poisoned.snn", "poisoned.ann"
    }  # fmt: skip


def test_an_attack_builds_on_the_networks_and_attacks_that_it_needs(study: tuple[Plan, Store]) -> None:
    planned = study[0]
    jobs_of = {
        name: attacks_of(planned)["base.ann", name, eps, 0] for name, eps in (("from_snn", 0.1), ("noise", None))
    }
    assert jobs_of["from_snn"].inputs["source"].key == planned.trained["base.snn", 0].key
    assert jobs_of["noise"].inputs["like"].key == attacks_of(planned)["base.ann", "half", None, 0].key
    assert attacks_of(planned)["base.snn", "middle", 0.3, 0].key == attacks_of(planned)["base.snn", "pgd", 0.3, 0].key


def test_comparisons_under_attack_have_no_floor_and_no_ceiling(study: tuple[Plan, Store]) -> None:
    under = [(p.variant, p.state) for p in pairs(study[0]) if p.comparison == "under"]
    assert under == [("at eps 0.1", "trained"), ("at eps 0.3", "trained")]


def test_a_backdoor_changes_the_trainings_of_its_variant_alone(attack_file: Write) -> None:
    before = plan(recipe.read(attack_file())).trained
    after = plan(recipe.read(attack_file(("share: 0.2", "share: 0.3")))).trained
    assert {name for name, _ in before if before[name, 0].key != after[name, 0].key} == {"poisoned.snn", "poisoned.ann"}


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ("    pgd: {steps: 3}", "    pgdd: {steps: 3}", "attack.by.pgdd.name", "did you mean 'pgd'"),
        ("    pgd: {steps: 3}", "    pgd: {stepz: 3}", "attack.by.pgd.stepz", "did you mean 'steps'"),
        ("  eps: [0.1, 0.3]", "  eps: [0.3, 0.1]", "attack.eps", "from the smallest to the largest"),
        ("  eps: [0.1, 0.3]", "  eps: -0.1", "attack.eps", "expected at least one eps above 0"),
        ("  images: 24", "  images: 361", "attack.images", "expected at most 360, so many test images there are"),
        ("rate: 0.5, eps_max: 0.8", "rate: 0.5", "attack.by.half", "expected rate and eps_max together"),
        ("rate: 0.5, eps_max: 0.8", "rate: 0.5, eps_max: 1, eps: 0.1", "attack.by.half", "eps or rate, got both"),
        ("like: half", "like: halve", "attack.by.noise.like", "expected an entry above this one, got 'halve'"),
        ("like: half", "like: half, steps: 2", "attack.by.noise", "expected name and like alone"),
        ('source: "*.snn"', "attack: pgd", "attack.by.from_snn.source", "expected source, a network, with transfer"),
        ('source: "*.snn"', "source: forth.snn", "attack.by.from_snn.source", "nobody trains a variant 'forth'"),
        ("    square: {queries: 5}\n", "", "attack.by", "expected a gradient-free attack too"),
        ("networks: [base.snn, base.ann]", "networks: [base.snn@init]", "attack.networks[0]", "a trained network"),
        ("attack_y: pgd}", "attack_y: pdg}", "compare[0].attack_y", "did you mean 'pgd'"),
        ("y: base.snn, attack_y: pgd}", "y: third.snn, attack_y: pgd}", "compare[0].attack_y", "among attack.networks"),
        ("pgd, eps: 0.1}\n    b:", "pgd}\n    b:", "claims[0].a.eps", "one of the strengths of pgd (0.1, 0.3)"),
        (
            "network: base.ann, attack: pgd, eps: 0.1",
            "network: base.ann, attack: half, eps: 0.1",
            "claims[0].b.eps",
            "expected no eps, got 0.1",
        ),
        (
            "a: {measure: backdoor_success, network: poisoned.snn}",
            "a: {measure: backdoor_success, network: base.snn}",
            "claims[2].a.network",
            "expected a network whose training has train.poison",
        ),
        (
            "a: {measure: accuracy, network: base.snn, attack: pgd, eps: 0.1}",
            "a: {measure: attack_strength, network: base.snn, attack: middle}",
            "claims[0].a.attack",
            "expected an entry with rate, whose strength is found, got 'middle'",
        ),
        (
            "a: {measure: accuracy, network: base.snn, attack: pgd, eps: 0.1}",
            "a: {measure: attack_strength, network: base.snn}",
            "claims[0].a.attack",
            "expected an entry of attack.by, it is missing",
        ),
        ("target: 3", "target: 10", "variants.poisoned.train.poison.target", "expected a class, 0 to 9, got 10"),
        ("0.2, size: 2", "0.2, size: 9", "variants.poisoned.train.poison.size", "expected size up to 8"),
        ("half_ann, minus: noise_ann", "half_ann, minus: under", "claims[1].pairs[1].b.minus", "variants of half_ann"),
        ("attack: fgsm, eps: 0.3}", "attack: fgsn, eps: 0.3}", "attack.by.third.attack", "did you mean 'fgsm'"),
        ("pgd: {steps: 3}", "pgd: {steps: 0}", "attack.by.pgd.steps", "expected steps"),
        ("square: {queries: 5}", "square: {queries: 1}", "attack.by.square.queries", "queries"),
        ("attack: fgsm, eps: 0.3}", "attack: pgd, options: {stps: 1}, eps: 0.3}", "attack.by.third", "stps"),
        ("pgd: {steps: 3}", "pgd: {steps: 3, bounds: [0, 0.5]}", "attack.by.pgd", "go from 0 to 1; give bounds"),
        ("share: 0.2", "share: 0.001", "variants.poisoned.train.poison.share", "got 0 (0.001 of all)"),
        ("share: 0.2", "share: 0.99", "variants.poisoned.train.poison.share", "those of other classes, got 396"),
        ("{name: robustness}", "{name: heatmap, comparison: under, state: untrained}", "figures[0].state", "no floor"),
        (", minus: noise_snn", "", "claims[1]", "expected minus in both a and b, or in none"),
        ("pgd: {steps: 3}", "pgd: {name: drop_events}", "attack.by.pgd", "got drop_events: on recordings"),
        ("  eps: [0.1, 0.3]", "  eps: [0.1, 8]", "attack.eps[1]", "bounds 0 to 1, got 8; 8/255?"),
        ("  eps: [0.1, 0.3]", "  eps: 4", "attack.eps", "bounds 0 to 1, got 4; 4/255?"),
        ("rate: 0.5, eps_max: 0.8", "rate: 0.5, eps_max: 8", "attack.by.half.eps_max", "got 8; 8/255?"),
        ("attack: fgsm, eps: 0.3}", "attack: fgsm, eps: 2}", "attack.by.third.eps", "got 2; 2/255?"),
        ("name: pgd, steps: 3, eps: 0.3}", "name: gaussian, eps: 8}", "attack.by.middle.eps", "got 8; 8/255?"),
        ("name: pgd, steps: 3, eps: 0.3}", "name: salt_and_pepper, eps: 5}", "attack.by.middle.eps", "5 % are 0.05"),
        ("name: pgd, steps: 3, eps: 0.3}", "name: boundary, eps: 9}", "attack.by.middle.eps", "the diameter in the L2"),
        ("pgd, steps: 3, eps: 0.3}", "pgd, norm: l2, eps: 9}", "attack.by.middle.eps", "diameter in the L2 norm of 64"),
        (" {name: pgd_paper, eps: 0.5}", " {name: pgd_paper, eps: 8}", "attack.by.paper.eps", "1.83251, got 8"),
        (
            "pgd, steps: 3, eps: 0.3}",
            "pgd, bounds: [0, 255], eps: 8}",
            "attack.by.middle",
            "on the scale of the bounds 0 to 255, those here go from 0 to 1",
        ),
        ("0.2, size: 2", "0.2, value: 255", "variants.poisoned.train.poison.value", "have, 0 to 1, got 255"),
    ],
)  # fmt: skip
def test_every_fault_is_told_with_its_key_path(attack_file: Write, old: str, new: str, key: str, message: str) -> None:
    path = attack_file((old, new))
    with pytest.raises(RecipeError) as caught:
        plan(recipe.read(path))
    assert f" {key}: " in str(caught.value)
    assert message in str(caught.value)


def test_a_gradient_attack_of_a_plugin_needs_a_partner_without_gradients_too(
    attack_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTACKS, "mine", Attack(lambda net, x, y, *, eps, generator=None: x.clone()))
    monkeypatch.setitem(ATTACKS, "blind", Attack(lambda net, x, y, *, eps, generator=None: x, needs="answers"))
    path = attack_file()
    alone = ATTACKED.partition("attack:\n")[0] + "attack:\n  eps: 0.1\n  by:\n    mine: {}\n"
    path.write_text(alone)
    with pytest.raises(RecipeError, match=r"attack.by: expected a gradient-free attack too, e.g. square"):
        recipe.read(path)
    path.write_text(alone + "    blind: {}\n")
    assert list(recipe.read(path).attacks) == ["mine", "blind"]


def test_the_trigger_of_a_recipe_is_as_bright_as_the_samples_are_stored() -> None:
    def trigger(x: Tensor, kind: type[Samples] = Images, **options: float) -> dict[str, float]:
        split = {"x_train": x, "y_train": torch.arange(4), "x_test": x, "y_test": torch.arange(4)}
        moments = {"mean": (0.5,), "std": (0.5,)} if kind is Images else {}
        return Poison(target=0, share=0.1, **options).trigger(kind(**split, **moments, classes=4, fingerprint=""))  # type: ignore[arg-type]

    x = torch.rand(4, 1, 8, 6)
    assert trigger(x) == trigger((x * 255).byte()) == {}  # what stamp takes by itself
    assert trigger(x * 255) == {"value": 255.0}
    assert trigger(x * 255, value=9) == {"value": 9.0}
    for counts in ((x * 9).byte(), (x * 255).short(), x * 255):
        assert trigger(counts[:, :, None], Frames) == {"value": 1.0}


# what an attack leaves


@pytest.mark.parametrize("name", ["base.snn", "base.ann"])
def test_what_is_told_of_an_attack_is_true_of_what_it_left(study: tuple[Plan, Store], name: str) -> None:
    data = digits(train=400)
    model = pixel_model(network(study, name), data.mean, data.std)
    for entry, eps in (("pgd", 0.3), ("square", 0.1), ("half", None)):
        told, shown = attack(study, name, entry, eps)
        assert told["eps"] <= 0.8 if eps is None else told["eps"] == eps
        change = (shown - CLEAN).abs().flatten(1)
        assert change.max() <= told["eps"] + 1e-5
        assert -1e-5 <= shown.min() <= shown.max() <= 1 + 1e-5
        assert told["linf"] == pytest.approx(float(change.amax(1).mean()), abs=1e-5)
        assert told["l2"] == pytest.approx(float(change.norm(dim=1).mean()), abs=1e-4)
        with torch.no_grad():
            before, after = ((model(x).argmax(1) == LABELS).float().mean().item() for x in (CLEAN, shown))
        assert (told["clean"], told["accuracy"]) == (pytest.approx(before), pytest.approx(after))
        assert told["success"] == pytest.approx(success_rate(model, CLEAN, shown.clamp(0, 1), LABELS))
        assert told["loss"] >= told["loss_before"]


def test_an_attack_at_a_success_rate_has_about_that_rate_and_noise_its_norm(study: tuple[Plan, Store]) -> None:
    for name in ("base.snn", "base.ann"):
        half, under_half = attack(study, name, "half", None)
        assert abs(half["success"] - 0.5) < 0.15  # 24 images, and a rate that jumps
        noise, under_noise = attack(study, name, "noise", None)
        norms = [(x - CLEAN).flatten(1).norm(dim=1) for x in (under_half, under_noise)]
        assert torch.allclose(*norms, rtol=1e-2)
        assert noise["success"] < half["success"]
        assert math.isnan(float("nan") if noise["eps"] is None else noise["eps"])


def inputs(study: tuple[Plan, Store], network: str, name: str, eps: float) -> Tensor:
    return read_inputs(finished(attacks_of(study[0])[network, name, eps, 0], study[1])("inputs.safetensors"))


def test_noise_and_transfers_have_the_unit_and_the_bounds_of_their_attack(study: tuple[Plan, Store]) -> None:
    clean = digits(train=400).as_input(CLEAN)
    paper, noise, third = (inputs(study, "base.ann", f"{n}paper", 0.5) - clean for n in ("", "noise_", "third_"))
    norms = [change.flatten(1).norm(dim=1) for change in (paper, noise)]
    assert torch.allclose(*norms, rtol=1e-3)
    assert 0.45 < third.abs().max() <= 0.5 + 1e-5
    for name in ("paper", "noise_paper", "third_paper"):
        told, _ = attack(study, "base.ann", name, 0.5)
        shown = inputs(study, "base.ann", name, 0.5) - clean
        assert told["l2"] == pytest.approx(float(shown.flatten(1).norm(dim=1).mean()), rel=1e-4)


def test_the_setting_of_the_paper_is_in_the_unit_of_the_network(study: tuple[Plan, Store]) -> None:
    change = (inputs(study, "base.ann", "paper", 0.5) - digits(train=400).as_input(CLEAN)).abs()
    assert change.max() <= 0.5 + 1e-5
    assert change.max() > 0.45
    assert pixels(digits(train=400).as_input(CLEAN) + change).max() > 1  # no bounds


def test_a_transfer_shows_a_network_what_was_made_on_another(study: tuple[Plan, Store]) -> None:
    _, shown = attack(study, "base.ann", "from_snn", 0.3)
    data = digits(train=400)
    source = pixel_model(network(study, "base.snn"), data.mean, data.std)
    told, _ = attack(study, "base.ann", "from_snn", 0.3)
    made, _ = attack(study, "base.snn", "pgd", 0.3)
    again = success_rate(source, CLEAN, shown.clamp(0, 1), LABELS)
    # 20 steps in place of 3: on the network that it was made on it works at least as well
    assert again >= made["success"]
    assert told["accuracy"] < told["clean"]


# comparisons


def test_clean_is_compared_with_attacked_sample_by_sample(study: tuple[Plan, Store]) -> None:
    pair = next(p for p in pairs(study[0]) if (p.comparison, p.variant) == ("under", "at eps 0.3"))
    result = read_result(finished(pair.job, study[1])("cka.nc"))
    assert int(result.data.n) == IMAGES
    net, data = network(study, "base.snn"), digits(train=400)
    outputs: list[Tensor] = []
    net.get_submodule("stage2.0.bn").register_forward_hook(lambda m, x, y: outputs.append(y))
    shown = finished(attacks_of(study[0])["base.snn", "pgd", 0.3, 0], study[1])("inputs.safetensors")
    for x in (data.as_input(CLEAN), read_inputs(shown)):
        sj_cka.recording.reset_states(net)
        with torch.no_grad():
            net(x)
    rows = [torch.cat(list(y.double().flatten(2)), 1) for y in outputs]
    grams = [x @ x.T for x in rows]
    expected = unbiased(*grams) / (unbiased(grams[0], grams[0]) * unbiased(grams[1], grams[1])).sqrt()
    assert result.matrix().loc["stage2.0.bn", "stage2.0.bn"] == pytest.approx(float(expected), abs=1e-6)


def unbiased(K: Tensor, L: Tensor) -> Tensor:
    """HSIC_1 by its formula (Song et al. 2012, eq. 5), but for the factor n (n - 3)."""
    n = len(K)
    K, L = (M - torch.diag(M.diag()) for M in (K, L))
    return (K * L).sum() + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (K.sum(0) @ L.sum(0))


# backdoors


def test_a_backdoor_is_learnt_and_measured_on_images_of_other_classes(study: tuple[Plan, Store]) -> None:
    for (name, seed), job in by(study[0], "backdoor", "network", "seed").items():
        found = json.loads(finished(job, study[1])("backdoor.json"))
        accuracy = json.loads(finished(study[0].trained[name, seed], study[1])("accuracy.json"))
        assert found["accuracy"] == pytest.approx(accuracy["test"])
        assert found["success_rate"] > found["unprompted"] + 0.3, name
        data, net = digits(train=400), network(study, name)
        others = data.x_test[data.y_test != 3].clone()
        others[:, :, -2:, -2:] = 1
        with torch.no_grad():
            scores = net(data.as_input(others))
        taken = (scores.mean(0) if scores.ndim == 3 else scores).argmax(1) == 3
        assert found["success_rate"] == pytest.approx(taken.float().mean().item())


# the page


def test_the_page_shows_accuracy_under_attack_backdoors_and_signs_of_masking(
    attack_file: Write, study: tuple[Plan, Store]
) -> None:
    done = sj_cka.run(attack_file(), store=study[1].root, out="out", workers=1, progress=False)
    page = done.report.read_text(encoding="utf-8")
    assert "eps is in pixels, from 0 to 1" in page
    assert "masked gradients" in page
    table = pd.read_csv(done.folder / "attacks.csv")
    assert len(table) == len(attacks_of(study[0]))
    assert set(table["attack"]) == set(study[0].study.attacks)
    backdoors = pd.read_csv(done.folder / "backdoors.csv")
    assert list(backdoors["network"]) == ["poisoned.snn", "poisoned.ann"]
    assert [finding.verdict for finding in done.findings] == ["undecided"] * 3  # one seed
    assert all(np.isfinite(finding.estimate.mean) for finding in done.findings)


def rows(success: dict[str, tuple[float, float, float]]) -> pd.DataFrame:
    made = [
        {"network": "base.snn", "attack": name, "function": name, "rate": float("nan"), "linf_ball": True, "eps": 0.1}
        | {"seed": seed, "success": value, "masked": ""}
        for name, values in success.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(made)


def test_a_gradient_free_attack_that_beats_all_others_is_a_sign_of_masking() -> None:
    fgsm, pgd = (0.3, 0.3, 0.3), (0.1, 0.12, 0.11)
    [told] = masking(rows({"pgd": pgd, "fgsm": fgsm, "square": (0.5, 0.52, 0.51)}))
    assert told.startswith("On base.snn square succeeds more often than every gradient attack at eps 0.1 (by 21 points")
    for square in ((0.2, 0.2, 0.2), (0.2, 0.31, 0.4)):
        [told] = masking(rows({"pgd": pgd, "fgsm": fgsm, "square": square}))
        assert told.startswith("No gradient-free or transferred attack beats")


def test_nothing_is_said_of_masking_where_nothing_was_compared() -> None:
    nothing = "No attack without gradients has the strength of one with them: masked gradients would not show."
    apart = pd.concat([rows({"pgd": (0.0,)}), rows({"square": (1.0,)}).assign(eps=0.2)])
    for table in (apart, rows({"square": (1.0, 1.0, 1.0)})):
        assert masking(table) == [nothing]
    [told] = masking(rows({"pgd": (0.0,), "square": (1.0,)}))
    assert told.endswith("at eps 0.1 (by 100 points; one seed does not decide whether by chance).")


def test_a_rate_that_jumps_over_the_wanted_one_is_not_reached() -> None:
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.eye(2))
    x, y = torch.tensor([[0.6, 0.4]]).repeat(200, 1), torch.zeros(200, dtype=torch.int64)  # all fall at once
    aim = Target(x, 0, (0.0, 1.0), lambda own: pixel_model(own), lambda x: x, lambda x: x)
    args = {"attack": {"name": "fgsm"}, "batch_size": 200, "rate": 0.5, "most": 0.3}
    told = json.loads(attack_files(aim, y, net, args, 0)["attack.json"])
    assert told["success"] in (0.0, 1.0)
    assert not told["reached"]


def test_a_network_that_is_right_nowhere_reaches_no_rate() -> None:
    net = nn.Linear(2, 2)
    x, y = torch.rand(8, 2), torch.zeros(8, dtype=torch.int64)
    y = 1 - net(x).argmax(1)
    aim = Target(x, 0, (0.0, 1.0), lambda own: pixel_model(own), lambda x: x, lambda x: x)
    args = {"attack": {"name": "fgsm"}, "batch_size": 8, "rate": 0.5, "most": 0.3}
    told = json.loads(attack_files(aim, y, net, args, 0)["attack.json"])
    assert (told["reached"], told["eps"], told["clean"]) == (False, 0.3, 0.0)
    assert math.isnan(told["success"])


def test_samples_without_a_gradient_are_told() -> None:
    table = rows({"pgd": (0.1, 0.1, 0.1), "square": (0.0, 0.0, 0.0)})
    table.loc[0, "masked"] = "3 of 24 samples have no gradient"
    assert any("a gradient of exactly zero (base.snn)" in sentence for sentence in masking(table))


def test_a_success_rate_that_is_not_reached_is_told_and_decides_nothing(attack_file: Write, tmp_path: Path) -> None:
    path = attack_file(("rate: 0.5, eps_max: 0.8", "rate: 0.9, eps_max: 0.001"))
    done = sj_cka.run(path, store=tmp_path / "store", out="out", workers=1, progress=False)
    table = pd.read_csv(done.folder / "attacks.csv")
    half = table[table["attack"] == "half"]
    assert not half["reached"].any()
    assert (half["eps"] == 0.001).all()
    assert (half["linf"] <= 0.001 + 1e-6).all()
    finding = done.findings[1]
    assert finding.verdict == "undecided"
    assert "half did not reach success 0.9 on base.snn within eps 0.001" in finding.note


# recordings


RECORDED = """\
title: Dropped events
question: What is left?
data: {name: digits_dvs, T: 3, size: [9, 8], train: 60}
model: {name: convnet, channels: [6, 8], pools: 2}
train: {epochs: 8, batch_size: 20}
seeds: 1
attack:
  images: 16
  eps: [0.2, 0.9]
  by:
    drop_events: {}
    add_events: {eps: 0.5}
    pgd: {steps: 2, bounds: null, eps: 0.5}
    square: {queries: 3, bounds: null, eps: 0.5}
    noise: {name: noise_like, like: pgd}
compare:
  - {name: dropped, x: base.snn, y: base.snn, attack_y: drop_events}
figures: [{name: robustness}]
"""


def test_recordings_are_attacked_as_counts_of_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recorded.yaml"
    path.write_text(RECORDED, encoding="utf-8")
    store = Store(tmp_path / "store")
    done = sj_cka.run(path, store=store.root, out="out", workers=1, progress=False)
    planned = plan(recipe.read(path))
    [data] = planned.sets
    clean = data.samples.as_input(data.samples.x_test[:16])
    shown = {
        (name, eps): read_inputs(store.read(job.key, "inputs.safetensors"))
        for (network, name, eps, _), job in attacks_of(planned).items()
        if network == "base.snn"
    }
    assert {x.shape for x in shown.values()} == {clean.shape}
    for eps in (0.2, 0.9):
        dropped = shown["drop_events", eps]
        assert (dropped <= clean).all()
        assert torch.equal(dropped, dropped.round())
        assert abs(1 - dropped.sum() / clean.sum() - eps) < 0.05
    added = shown["add_events", 0.5]
    assert (added >= clean).all()
    assert abs(added.sum() / clean.sum() - 1.5) < 0.02
    assert (shown["pgd", 0.5] - clean).abs().max() <= 0.5 + 1e-6
    norms = [(shown[name, 0.5] - clean).movedim(1, 0).flatten(1).norm(dim=1) for name in ("pgd", "noise")]
    assert torch.allclose(*norms, rtol=1e-3)
    weak, strong = (
        next(c.result for c in done.results.compared if c.variant == f"at eps {eps}") for eps in ("0.2", "0.9")
    )
    assert weak.data.sizes["step_x"] == weak.data.sizes["step_y"] == 3
    assert weak.paired().mean() > strong.paired().mean()


@pytest.mark.parametrize("value", [40, 0.5, -1])
def test_a_trigger_that_recordings_do_not_have_is_an_error_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setitem(DATASETS, "bytes", lambda: digits_dvs(T=3, size=(9, 8), train=60))
    path = tmp_path / "poisoned.yaml"
    path.write_text(POISONED.replace("size: 3", f"value: {value}"), encoding="utf-8")
    with pytest.raises(RecipeError, match=rf":6: train.poison.value: expected a value .*, got {value}"):
        plan(recipe.read(path))


POISONED = """\
title: Poisoned recordings
question: Does it learn the trigger?
data: {name: bytes}
model: {name: convnet, channels: [16, 16], pools: 1}
ann_input: sum
train: {epochs: 15, batch_size: 20, poison: {target: 3, share: 0.15, size: 3}}
seeds: 1
"""


def test_a_backdoor_in_recordings_is_measured_with_the_trigger_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_bytes() -> Frames:
        """Recordings as public sets are stored."""
        frames = digits_dvs(T=3, size=(9, 8), train=600)
        return replace(frames, x_train=frames.x_train.to(torch.uint8), x_test=frames.x_test.to(torch.uint8))

    monkeypatch.setitem(DATASETS, "bytes", in_bytes)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "poisoned.yaml"
    path.write_text(POISONED, encoding="utf-8")
    planned, store = plan(recipe.read(path)), Store(tmp_path / "store")
    [data] = planned.sets
    job = by(planned, "backdoor", "network", "seed")["base.ann", 0]
    found = json.loads(finished(job, store)("backdoor.json"))
    net = read_network(store.read(planned.trained["base.ann", 0].key, "weights.safetensors"))
    others = data.samples.x_test[data.samples.y_test != 3].clone()
    others[..., -3:, -3:] = 1  # an event a pixel and step
    with torch.no_grad():
        taken = net(data.samples.as_input(others)).argmax(1) == 3
    assert found["success_rate"] == pytest.approx(taken.float().mean().item())
    assert found["success_rate"] > found["unprompted"] + 0.3
