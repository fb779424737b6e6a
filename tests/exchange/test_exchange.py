"""Layers of one network in the place of another's: the fitted map, what is left, and its controls."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.layer import TLastSeqToANNContainer
from torch import Tensor, nn

from sj_cka import ann_twin
from sj_cka.exchange import exchange, exchangeable, step_orders
from sj_cka.exchange.affine_map import RidgeFit
from sj_cka.models import build

SOFT = {"name": "lif", "v_threshold": 0.4}
MODELS = {
    "mlp": ({"name": "mlp", "inputs": 12, "hidden": [11, 9], "norm": "none"}, (12,)),
    "recurrent": ({"name": "mlp", "inputs": 12, "hidden": [11], "norm": "none", "recurrent": True}, (12,)),
    "resnet": ({"name": "resnet", "depth": 8}, (1, 8, 6)),
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(name: str = "mlp", kind: str = "snn", seed: int = 0, T: int = 3) -> nn.Module:
    options, (channels, *_) = MODELS[name]
    return build(kind, options, in_channels=channels, num_classes=4, T=T, neuron=SOFT, seed=seed).eval()


def samples(name: str = "mlp", N: int = 90, seed: int = 1) -> Tensor:
    return randn(N, *MODELS[name][1], seed=seed)


def answers(net: nn.Module, x: Tensor) -> Tensor:
    """What a network says, as labels: it is right in all of them."""
    functional.reset_net(net)
    with torch.no_grad():
        logits = net(x)
    functional.reset_net(net)
    return (logits.mean(0) if logits.ndim == 3 else logits).argmax(1)


class Net(nn.Module):
    """Two layers with nothing between them and the classes but a fixed mixing of features."""

    def __init__(self, mixing: Tensor, seed: int = 0, offset: float = 0.0) -> None:
        super().__init__()
        D = len(mixing)
        self.fc, self.mix, self.out = nn.Linear(6, D), nn.Linear(D, D), nn.Linear(D, 4)
        for i, layer in enumerate((self.fc, self.out)):
            layer.weight.data = randn(*layer.weight.shape, seed=seed + i)
            layer.bias.data = randn(len(layer.bias), seed=seed + i + 5)
        self.mix.weight.data, self.mix.bias.data = mixing.clone(), torch.full((D,), offset)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(torch.relu(self.fc(x))))


class Maps(nn.Module):
    """The same with channels of maps: a convolution, a 1 x 1 mixing of channels, and classes."""

    def __init__(self, mixing: Tensor, padding: int = 1) -> None:
        super().__init__()
        C = len(mixing)
        self.conv, self.mix, self.out = nn.Conv2d(2, C, 3, padding=padding), nn.Conv2d(C, C, 1), nn.Linear(C, 3)
        self.conv.weight.data, self.conv.bias.data = randn(*self.conv.weight.shape), randn(C, seed=1)
        self.mix.weight.data, self.mix.bias.data = mixing[..., None, None].clone(), torch.zeros(C)
        self.out.weight.data, self.out.bias.data = randn(3, C, seed=2), torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(torch.relu(self.conv(x))).mean((2, 3)))


class TestRidgeFit:
    @pytest.mark.parametrize("ridge", [1e-9, 0.3])
    @pytest.mark.parametrize("rows", [40, 3])
    def test_it_is_least_squares_with_rows_added_for_the_ridge(self, ridge: float, rows: int) -> None:
        X, Y = 3 + randn(2, rows, 5).double(), 7 + randn(2, rows, 4, seed=1).double()
        fit = RidgeFit(ridge)
        for part in (slice(0, 2), slice(2, None)):
            fit.add(X[:, part], Y[:, part])
        found = fit.solve()
        for s in range(2):
            x, y = X[s].numpy(), Y[s].numpy()
            xc, yc = x - x.mean(0), y - y.mean(0)
            shrinking = np.sqrt(ridge * (xc**2).sum() / 5) * np.eye(5)
            W = np.linalg.lstsq(np.vstack([xc, shrinking]), np.vstack([yc, np.zeros((5, 4))]), rcond=None)[0]
            np.testing.assert_allclose(found.weight[s], W, atol=1e-6)
            np.testing.assert_allclose(found(X)[s], xc @ W + y.mean(0), atol=1e-6)

    def test_an_offset_costs_no_digits(self) -> None:
        X = randn(1, 60, 3).double()
        near, far = RidgeFit(1e-9), RidgeFit(1e-9)
        near.add(X, X @ randn(3, 2, seed=1).double())
        far.add(X + 1e6, X @ randn(3, 2, seed=1).double())
        torch.testing.assert_close(near.solve().weight, far.solve().weight, atol=1e-6, rtol=0)

    def test_features_without_variance_are_mapped_to_the_mean(self) -> None:
        fit, Y = RidgeFit(1e-6), randn(1, 20, 2).double()
        fit.add(torch.ones(1, 20, 3), Y)
        torch.testing.assert_close(fit.solve()(randn(1, 4, 3)), Y.mean(1, keepdim=True).expand(1, 4, 2))

    def test_the_blind_map_knows_the_mean_alone(self) -> None:
        fit, X = RidgeFit(1e-6), randn(1, 20, 3)
        fit.add(X, 2 * X)
        torch.testing.assert_close(fit.solve().blind(X), (2 * X.double()).mean(1, keepdim=True).expand(1, 20, 3))

    def test_what_cannot_be_fitted_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected a ridge above 0, got 0"):
            RidgeFit(0)
        with pytest.raises(ValueError, match="got none"):
            RidgeFit(1e-6).solve()
        fit, X = RidgeFit(1e-17), randn(1, 4, 9)
        fit.add(X, X)
        with pytest.raises(ValueError, match="expected a ridge that rounding leaves, got 1e-17"):
            fit.solve()
        fit = RidgeFit(1e-6)
        fit.add(torch.full((1, 3, 2), torch.nan), torch.ones(1, 3, 2))
        with pytest.raises(ValueError, match="finite features"):
            fit.solve()


@pytest.mark.parametrize("kind", ["snn", "ann"])
@pytest.mark.parametrize("name", MODELS)
def test_a_network_with_itself_loses_nothing(name: str, kind: str) -> None:
    net, x = network(name, kind), samples(name, 40)
    fit = torch.cat([x, samples(name, 160, seed=2)])  # what is silent there must be silent in x, or it cannot come back
    found = exchange(net, net, fit, x, answers(net, x), orders=1, batch_size=64)
    assert (found.x, found.whole) == (1.0, 1.0)
    assert (found.layers[["accuracy", "self"]] == 1.0).all(axis=None)
    assert (found.layers["constant"] < 1).any()
    assert len(found.layers) > 1


@pytest.mark.parametrize("name", MODELS)
def test_the_map_of_a_layer_to_itself_is_the_identity_and_gives_the_same_logits(name: str) -> None:
    net, x = network(name), samples(name, 200)
    y = exchangeable(net, net, x).y
    plain, features = y.logits(x), y.features(x)
    for tap in y.plan.taps:
        own, fit = features[tap.layer], RidgeFit(1e-10)
        fit.add(own.flatten(1, 2), own.flatten(1, 2))
        again = fit.solve()(own.flatten(1, 2)).unflatten(1, own.shape[1:3])
        torch.testing.assert_close(again, own.double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(y.logits(x, tap, again), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_put_back_gives_the_same_logits(name: str) -> None:
    net, x = network(name), samples(name, 20)
    _, y, _ = exchangeable(net, net, x)
    own, plain = y.features(x), y.logits(x)
    for tap in y.plan.taps:
        assert torch.equal(y.logits(x, tap, own[tap.layer]), plain)
        assert own[tap.layer].shape[:2] == (y.steps(tap), 20)
    other = y.logits(x, tap, own[tap.layer].flip(1))
    assert not torch.equal(other, plain)


def test_a_linear_relation_between_two_networks_is_found_whatever_it_is() -> None:
    y, x = Net(torch.eye(8)), Net(randn(8, 8, seed=3), offset=5.0)
    test, fit = randn(80, 6, seed=4), randn(60, 6, seed=5)
    labels = answers(y, test)
    found = exchange(x, y, fit, test, labels, untrained=Net(randn(8, 8, seed=3), seed=9))
    by_layer = found.layers.set_index("layer")
    assert found.whole == 1.0
    assert found.x < 0.8
    assert by_layer.loc["mix", "accuracy"] == 1.0
    assert by_layer.loc["mix", "random"] < 1.0
    assert by_layer["permuted"].isna().all()
    assert (by_layer["steps"] == 1).all()


def test_channels_are_mapped_the_same_at_every_pixel() -> None:
    y, x = Maps(torch.eye(4)), Maps(randn(4, 4, seed=3))
    test = randn(50, 2, 6, 5, seed=4)
    pair = exchangeable(x, y, test[:4])
    assert pair.y.features(test)["mix"].shape == (1, 50, 30, 4)
    found = exchange(x, y, randn(5, 2, 6, 5, seed=5), test, answers(y, test))  # 5 samples, 150 pixels
    assert list(found.layers["accuracy"]) == [1.0, 1.0]


def test_features_of_other_samples_leave_chance() -> None:
    x, y = Net(torch.eye(8), seed=3), Net(torch.eye(8))
    x.fc.weight.data[:, :5] = 0  # it looks at the last value alone, y at the others
    y.fc.weight.data[:, 5] = 0
    test, fit = randn(400, 6, seed=4), randn(2000, 6, seed=5)
    labels = answers(y, test)
    found = exchange(x, y, fit, test, labels, layers=["mix"]).layers.iloc[0]
    most = labels.bincount().max().item() / 400
    assert found["accuracy"] == pytest.approx(most, abs=0.1)
    assert found["constant"] == pytest.approx(most, abs=0.1)

    _, swapped, _ = exchangeable(y, y, test, layers=["mix"])
    rolled = swapped.features(test)["mix"].roll(1, dims=1)
    right = (swapped.logits(test, swapped.plan.taps[0], rolled).argmax(1) == labels).float().mean()
    assert right.item() == pytest.approx((labels.bincount() / 400).square().sum().item(), abs=0.1)


def test_steps_in_another_order_are_those_of_a_hook_that_permutes_them() -> None:
    net, x = network(T=2), samples(N=200)
    labels = answers(net, x)
    found = exchange(net, net, samples(seed=2), x, labels).layers.set_index("layer")
    assert found.loc["layer1.fc", "steps"] == 1  # before the first neuron: it counts at both steps
    assert found.loc["layer1.fc", "permuted"] == 1.0
    handle = net.get_submodule("layer1.lif").register_forward_hook(lambda module, args, spikes: spikes.flip(0))
    expected = (answers(net, x) == labels).double().mean().item()
    handle.remove()
    assert found.loc["layer1.lif", "permuted"] == pytest.approx(expected)
    assert expected < 1.0


def test_orders_of_steps_are_different_ones() -> None:
    orders = step_orders(4, 5, seed=0)
    assert len({tuple(order) for order in orders}) == 5
    assert all(sorted(order) == [0, 1, 2, 3] != order for order in orders)
    assert orders == step_orders(4, 5, seed=0) != step_orders(4, 5, seed=1)
    assert len(step_orders(3, 100, seed=0)) == 5


def test_networks_with_and_without_time_exchange_layers_both_ways() -> None:
    snn = network("resnet", T=3)
    ann, x = ann_twin(snn).eval(), samples("resnet", 30)
    fit = samples("resnet", 40, seed=2)
    into_ann = exchange(snn, ann, fit, x, answers(ann, x), orders=1).layers.set_index("layer")
    into_snn = exchange(ann, snn, fit, x, answers(snn, x), orders=1).layers.set_index("layer")
    assert set(into_ann.index) == set(into_snn.index)
    assert (into_ann["steps"] == 1).all()
    assert into_snn.loc["layer1.0.lif1", "steps"] == 3
    assert into_ann.loc["conv1", "accuracy"] == into_snn.loc["conv1", "accuracy"] == 1.0  # the same weights
    assert into_ann["accuracy"].min() < 1

    spikes = exchangeable(snn, ann, x, layers=["layer1.0.lif1"])
    X, Y = (spikes[i].features(fit)["layer1.0.lif1"].double().numpy() for i in range(2))
    X, Y = (f.mean(0).reshape(-1, 16) for f in (X, Y))  # the mean over steps, rows are pixels
    W = np.linalg.lstsq(np.hstack([X, np.ones((len(X), 1))]), Y, rcond=None)[0]
    features = spikes.x.features(x)["layer1.0.lif1"].double().mean(0, keepdim=True).numpy()
    new = torch.from_numpy(features @ W[:-1] + W[-1])
    right = spikes.y.logits(x, spikes.y.plan.taps[0], new).argmax(1) == answers(ann, x)
    assert into_ann.loc["layer1.0.lif1", "accuracy"] == pytest.approx(right.double().mean().item(), abs=0.04)


def test_minibatches_give_what_the_whole_gives_and_networks_stay_as_they_were() -> None:
    x, y, test = network(), network(seed=1).train(), samples(N=50)
    before = [copy.deepcopy(net.state_dict()) for net in (x, y)]
    labels = torch.arange(50) % 4
    whole, parts = (exchange(x, y, samples(seed=2), test, labels, batch_size=size) for size in (100, 7))
    assert whole.layers.equals(parts.layers)
    assert y.training
    for net, state in zip((x, y), before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
        assert not any(module._forward_hooks for module in net.modules())


def test_frames_are_given_time_first() -> None:
    net, frames = network(T=3), randn(3, 40, 12)
    labels = answers(net, frames)
    stored = frames.transpose(0, 1)
    found = exchange(
        net, net, stored[:30], stored, labels, layout="TNCHW", prepare=lambda x: x.transpose(0, 1), orders=1
    )
    assert found.whole == 1.0
    assert (found.layers["self"] == 1.0).all()
    assert (found.layers["steps"] == 3).all()


def test_maps_of_other_sizes_are_left_out_or_refused_where_they_are_named() -> None:
    y, x = Maps(torch.eye(4)), Maps(torch.eye(4), padding=0)
    test = randn(20, 2, 6, 5)
    with pytest.raises(ValueError, match=r"layer 'mix': expected maps of one size.*4 x 3 pixels of x and .*6 x 5"):
        exchange(x, y, test, test, answers(y, test), layers=["mix"])
    pooled = [_Pooled(net) for net in (x, y)]
    found = exchange(*pooled, test, test, answers(pooled[1], test))
    assert list(found.layers["layer"]) == ["pool"]
    assert list(found.left_out) == ["net.conv", "net.mix"]


class _Pooled(nn.Module):
    """Maps with a layer behind them whose size does not hang on theirs."""

    def __init__(self, net: Maps) -> None:
        super().__init__()
        self.net, self.pool, self.out = net, nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(self.net.mix(torch.relu(self.net.conv(x)))).flatten(1))


def test_what_cannot_be_exchanged_is_told() -> None:
    net, x = network(), samples(N=20)
    labels = answers(net, x)
    for case, message in (
        ((net, network(T=2), x, x, labels), r"layer 'layer1.lif': expected as many steps .* got 3 of x and 2 of y"),
        ((net, net, x[:2], x, labels), "expected 3 samples or more to fit maps on and 1 to test, got 2 and 20"),
        ((net, net, x, x, labels[:5]), r"a label for each of 20 samples, got labels of shape \(5,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            exchange(*case, layers=["*lif"])
    with pytest.raises(ValueError, match="expected orders and batch_size from 1, got 0 and 128"):
        exchange(net, net, x, x, labels, orders=0)
    renamed = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4))
    with pytest.raises(ValueError, match=r"expected layers that both .* got layer1.fc.* of x and 0, 1 of y"):
        exchange(net, renamed, x, x, labels)


def test_networks_that_are_called_once_a_step_are_refused() -> None:
    single = nn.Sequential(nn.Linear(12, 5), neuron.IFNode(), nn.Linear(5, 4)).eval()
    frames = randn(3, 20, 12)
    stored = frames.transpose(0, 1)
    with pytest.raises(ValueError, match=r"in one call, got network x, which is called once a step \(frame loop\)"):
        exchange(single, single, stored, stored, torch.zeros(20), layout="TNCHW", prepare=lambda x: x.transpose(0, 1))


class Drawn(nn.Module):
    """A network of spikes that it draws itself, with a way around its layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(12, 9), nn.Linear(21, 4)
        for i, layer in enumerate((self.fc, self.out)):
            layer.weight.data = randn(*layer.weight.shape, seed=seed + i)

    def forward(self, x: Tensor) -> Tensor:
        spikes = (torch.rand_like(x) < x.sigmoid()).float()
        return self.out(torch.cat([self.fc(spikes), spikes], 1))


def test_what_a_network_draws_it_draws_alike_in_every_run_and_anew_for_every_batch() -> None:
    x, y = Drawn(0), Drawn(4)
    test, before = samples(N=300), torch.get_rng_state()
    given = samples(N=90, seed=2), test, answers(y, test)
    found = exchange(y, y, *given, layers=["fc"], batch_size=50)
    assert found.x == found.whole < 1
    assert list(found.layers[["accuracy", "self"]].iloc[0]) == [found.whole] * 2
    torch.set_rng_state(before)
    exchange(x, y, *given, layers=["fc"])
    assert torch.equal(torch.get_rng_state(), before)  # others go on with their own draws
    same = samples(N=1).expand(100, -1)
    one = exchange(y, y, given[0], same, answers(y, same), layers=["fc"], batch_size=1)
    assert 0 < one.whole < 1  # not one draw for all batches


class InPlace(nn.Module):
    """A network that goes on with the tensor that a layer works on, or with what the layer gives."""

    def __init__(self, handed_on: bool, seed: int) -> None:
        super().__init__()
        self.handed_on = handed_on
        self.fc, self.relu, self.out = nn.Linear(12, 9), nn.ReLU(inplace=True), nn.Linear(9, 4)
        for i, layer in enumerate((self.fc, self.out)):
            layer.weight.data = randn(*layer.weight.shape, seed=seed + i)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        relu = self.relu(h)
        return self.out(relu if self.handed_on else h)


def test_a_layer_that_works_in_place_is_replaced_for_all_who_read_its_tensor() -> None:
    found, test = {}, samples(N=200)
    for handed_on in (True, False):
        torch.manual_seed(0)
        x, y = InPlace(handed_on, seed=0), InPlace(handed_on, seed=7)
        for net in (x, y):
            for i, layer in enumerate((net.fc, net.out)):
                layer.bias.data = randn(len(layer.bias), seed=i)
        found[handed_on] = exchange(x, y, samples(N=90, seed=2), test, answers(y, test), layers=["relu"]).layers
    assert found[False].equals(found[True])
    assert found[True]["constant"][0] < 0.7


def test_the_input_of_a_layer_that_gives_a_view_of_it_is_left_as_it_is() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.flat, self.out = nn.Linear(12, 9), nn.Flatten(), nn.Linear(18, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.fc(x)
            return self.out(torch.cat([h, self.flat(h)], 1))

    y, test = Around(), samples(N=200)
    y.out.weight.data[:, 9:] *= 1e-4  # what passes the layer is of next to no matter
    found = exchange(y, y, samples(N=90, seed=2), test, answers(y, test), layers=["flat"])
    assert found.layers["constant"][0] > 0.98


def test_maps_that_take_too_much_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = network(seed=0), network(seed=1)
    assert exchangeable(x, y, samples(N=4)).left_out == {}
    monkeypatch.setattr(sys.modules["sj_cka.exchange.exchanged"], "MOST", 3 * 9 * 18)
    pair = exchangeable(x, y, samples(N=4))
    wide = {"expected features of which a map takes at most 0 MiB, one from vectors of 11 to vectors of 11 takes 0 MiB"}
    assert set(pair.left_out.values()) == wide
    assert pair.y.plan.layers
    with pytest.raises(ValueError, match="a map takes at most 0 MiB"):
        exchangeable(x, y, samples(N=4), layers=list(pair.left_out)[:1])
    narrow, wide_one = Net(torch.eye(3)), Net(torch.eye(20))
    monkeypatch.setattr(sys.modules["sj_cka.exchange.exchanged"], "MOST", 700)
    assert "fc" in exchangeable(wide_one, narrow, randn(4, 6)).y.plan.layers
    with pytest.raises(ValueError, match="a map takes at most 0 MiB, one from vectors of 3 to vectors of 20"):
        exchangeable(narrow, wide_one, randn(4, 6), layers=["fc"])  # y's own features are mapped, too


class Readout(nn.Module):
    """A spiking network whose classes are read off a potential, as SpikingJelly's are; or off a layer of no matter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(12, 7), neuron.LIFNode(step_mode="m")
        self.out = nn.Linear(7, 4)
        self.last = neuron.LIFNode(step_mode="m", v_threshold=1e9, store_v_seq=True)

    def forward(self, x: Tensor) -> Tensor:
        self.last(self.out(self.lif(self.fc(3 * x))))
        return self.last.v_seq


def test_layers_that_the_network_does_not_read_are_left_out() -> None:
    torch.manual_seed(0)
    net = Readout().eval()
    pair = exchangeable(net, net, randn(3, 20, 12), layout="TNCHW")
    assert pair.left_out == {"last": "network y does not read what it puts out"}
    assert pair.y.plan.layers[:2] == ("fc", "lif")
    with pytest.raises(ValueError, match="expected a layer that network y reads, got last"):
        exchangeable(net, net, randn(3, 20, 12), layout="TNCHW", layers=["last"])


def test_frames_with_samples_first_are_refused() -> None:
    net = network()
    with pytest.raises(ValueError, match="expected frames time first, layout TNCHW, got NTCHW"):
        exchangeable(net, net, randn(20, 3, 12), layout="NTCHW")


def test_layers_that_do_not_take_their_own_features_back_are_left_out() -> None:
    class TimeLast(nn.Module):
        """A container that hands steps to its layer all at once (vmap)."""

        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = TLastSeqToANNContainer(nn.Linear(12, 7)), nn.Linear(7, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.fc(x.movedim(0, -1)).mean(-1))

    net = TimeLast().eval()
    with pytest.raises(ValueError, match=r"network y (does not take its own features back|gives other logits)"):
        exchangeable(net, net, randn(3, 20, 12), layout="TNCHW")


def test_other_logits_are_refused() -> None:
    flat = nn.Sequential(nn.Linear(12, 5), nn.Linear(5, 4), nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1))
    x = samples(N=20)
    with pytest.raises(ValueError, match=r"expected logits \[n, classes\] or \[T, n, classes\] for n = 4 samples"):
        exchange(flat, flat, x, x, torch.zeros(20, dtype=torch.long), layers=["0"])
