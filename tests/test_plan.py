"""The graph of jobs of a study, and the faults that only its data and networks show."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rows import by, pairs

from sj_cka import recipe
from sj_cka.data import SHAPES, imagine
from sj_cka.engine import in_order
from sj_cka.job import Job, canonical
from sj_cka.jobs import KINDS
from sj_cka.jobs.weights import network_spec
from sj_cka.models import build
from sj_cka.plan import Plan, plan
from sj_cka.recipe import NetworkName, RecipeError, choices
from sj_cka.study import outline
from sj_cka.training import DeviceLoader, Settings, train

ROOT = Path(__file__).resolve().parents[1]
Write = Callable[..., Path]


def planned(path: Path) -> Plan:
    return plan(recipe.read(path))


def states(study: Plan, comparison: str) -> Counter[tuple[str, str]]:
    return Counter((pair.variant, pair.state) for pair in pairs(study) if pair.comparison == comparison)


def test_a_comparison_is_made_trained_and_untrained_for_every_variant_and_seed(recipe_file: Write) -> None:
    study = planned(recipe_file(("seeds: 2", "seeds: 3")))
    assert set(study.trained) == {(f"{v}.{k}", s) for v in ("all", "none") for k in ("snn", "ann") for s in range(3)}
    twins = states(study, "twins")
    assert twins == {
        (v, state): count
        for v in ("all", "none")
        for state, count in (("trained", 3), ("untrained", 3), ("ceiling", 6))
    }
    for pair in pairs(study):
        inputs = pair.job.inputs
        kinds = {"trained": "train", "untrained": "init", "ceiling": "train"}[pair.state]
        assert {job.kind for job in inputs.values()} == {kinds}
        assert (inputs["x"].seed, inputs["y"].seed) == (pair.seed, pair.seed_y)


def test_two_spiking_networks_have_no_ceiling(recipe_file: Write) -> None:
    assert states(planned(recipe_file()), "shortcuts") == {("", "trained"): 2, ("", "untrained"): 2}


def test_a_ceiling_sets_each_network_against_its_other_seeds(recipe_file: Write) -> None:
    study = planned(recipe_file())
    found = {(p.kind, p.seed, p.seed_y): p.job for p in pairs(study) if p.state == "ceiling" and p.variant == "all"}
    assert set(found) == {("snn", 0, 1), ("ann", 0, 1)}
    for (kind, *_), job in found.items():
        assert [job.inputs[side].key for side in "xy"] == [study.trained[f"all.{kind}", seed].key for seed in (0, 1)]


def test_across_seeds_is_every_seed_with_every_other(recipe_file: Write) -> None:
    study = planned(recipe_file(("y: none.snn}", "y: none.snn, seeds: across}"), ("seeds: 2", "seeds: 3")))
    seeds = [(p.seed, p.seed_y) for p in pairs(study) if p.comparison == "shortcuts" and p.state == "trained"]
    assert seeds == [(i, j) for i in range(3) for j in range(3)]
    # networks that start from the same weights are not compared with their own seed
    changes = ("y: none.snn}", "y: all.ann, seeds: across}"), ("  epochs: 1", "  epochs: 1\n  init: same")
    same = planned(recipe_file(*changes))
    seeds = [(p.seed, p.seed_y) for p in pairs(same) if p.comparison == "shortcuts" and p.state == "trained"]
    assert seeds == [(0, 1), (1, 0)]


def test_a_network_at_init_is_compared_as_it_started(recipe_file: Write) -> None:
    study = planned(recipe_file(("x: all.snn, y: none.snn}", "x: all.snn@init, y: all.snn}")))
    job = next(p.job for p in pairs(study) if p.comparison == "shortcuts" and p.state == "trained")
    assert [job.inputs[side].kind for side in "xy"] == ["init", "train"]
    assert job.inputs["y"].key == study.trained["all.snn", 0].key


BARE = [
    ('compare:\n  - {name: twins, x: "*.snn", y: "*.ann"}\n  - {name: shortcuts, x: all.snn, y: none.snn}\n', ""),
    ("figures:\n  - {name: curve, comparison: twins}\n  - name: steps\n    comparison: twins\n", ""),
    ("    layers: [layer1.0.lif2]\n", ""),
    ("claims:\n  - test: greater\n    says: Shortcuts help.\n    source: nobody\n", ""),
    ("    a: {measure: paired_cka, comparison: twins, variant: all}\n", ""),
    ("    b: {measure: paired_cka, comparison: twins, variant: none}\n", ""),
]


def test_a_study_without_comparisons_trains_both_networks_of_every_variant(recipe_file: Write) -> None:
    study = planned(recipe_file(*BARE))
    assert {network for network, _ in study.trained} == {"all.snn", "all.ann", "none.snn", "none.ann"}
    assert pairs(study) == []


def test_only_networks_that_something_names_are_trained(recipe_file: Write) -> None:
    compare = "compare:\n  - {name: shortcuts, x: all.snn, y: none.snn}\n"
    claim = "claims:\n  - {test: above, says: s, source: s, value: 0, a: {measure: accuracy, network: none.ann}}\n"
    study = planned(recipe_file((BARE[0][0], compare), *BARE[1:3], (BARE[3][0], claim), *BARE[4:]))
    assert {network for network, _ in study.trained} == {"all.snn", "none.snn", "none.ann"}


def test_a_trend_of_accuracies_trains_that_kind_in_every_variant(recipe_file: Write) -> None:
    sweep = ("variants:\n  all: {}\n  none:\n    model: {residual: []}\n", "sweep: {snn.T: [1, 2]}\n")
    compare = "compare:\n  - {name: ends, x: T-1.snn, y: T-2.snn}\n"
    trend = "claims:\n  - {test: trend, direction: up, says: s, source: s, a: {measure: accuracy, network: ann}}\n"
    study = planned(recipe_file(sweep, (BARE[0][0], compare), *BARE[1:3], (BARE[3][0], trend), *BARE[4:]))
    assert {network for network, _ in study.trained} == {"T-1.snn", "T-2.snn", "T-1.ann", "T-2.ann"}


# time steps


def jobs_of(study: Plan, comparison: str) -> dict[tuple[str, str, int, int, str], Job]:
    return {(p.variant, p.state, p.seed, p.seed_y, p.kind): p.job for p in pairs(study) if p.comparison == comparison}


def test_what_the_sweep_does_not_concern_is_trained_once(time_file: Write) -> None:
    study = planned(time_file())
    trainings = {job.key: job for job in study.trained.values()}
    assert len(study.trained) == 3 * 2 * 2  # as many as names: T x kinds x seeds
    assert sorted((job.args["kind"], job.seed) for job in trainings.values()) == [
        *[("ann", seed) for seed in (0, 1)],
        *[("snn", seed) for seed in (0, 0, 0, 1, 1, 1)],
    ]
    assert [study.for_all(NetworkName(f"T-2.{kind}")) for kind in ("snn", "ann")] == [False, True]


def test_one_variant_alone_is_not_all_of_them(recipe_file: Write) -> None:
    study = planned(recipe_file(("  none:\n    model: {residual: []}\n", "  none: {}\n")))
    assert study.for_all(NetworkName("none.snn"))
    assert not planned(recipe_file()).for_all(NetworkName("none.snn"))


def test_pairs_of_variants_have_a_ceiling_of_each_network_against_its_other_seeds(time_file: Write) -> None:
    study = planned(time_file())
    found = jobs_of(study, "across")
    trained = {(variant, state): 0 for variant, state, *_ in found}
    for variant, state, *_ in found:
        trained[variant, state] += 1
    assert trained == {
        (variant, state): 2
        for variant in ("T-1 and T-2", "T-1 and T-4", "T-2 and T-4")
        for state in ("trained", "untrained", "ceiling")
    }
    job = found["T-1 and T-4", "trained", 1, 1, ""]
    assert [job.inputs[side].key for side in "xy"] == [study.trained[f"T-{T}.snn", 1].key for T in (1, 4)]
    ceiling = found["T-1 and T-4", "ceiling", 0, 1, "T-4.snn"]
    assert [ceiling.inputs[side].key for side in "xy"] == [study.trained["T-4.snn", seed].key for seed in (0, 1)]
    # the same network is not compared again in another pair
    assert ceiling.key == found["T-2 and T-4", "ceiling", 0, 1, "T-4.snn"].key


def test_only_steps_other_than_those_of_training_are_part_of_a_job(time_file: Write) -> None:
    study = planned(time_file())
    twins, rerun = jobs_of(study, "twins"), jobs_of(study, "rerun")
    for state, seed_y, kind in (("trained", 0, ""), ("untrained", 0, ""), ("ceiling", 1, "snn"), ("ceiling", 1, "ann")):
        as_trained = twins["T-2", state, 0, seed_y, kind]
        assert "T_x" not in as_trained.args
        assert rerun["at T = 2", state, 0, seed_y, kind].key == as_trained.key
    other = [rerun["at T = 3", state, 0, 0, ""].args for state in ("trained", "untrained")]
    assert [(args.get("T_x"), args.get("T_y")) for args in other] == [(3, None)] * 2
    ceiling = rerun["at T = 3", "ceiling", 0, 1, "snn"].args
    assert (ceiling["T_x"], ceiling["T_y"]) == (3, 3)
    assert "T_x" not in rerun["at T = 3", "ceiling", 0, 1, "ann"].args


def test_the_timing_null_and_own_layers_are_part_of_the_jobs_that_ask_for_them_alone(time_file: Write) -> None:
    study = planned(time_file())
    for pair in pairs(study):
        args = pair.job.args
        assert (args.get("null") == "timing") == (pair.comparison == "inside")
        assert args.get("layers") == {"across": ["conv1", "*lif*"], "inside": ["*lif*"]}.get(pair.comparison)
    assert set(states(study, "inside")) == {(f"T-{T}", s) for T in (1, 2, 4) for s in ("trained", "untrained")}


def test_an_evaluation_with_the_steps_of_training_is_the_training(time_file: Write) -> None:
    study = planned(time_file())
    evaluated = by(study, "evaluate", "network", "T", "seed")
    assert set(evaluated) == {(f"T-{T}.snn", t, s) for T in (1, 2, 4) for t in {1, 2, T} for s in (0, 1)}
    for (network, T, seed), job in evaluated.items():
        training = study.trained[network, seed]
        if network == f"T-{T}.snn":
            assert job.key == training.key
        else:
            assert (job.kind, dict(job.args), job.inputs["network"].key) == ("evaluate", {"T": T}, training.key)


def test_a_network_that_is_only_evaluated_is_trained(time_file: Write) -> None:
    text = time_file().read_text()
    compared = text[text.index("compare:") : text.index("evaluate:")]
    path = time_file(
        (compared, "compare: [{name: a, x: T-1.snn, y: T-1.ann}]\n"),
        (text[text.index("figures:") :], ""),
        ('network: "*.snn"', "network: T-4.snn"),
    )
    assert {network for network, _ in planned(path).trained} == {"T-1.snn", "T-1.ann", "T-4.snn"}


def test_the_neurons_of_a_network_are_known_in_order(time_file: Write) -> None:
    study = planned(time_file())
    blocks = [f"layer{stage}.0.lif{i}" for stage in (1, 2, 3) for i in (1, 2)]
    assert study.neurons["T-2.snn"] == (*blocks, "lif")
    assert study.neurons["T-2.ann"] == ()


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        (
            'layers: ["*lif*"], permutation_test',
            'layers: ["*lif*", lif9], permutation_test',
            "compare[2].layers",
            "T-1.snn: 'lif9' matches no module; did you mean",
        ),
        (
            "  - {name: steps, comparison: inside}",
            '  - {name: steps, comparison: inside, layers: ["*lif1", "conv*"]}',
            "figures[1].layers[1]",
            r"'conv\*' is no layer of \*\.snn; known: layer1",
        ),
        (
            'variant: T-4, layers: ["layer3.*"]}',
            'variant: T-4, layers: ["layer3.*", layer4.0.lif1]}',
            "claims[0].a.layers[1]",
            r"'layer4\.0\.lif1' is no layer of \*\.snn; did you mean 'layer",
        ),
    ],
)
def test_layers_that_are_not_there_are_told_where_they_are_named(
    time_file: Write, old: str, new: str, key: str, message: str
) -> None:
    path = time_file((old, new))
    line = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if new in text)
    with pytest.raises(RecipeError, match=message) as caught:
        planned(path)
    assert str(caught.value).startswith(f"{path}:{line}: {key}: ")


def test_new_options_leave_the_keys_of_finished_jobs_as_they_were() -> None:
    # recorded when comparisons came to hold their controls; a kind's version raised on purpose changes them
    study = plan(recipe.read(ROOT / "recipes" / "residual_ablation.yaml", "stages"))
    keys = sorted(job.key for job in in_order(study.jobs) if job.kind != "exchange")  # which came later
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    assert (len(keys), digest) == (156, "351e11598e4da5bd474de5246b11e2e81ce654c0ac59e68e7b3176c5d984a95e")


def test_the_conversion_of_photos_trains_the_networks_of_the_study_of_shortcuts() -> None:
    ours, theirs = (
        plan(recipe.read(ROOT / "recipes" / f"{name}.yaml", "photos")) for name in ("conversion", "residual_ablation")
    )
    assert set(ours.trained) == {(f"all.{kind}", seed) for kind in ("snn", "ann", "converted") for seed in range(8)}
    trained = {job.key for job in ours.trained.values() if job.kind == "train"}
    assert trained == {job.key for (name, _), job in theirs.trained.items() if name.startswith("all.")}
    twins = [
        {pair.job.key for pair in pairs(one) if (pair.comparison, pair.variant) == ("twins", "all")}
        for one in (ours, theirs)
    ]
    assert twins[0] == twins[1]


def test_neurons_and_conversion_share_the_networks_of_the_papers_neuron() -> None:
    conversion, neurons = (plan(recipe.read(ROOT / "recipes" / f"{name}.yaml")) for name in ("conversion", "neurons"))
    for seed in range(4):
        for kind in ("snn", "ann"):
            assert conversion.trained[f"all.{kind}", seed].key == neurons.trained[f"base.{kind}", seed].key


# profiles at the scale of the paper, whose data are not here

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
LARGE = [(path, profile) for path in RECIPES for profile in recipe.read(path).recipe.never_run]


@functools.cache
def large(path: Path, profile: str) -> Plan:
    """The plan of a profile that nobody has run, without its data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SJ_CKA_DATA", raising=False)
        return plan(recipe.read(path, profile), imagined=True)


def test_there_are_large_profiles_on_both_sets_of_the_paper() -> None:
    assert {profile for _, profile in LARGE} == {"paper", "cifar100", "nmnist", "large"}
    assert {path.stem for path, profile in LARGE if profile == "cifar100"} == {"depth", "vgg"}


OF_THE_PAPER = [(path, profile) for path, profile in LARGE if profile not in ("nmnist", "large")]


def test_the_event_sets_of_the_paper_are_planned_beside_its_images() -> None:
    planned = large(ROOT / "recipes" / "event_data.yaml", "paper")
    shapes = {data.block.name["name"]: tuple(data.samples.x_train.shape) for data in planned.sets}
    assert shapes == {
        "cifar10_dvs": (9_000, 10, 2, 48, 48),
        "cifar10": (50_000, 3, 32, 32),
        "n_caltech101": (7_831, 10, 2, 48, 64),
    }
    assert {job.args["model"]["name"] for job in planned.trained.values()} == {"resnet"}
    assert {job.args["T"] for (name, _), job in planned.trained.items() if name.endswith("snn")} == {10}


@pytest.mark.sampled
@pytest.mark.parametrize(("path", "profile"), OF_THE_PAPER, ids=lambda value: getattr(value, "stem", value))
def test_a_large_profile_has_the_settings_of_the_paper(path: Path, profile: str) -> None:
    planned = large(path, profile)
    images = [samples for _, samples in planned.sets if samples.T is None]
    assert len(images) == 1
    assert tuple(images[0].x_train.shape) == (50_000, 3, 32, 32)
    assert len(images[0].x_test) == 10_000
    assert images[0].classes == (100 if profile == "cifar100" else 10)
    for (network, _), job in planned.trained.items():
        if job.kind != "train":
            continue
        settings = Settings(**job.args["settings"])
        snn = network.endswith(".snn")
        assert (settings.epochs, settings.batch_size, settings.lr, settings.warmup) == (300, 256, 0.1, 0)
        assert settings.momentum == (0.9 if snn else 0.8)
        assert settings.weight_decay == (5e-4 if snn and profile == "cifar100" else 1e-4)
        assert (settings.decay, settings.loss) == ("all", "mean")
        assert settings.precision == ("auto" if snn else "float32")
        assert [block["name"] for block in job.args["augment"]] == ["crop", "flip"]
    compared = [pair.job.args for pair in pairs(planned) if "under" not in pair.job.inputs]
    assert compared
    assert all((args["batch_size"], args["batches"]) == (1024, 2) for args in compared)


@pytest.mark.sampled
@pytest.mark.parametrize(("path", "profile"), LARGE, ids=lambda value: getattr(value, "stem", value))
def test_every_network_of_a_large_profile_trains_two_steps(path: Path, profile: str) -> None:
    distinct = {
        (canonical(job.args["model"]), job.args["kind"], canonical(job.data.name), job.args.get("T", 4)): job
        for job in large(path, profile).trained.values()
        if job.kind == "train"
    }
    assert distinct
    for job in distinct.values():
        options = dict(job.data.name)
        data = imagine(SHAPES[options.pop("name")](**options), train=4)
        network = build(**network_spec(job, data))
        settings = Settings(**job.args["settings"] | {"epochs": 1, "batch_size": 2})
        batches = DeviceLoader(
            data.x_train, data.y_train, batch_size=2, seed=0, classes=data.classes, prepare=data.as_input
        )
        before = network.get_parameter("fc.weight").clone()
        [epoch] = train(network, batches, settings, seed=0).history
        assert math.isfinite(epoch.loss), job.label
        assert not torch.equal(network.get_parameter("fc.weight"), before), job.label


def test_a_dry_run_of_a_large_profile_needs_no_data_and_a_run_says_what_to_put_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SJ_CKA_DATA", raising=False)
    path = ROOT / "recipes" / "residual_ablation.yaml"
    told = outline(path, profile="paper")
    assert "only its shape was used" in told
    assert "50000 training and 10000 test images [3, 32, 32], 10 classes; training split as stored: 154 MB" in told
    assert re.search(r"all56\.snn +855,770 ", told)
    with pytest.raises(RecipeError, match=r"data\.root.*SJ_CKA_DATA"):
        plan(recipe.read(path, "paper"))


# faults that show only when data are read and networks are built; the mark <-- is in the line to be named


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        (
            "depth: 8}",
            "depth: 21} # <--",
            "model.depth",
            r"expected 6 k \+ 2 from 8 \(8, 14, 20, ...\), got 21; nearest: 20, 26",
        ),
        ("{residual: []}", "{depth: 21} # <--", "variants.none.model.depth", "got 21; nearest: 20, 26"),
        (
            "{residual: []}",
            "{residual: [4]} # <--",
            "variants.none.model.residual",
            r"expected stages out of 1, 2, 3, each once, got \[4\]",
        ),
        ("depth: 8}", "depth: 8, width: 0} # <--", "model.width", "expected a whole factor from 1, got 0"),
        ("tau: 2.0}", "tau: 0.5} # <--", "snn.neuron.tau", "tau > 1"),
        ("    model: {residual: []}", "    snn: {neuron: {tau: 1}} # <--", "variants.none.snn.neuron.tau", "tau > 1"),
        (
            "[layer1.0.lif2]",
            "[layer1.0.lif3] # <--",
            "figures[1].layers[0]",
            r"'layer1\.0\.lif3' is no layer of \*\.snn; did you mean 'layer1",
        ),
        (
            "  batch_size: 16",
            "  batch_size: 16\n  layers: [conv1, lif9] # <--",
            "cka.layers",
            "all.snn: 'lif9' matches no module; did you mean",
        ),
        (
            "path: images.npz}",
            "path: image.npz} # <--",
            "data.path",
            "expected an .npz file, found no file at .*/image.npz",
        ),
    ],
)
def test_a_fault_is_told_at_the_place_that_brings_it(
    recipe_file: Write, old: str, new: str, key: str, message: str
) -> None:
    path = recipe_file((old, new))
    line = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if "<--" in text)
    with pytest.raises(RecipeError, match=message) as caught:
        planned(path)
    assert str(caught.value).startswith(f"{path}:{line}: {key}")


def test_a_fault_in_a_sweep_is_told_at_its_value(recipe_file: Write) -> None:
    sweep = "sweep:\n  model.depth:\n    - 8\n    - 21\n"
    path = recipe_file(("variants:\n  all: {}\n  none:\n    model: {residual: []}\n", sweep), *BARE)
    with pytest.raises(RecipeError, match=r"tiny\.yaml:16: sweep\.model\.depth\[1\]: expected 6 k \+ 2"):
        planned(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_train": np.zeros((0, 1, 8, 6), np.float32), "y_train": np.zeros(0, int)},
            "x_train: expected at least one image, got an empty array",
        ),
        (
            {"x_test": np.full((32, 1, 8, 6), np.nan, np.float32)},
            "x_test: expected finite numbers, got NaN or infinity in 32 images",
        ),
        (
            {"x_test": np.ones((3, 1, 8, 6), np.float32), "y_test": np.arange(3)},
            "expected at least 4 test images, got 3",
        ),
        (
            {
                "x_train": np.arange(48, dtype=np.float32).reshape(1, 1, 8, 6),
                "y_train": np.zeros(1, int),
                "y_test": np.zeros(32, int),
            },
            "expected two classes or more, got 0 alone",
        ),
        ({"y_test": np.zeros(32)}, "y_test: expected 32 integer labels, got float64"),
        ({"x_test": np.ones((32, 1, 8, 5), np.float32)}, "expected test images of the training images' shape"),
    ],
    ids=["empty", "NaN", "three test images", "one training image", "float labels", "other shape"],
)
def test_data_that_cannot_be_used_are_told_at_their_line(
    recipe_file: Write, tmp_path: Path, arrays: dict[str, np.ndarray], change: dict[str, Any], message: str
) -> None:
    path = recipe_file()
    np.savez(tmp_path / "images.npz", **arrays | change)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=message) as caught:
        planned(path)
    assert str(caught.value).startswith(f"{path}:3: data.path: ")


def test_images_too_small_for_the_network_are_told(
    recipe_file: Write, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = recipe_file()
    np.savez(tmp_path / "images.npz", **arrays | {f"x_{s}": arrays[f"x_{s}"][..., :1, :1] for s in ("train", "test")})  # type: ignore[arg-type]
    with pytest.raises(
        RecipeError, match=r"tiny\.yaml:4: model: all\.snn does not run on images of shape \[32, 1, 1, 1\]"
    ):
        planned(path)


def test_a_key_is_taken_once_for_each_job_however_many_seeds_and_comparisons_build_on_it(
    recipe_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = planned(recipe_file(("seeds: 2", "seeds: 4")))
    made = {id(job) for top in study.jobs for job in (top, *top.inputs.values())}
    assert len(made) == len(in_order(study.jobs))  # a job is one object: its spec is hashed once
    assert choices.options_model.cache_info().currsize > 0
    before = choices.options_model.cache_info().misses
    planned(recipe_file(("seeds: 2", "seeds: 9")))
    assert choices.options_model.cache_info().misses == before  # no model of options is made anew


def test_operations_are_counted_by_the_run_that_tries_a_network(recipe_file: Write) -> None:
    study = planned(recipe_file())
    assert study.sizes["all.snn"].parameters == sum(
        p.numel() for p in build("snn", {"name": "resnet", "depth": 8}, in_channels=1, num_classes=4, T=2).parameters()
    )
    stem, classes = 8 * 6 * 9 * 16, 64 * 4  # of an image, whose first layer is computed once and its last at each step
    assert study.sizes["all.ann"].macs > stem + classes
    assert study.sizes["all.snn"].macs == 2 * study.sizes["all.ann"].macs - stem


def test_a_kind_of_job_whose_keys_stand_elsewhere_is_told(recipe_file: Write) -> None:
    path = recipe_file(("seeds: 2\n", "seeds: 2\njobs: {train: {}}\n"))
    with pytest.raises(RecipeError, match=r"jobs\.train: expected no key: what concerns train stands elsewhere"):
        planned(path)


def test_a_kind_of_job_has_tables_of_names_of_their_own(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = KINDS["cost"]
    monkeypatch.setitem(KINDS, "mine", cost._replace(tables={"cka": cost.tables["cost"]}))
    with pytest.raises(ValueError, match="names of their own from kind of job mine, got cka"):
        planned(recipe_file())


def test_what_a_kind_of_job_raises_is_noted_with_its_name(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "mine", KINDS["cost"]._replace(rows=lambda graph: [1 / 0], tables={}))
    with pytest.raises(ZeroDivisionError) as caught:
        planned(recipe_file())
    assert caught.value.__notes__ == ["raised in rows of kind of job 'mine'"]


def test_a_layer_that_an_arm_of_several_pairs_names_is_pointed_at(recipe_file: Write) -> None:
    arms = [f"{{measure: paired_cka, comparison: twins, variant: {variant}}}" for variant in ("all", "none")]
    wrong = arms[1].replace("}", ", layers: [nowhere]}")
    pairs = f"    pairs:\n      - {{a: {arms[0]}, b: {arms[1]}}}\n      - {{a: {arms[0]}, b: {wrong}}}\n"
    path = recipe_file(
        ("  - test: greater\n", "  - test: greater_in_all\n"),
        (f"    a: {arms[0]}\n    b: {arms[1]}\n", pairs),
    )
    line = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if "nowhere" in text)
    with pytest.raises(RecipeError, match=rf":{line}: claims\[0\]\.pairs\[1\]\.b\.layers\[0\]: 'nowhere' is no layer"):
        planned(path)
