"""Fisher information in a study: which networks, which weights, the tables, the figure, and claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rows import pairs

import sj_cka
from sj_cka import jobs, recipe
from sj_cka.fisher import empirical_fisher, fisher_information
from sj_cka.job import Job
from sj_cka.jobs.weights import read_network
from sj_cka.plan import Plan, plan
from sj_cka.recipe import RecipeError
from sj_cka.store import Store

Write = Callable[..., Path]

FISHER = """\
title: Fisher
question: When does the network know?
data: {name: digits, train: 200}
model: {name: mlp, inputs: 64, hidden: [12]}
snn: {T: 2}
train: {epochs: 2, batch_size: 50, keep: [1], trained_at: 0}
seeds: 3
variants:
  base: {}
  longer: {snn: {T: 3}}
jobs:
  fisher: {networks: [base.snn@init, base.snn@1, "*.snn", base.ann], samples: 3}
compare:
  - {name: inside, x: base.snn, y: base.snn}
figures:
  - {name: fisher}
claims:
  - test: greater
    says: With more steps the information comes later.
    source: this recipe
    a: {measure: information_centroid, network: longer.snn}
    b: {measure: information_centroid, network: base.snn}
  - test: above
    says: There is some.
    source: this recipe
    value: -3
    a: {measure: fisher_information, network: base.ann}
"""
NETWORKS = ["base.snn@init", "base.snn@1", "base.snn", "longer.snn", "base.ann"]


@pytest.fixture
def fisher_file(writer: Callable[[str, str], Write]) -> Write:
    """`fisher_file((old, new), ...)`: the recipe above with texts replaced."""
    return writer(FISHER, "fisher.yaml")


def jobs_of(study: Plan) -> dict[tuple[str, int], Job]:
    return {(row.at["network"], row.at["seed"]): row.job for row in study.rows["fisher"]}


def test_a_study_measures_the_networks_that_it_names_at_the_moments_that_it_names(
    fisher_file: Write, tmp_path: Path
) -> None:
    path, out = fisher_file(), tmp_path / "out"
    store = Store(tmp_path / "store")
    sj_cka.run(path, out=out, store=store.root, workers=1, progress=False)
    table, totals = (pd.read_csv(out / f"{name}.csv") for name in ("fisher", "information"))
    assert sorted(table["network"].unique()) == sorted(NETWORKS)
    assert set(table["labels"]) == {"model"}
    assert (totals.groupby("network")["seed"].nunique() == 3).all()

    made = jobs_of(plan(recipe.read(path)))
    data = made["base.snn", 0].data.samples
    x, files = data.as_input(data.x_test[:3]), {"base.snn@1": "weights@1.safetensors"}
    for name in NETWORKS:
        needed = made[name, 1].inputs["network"]
        network = read_network(store.read(needed.key, files.get(name, "weights.safetensors")))
        own = table[(table["network"] == name) & (table["seed"] == 1)]
        assert own["fisher"].to_list() == pytest.approx(fisher_information(network, x)["fisher"].to_list(), abs=1e-6)
    values = table.pivot_table(index="network", columns="seed", values="fisher", aggfunc="last").loc[NETWORKS]
    assert len(np.unique(values.to_numpy())) == values.size  # each has weights of its own

    of_all = table[(table["layer"] == "all") & (table["network"] == "longer.snn") & (table["seed"] == 0)]
    centroid = (of_all["step"] * of_all["fisher"]).sum() / of_all["fisher"].sum()
    (total,) = totals[(totals["network"] == "longer.snn") & (totals["seed"] == 0)].to_dict("records")
    assert total["centroid"] == pytest.approx(centroid, abs=1e-5)
    assert 10 ** total["log10_fisher"] == pytest.approx(of_all["fisher"].iloc[-1], rel=1e-5)

    claims = pd.read_csv(out / "claims.csv")
    assert list(claims["verdict"]) == ["holds", "holds"]
    assert claims["value_b"][0] == pytest.approx(totals[totals["network"] == "base.snn"]["centroid"].mean(), abs=1e-5)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Fisher information of the weights" in page
    assert "all weights" in page


def test_labels_of_the_data_are_another_job_of_another_name(fisher_file: Write) -> None:
    drawn = jobs_of(plan(recipe.read(fisher_file())))["base.ann", 0]
    study = plan(recipe.read(fisher_file(("samples: 3", "samples: 3, labels: data"))))
    true = jobs_of(study)["base.ann", 0]
    assert drawn.args == {"samples": 3}
    assert true.args == {"samples": 3, "labels": "data"}
    assert {row.at["labels"] for row in study.rows["fisher"]} == {"data"}
    trained = jobs.run(true.inputs["network"], lambda key, name: b"")
    found = jobs.run(true, lambda key, name: trained[name])
    (row,) = (row for row in study.rows["fisher"] if (row.at["network"], row.at["seed"]) == ("base.ann", 0))
    table = jobs.KINDS["fisher"].tables["fisher"](row, found.__getitem__)
    network, data = read_network(trained["weights.safetensors"]), true.data.samples
    expected = empirical_fisher(network, data.as_input(data.x_test[:3]), data.y_test[:3])
    pd.testing.assert_frame_equal(table[list(expected)], expected)


def test_networks_that_are_only_named_there_are_trained_and_counted(fisher_file: Write) -> None:
    study = plan(recipe.read(fisher_file()))
    assert set(study.sizes) == {"base.snn", "longer.snn", "base.ann"}
    assert {row.at["network"] for row in study.rows["train"]} == set(study.sizes)
    assert len(pairs(study)) > 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("samples: 3", "samples: 361", "jobs.fisher.samples: expected at most 360, so many test images there are of"),
        ("samples: 3", "samples: 3, labels: both", "jobs.fisher.labels: expected"),
        ("base.snn@1,", "base.snn@2,", r"jobs.fisher.networks\[1\]: expected an epoch of train.keep"),
        ("base.ann]", "bose.ann]", r"jobs.fisher.networks\[3\]: 'bose.ann': nobody trains a variant 'bose'"),
        ("jobs:\n  fisher: {networks: [base.snn@init, base.snn@1, \"*.snn\", base.ann], samples: 3}\n", "",
         r"figures\[0\].name: expected jobs.fisher, which networks are measured, got none"),
        ("network: longer.snn}", "network: longer.ann}", "expected a network whose information_centroid is measured"),
        ("network: longer.snn}", "network: longer.snn, T: 2}", r"a.T: expected no T: information_centroid is"),
    ],
)  # fmt: skip
def test_what_a_recipe_says_wrongly_is_told_before_anything_runs(
    fisher_file: Write, old: str, new: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(recipe.read(fisher_file((old, new))))
