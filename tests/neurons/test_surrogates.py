"""Gradients of the surrogates, against SpikingJelly's own backward."""

from __future__ import annotations

import inspect

import pytest
import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor

from sj_cka.neurons import SURROGATES
from sj_cka.neurons.surrogates import gradient_of, make_surrogate

OTHERS = [
    surrogate.PiecewiseLeakyReLU(w=0.7, c=0.2),
    surrogate.S2NN(alpha=2.0, beta=3.0),
    surrogate.LeakyKReLU(leak=0.3, k=2.0),
    surrogate.SquarewaveFourierSeries(n=1, T_period=3.0),
    surrogate.SquarewaveFourierSeries(n=5, T_period=3.0),
    surrogate.LogTailedReLU(alpha=0.3),
    surrogate.QPseudoSpike(alpha=1.5),
    *(SURROGATES[name].kind(alpha=2.5) for name in SURROGATES if "alpha" in vars(make_surrogate(name))),
]
FUNCTIONS = [*map(make_surrogate, SURROGATES), *OTHERS]


def slope(function: surrogate.SurrogateFunctionBase, d: Tensor) -> Tensor:
    """g(d) as SpikingJelly's autograd gives it."""
    leaf = d.clone().requires_grad_()
    function(leaf).sum().backward()
    return leaf.grad


def grid(dtype: torch.dtype) -> Tensor:
    """Distances from the threshold, the places among them where some surrogate jumps or bends."""
    edges = torch.tensor([0.0, 0.2, 0.4, 0.5, 0.7, 1.0, 2.0])
    return torch.cat([torch.linspace(-3, 3, 1001), edges, -edges[1:]]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{type(f).__name__}({f.extra_repr()})")
def test_past_plus_into_times_slope_is_that_of_spikingjelly_everywhere(
    function: surrogate.SurrogateFunctionBase, dtype: torch.dtype
) -> None:
    d = grid(dtype)
    generator = torch.Generator().manual_seed(0)
    past, into = (torch.randn(len(d), generator=generator, dtype=dtype) for _ in range(2))
    expected = past + into * slope(function, d)
    kept, out = (past.clone(), into.clone()), torch.full_like(d, torch.nan)
    gradient = gradient_of(function)
    assert gradient is not None
    gradient(past, into, d.clone(), out)
    torch.testing.assert_close(out, expected, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=2e-6)
    assert torch.equal(past, kept[0])
    assert torch.equal(into, kept[1])

    gradient(out.new_zeros(()), torch.ones_like(d), d.clone(), out)
    assert (out - slope(function, d)).norm() <= (1e-6 if dtype == torch.float32 else 1e-14) * out.norm()


def test_the_table_holds_every_surrogate_of_spikingjelly_whose_spike_is_a_step() -> None:
    known = {
        kind
        for _, kind in inspect.getmembers(surrogate, inspect.isclass)
        if issubclass(kind, surrogate.SurrogateFunctionBase) and kind is not surrogate.SurrogateFunctionBase
    }
    without = {surrogate.PoissonPass, surrogate.MultiLevelSpikeCount}
    assert {entry.kind for entry in SURROGATES.values()} == known - without
    assert gradient_of(surrogate.PoissonPass()) is None
    assert gradient_of(surrogate.MultiLevelSpikeCount(3)) is None


def test_default_alphas_are_spikingjellys_but_for_the_papers_sigmoid() -> None:
    for name, (kind, _) in SURROGATES.items():
        alpha = getattr(make_surrogate(name), "alpha", None)
        assert alpha == (6.0 if name == "sigmoid" else getattr(kind(), "alpha", None))
