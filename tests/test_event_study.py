"""Studies on event recordings: data of each variant, steps that the data bring, and what does not go with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from rows import pairs

import sj_cka
from sj_cka import jobs, recipe
from sj_cka.data import digits_dvs
from sj_cka.job import Job
from sj_cka.jobs.compare import read_result
from sj_cka.jobs.weights import read_network
from sj_cka.plan import Plan, plan
from sj_cka.provenance import remarks
from sj_cka.recipe import RecipeError
from sj_cka.store import Store

Write = Callable[..., Path]

EVENTS = """\
title: Events
question: Do they differ?
data: {name: digits_dvs, T: 3, size: [9, 8], train: 60}
model: {name: convnet, channels: [4, 6], pools: 2}
ann_input: steps
train: {epochs: 1, batch_size: 20}
seeds: 1
variants:
  events: {}
  static:
    data: {name: digits, train: 60}
cka: {batch_size: 90}
compare:
  - {name: twins, x: "*.snn", y: "*.ann"}
  - {name: same, x: events.snn, y: events.snn, layers: ["*lif*"], permutation_test: true}
figures:
  - {name: heatmaps, comparison: twins}
  - {name: steps, comparison: same}
  - {name: accuracy}
"""


@pytest.fixture
def event_file(writer: Callable[[str, str], Write]) -> Write:
    """`event_file((old, new), ...)`: the recipe above with texts replaced."""
    return writer(EVENTS, "events.yaml")


def planned(path: Path) -> Plan:
    return plan(recipe.read(path))


def test_what_a_reader_must_know_of_several_data_sets_is_said_once(event_file: Write) -> None:
    sets = "variants:\n  events: {}\n  static:\n    data: {name: digits, train: 60}\n"
    same = "variants:\n  events: {data: {name: digits, size: 9}}\n  static: {data: {name: digits, size: 12}}\n"
    changes = (EVENTS.splitlines()[2], "data: {name: digits}"), ("ann_input: steps\n", ""), (sets, same)
    study = planned(event_file(*changes, ("batch_size: 90", "batch_size: 119")))
    assert len(study.sets) == 2
    notes = remarks(study, [], pd.DataFrame({"state": []}))
    assert [note[:20] for note in notes].count("The last minibatch o") == 1


def finished(job: Job, store: Store) -> Callable[[str], bytes]:
    """Runs a job with all that it needs; gives its files."""
    for needed in job.inputs.values():
        finished(needed, store)
    if not store.has(job.key):
        store.write(job.key, jobs.run(job, store.read))
    return lambda name: store.read(job.key, name)


# data of each variant


def test_each_variant_has_its_own_data(event_file: Write) -> None:
    study = planned(event_file())
    names = {network: job.data.name["name"] for (network, _), job in study.trained.items()}
    assert names == {f"{v}.{k}": d for v, d in (("events", "digits_dvs"), ("static", "digits")) for k in ("snn", "ann")}
    for pair in pairs(study):
        assert {pair.job.data.name["name"]} == {job.data.name["name"] for job in pair.job.inputs.values()}
    assert [data.block.name["name"] for data in study.sets] == ["digits_dvs", "digits"]


def test_data_under_another_name_bring_their_own_options_alone(event_file: Write) -> None:
    study = planned(event_file())
    assert study.data["static"].block.name == {"name": "digits", "train": 60}
    kept = planned(event_file(("{name: digits, train: 60}", "{train: 50}"))).data["static"].block.name
    assert kept == {"name": "digits_dvs", "T": 3, "size": [9, 8], "train": 50}


def test_variants_with_the_same_data_share_it(event_file: Write) -> None:
    same = ("    data: {name: digits, train: 60}\n", "    model: {channels: [4, 8]}\n")
    study = planned(event_file(same))
    assert study.data["events"] is study.data["static"]
    assert len(study.sets) == 1


def test_a_sweep_may_be_over_the_data(event_file: Write) -> None:
    variants = "variants:\n  events: {}\n  static:\n    data: {name: digits, train: 60}\n"
    named = ("x: events.snn, y: events.snn", "x: T-2.snn, y: T-2.snn")
    study = planned(event_file((variants, "sweep: {data.T: [2, 4]}\n"), named))
    assert {network: job.args.get("T") for (network, _), job in study.trained.items()} == {
        "T-2.snn": 2, "T-2.ann": None, "T-4.snn": 4, "T-4.ann": None
    }  # fmt: skip


# steps


def test_spiking_networks_run_as_many_steps_as_the_recordings_have(event_file: Write) -> None:
    study = planned(event_file())
    assert study.trained["events.snn", 0].args["T"] == 3
    assert study.trained["static.snn", 0].args["T"] == 4  # the default, of images


def test_what_the_ann_sees_is_part_of_its_job_on_recordings_alone(event_file: Write) -> None:
    steps = planned(event_file()).trained
    both = planned(event_file(("ann_input: steps", "ann_input: sum"))).trained
    assert both["events.ann", 0].args["ann_input"] == "sum"
    assert {n for n, _ in steps if steps[n, 0].key != both[n, 0].key} == {"events.ann"}
    change = ("    data: {name: digits, train: 60}\n", "    ann_input: sum\n")
    variant = planned(event_file(change)).trained
    assert [variant[f"{v}.ann", 0].args.get("ann_input") for v in ("events", "static")] == [None, "sum"]


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        (
            "ann_input: steps",
            "snn: {T: 5} # <--",
            "snn.T",
            "expected no snn.T, or 3: recordings bring their own steps, data.T of them; got 5",
        ),
        (
            "y: events.snn, layers",
            "y: events.ann, T_x: 2, layers",
            "compare[1].T_x",
            "expected none for events.snn: of recordings it has the steps of its data: sweep data.T to vary them",
        ),
        (
            "y: events.snn, layers",
            "y: events.converted, layers",
            "compare[1].y",
            "expected a trained network: events.converted would be converted, which is for images",
        ),
        (
            "cka: {batch_size: 90}",
            "evaluate: [{network: events.snn, T: 2}]",
            "evaluate[0].network",
            "events.snn cannot run with another number of steps",
        ),
        (
            "y: events.snn, layers",
            "y: static.snn, layers",
            "compare[1]",
            "expected two networks with the same data, since both are shown them; events.snn has {'name': 'digits_dvs'",
        ),
        ("T: 3, size", "T: 0, size", "data.T", "expected T, a number of frames from 1, got 0"),
        ("T: 3, size", "TT: 3, size", "data.TT", "unknown key; did you mean 'T'"),
        ("{name: digits, train: 60}", "{name: digits, T: 60}", "variants.static.data.T", "unknown key; known: size"),
        ("{name: digits, train: 60}", "{name: digit}", "variants.static.data.name", "did you mean 'digits'"),
        ("ann_input: steps", "ann_input: mean", "ann_input", "expected 'steps' or 'sum', got 'mean'"),
        (
            "train: {epochs: 1,",
            "train: {augment: [drop_events], epochs: 1,",
            "train.augment[0]",
            "images have no events to drop",
        ),
    ],
)
def test_what_does_not_go_with_recordings_is_told_before_anything_runs(
    event_file: Write, old: str, new: str, key: str, message: str
) -> None:
    path = event_file((old, new))
    line = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if new in text)
    with pytest.raises(RecipeError) as caught:
        planned(path)
    assert str(caught.value).startswith(f"{path}:{line}: {key}: ")
    assert message in str(caught.value)


# jobs


def test_a_comparison_on_recordings_is_the_cka_of_what_the_layers_put_out(event_file: Write, tmp_path: Path) -> None:
    study, store = planned(event_file()), Store(tmp_path / "store")
    pair = next(p for p in pairs(study) if (p.comparison, p.variant, p.state) == ("twins", "events", "trained"))
    result = read_result(finished(pair.job, store)("cka.nc"))
    assert (result.data.sizes["step_x"], result.data.sizes["step_y"]) == (3, 3)
    x = digits_dvs(T=3, size=(9, 8), train=60).x_test
    frames = x.transpose(0, 1).float()
    seen = {}
    for side in "xy":
        network = read_network(store.read(pair.job.inputs[side].key, "weights.safetensors"))
        outputs: list[torch.Tensor] = []
        network.get_submodule("stage2.0.conv").register_forward_hook(lambda m, x, y, seen=outputs: seen.append(y))
        with torch.no_grad():
            network(frames)
        seen[side] = outputs[0].double().reshape(3, 360, -1)  # [T, N, D]; the twin has T and N in one axis
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, 360, 90):
        batch = {side: torch.cat(list(f[:, start : start + 90]), 1) for side, f in seen.items()}
        for i, (a, b) in enumerate((("x", "y"), ("x", "x"), ("y", "y"))):
            sums[i] += unbiased(batch[a] @ batch[a].T, batch[b] @ batch[b].T)
    expected = float(sums[0] / (sums[1] * sums[2]).sqrt())
    assert result.matrix().loc["stage2.0.conv", "stage2.0.conv"] == pytest.approx(expected, abs=1e-6)
    step = result.matrix(time=2).loc["stage2.0.conv", "stage2.0.conv"]
    assert 0 < step < 1
    assert step != pytest.approx(expected, abs=1e-4)


def unbiased(K: torch.Tensor, L: torch.Tensor) -> torch.Tensor:
    """HSIC_1 by its formula (Song et al. 2012, eq. 5), but for the factor n (n - 3)."""
    n = len(K)
    K, L = (M - torch.diag(M.diag()) for M in (K, L))
    return (K * L).sum() + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (K.sum(0) @ L.sum(0))


def test_an_ann_that_sees_the_sum_has_no_steps(event_file: Write, tmp_path: Path) -> None:
    study, store = planned(event_file(("ann_input: steps", "ann_input: sum"))), Store(tmp_path / "store")
    pair = next(p for p in pairs(study) if (p.comparison, p.variant, p.state) == ("twins", "events", "trained"))
    result = read_result(finished(pair.job, store)("cka.nc"))
    assert (result.data.sizes["step_x"], result.data.sizes["step_y"]) == (3, 1)
    network = read_network(store.read(pair.job.inputs["y"].key, "weights.safetensors"))
    data = digits_dvs(T=3, size=(9, 8), train=60)
    with torch.no_grad():
        logits = network(data.as_input(data.x_test))
        assert torch.equal(logits, network(data.x_test.float().sum(1)))
    right = (logits.argmax(1) == data.y_test).float().mean().item()
    told = json.loads(store.read(pair.job.inputs["y"].key, "accuracy.json"))
    assert told["test"] == pytest.approx(right)


def test_the_page_says_what_the_data_are_and_what_the_ann_sees(event_file: Write, tmp_path: Path) -> None:
    result = sj_cka.run(event_file(), store=tmp_path / "store", out=tmp_path / "out", workers=1, progress=False)
    page = result.report.read_text(encoding="utf-8")
    assert "digits_dvs: 60 training and 360 test recordings [3, 2, 9, 8]" in page
    assert "digits: 60 training and 360 test images [1, 8, 8]" in page
    assert "The recordings are simulated" in page
    assert "ann_input: steps" in page
    assert not (tmp_path / "out" / "test_split.csv").exists()  # a published split needs no list
    outline = sj_cka.study.outline(event_file(), store=tmp_path / "store")
    assert "digits_dvs: 60 training and 360 test recordings [3, 2, 9, 8], 10 classes" in outline
