"""What `compare` asks of a device that waits for launches, as CUDA does; the CPU is taken for one."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sj_cka import CKA, Space, compare
from sj_cka.cka import gram, layer_grams, own_terms, products, waiting
from sj_cka.cka.layer_grams import Grams
from sj_cka.cka.result import CKAResult
from sj_cka.models import build
from sj_cka.recording import plan_observation
from sj_cka.recording.tap import distance, distances
from sj_cka.training import calibrate

Launches = Callable[[bool], None]
Networks = tuple[list[nn.Module], Tensor]
T = 3
# no work on a device
VIEWS = {
    "alias", "as_strided", "detach", "diagonal", "expand", "narrow", "permute", "reshape", "select", "slice", "split",
    "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip
WAITS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero"}


class Asked(TorchDispatchMode):
    """Counts the operations that a device would be given, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.named = Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.named[function._schema.name.removeprefix("aten::")] += 1
        return function(*args, **(kwargs or {}))


def asked(run: Callable[[], object]) -> Counter[str]:
    """The operations of a run, but for views."""
    with Asked() as counted:
        run()
    return Counter({name: count for name, count in counted.named.items() if name not in VIEWS})


def networks(depth: int) -> Networks:
    """Twins of which no Gram is taken again, but for what is silent, and images."""
    x = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    nets: list[nn.Module] = []
    for kind in ("snn", "ann"):
        steps = {"T": T} if kind == "snn" else {}
        net = build(kind, {"name": "resnet", "depth": depth}, in_channels=3, num_classes=10, seed=1, **steps)  # type: ignore[arg-type]
        calibrate(net, x)
        nets.append(net.eval())
    return nets, x


@pytest.fixture(scope="module")
def small() -> Networks:
    return networks(8)


@pytest.fixture(scope="module")
def deep() -> Networks:
    return networks(14)


def forward(nets: list[nn.Module], x: Tensor) -> None:
    for net in nets:
        functional.reset_net(net)
        with torch.no_grad():
            net(x)
        functional.reset_net(net)


OPTIONS: dict[str, Mapping[str, Any]] = {
    "two batches": {"loader": [slice(0, 24), slice(24, 48)]},
    "observables": {"observe": ("output", "rate", "membrane")},
    "other layers": {"layers": ["fc", "layer1.0.conv2", "layer2.0.bn1", "conv1"]},
    "permuted steps": {"permutations": {"steps": 1}},
    "space": {"space": Space(spatial="mean")},
    "in a file": {"space": Space(memory="100 kB")},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("together", [1, 1 << 25])  # Grams of one layer, and those of all
def test_what_is_put_off_and_taken_together_is_what_is_taken_at_once(
    name: str, together: int, small: Networks, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets, x = small
    options = dict(OPTIONS[name])
    loader = [x[part] for part in options.pop("loader", [slice(None)])]
    permutations = options.pop("permutations", 0)

    def result() -> CKAResult:
        return compare(*nets, loader, into=CKA(permutations=permutations), progress=False, **options)

    expected = result()
    launches(True)
    monkeypatch.setattr(waiting, "LARGE_CHUNK", together)
    monkeypatch.setattr(layer_grams, "LARGE_CHUNK", max(together, 49**2))  # a step at a time
    found = result()
    assert found.undefined.equals(expected.undefined)
    for one, other in ((found, expected), *((found.also[key], expected.also[key]) for key in expected.also)):
        assert set(one.data) == set(other.data)
        for variable in other.data:
            values = [np.asarray(r.data[variable].values, dtype=float) for r in (one, other)]
            # own terms are sums of float32 products, of features of another scale
            largest = (5e-6 if variable.startswith("own") else 1e-6) * np.nanmax(np.abs(values[1]), initial=0)
            assert np.allclose(*values, rtol=0, atol=largest, equal_nan=True), variable


def test_a_pass_waits_once_for_a_network_whatever_its_depth_and_asks_little_for_a_layer(
    small: Networks, deep: Networks, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches(True)
    monkeypatch.setattr(products, "half_products", lambda device: True)
    waits, operations = [], []
    for nets, x in (small, deep):
        # layers before these have equal steps, or are silent for some samples: they are taken again
        layers = [[tap for tap in plan_observation(net, x).layers if "act" in tap or "bn" in tap] for net in nets]
        options: Any = {"layers": {"x": layers[0], "y": layers[1]}, "progress": False}

        def run(count: int, nets: Any = nets, x: Any = x, options: Any = options) -> Counter[str]:
            given = options | {"into": CKA(samples=False)}
            return asked(lambda: compare(*nets, [x] * count, **given))

        run(1)
        more = run(2) - run(1)
        waits.append(sum(more[name] for name in WAITS))
        passes = asked(lambda nets=nets, x=x: forward(nets, x))
        operations.append((sum(more.values()) - sum(passes.values())) / sum(map(len, layers)))
    assert waits[0] == waits[1] <= 6
    assert max(operations) < 40


def test_probes_wait_as_often_for_a_deep_network_as_for_a_small_one(small: Networks, deep: Networks) -> None:
    counted = [asked(lambda net=nets[0], x=x: plan_observation(net, x)) for nets, x in (small, deep)]
    assert counted[0]["_local_scalar_dense"] == counted[1]["_local_scalar_dense"]


def test_distances_of_many_pairs_are_those_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    hole = a.clone()
    hole[0, 0] = torch.nan
    pairs = [
        (a, b),
        (a, a + 1e-3 * b),
        (a, a.clone()),
        (0 * a, 0 * b),
        (hole, b),
        (hole, hole),
        (a, b[:1]),
        (a.long(), b.long()),
        (a > 0, b > 0),
        (a.half(), b.half()),
        (1e38 * a, -1e38 * a),
        (torch.complex(a, b), torch.complex(b, a)),
    ]
    found = distances(pairs)
    assert np.allclose(found, [distance(*pair) for pair in pairs], rtol=1e-6, atol=1e-3)
    assert np.allclose(found[:3], [distance(*pair) for pair in pairs[:3]], rtol=1e-6, atol=0)
    assert distances([]) == []


class OnCuda(TorchDispatchMode):
    """Tensors without values on a device that need not be there: what is sent to it, and how much it holds at most."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.held, self.before, self.most = Counter[str](), dict[int, int](), set[int](), 0

    def begin(self) -> None:
        """Counts anew, without what is there."""
        self.before |= self.held.keys()
        self.held.clear()
        self.sent.clear()
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.device.type == "cuda"]
        if made and any(x.device.type == "cpu" and x.ndim for x in given):
            self.sent[str(function)] += 1
        for x in made:
            memory = x.untyped_storage()
            if memory._cdata not in self.held and memory._cdata not in self.before:
                self.held[memory._cdata] = memory.nbytes()
                weakref.finalize(memory, self.held.pop, memory._cdata, None)
        self.most = max(self.most, sum(self.held.values()))
        return out


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[OnCuda]:
    monkeypatch.setattr(products, "half_products", lambda device: True)
    monkeypatch.setattr(own_terms, "chosen", lambda n, device, steps: torch.zeros(steps, n, dtype=int, device=device))
    gram._below.cache_clear()
    gram._constant.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), OnCuda() as watched:
        yield watched
    gram._below.cache_clear()
    gram._constant.cache_clear()


def filled(n: int, steps: Mapping[str, int], D: int, on_cuda: OnCuda, units: int | None = None) -> Grams:
    """Grams of layers on CUDA, every second one of spikes; `most` counts from before they are taken."""
    grams = Grams(steps, max(steps.values()), n, torch.device("cuda"))
    given = {layer: torch.empty(S, n, D, device="cuda") for layer, S in steps.items()}
    on_cuda.begin()
    for i, (layer, X) in enumerate(given.items()):
        grams.put(layer, 0, X, units=units, spikes=i % 2 == 0)
    grams.waiting.centre()
    return grams


def test_nothing_is_sent_to_a_device_while_grams_are_taken(on_cuda: OnCuda) -> None:
    grams = filled(64, {"a": 4, "b": 1, "c": 4}, 32, on_cuda, units=16)
    assert sum(len(names) for names, _ in grams.waiting.marks) == 9
    assert not on_cuda.sent


@pytest.mark.parametrize(("n", "T"), [(1024, 4), (8192, 8)])
def test_memory_beside_the_grams_is_that_of_what_waits(n: int, T: int, on_cuda: OnCuda) -> None:
    filled(n, dict.fromkeys("abcdefghijkl", T) if n < 5000 else {"a": T}, 64, on_cuda)
    # bytes of products in float32 and float64 and of places, for each number of a step or of twice what may wait
    numbers = max(n * n, 2 * gram.LARGE_CHUNK)
    assert on_cuda.most < 21 * numbers


@pytest.mark.parametrize("batch_first", [False, True])
def test_own_terms_copy_no_more_than_they_need(batch_first: bool, on_cuda: OnCuda) -> None:
    S, n, C, P = 8, 1024, 64, 256
    X = (
        torch.empty(n, S, C * P, device="cuda").transpose(0, 1)
        if batch_first
        else torch.empty(S, n, C * P, device="cuda")
    )
    size = torch.ones(S, dtype=torch.float64, device="cuda")
    on_cuda.begin()
    units = own_terms.units_of(X, C, S, size)
    assert on_cuda.most < units.values.nbytes + 4 * 4 * own_terms._LARGE_CHUNK
    assert on_cuda.most < X.nbytes


def test_a_network_that_draws_is_taken_again_with_what_it_drew(launches: Launches) -> None:
    model = {"name": "mlp", "inputs": 6, "hidden": [8], "norm": "none"}
    net = build("snn", model, in_channels=1, num_classes=3, T=T, coding="poisson").eval()
    with torch.no_grad():
        net.get_submodule("layer1.fc").bias += 1e5  # its Grams are beyond float32 unless they are centred
    x = torch.rand(24, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for bound in (False, True):
        launches(bound)
        torch.manual_seed(1)
        found.append(compare(net, loader=x, layers=["input_coding", "layer1.fc"], progress=False).matrix())
    np.testing.assert_allclose(*found, atol=1e-4)
