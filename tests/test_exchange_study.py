"""Exchanged layers in a study: which pairs, which networks, the tables, the figure, and claims."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rows import by

import sj_cka
from sj_cka import jobs, recipe
from sj_cka.exchange import exchange
from sj_cka.jobs.weights import read_network
from sj_cka.plan import plan
from sj_cka.recipe import RecipeError
from sj_cka.store import Store

Write = Callable[..., Path]

EXCHANGE = """\
title: Exchange
question: Are layers exchangeable?
data: {name: digits, train: 300}
model: {name: mlp, inputs: 64, hidden: [16, 12]}
snn: {T: 3}
train: {epochs: 4, batch_size: 50, keep: [1], trained_at: 0}
seeds: 3
variants:
  base: {}
  plain: {model: {norm: none}}
cka: {layers: ["*lif"]}
jobs:
  exchange: {comparisons: [twins, across], fit: 60, samples: 100}
compare:
  - {name: twins, x: "*.snn", y: "*.ann"}
  - {name: across, x: base.snn, y: base.snn, seeds: across, layers: [layer1.lif]}
  - {name: inside, x: base.snn, y: base.snn}
figures:
  - {name: exchange, comparison: twins}
claims:
  - test: greater
    says: Trained layers leave more than untrained ones.
    source: this recipe
    a: {measure: exchange_into_y, comparison: twins, variant: base, layers: [layer2.lif]}
    b: {measure: random_into_y, comparison: twins, variant: base, layers: [layer2.lif]}
  - test: above
    says: The order of steps is of little matter.
    source: this recipe
    value: 0.5
    a: {measure: permuted_x, comparison: twins, variant: plain}
  - test: greater
    says: Into one as into the other.
    source: this recipe
    a: {measure: exchange_into_x, comparison: twins, variant: base}
    b: {measure: exchange_into_y, comparison: twins, variant: base}
  - test: above
    says: An artificial network has no order of steps.
    source: this recipe
    value: 0.5
    a: {measure: permuted_y, comparison: twins, variant: base}
"""


@pytest.fixture
def exchange_file(writer: Callable[[str, str], Write]) -> Write:
    """`exchange_file((old, new), ...)`: the recipe above with texts replaced."""
    return writer(EXCHANGE, "exchange.yaml")


def test_a_way_that_cannot_be_gone_is_told_before_anything_is_trained(
    exchange_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the spiking network, which has three steps, a map takes three times as much as into the other one."""
    study = recipe.read(exchange_file())
    plan(study)
    into_ann, into_snn = (S * 16 * (16 + 16) for S in (1, 3))
    monkeypatch.setattr(sys.modules["sj_cka.exchange.exchanged"], "MOST", (into_ann + into_snn) // 2)
    with pytest.raises(RecipeError, match=r"comparisons\[0\]: base.ann and base.snn: .* a map takes at most 0 MiB"):
        plan(study)


def test_a_study_exchanges_the_layers_of_the_comparisons_that_it_names(exchange_file: Write, tmp_path: Path) -> None:
    path, out = exchange_file(), tmp_path / "out"
    store = Store(tmp_path / "store")
    sj_cka.run(path, out=out, store=store.root, workers=1, progress=False)
    table = pd.read_csv(out / "exchange.csv", keep_default_na=False, na_values="")
    assert set(table["comparison"]) == {"twins", "across"}
    twins, across = (table[table["comparison"] == name] for name in ("twins", "across"))
    assert len(twins) == 2 * 2 * 3 * 2  # variants, ways, seeds, layers
    assert len(across) == 6 * 2  # pairs of seeds, ways, one layer
    assert set(zip(twins["into"], twins["source"], twins["target"], strict=True)) == {
        ("y", "base.snn", "base.ann"), ("x", "base.ann", "base.snn"),
        ("y", "plain.snn", "plain.ann"), ("x", "plain.ann", "plain.snn"),
    }  # fmt: skip
    assert twins.loc[twins["into"] == "y", "permuted"].isna().all()
    assert twins.loc[twins["into"] == "x", "permuted"].notna().all()
    assert twins["accuracy"].mean() > twins["constant"].mean() + 0.2

    made = by(plan(recipe.read(path)), "exchange", "comparison", "variant", "into", "seed", "seed_y")
    one = made["twins", "base", "x", 1, 1]
    assert {name: needed.kind for name, needed in one.inputs.items()} == {
        "x": "train", "y": "train", "untrained": "init"
    }  # fmt: skip
    data = one.data.samples
    x, y, first = (
        read_network(store.read(one.inputs[name].key, "weights.safetensors")) for name in ("x", "y", "untrained")
    )
    test = data.x_test[:100], data.y_test[:100]
    found = exchange(x, y, data.x_train[:60], *test, untrained=first, layers=["*lif"], prepare=data.as_input)
    own = twins[(twins["variant"] == "base") & (twins["into"] == "x") & (twins["seed"] == 1)]
    columns = ["layer", "steps", "accuracy", "self", "random", "constant", "permuted"]
    pd.testing.assert_frame_equal(own[columns].reset_index(drop=True), found.layers, atol=1e-6)
    assert set(own["whole"]) == {found.whole}

    claims = pd.read_csv(out / "claims.csv")
    assert set(claims["verdict"]) <= {"holds", "undecided", "contradicted"}
    deep = twins[(twins["variant"] == "base") & (twins["layer"] == "layer2.lif") & (twins["into"] == "y")]
    assert claims["value_a"][0] == pytest.approx((deep["accuracy"] / deep["whole"]).mean(), abs=1e-5)
    assert claims["value_b"][0] == pytest.approx((deep["random"] / deep["whole"]).mean(), abs=1e-5)
    plain = twins[(twins["variant"] == "plain") & (twins["into"] == "x")]
    assert claims["value_a"][1] == pytest.approx((plain["permuted"] / plain["whole"]).mean(), abs=1e-5)
    assert claims["value_a"][2] != claims["value_b"][2]
    assert claims["verdict"][3] == "undecided"
    assert np.isnan(claims["value_a"][3])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Alike, and exchangeable? twins" in page
    assert "layers of base.ann in base.snn" in page


def test_the_same_exchange_is_one_job_and_gives_the_same_numbers_again(exchange_file: Write) -> None:
    made = by(plan(recipe.read(exchange_file())), "exchange", "comparison", "into", "seed", "seed_y", "variant")
    one, again = made["across", "y", 0, 1, ""], made["across", "x", 1, 0, ""]
    assert one.key == again.key != made["across", "x", 0, 1, ""].key
    needs = {needed.key: jobs.run(needed, lambda key, name: b"") for needed in one.inputs.values()}
    files = [jobs.run(one, lambda key, name: needs[key][name])["exchange.json"] for _ in range(2)]
    assert files[0] == files[1]


def test_options_at_their_default_are_no_part_of_a_job(exchange_file: Write) -> None:
    def args(*changes: tuple[str, str]) -> dict[str, object]:
        made = by(plan(recipe.read(exchange_file(*changes))), "exchange", "comparison", "into", "seed", "variant")
        return dict(made["twins", "y", 0, "base"].args)

    assert args() == {"fit": 60, "samples": 100, "layers": ["*lif"]}
    assert args(("samples: 100", "orders: 3, ridge: 1e-6")) == {"fit": 60, "layers": ["*lif"]}
    changed = args(("samples: 100", "orders: 1, ridge: 1e-3, layers: [layer1.lif]"))
    assert changed == {"fit": 60, "orders": 1, "ridge": 1e-3, "layers": ["layer1.lif"]}
    epochs = ('{name: twins, x: "*.snn", y: "*.ann"}', '{name: twins, x: "*.snn@1", y: "*.ann"}')
    assert args(epochs)["epoch_x"] == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fit: 60", "fit: 301", "jobs.exchange.fit: expected at most 300, so many training images there are of"),
        ("samples: 100", "samples: 361", "jobs.exchange.samples: expected at most 360, so many test images"),
        ("fit: 60", "fit: 2", "jobs.exchange.fit: expected"),
        ("fit: 60", "ridge: 1e-18", "jobs.exchange.ridge: expected"),
        ("[twins, across]", "twins", r"jobs.exchange.comparisons: expected"),
        ("[twins, across]", "[3]", r"jobs.exchange.comparisons\[0\]: expected"),
        ("[twins, across]", "[nope]", r"jobs.exchange.comparisons\[0\]: no comparison 'nope'"),
        ("[twins, across]", "[]", r"jobs.exchange.comparisons: expected"),
        ("[twins, across]", "[twins, twice]", r"jobs.exchange.comparisons\[1\]: no comparison 'twice'"),
        ("[twins, across]", "[twins, twins]", r"comparisons\[1\]: expected comparisons, each once, got 'twins' again"),
        ("[twins, across]", "[twins, inside]", r"expected a comparison of two networks, 'inside' is of base.snn with"),
        ("samples: 100", "layers: [layer3.lif]", "jobs.exchange.layers: base.snn and base.ann: .*layer3.lif.* matches"),
        ('y: "*.ann"}', 'y: "*.ann", T_x: 2}', r"of networks as they were trained, 'twins' has T_x"),
        ("comparisons: [twins, across]", "comparisons: [across]",
         r"figures\[0\].comparison: expected a comparison of jobs.exchange, whose layers.* 'twins' is none"),
        ("jobs:\n  exchange: {comparisons: [twins, across], fit: 60, samples: 100}\n", "",
         r"figures\[0\].comparison: expected a comparison of jobs.exchange"),
        ("figures:\n  - {name: exchange, comparison: twins}\n", "figures:\n  - {name: exchange}\n",
         "expected the comparison that the exchange shows"),
        ("permuted_x, comparison: twins, variant: plain", "permuted_x, comparison: inside",
         r"claims\[1\].a.comparison: expected a comparison whose permuted_x is measured, see jobs; got 'inside'"),
        ("random_into_y, comparison", "paired_cka, comparison", "expected two arms that can be compared"),
    ],
)  # fmt: skip
def test_what_a_recipe_says_wrongly_is_told_before_anything_runs(
    exchange_file: Write, old: str, new: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(recipe.read(exchange_file((old, new))))


def test_networks_of_other_numbers_of_steps_are_told_before_anything_runs(exchange_file: Write) -> None:
    pair = ("x: base.snn, y: base.snn, seeds: across, layers", "x: base.snn, y: plain.snn, seeds: across, layers")
    longer = ("plain: {model: {norm: none}}", "plain: {snn: {T: 2}}")
    with pytest.raises(RecipeError, match=r"comparisons\[1\]: .*expected as many steps in both.*got 3 of x and 2 of y"):
        plan(recipe.read(exchange_file(pair, longer)))
