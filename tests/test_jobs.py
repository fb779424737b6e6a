"""Jobs: specs and their keys, seeds, and files from which a network can be made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rows import by, pairs

from sj_cka import jobs, recipe
from sj_cka.data import Samples
from sj_cka.job import Context, DataBlock, Job, canonical
from sj_cka.jobs.compare import read_result
from sj_cka.jobs.weights import read_network
from sj_cka.plan import Plan, plan
from sj_cka.recipe import NetworkName
from sj_cka.recording import reset_states
from sj_cka.store import Store
from sj_cka.training import LEARNING_RULES

Write = Callable[..., Path]


def planned(path: Path, profile: str = "quick") -> Plan:
    return plan(recipe.read(path, profile))


def samples_of(study: Plan) -> Samples:
    """The data of a study that has one set."""
    [data] = study.sets
    return data.samples


def keys(path: Path, profile: str = "quick") -> set[str]:
    """Keys of all jobs of a study, and of those that they build on."""
    found = set()
    for job in planned(path, profile).jobs:
        found |= {job.key, *(needed.key for needed in job.inputs.values())}
    return found


def no_files(key: str, name: str) -> bytes:
    raise AssertionError(f"asked for {name} of {key}")


def weights(job: Job) -> dict[str, torch.Tensor]:
    return dict(read_network(jobs.run(job, no_files)["weights.safetensors"]).state_dict())


def first_weights(path: Path, network: str, seed: int = 0) -> torch.Tensor:
    """The first convolution of a network before any training: its initialisation uses no data."""
    study = planned(path)
    (job,) = {
        j.key: j for p in pairs(study) for j in p.job.inputs.values() if j.label == f"{network} untrained, seed {seed}"
    }.values()
    return weights(job)["conv1.weight"]


# keys


SAME = {
    "title": [("title: Tiny", "title: Another")],
    "claims": [("  - test: greater", "  - test: less")],
    "figures": [("  - {name: curve, comparison: twins}\n", "  - {name: accuracy}\n")],
    "profiles": [("profiles:\n  smoke:\n    train: {epochs: 1}\n", "")],
    "comparison's name": [("{name: shortcuts,", "{name: other,")],
    "variant's name": [
        ("  none:\n", "  bare:\n"),
        ("y: none.snn", "y: bare.snn"),
        ("variant: none}", "variant: bare}"),
    ],
    "trained_at": [("  lr: 0.1", "  trained_at: 0.5")],
    "options at their default": [
        ("depth: 8}", "depth: 8, width: 1, residual: [1, 2, 3]}"),
        ("tau: 2.0}", "v_threshold: 1, v_reset: 0.0, alpha: null}"),
        (
            "  lr: 0.1",
            "  lr: 1e-1\n  momentum: 0.9\n  weight_decay: 0.0001\n  init: fresh\n  threads: 1\n  ann: {epochs: 1}",
        ),
    ],
    "learning rule at its default": [("  lr: 0.1", "  rule: bptt\n  ann: {rule: {name: bptt}}")],
    "numbers written otherwise": [("depth: 8}", 'depth: "8"}'), ("tau: 2.0", "tau: 2"), ("  lr: 0.1", "  lr: 1/10")],
    "seeds listed": [("seeds: 2", "seeds: [0, 1]")],
}


@pytest.mark.parametrize("what", SAME)
def test_what_changes_no_number_changes_no_key(what: str, recipe_file: Write) -> None:
    before = keys(recipe_file())
    assert keys(recipe_file(*SAME[what])) == before


OTHER = {
    "epochs": [("  epochs: 1", "  epochs: 2")],
    "rate": [("  lr: 0.1", "  lr: 0.2")],
    "T": [("  T: 2", "  T: 3")],
    "neuron": [("tau: 2.0", "tau: 1.5")],
    "threads": [("  lr: 0.1", "  threads: 2")],
    "init": [("  lr: 0.1", "  init: same")],
}


@pytest.mark.parametrize("what", OTHER)
def test_what_changes_numbers_changes_the_key_of_every_spiking_network(what: str, recipe_file: Write) -> None:
    before = {network: job.key for network, job in planned(recipe_file()).trained.items()}
    after = {network: job.key for network, job in planned(recipe_file(*OTHER[what])).trained.items()}
    assert after.keys() == before.keys()
    assert not [network for network, _ in before if network.endswith("snn") and before[network, 0] == after[network, 0]]


@pytest.mark.parametrize("what", ["T", "neuron"])
def test_what_only_a_spiking_network_has_changes_no_key_of_an_artificial_one(what: str, recipe_file: Write) -> None:
    before, after = planned(recipe_file()).trained, planned(recipe_file(*OTHER[what])).trained
    assert before["all.ann", 0].key == after["all.ann", 0].key


def test_what_networks_hang_on_is_their_training_and_first_weights(recipe_file: Write) -> None:
    def of(study: Plan, network: str, seed: int) -> frozenset[str]:
        return jobs.origins(study.trained[NetworkName(network), seed])

    study = plan(recipe.read(recipe_file()))
    names = ["all.snn", "all.ann", "none.snn", "none.ann"]
    apart = [of(study, name, seed) for name in names for seed in (0, 1)]
    assert all(len(own) == 2 for own in apart)
    assert len(frozenset().union(*apart)) == 16  # nothing in common
    # a learning rate leaves the first weights as they are; `init: same` gives them to both kinds
    rates = ("  none:\n    model: {residual: []}", "  none:\n    train: {lr: 0.2}")
    other = plan(recipe.read(recipe_file(rates)))
    assert len(of(other, "all.snn", 0) & of(other, "none.snn", 0)) == 1
    assert not of(other, "all.snn", 0) & of(other, "none.snn", 1)
    same = plan(recipe.read(recipe_file(("  epochs: 1", "  epochs: 1\n  init: same"))))
    assert len(of(same, "all.snn", 0) & of(same, "all.ann", 0)) == 1
    # a comparison hangs on both networks, a floor on first weights alone
    row = next(r for r in study.rows["compare"] if r.at["comparison"] == "twins" and r.at["state"] == "trained")
    assert jobs.origins(row.job) == of(study, "all.snn", 0) | of(study, "all.ann", 0)


def test_how_cka_is_measured_changes_the_comparisons_alone(recipe_file: Write) -> None:
    before, after = planned(recipe_file()), planned(recipe_file(("  batch_size: 16", "  batch_size: 32")))
    assert {job.key for job in before.trained.values()} == {job.key for job in after.trained.values()}
    assert {pair.job.key for pair in pairs(before)}.isdisjoint(pair.job.key for pair in pairs(after))


def test_other_data_change_every_key_and_the_place_of_the_file_none(
    recipe_file: Write, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    before = keys(recipe_file())
    moved = tmp_path / "moved" / "data.npz"
    moved.parent.mkdir()
    (tmp_path / "images.npz").rename(moved)
    elsewhere = recipe_file(("images.npz", "moved/data.npz"))
    assert keys(elsewhere) == before
    np.savez(moved, **arrays | {"x_train": arrays["x_train"] + 1e-6})  # type: ignore[arg-type]
    assert keys(elsewhere).isdisjoint(before)


def test_two_recipes_share_their_networks(recipe_file: Write) -> None:
    first = planned(recipe_file())
    alone = "variants:\n  with_shortcuts: {}\n"
    second = planned(
        recipe_file(
            ("variants:\n  all: {}\n  none:\n    model: {residual: []}\n", alone),
            ("  - {name: shortcuts, x: all.snn, y: none.snn}\n", ""),
            ("claims:\n  - test: greater\n    says: Shortcuts help.\n    source: nobody\n", ""),
            ("    a: {measure: paired_cka, comparison: twins, variant: all}\n", ""),
            ("    b: {measure: paired_cka, comparison: twins, variant: none}\n", ""),
            name="second.yaml",
        )
    )
    assert second.trained["with_shortcuts.snn", 1].key == first.trained["all.snn", 1].key


def test_a_key_depends_on_what_a_job_builds_on_and_on_its_kind_and_version() -> None:
    data = DataBlock({}, {"name": "digits"}, "f")
    one = Job("init", {"a": 1}, {}, data, 0)
    above = Job("compare", {}, {"x": one, "y": one}, data)
    assert replace(one, label="called otherwise").key == one.key
    assert replace(one, seed=1).key != one.key
    assert replace(above, inputs={"x": one, "y": replace(one, seed=1)}).key != above.key
    assert replace(one, kind="train").key != one.key
    before = one.key
    assert replace(one, version=2).key != before


def test_a_training_among_processes_says_so_and_one_alone_does_not(
    recipe_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = planned(recipe_file())
    monkeypatch.setattr("sj_cka.plan.world", lambda: (1, 2))
    together = planned(recipe_file())
    for network, job in together.trained.items():
        assert job.spec == alone.trained[network].spec | {"processes": 2}
    assert [pair.job.spec.keys() for pair in pairs(together)] == [pair.job.spec.keys() for pair in pairs(alone)]


def test_a_spec_is_canonical_json() -> None:
    assert canonical({"b": [1, 2.0], "a": None}) == '{"a":null,"b":[1,2.0]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


# seeds


def test_the_same_seed_gives_twins_different_first_weights(recipe_file: Write) -> None:
    path = recipe_file()
    snn, ann = (first_weights(path, network) for network in ("all.snn", "all.ann"))
    assert snn.shape == ann.shape
    assert not torch.isclose(snn, ann).any()


def test_init_same_gives_twins_equal_first_weights(recipe_file: Write) -> None:
    path = recipe_file(("  lr: 0.1", "  init: same"))
    snn, ann = (first_weights(path, network) for network in ("all.snn", "all.ann"))
    assert torch.equal(snn, ann)
    assert not torch.isclose(snn, first_weights(path, "all.snn", seed=1)).any()


def test_every_seed_and_every_variant_has_first_weights_of_its_own_and_keeps_them(recipe_file: Write) -> None:
    path = recipe_file()
    found = [first_weights(path, network, seed) for network in ("all.snn", "none.snn") for seed in (0, 1)]
    assert len({tuple(tensor.flatten().tolist()) for tensor in found}) == 4
    torch.manual_seed(5)  # nobody else's random state counts
    assert torch.equal(first_weights(path, "all.snn"), found[0])


def test_the_order_of_data_comes_from_the_seed_alone(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: dict[str, list[Any]] = {}
    randperm = torch.randperm

    def noted(n: int, **options: Any) -> torch.Tensor:
        order = randperm(n, **options)
        orders[label].append(order.tolist())
        return order

    monkeypatch.setattr(torch, "randperm", noted)
    for (network, seed), job in planned(recipe_file(("  epochs: 1", "  epochs: 2"))).trained.items():
        label = f"{network} {seed}"
        orders[label] = []
        jobs.run(job, no_files)
    assert orders["all.snn 0"] == orders["all.ann 0"] == orders["none.snn 0"]
    assert orders["all.snn 0"] != orders["all.snn 1"]
    assert orders["all.snn 0"][0] != orders["all.snn 0"][1]


# files


def test_a_training_leaves_weights_history_accuracies_spec_and_environment(recipe_file: Write) -> None:
    job = planned(recipe_file(("  epochs: 1", "  epochs: 2"))).trained["all.snn", 0]
    said: list[tuple[str, Any]] = []
    files = jobs.run(job, no_files, Context(lambda line, epoch=None: said.append((line, epoch))))
    assert sorted(files) == [
        *("accuracy.json", "environment.json", "firing_rates.csv", "history.csv", "spec.json", "weights.safetensors"),
    ]
    assert json.loads(files["spec.json"]) == job.spec
    environment = json.loads(files["environment.json"])
    assert 0 < environment.pop("cpu_s") < 600
    assert environment == jobs.environment(job)
    assert environment["neuron backend"] == "fused"
    assert [line.split(":")[0] for line, _ in said] == ["epoch 1/2", "epoch 2/2"]
    assert "images/s, 0 s left" in said[1][0]
    assert [epoch.epoch for _, epoch in said] == [1, 2]
    columns = "epoch,loss,accuracy,firing_rate,lr,seconds,images_s,memory_mb"
    assert files["history.csv"].decode().splitlines()[0] == columns
    rates = pd.read_csv(BytesIO(files["firing_rates.csv"]))
    assert list(rates["layer"][:7]) == list(said[0][1].rates)
    assert rates["layer"].nunique() == 7
    assert rates["rate"].between(0, 1).all()
    assert set(json.loads(files["accuracy.json"])) == {"train", "test"}


def test_a_network_is_made_again_from_its_file_alone(recipe_file: Write) -> None:
    study = planned(recipe_file(("tau: 2.0", "tau: 1.5")))
    job = study.trained["none.snn", 0]
    files = jobs.run(job, no_files)
    again = read_network(files["weights.safetensors"])
    assert not again.training
    neuron = again.get_submodule("layer1.0.lif1")
    assert (neuron.tau, neuron.step_mode) == (1.5, "m")
    assert again(samples_of(study).x_test).shape == (2, 32, 4)
    assert again.get_submodule("layer3.0").downsample is None
    from sj_cka.training import accuracy

    assert (
        accuracy(again, samples_of(study).x_test, samples_of(study).y_test)
        == json.loads(files["accuracy.json"])["test"]
    )


def test_a_job_twice_gives_the_same_files_to_the_bit(recipe_file: Write) -> None:
    job = planned(recipe_file()).trained["all.snn", 1]
    first, second = (jobs.run(job, no_files) for _ in range(2))
    assert first["weights.safetensors"] == second["weights.safetensors"]
    assert first["accuracy.json"] == second["accuracy.json"]


def test_a_job_runs_with_its_threads_and_puts_back_those_that_were(recipe_file: Write) -> None:
    job = planned(recipe_file(("  lr: 0.1", "  threads: 2"))).trained["all.ann", 0]
    before, seen = torch.get_num_threads(), []
    jobs.run(job, no_files, Context(lambda line, epoch=None: seen.append(torch.get_num_threads())))
    assert seen == [2]
    assert torch.get_num_threads() == before


def test_an_untrained_network_has_statistics_of_the_training_split(recipe_file: Write) -> None:
    study = planned(recipe_file())
    job = next(j for p in pairs(study) for j in p.job.inputs.values() if j.kind == "init")
    found = weights(job)
    assert found["bn.running_var"].ne(1).all()


def test_data_that_change_after_the_plan_are_noticed(
    recipe_file: Write, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = recipe_file()
    job = planned(path).trained["all.ann", 0]
    np.savez(tmp_path / "images.npz", **arrays | {"x_train": arrays["x_train"] * 2})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="changed while the study ran: run it again"):
        jobs.run(job, no_files)
    jobs.run(planned(path).trained["all.ann", 0], no_files)  # planned again, it runs


# steps


@pytest.fixture
def finished(time_file: Write) -> Callable[[Job], dict[str, bytes]]:
    """`finished(job)`: its files, and those of the jobs that it needs, each done once."""
    done: dict[str, dict[str, bytes]] = {}

    def run(job: Job) -> dict[str, bytes]:
        if job.key not in done:
            for needed in job.inputs.values():
                run(needed)
            done[job.key] = jobs.run(job, lambda key, name: done[key][name])
        return done[job.key]

    return run


def test_a_network_runs_with_other_steps_than_it_was_trained_with(time_file: Write, finished: Any) -> None:
    study = planned(time_file())
    weights = finished(study.trained["T-2.snn", 0])["weights.safetensors"]
    x = samples_of(study).x_test[:6]
    two, three = (read_network(weights, T) for T in (None, 3))
    with torch.no_grad():
        assert [tuple(network(x).shape) for network in (two, three)] == [(2, 6, 4), (3, 6, 4)]
    assert all(torch.equal(tensor, three.state_dict()[name]) for name, tensor in two.state_dict().items())


def test_an_evaluation_is_the_accuracy_of_the_same_weights_with_other_steps(time_file: Write, finished: Any) -> None:
    from sj_cka.training import accuracy

    study = planned(time_file())
    job = by(study, "evaluate", "network", "T", "seed")["T-4.snn", 1, 0]
    files = finished(job)
    assert sorted(files) == ["accuracy.json", "environment.json", "spec.json"]
    network = read_network(finished(study.trained["T-4.snn", 0])["weights.safetensors"], 1)
    expected = {
        split: accuracy(network, getattr(samples_of(study), f"x_{split}"), getattr(samples_of(study), f"y_{split}"))
        for split in ("train", "test")
    }
    assert json.loads(files["accuracy.json"]) == expected


def test_a_comparison_runs_each_side_with_its_steps(time_file: Write, finished: Any) -> None:
    study = planned(time_file())
    job = next(p.job for p in pairs(study) if (p.comparison, p.variant, p.state) == ("rerun", "at T = 3", "trained"))
    assert dict(read_result(finished(job)["cka.nc"]).data.sizes)["step_x"] == 3
    ceiling = next(p.job for p in pairs(study) if (p.variant, p.state, p.kind) == ("at T = 3", "ceiling", "snn"))
    sizes = dict(read_result(finished(ceiling)["cka.nc"]).data.sizes)
    assert (sizes["step_x"], sizes["step_y"]) == (3, 3)


def test_a_network_with_itself_has_a_timing_null_beside_its_steps(time_file: Write, finished: Any) -> None:
    study = planned(time_file())
    job = next(p.job for p in pairs(study) if (p.comparison, p.variant, p.state) == ("inside", "T-4", "untrained"))
    result = read_result(finished(job)["cka.nc"])
    assert result.paired().dropna().to_numpy() == pytest.approx(1)
    assert result.permuted_steps is not None
    table = result.dynamics()
    assert list(table.index) == list(study.neurons["T-4.snn"])
    assert table[["cka", "null"]].notna().any().all()
    plain = next(
        p.job for p in pairs(study) if (p.comparison, p.variant, p.state) == ("across", "T-1 and T-4", "trained")
    )
    assert read_result(finished(plain)["cka.nc"]).permuted_steps is None


def test_the_ceiling_of_a_network_at_other_steps_is_no_comparison_with_itself(time_file: Write) -> None:
    study = planned(time_file())
    for pair in pairs(study):
        if pair.state == "ceiling":
            assert pair.job.inputs["x"].key != pair.job.inputs["y"].key


# conversion


CONVERTED = (
    ("  batch_size: 16\ncompare:\n", "  batch_size: 16\nconverted: {T: 6, mode: max}\ncompare:\n"),
    (
        "  - {name: shortcuts, x: all.snn, y: none.snn}\n",
        "  - {name: conversion, x: all.converted, y: all.ann}\n  - {name: ways, x: all.snn, y: all.converted}\n",
    ),
    ("depth: 8}", "depth: 8, residual: []}"),
    ("  - name: steps\n    comparison: twins\n    layers: [layer1.0.lif2]\n", "  - {name: accuracy}\n"),
    ("  none:\n    model: {residual: []}\n", "  none: {}\n"),
)


def test_a_converted_network_builds_on_its_trained_ann_and_an_untrained_one_on_its_first_weights(
    recipe_file: Write,
) -> None:
    study = planned(recipe_file(*CONVERTED))
    assert set(study.trained) >= {("all.converted", 0), ("all.ann", 0), ("all.snn", 0)}
    for seed in study.study.seeds:
        job = study.trained["all.converted", seed]
        assert job.kind == "convert"
        assert job.inputs["network"].key == study.trained["all.ann", seed].key
        assert job.args == {"T": 6, "mode": "max"}
    kinds = {
        state: {
            pair.job.inputs["x"].inputs["network"].kind
            for pair in pairs(study)
            if pair.comparison == "conversion" and pair.state == state
        }
        for state in ("trained", "untrained")
    }
    assert kinds == {"trained": {"train"}, "untrained": {"init"}}
    ceilings = {pair.kind for pair in pairs(study) if pair.comparison == "ways" and pair.state == "ceiling"}
    assert ceilings == {"snn", "converted"}


def test_a_converted_network_is_made_again_from_its_file_and_runs_with_any_steps(
    recipe_file: Write, finished: Any
) -> None:
    from sj_cka.training import accuracy

    study = planned(recipe_file(*CONVERTED))
    files = finished(study.trained["all.converted", 0])
    assert sorted(files) == ["accuracy.json", "environment.json", "spec.json", "weights.safetensors"]
    network, longer = (read_network(files["weights.safetensors"], T) for T in (None, 60))
    ann = read_network(finished(study.trained["all.ann", 0])["weights.safetensors"])
    x, y = samples_of(study).x_test, samples_of(study).y_test
    assert accuracy(network, x, y) == json.loads(files["accuracy.json"])["test"]
    with torch.no_grad():
        logits = []
        for net in (network, longer):
            reset_states(net)
            logits.append(net(x))
        target = ann(x)
    assert [tuple(each.shape) for each in logits] == [(6, 32, 4), (60, 32, 4)]
    errors = [float((each.mean(0) - target).norm() / target.norm()) for each in logits]
    assert errors[1] < 0.5 * errors[0]  # the longer it is shown, the closer to its artificial network
    untrained = next(p.job.inputs["x"] for p in pairs(study) if (p.comparison, p.state) == ("conversion", "untrained"))
    assert "accuracy.json" not in finished(untrained)


def test_a_converted_network_is_compared_layer_by_layer_with_its_ann(recipe_file: Write, finished: Any) -> None:
    study = planned(recipe_file(*CONVERTED))
    job = next(p.job for p in pairs(study) if (p.comparison, p.state) == ("conversion", "trained"))
    result = read_result(finished(job)["cka.nc"])
    assert {"conv1", "layer1.0.lif1", "layer3.0.conv2", "lif"} <= set(result.paired().index)
    assert result.data.sizes["step_x"] == 6
    paired = result.paired()
    assert paired["conv1"] == pytest.approx(1, abs=1e-6)  # in front of all neurons, and of the same weights
    assert 0.7 < paired["layer1.0.lif1"] < 1  # 6 steps say little of what lies deeper


# kept epochs, checkpoints, costs


def test_a_kept_epoch_lies_beside_the_last_and_is_compared_by_its_number(recipe_file: Write) -> None:
    study = planned(
        recipe_file(
            ("  epochs: 1", "  epochs: 3\n  keep: [0, 1, 3]"),
            ("x: all.snn, y: none.snn}", "x: all.snn@1, y: all.snn}"),
        )
    )
    job = study.trained["all.snn", 0]
    assert job.args["keep"] == [1]  # 0 are the first weights, 3 the last: both are there anyhow
    files = jobs.run(job, no_files)
    kept, last = (read_network(files[name]).state_dict() for name in ("weights@1.safetensors", "weights.safetensors"))
    assert list(kept) == list(last)
    assert not torch.equal(kept["conv1.weight"], last["conv1.weight"])
    [pair] = [p for p in pairs(study) if (p.comparison, p.state, p.seed) == ("shortcuts", "trained", 0)]
    assert pair.job.args["epoch_x"] == 1
    assert "epoch_y" not in pair.job.args
    result = read_result(jobs.run(pair.job, lambda key, name: files[name])["cka.nc"])
    paired = result.paired()
    assert paired.notna().any()
    assert not np.allclose(paired.dropna(), 1.0)
    [floor] = [p for p in pairs(study) if (p.comparison, p.state, p.seed) == ("shortcuts", "untrained", 0)]
    assert floor.job.inputs["x"].kind == floor.job.inputs["y"].kind == "init"
    assert "epoch_x" not in floor.job.args


def test_epoch_0_is_the_untrained_network(recipe_file: Write) -> None:
    text = ("x: all.snn, y: none.snn}", "x: all.snn@%s, y: all.snn}")
    keep = ("  epochs: 1", "  epochs: 1\n  keep: [0]")
    found = []
    for moment in ("0", "init"):
        study = planned(recipe_file(keep, (text[0], text[1] % moment)))
        found.append({p.job.key for p in pairs(study) if p.comparison == "shortcuts"})
    assert found[0] == found[1]


def test_a_training_that_was_killed_goes_on_from_its_checkpoint_to_the_same_weights(
    recipe_file: Write, tmp_path: Path
) -> None:
    job = planned(recipe_file(("  epochs: 1", "  epochs: 3\n  checkpoint: 1\n  augment: [flip]"))).trained["all.snn", 0]
    store = Store(tmp_path / "store")
    store.folder(job.key).parent.mkdir(parents=True)
    slot, log = store.slot(job.key), store.log(job.key)

    def stop(line: str, epoch: Any = None) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    def logged() -> list[int]:
        return [entry["epoch"]["epoch"] for entry in log.news()]

    with pytest.raises(KeyboardInterrupt):
        jobs.run(job, no_files, Context(stop, slot))
    again = jobs.run(job, no_files, Context(log.begin(), slot))
    whole = jobs.run(job, no_files)
    assert logged() == [1, 2, 3]  # also of those before
    assert again["weights.safetensors"] == whole["weights.safetensors"]
    assert again["firing_rates.csv"] == whole["firing_rates.csv"]


def test_how_often_a_checkpoint_is_taken_is_no_part_of_the_spec(recipe_file: Write) -> None:
    assert keys(recipe_file(("  lr: 0.1", "  checkpoint: 2"))) == keys(recipe_file())


@pytest.mark.parametrize(
    "line",
    ["augment: [flip]", "augment: [{name: crop, padding: 1}]", "loss: tet", "warmup: 1", "clip: 1.0", "decay: weights"],
)
def test_what_changes_the_training_changes_its_key(line: str, recipe_file: Write) -> None:
    assert not keys(recipe_file(("  lr: 0.1", f"  {line}"))) & {
        job.key for job in planned(recipe_file()).trained.values()
    }


def test_another_learning_rule_is_part_of_the_spec_with_its_options_that_are_not_at_their_default(
    recipe_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def local(network: Any, x: Any, y: Any, *, depth: int = 2, strength: float = 1.0, **given: Any) -> Any:
        return LEARNING_RULES["bptt"](network, x, y, **given)

    def settings(rule: str) -> Any:
        trained = planned(recipe_file(("  lr: 0.1", f"  snn: {{rule: {rule}}}"))).trained
        assert "rule" not in trained["all.ann", 0].args["settings"]
        return trained["all.snn", 0].args["settings"]["rule"]

    monkeypatch.setitem(LEARNING_RULES, "local", local)
    for plain in ("local", "{name: local, depth: 2}", '{name: local, strength: "1"}'):
        assert settings(plain) == "local"
    assert settings("{name: local, depth: 3, strength: 1.0}") == {"name": "local", "depth": 3}


def test_the_cost_of_a_spiking_network_is_mostly_accumulations_and_of_its_twin_none(recipe_file: Write) -> None:
    study = planned(recipe_file())
    found = {}
    for kind in ("snn", "ann"):
        files = jobs.run(study.trained[f"all.{kind}", 0], no_files)
        job = by(study, "cost", "network", "seed")[f"all.{kind}", 0]
        counted = jobs.run(job, lambda key, name, files=files: files[name])  # type: ignore[misc]
        found[kind] = json.loads(counted["cost.json"])
    assert found["ann"]["synops"] == 0 < found["snn"]["synops"]
    assert found["snn"]["macs"] < found["ann"]["macs"] / 5
    assert found["snn"]["parameters"] == found["ann"]["parameters"]


@pytest.mark.parametrize(("backend", "name"), [("auto", "fused"), ("torch", "torch")])
def test_the_environment_names_the_backend_of_the_recipe_s_own_neurons(
    recipe_file: Write, backend: str, name: str
) -> None:
    study = planned(recipe_file(("tau: 2.0}", f"tau: 2.0, backend: {backend}}}")))
    pair = next(p for p in pairs(study) if p.comparison == "twins")
    assert jobs.environment(study.trained["all.snn", 0])["neuron backend"] == name
    assert jobs.environment(pair.job)["neuron backend"] == name
    assert "neuron backend" not in jobs.environment(study.trained["all.ann", 0])
