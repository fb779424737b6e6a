"""Which implementation of the neurons runs, on machines with and without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, neuron, surrogate

from sj_cka.neurons import (
    NEURONS,
    SURROGATES,
    FusedLIFNode,
    FusedPLIFNode,
    backends,
    compiling,
    if_,
    lif,
    lif_backend,
    neuron_backend,
    plif,
)
from sj_cka.neurons.surrogates import make_surrogate

KINDS = tuple(backends.NODES)


def test_on_the_cpu_fused_runs_and_torch_can_be_asked_for() -> None:
    assert [neuron_backend(kind).name for kind in KINDS] == ["fused"] * len(KINDS)
    assert lif_backend().name == "fused"
    assert 'cupy" needs a CUDA device' in lif_backend(torch.device("cpu")).reason
    assert lif_backend("cpu", "torch") == ("torch", "asked for")
    assert type(lif()) is FusedLIFNode
    assert type(lif(backend="torch")) is neuron.LIFNode


def test_a_surrogate_that_is_not_fused_runs_torch_on_the_cpu() -> None:
    counts = surrogate.MultiLevelSpikeCount(3)
    backend = neuron_backend("if", "cpu", surrogate=counts)
    assert backend.name == "torch"
    assert '"fused" has no gradient of the surrogate MultiLevelSpikeCount' in backend.reason
    with pytest.raises(ValueError, match="no gradient of the surrogate MultiLevelSpikeCount; got device cpu"):
        neuron_backend("if", "cpu", "fused", counts)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a kind of neuron: lif, if, plif, current_lif; got 'qif'"):
        neuron_backend("qif")  # type: ignore[arg-type]


@pytest.mark.parametrize("wish", ["cupy", "triton", "native"])
def test_a_cuda_backend_on_the_cpu_is_refused(wish: str) -> None:
    with pytest.raises(ValueError, match=f'backend "{wish}" needs a CUDA device; got device cpu'):
        lif_backend("cpu", wish)


def test_a_device_without_an_implementation_of_its_own_runs_torch() -> None:
    assert lif_backend("meta").name == "torch"


def test_a_cuda_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device cuda:0 asked for, but torch .* finds no CUDA device"):
        lif_backend("cuda:0")


@pytest.fixture
def release_candidate(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A machine with a GPU and SpikingJelly 2.0.0rc1; the set holds the importable kernel libraries."""
    libraries: set[str] = set()

    def check(name: str) -> None:
        if name not in {"torch", *libraries}:
            raise ImportError("not installed") from ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "node_chooses", lambda: True)
    monkeypatch.setattr(base, "check_backend_library", check, raising=False)
    monkeypatch.setattr(compiling, "why_not", lambda device: None)
    if not hasattr(neuron.LIFNode, "supported_backends"):  # then SpikingJelly 2.0.0 is installed
        for kind in backends.NODES.values():
            monkeypatch.setattr(kind, "supported_backends", ("torch", "cupy", "triton"), raising=False)
        monkeypatch.setattr(surrogate.Sigmoid, "cuda_codes", lambda self, y, x, dtype: "", raising=False)
    return libraries


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("libraries", "name"),
    [({"cupy", "triton"}, "cupy"), ({"triton"}, "triton"), (set(), "torch")],
    ids=["cupy and triton", "triton", "neither"],
)
def test_with_the_release_candidate_cuda_runs_cupy_then_triton_then_torch(
    release_candidate: set[str], libraries: set[str], name: str, kind: backends.NeuronKind
) -> None:
    release_candidate |= libraries
    assert neuron_backend(kind, "cuda").name == name
    if "cupy" not in libraries:
        assert "No module named 'cupy'" in neuron_backend(kind, "cuda").reason
        with pytest.raises(ValueError, match=r"needs cupy, which cannot be imported.*got device cuda"):
            neuron_backend(kind, "cuda", "cupy")
    assert neuron_backend(kind, "cuda", "torch").name == "torch"
    with pytest.raises(ValueError, match=r'"native" needs SpikingJelly 2\.0\.0'):
        neuron_backend(kind, "cuda", "native")


@pytest.mark.parametrize("kind", KINDS)
def test_fused_is_compiled_on_cuda_where_it_is_asked_for_and_can_be(
    release_candidate: set[str], kind: backends.NeuronKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert neuron_backend(kind, "cuda").name == "torch"
    assert (
        '"fused" is compiled on CUDA, which takes time, and has to be asked for' in neuron_backend(kind, "cuda").reason
    )
    assert neuron_backend(kind, "cuda", "fused") == ("fused", "asked for")
    made = NEURONS[kind](device="cuda", backend="fused")
    assert made.fused_on_cuda
    assert NEURONS[kind](device="cuda", backend="fused", compiled=True).fused_on_cuda
    assert not NEURONS[kind](backend="fused").fused_on_cuda
    x_seq = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(x_seq), NEURONS[kind]()(x_seq))
    monkeypatch.setattr(compiling, "why_not", lambda device: f"no Triton on {device}")
    with pytest.raises(ValueError, match=r'"fused" cannot be compiled on CUDA \(no Triton on cuda\); got device cuda'):
        neuron_backend(kind, "cuda", "fused")


@pytest.mark.skipif(not backends.node_chooses(), reason="SpikingJelly 2.0.0 has no CuPy kernels")
@pytest.mark.parametrize("kind", KINDS)
def test_a_surrogate_without_cupy_kernels_runs_on_triton_and_one_without_both_in_torch(
    release_candidate: set[str], kind: backends.NeuronKind
) -> None:
    release_candidate |= {"cupy", "triton"}
    chosen = {name: neuron_backend(kind, "cuda", surrogate=make_surrogate(name)).name for name in SURROGATES}
    assert [name for name in chosen if chosen[name] == "torch"] == [
        "nonzero_sign_log_abs",
        "rect",
        "squarewave_fourier_series",
        "deterministic_pass",
    ]
    assert [name for name in chosen if chosen[name] == "triton"] == [
        "piecewise_quadratic",
        "piecewise_exp",
        "soft_sign",
        "super_spike",
        "erf",
    ]
    with pytest.raises(ValueError, match='"cupy" has no kernels for the surrogate Erf; got device cuda'):
        neuron_backend(kind, "cuda", "cupy", surrogate.Erf())
    with pytest.raises(ValueError, match='"triton" has no kernels for the surrogate S2NN'):
        neuron_backend(kind, "cuda", "triton", surrogate.S2NN())
    reason = neuron_backend(kind, "cuda", surrogate=surrogate.Rect()).reason
    assert '"cupy" has no kernels for the surrogate Rect; "native" needs' in reason


def test_the_surrogates_with_triton_and_native_kernels_are_those_of_spikingjelly() -> None:
    if backends.node_chooses():
        from spikingjelly.activation_based.triton_kernel.surrogate_kernel import SG_TRITON_IDS

        known = {kind.__name__ for kind in SG_TRITON_IDS}
    else:
        from spikingjelly._ops.surrogate import _SURROGATE_IDS

        known = set(_SURROGATE_IDS)
    assert {kind.__name__ for kind in backends._WITH_KERNELS} == known


@pytest.mark.skipif(not backends.node_chooses(), reason="SpikingJelly 2.0.0 has no backend=")
def test_a_node_built_for_cuda_carries_the_backend_and_is_fused_on_the_cpu(release_candidate: set[str]) -> None:
    release_candidate |= {"cupy", "triton"}
    x_seq = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0))
    node = lif(device="cuda")
    assert (type(node), node.backend) == (FusedLIFNode, "cupy")
    assert lif(device="cuda", backend="triton").backend == "triton"
    assert lif(device="cuda", backend="torch").backend == "torch"
    assert lif(device="cuda", surrogate="erf").backend == "triton"
    assert (type(plif(device="cuda")), plif(device="cuda").backend) == (FusedPLIFNode, "cupy")
    assert type(if_(device="cuda", surrogate="rect")) is neuron.IFNode
    assert torch.equal(node(x_seq), lif()(x_seq))


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine with a GPU and SpikingJelly 2.0.0, which answers with the dictionary what it chose; a neuron of another
    kind than `kind` there runs in torch."""
    answer: dict[str, Any] = {}

    def implementation(kind: str, device: torch.device) -> dict[str, Any]:
        assert device.type == "cuda"
        return answer if kind == answer.get("kind", "lif") else {"implementation": "torch", "unavailable": {}}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "node_chooses", lambda: False)
    monkeypatch.setattr(functional, "neuron_implementation", implementation, raising=False)
    for kind in KINDS:
        monkeypatch.delenv(f"SJ_{kind.upper()}_CUDA_IMPLEMENTATION", raising=False)
    return answer


@pytest.mark.parametrize(("chosen", "name"), [("cuda", "native"), ("triton", "triton"), ("torch", "torch")])
def test_with_the_release_cuda_runs_what_spikingjelly_chose(release: dict[str, Any], chosen: str, name: str) -> None:
    release.update(implementation=chosen, unavailable={} if chosen == "cuda" else {"cuda": "was not built"})
    backend = lif_backend("cuda")
    assert backend.name == name
    assert '"cupy" needs SpikingJelly 2.0.0rc1' in backend.reason
    assert lif_backend("cuda", name).name == name
    assert ("cannot be loaded (was not built)" in backend.reason) == (chosen != "cuda")
    for other in {"native", "triton", "torch"} - {name}:
        with pytest.raises(ValueError, match=f'"{other}" (cannot be loaded|is not what SpikingJelly chose)'):
            lif_backend("cuda", other)
    node = lif(device="cuda")
    assert isinstance(node, FusedLIFNode) == (name != "torch")


def test_kernels_of_a_later_release_that_have_no_name_here_are_no_silent_torch(release: dict[str, Any]) -> None:
    release.update(implementation="cute", unavailable={})
    with pytest.raises(ValueError, match=r"is not what SpikingJelly chose \(cute"):
        lif_backend("cuda")


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_release_each_kind_is_asked_for_by_its_own_kernels(
    release: dict[str, Any], kind: backends.NeuronKind
) -> None:
    kernels = {other: "lif" if other == "current_lif" else other for other in KINDS}
    release.update(kind=kernels[kind], implementation="triton", unavailable={"cuda": "was not built"})
    assert {other: neuron_backend(other, "cuda").name for other in KINDS} == {
        other: "triton" if kernels[other] == kernels[kind] else "torch" for other in KINDS
    }
    with pytest.raises(
        ValueError, match=f"chose \\(triton; SJ_{kernels[kind].upper()}_CUDA_IMPLEMENTATION=torch asks for it"
    ):
        neuron_backend(kind, "cuda", "torch")


def test_with_the_release_a_surrogate_without_kernels_runs_in_torch(
    release: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    release.update(implementation="cuda", unavailable={})
    assert neuron_backend("lif", "cuda", surrogate=surrogate.Erf()).name == "native"
    backend = neuron_backend("lif", "cuda", surrogate=surrogate.Rect())
    assert backend.name == "torch"
    assert '"native" has no kernels for the surrogate Rect' in backend.reason
    with pytest.raises(ValueError, match='"native" has no kernels for the surrogate Rect; got device cuda'):
        neuron_backend("lif", "cuda", "native", surrogate.Rect())
    # SpikingJelly then refuses to leave the kernels that were asked for
    monkeypatch.setenv("SJ_LIF_CUDA_IMPLEMENTATION", "triton")
    with pytest.raises(ValueError, match='"torch" is not what SJ_LIF_CUDA_IMPLEMENTATION=triton asks for'):
        neuron_backend("lif", "cuda", surrogate=surrogate.Rect())
