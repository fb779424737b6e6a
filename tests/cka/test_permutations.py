"""Chance: samples of y in other orders, among all and within classes."""

import numpy as np
import pytest
import torch
from drawn import accumulated, randn, related

from sj_cka import CKA, cka, compare, compare_features
from sj_cka.cka.permutations import order_within


def test_chance_is_zero_on_average_and_p_is_uniform_for_independent_data():
    p = []
    for seed in range(100):
        result = accumulated((randn(30, 8, seed=seed), randn(30, 8, seed=seed + 10**6)), permutations=39)
        p.append(result.baseline().iloc[0].p)
        assert abs(result.baseline().iloc[0].chance) < 0.1
    assert 0.01 <= np.mean(np.array(p) <= 0.1) <= 0.2
    assert 0.4 < np.mean(p) < 0.6


def test_within_classes_chance_is_what_the_classes_give_alone():
    labels = torch.arange(60) % 4
    means = 4 * randn(4, 6, seed=1)
    one, other, own = means[labels], means.flip(1)[labels], randn(60, 6, seed=2)
    found = CKA(permutations={"samples": 49, "classes": 99})
    x = {"classes": one + randn(60, 6, seed=3), "samples": one + 3 * own}
    y = {"classes": other + randn(60, 6, seed=4), "samples": one + 3 * own + 0.1 * randn(60, 6, seed=5)}
    found.update({k: v[None] for k, v in x.items()}, {k: v[None] for k, v in y.items()}, labels=labels)
    result = found.compute()
    among, within = result.baseline(), result.baseline(within="classes")
    classes, samples = ("classes", "classes"), ("samples", "samples")
    assert among.loc[classes, "p"] == 1 / 50  # beyond chance, but for the classes alone
    assert within.loc[classes, "p"] > 0.05
    assert within.loc[classes, "chance"] == pytest.approx(within.loc[classes, "cka"], abs=0.05)
    assert within.loc[samples, "p"] == 1 / 100  # the same samples lie near each other
    assert (among.permutations == 49).all()
    assert (within.permutations == 99).all()


def test_permutations_within_classes_keep_each_class_and_reach_all_its_orders():
    classes, g = torch.tensor([2, 0, 2, 1, 0, 2]), torch.Generator().manual_seed(0)
    drawn = torch.stack([order_within(classes, g) for _ in range(600)])
    assert (classes[drawn] == classes).all()
    assert (drawn.sort(1).values == torch.arange(6)).all()
    orders, counts = drawn.unique(dim=0, return_counts=True)
    assert len(orders) == 3 * 2 * 2  # 3! 2! 1!
    assert counts.min() > 25  # of 50
    X, Y = related(6, 0)
    found = CKA(permutations={"classes": 3})
    found.update({"a": X[None]}, {"a": Y[None]}, labels=classes)
    generator = torch.Generator().manual_seed(0)
    expected = [cka(X, Y[order_within(classes, generator)]) for _ in range(3)]
    data = found.compute().data
    values = data.permuted_within_xy.values[:, 0, 0] / np.sqrt(data.hsic_xx.values.item() * data.hsic_yy.values.item())
    assert np.allclose(values, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("labels", [["cat", "dog"] * 10, np.arange(20) % 2, torch.eye(2)[torch.arange(20) % 2]])
def test_labels_for_permutations_are_numbers_text_or_rows_and_come_with_features_or_a_loader(labels):
    x = randn(20, 5).float()
    asked = {"classes": 5}
    net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU()).eval()
    with torch.no_grad():
        X = {"0": net[0](x)[None], "1": net(x)[None]}
    found = CKA(permutations=asked)
    found.update(X, labels=labels)
    of_features = compare_features(X, groups=labels, batch_size=10, into=CKA(permutations=asked), progress=False)
    of_loader = compare(net, loader=[(x, labels)], into=CKA(permutations=asked), layers=["0", "1"], progress=False)
    for result in (of_features, of_loader):
        assert (result.baseline(within="classes").permutations == 5).all()
        with pytest.raises(ValueError, match="permutations=200"):
            result.baseline()
    again = CKA()
    again.load_state_dict(found.state_dict())
    assert again.compute().baseline(within="classes").equals(found.compute().baseline(within="classes"))


def test_permutations_within_classes_need_labels_and_say_so():
    X, _ = related(20, 0)
    found = CKA(permutations={"classes": 5})
    with pytest.raises(ValueError, match="expected labels= of the samples, got none"):
        found.update({"a": X[None]})
    with pytest.raises(ValueError, match=r"one for each of 20 samples, got shape \(19,\)"):
        found.update({"a": X[None]}, labels=range(19))
    for groups, got in ((None, "none"), ({"all": [True] * 20}, "dict")):
        with pytest.raises(ValueError, match=f"expected groups= as the class of each sample, got {got}"):
            compare_features({"a": X[None]}, groups=groups, into=found, progress=False)
    net = torch.nn.Sequential(torch.nn.Linear(6, 4)).eval()
    with pytest.raises(TypeError, match=r"batches \(inputs, labels\)"):
        compare(net, loader=X.float(), layers="0", into=CKA(permutations={"classes": 5}), progress=False)
    with pytest.raises(ValueError, match=r'CKA\(permutations=\{"classes": 200\}\)'):
        accumulated(related(20, 0), permutations=3).baseline(within="classes")
    with pytest.raises(ValueError, match="within to be one of None, 'classes', got 'labels'"):
        accumulated(related(20, 0), permutations=3).baseline(within="labels")


def test_related_data_lie_beyond_chance():
    row = accumulated(related(40, 0), related(20, 1), permutations=99).baseline().iloc[0]
    assert row.p == 0.01
    assert row.high < row.cka
    assert row.permutations == 99


def test_a_permuted_baseline_is_the_cka_with_y_in_that_order():
    X, Y = related(25, 0)
    found = CKA(permutations=3)
    found.update({"a": X[None]}, {"a": Y[None]})
    generator = torch.Generator().manual_seed(0)
    expected = [cka(X, Y[torch.randperm(25, generator=generator)]) for _ in range(3)]
    data = found.compute().data
    values = data.permuted_xy.values[:, 0, 0] / np.sqrt(data.hsic_xx.values.item() * data.hsic_yy.values.item())
    assert np.allclose(values, expected, rtol=0, atol=1e-12)
