"""Learning rules in a study: trainings, networks over their epochs, alignment, locality, and claims on these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import sj_cka
from sj_cka import jobs, recipe
from sj_cka.cli import app
from sj_cka.jobs.weights import read_network
from sj_cka.models import build
from sj_cka.plan import Plan, plan
from sj_cka.recipe import RecipeError
from sj_cka.store import Store
from sj_cka.training import alignment, locality

Write = Callable[..., Path]

RULES = """\
title: Rules
question: Do rules part?
data: {name: digits, train: 200}
model: {name: mlp, inputs: 64, hidden: [16, 12], norm: none}
snn: {T: 3, neuron: {name: lif, v_reset: null, detach_reset: true}}
train: {epochs: 4, batch_size: 50, loss: tet, keep: [0, 2], trained_at: 0}
seeds: 3
variants:
  bptt: {}
  le: {train: {rule: le}}
  ottt: {train: {rule: {name: ottt}}}
cka: {layers: ["*.lif"]}
compare:
  - {name: learning, x: "*.snn@*", y: "*.snn"}
  - {name: rules, x: "*.snn@*", y: "bptt.snn@*", variants: [le, ottt]}
  - {name: others, x: "*.snn@2", y: bptt.snn, variants: [le], seeds: across}
jobs:
  alignment: {networks: [le.snn, ottt.snn], samples: 8}
  locality: {samples: 4}
figures:
  - {name: learning, comparison: learning}
  - {name: parting, comparison: rules}
  - {name: alignment}
  - {name: locality}
claims:
  - test: greater
    says: OTTT lies nearer to BPTT than local errors.
    source: this recipe
    a: {measure: gradient_alignment, network: ottt.snn}
    b: {measure: gradient_alignment, network: le.snn}
  - test: below
    says: Local errors hang on no block above.
    source: this recipe
    value: 0.5
    a: {measure: across_blocks, network: le.snn}
  - test: greater
    says: BPTT hangs on later steps, OTTT does not.
    source: this recipe
    a: {measure: across_steps, network: bptt.snn}
    b: {measure: across_steps, network: ottt.snn}
"""
EPOCHS = [0, 2, 4]


@pytest.fixture
def rules_file(writer: Callable[[str, str], Write]) -> Write:
    """`rules_file((old, new), ...)`: the recipe above with texts replaced."""
    return writer(RULES, "rules.yaml")


def rows_of(study: Plan, comparison: str, state: str = "trained") -> list[dict]:
    of = [row for row in study.rows["compare"] if row.at["comparison"] == comparison and row.at["state"] == state]
    return [row.at | {"job": row.job} for row in of]


def test_a_study_of_rules_runs_from_trainings_to_verdicts_and_figures(rules_file: Write, tmp_path: Path) -> None:
    path, out = rules_file(), tmp_path / "out"
    store = Store(tmp_path / "store")
    sj_cka.run(path, out=out, store=store.root, workers=1, progress=False)
    aligned, local = (pd.read_csv(out / f"{name}.csv") for name in ("alignment", "locality"))
    planned = plan(recipe.read(path))

    assert set(zip(aligned["network"], aligned["epoch"], aligned["seed"], strict=True)) == {
        (network, epoch, seed) for network in ("le.snn", "ottt.snn") for epoch in EPOCHS for seed in range(3)
    }
    files = {0: "weights.safetensors", 2: "weights@2.safetensors", 4: "weights.safetensors"}
    for row in planned.rows["alignment"]:
        if row.at["seed"] or row.at["network"] != "le.snn":
            continue
        network = read_network(store.read(row.job.inputs["network"].key, files[row.at["epoch"]]))
        data = row.job.data.samples
        expected = alignment("le", network, data.as_input(data.x_train[:8]), data.y_train[:8]).whole
        own = aligned[(aligned["network"] == "le.snn") & (aligned["epoch"] == row.at["epoch"]) & (aligned["seed"] == 0)]
        assert own["cosine"].to_list() == pytest.approx(expected["cosine"].to_list(), abs=1e-5, nan_ok=True)
    hidden = aligned[aligned["hidden"]]
    assert set(hidden["layer"]) == {"layer1.fc", "layer2.fc"}
    assert (aligned[aligned["layer"] == "fc"]["cosine"] > 0.999999).all()
    assert hidden[hidden["network"] == "le.snn"]["cosine"].abs().max() < 0.99

    row = next(row for row in planned.rows["locality"] if (row.at["network"], row.at["seed"]) == ("ottt.snn", 1))
    data, network = row.job.data.samples, read_network(store.read(row.job.inputs["network"].key, "weights.safetensors"))
    expected = locality("ottt", network, data.as_input(data.x_train[:4]), data.y_train[:4])
    (found,) = local[(local["network"] == "ottt.snn") & (local["seed"] == 1)].to_dict("records")
    assert found["across_blocks"] == pytest.approx(expected.across_blocks)
    assert found["across_steps"] == expected.across_steps == 0
    assert (local[local["network"] == "le.snn"]["across_blocks"] == 0).all()

    claims = pd.read_csv(out / "claims.csv")
    assert list(claims["verdict"][1:]) == ["holds", "holds"]
    at_end = hidden[hidden["epoch"] == 4].groupby(["network", "seed"])["cosine"].mean().groupby("network").mean()
    assert claims["value_a"][0] == pytest.approx(at_end["ottt.snn"], abs=1e-5)
    page = (out / "report.html").read_text(encoding="utf-8")
    for heading in ("Learning: learning", "What parts first: rules", "What updates hang on"):
        assert heading in page

    cka = pd.read_csv(out / "cka.csv")
    at_last = cka[(cka["comparison"] == "learning") & (cka["state"] == "trained") & (cka["variant"] == "le at epoch 4")]
    assert at_last["cka"].to_numpy() == pytest.approx(1)
    early = cka[(cka["comparison"] == "learning") & (cka["state"] == "trained") & (cka["variant"] == "le at epoch 0")]
    assert early["cka"].max() < 0.999
    begun = cka[(cka["comparison"] == "rules") & (cka["state"] == "trained") & (cka["variant"] == "ottt at epoch 0")]
    assert begun["cka"].to_numpy() == pytest.approx(1)  # rules of one seed begin with the same weights


def test_a_comparison_over_epochs_is_of_each_kept_one_and_the_last(rules_file: Write) -> None:
    study = plan(recipe.read(rules_file()))
    rows = rows_of(study, "rules")
    assert list(dict.fromkeys(row["variant"] for row in rows)) == [
        f"{variant} at epoch {epoch}" for variant in ("le", "ottt") for epoch in EPOCHS
    ]
    of = {row["variant"]: row["job"] for row in rows if row["seed"] == 0}
    for epoch, kind, args in (
        (0, "init", {}),
        (2, "train", {"epoch_x": 2, "epoch_y": 2}),
        (4, "train", {}),
    ):
        job = of[f"le at epoch {epoch}"]
        assert {name: needed.kind for name, needed in job.inputs.items()} == {"x": kind, "y": kind}
        assert {key: value for key, value in job.args.items() if key.startswith("epoch")} == args
    assert of["le at epoch 4"].inputs["x"].key != of["ottt at epoch 4"].inputs["x"].key
    assert of["le at epoch 4"].inputs["y"].key == of["ottt at epoch 4"].inputs["y"].key
    alone = {row["variant"]: row["job"] for row in rows_of(study, "learning") if row["seed"] == 0}
    assert alone["bptt at epoch 2"].args["epoch_x"] == 2
    assert "epoch_y" not in alone["bptt at epoch 2"].args


def test_a_list_of_variants_has_a_ceiling_across_seeds_alone(rules_file: Write) -> None:
    study = plan(recipe.read(rules_file()))
    assert rows_of(study, "rules", "ceiling") == []
    assert rows_of(study, "learning", "ceiling") == []
    rows = rows_of(study, "others")
    assert {(row["seed"], row["seed_y"]) for row in rows} == {(i, j) for i in range(3) for j in range(3) if i != j}
    assert {row["kind"] for row in rows_of(study, "others", "ceiling")} == {"le.snn@2", "bptt.snn"}


def test_rules_of_one_seed_share_their_first_weights_and_not_their_training(rules_file: Write) -> None:
    study = plan(recipe.read(rules_file()))
    trained = {row.at["network"]: row.job for row in study.rows["train"] if row.at["seed"] == 0}
    assert len({job.key for job in trained.values()}) == 3
    assert len({row.job.key for row in study.rows["init"]} | set()) <= 3
    first = {row["job"].inputs["x"].key for row in rows_of(study, "learning") if row["variant"].endswith("epoch 0")}
    assert len(first) == 3  # one a seed, for all rules


def test_jobs_say_which_rule_they_are_of(rules_file: Write) -> None:
    study = plan(recipe.read(rules_file()))
    for kind in ("alignment", "locality"):
        rules = {row.at["network"]: row.job.args["rule"] for row in study.rows[kind]}
        assert {name: rules[name] for name in ("le.snn", "ottt.snn")} == {"le.snn": "le", "ottt.snn": "ottt"}
    assert jobs.KINDS["alignment"].block is not None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("loss: tet", "loss: mean", r'train.loss: ottt.snn: expected loss "tet", the mean of that of every step'),
        ("norm: none", "norm: batch", r"ottt.train.rule: ottt.snn: expected batch normalisation of each step"),
        ("T: 3", "T: 1", r"ottt.train.rule: ottt.snn: expected at least two steps"),
        ("{rule: le}", "{rule: {name: le, k: 2}}", r"le.train.rule.k: "),
        ("{rule: le}", "{rule: {name: pair, space: local_error, time: truncated}}",
         r"le.train.rule.k: le.snn: expected"),
        ("{rule: le}", "{rule: lee}", r"unknown learning rule 'lee'; did you mean 'le'"),
        ("variants: [le, ottt]}", "variants: [le, oott]}", r"compare\[1\].variants\[1\]: expected variants"),
        ("variants: [le, ottt]}", "variants: [le, le]}", r"expected variants, each once, got 'le'$"),
        ('y: "bptt.snn@*", variants', 'y: "*.snn@*", variants', r"expected \* in x alone for a list of variants"),
        ('x: "*.snn@*", y: "*.snn"}', 'x: "*.snn@*", y: bptt.snn}', r"expected \* in both x and y, or in none"),
        ('x: "*.snn@*", y: "*.snn"}', 'x: "nope.snn@*", y: le.snn}', "nobody trains a variant 'nope'"),
        ("  le: {train: {rule: le}}", "  le: {train: {rule: le, keep: [1]}}", r"expected networks that keep"),
        ("comparison: rules}", "comparison: others}", r"expected a comparison over epochs, with @\*"),
        ("  alignment: {networks: [le.snn, ottt.snn], samples: 8}\n", "", "expected jobs.alignment"),
        ("[le.snn, ottt.snn]", "[le.ann]", r"jobs.alignment.networks\[0\]: expected trained spiking"),
        ("locality: {samples: 4}", "locality: {networks: [le.snn@2]}", r"jobs.locality.networks\[0\]: expected"),
        ("samples: 8}", "samples: 201}", r"jobs.alignment.samples: expected at most 200, .* of le.snn, got 201"),
        ("{samples: 4}", "{samples: 201}", r"jobs.locality.samples: expected at most 200, .* of bptt.snn, got 201"),
        ("measure: across_blocks, network: le.snn", "measure: across_blocks, network: le.snn, T: 2", "expected no T"),
    ],
)  # fmt: skip
def test_what_a_recipe_says_wrongly_of_rules_is_told_before_anything_runs(
    rules_file: Write, old: str, new: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(recipe.read(rules_file((old, new))))


def test_a_network_of_a_recipe_is_certified_from_the_command_line(
    rules_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["certify", *words])
        return done.exit_code, done.output

    path = str(rules_file())
    code, text = told(path, "ottt.snn", "--samples", "6")
    assert code == 0
    assert "layer2.fc" in text
    assert "equals BPTT, as it must" in text
    assert "0% of updates of a step move when a later step is disturbed" in text
    assert text.count("the certificate holds") == 1
    code, text = told(path, "ottt.ann")
    assert (code, "expected <variant>.snn, got 'ottt.ann'" in text) == (2, True)
    code, text = told(path, "ottt.snn", "--samples", "201")
    assert (code, "expected at most 200 samples" in text) == (2, True)
    # of a network whose neurons are silent every rule would be right
    code, text = told(path, "le.snn", "--set", "snn.neuron.v_threshold=1000")
    assert (code, "are silent on these samples" in text) == (2, True)

    from sj_cka.training.credit.traces import Filter

    before = Filter.__call__
    monkeypatch.setattr(Filter, "__call__", lambda self, x: (before(self, x)[0] * 0.9, 1.0))
    code, text = told(path, "ottt.snn", "--samples", "6")
    assert (code, "the certificate FAILS: layer1.fc is" in text) == (1, True)


def test_networks_with_batch_normalisation_are_calibrated_before_they_are_certified(rules_file: Write) -> None:
    path = rules_file(("norm: none", "norm: step"), ("T: 3", "T: 4"))
    done = CliRunner().invoke(app, ["certify", str(path), "le.snn"])
    assert done.exit_code == 0, done.output
    assert "not local, whatever the rule: layer1.bn, layer2.bn" in done.output


def test_neurons_that_are_silent_before_they_are_trained_refuse_no_study(rules_file: Write) -> None:
    """Batch normalisation has no statistics yet; `locality` looks at trained weights."""
    study = plan(recipe.read(rules_file(("norm: none", "norm: step"))))
    row = study.rows["locality"][0]
    data = row.job.data.samples
    model = {"name": "mlp", "inputs": 64, "hidden": [16, 12], "norm": "step"}
    untrained = build("snn", model, in_channels=1, num_classes=10, T=3)
    with pytest.raises(ValueError, match="are silent on these samples"):
        locality("bptt", untrained, data.as_input(data.x_train[:4]), data.y_train[:4])
    made = jobs.run(row.job.inputs["network"], lambda key, name: b"")
    found = jobs.run(row.job, lambda key, name: made[name])
    assert jobs.KINDS["locality"].tables["locality"](row, found.__getitem__)["across_steps"][0] > 0.5


def test_an_alignment_without_a_gradient_is_no_number(rules_file: Write) -> None:
    study = plan(recipe.read(rules_file()))
    row = study.rows["alignment"][0]
    made = jobs.run(row.job.inputs["network"], lambda key, name: b"")
    found = jobs.run(row.job, lambda key, name: made[name])
    whole = jobs.KINDS["alignment"].tables["alignment"](row, found.__getitem__)
    by_step = jobs.KINDS["alignment"].tables["alignment_by_step"](row, found.__getitem__)
    assert list(whole["layer"]) == ["layer1.fc", "layer2.fc", "fc"]
    assert sorted(by_step["step"].unique()) == [1, 2, 3]
    known = by_step["cosine"].dropna()
    assert len(known)
    assert (known.abs() <= 1 + 1e-12).all()
    assert np.isfinite(known).all()
