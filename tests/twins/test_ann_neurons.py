"""The twin of every neuron that SpikingJelly has."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from sj_cka.recording import is_neuron
from sj_cka.twins import ann_twin

FEATURES = 6


def classes() -> Iterator[type[nn.Module]]:
    """Every class of a neuron that a module of the package defines, base classes too."""
    for found in pkgutil.walk_packages(neuron.__path__, f"{neuron.__name__}."):
        for value in vars(importlib.import_module(found.name)).values():
            if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == found.name:
                yield value


def table() -> Any:
    return neuron.FewSpikeTable([1.0, 0.5], [1.0, 0.5], [1.0, 0.5])


# SpikingJelly 2.0.0 chooses itself
TORCH = {"backend": "torch"} if "backend" in inspect.signature(neuron.FlexSN).parameters else {}
# what a class needs beside its defaults
NEEDS: dict[str, Callable[[], dict[str, Any]]] = {
    "FewSpikeNode": lambda: {"table": table()},
    "HGNode": lambda: {"tables": [table(), table()], "gate_thresholds": [0.5]},
    "OutlierAwareThresholdNode": lambda: {"table": table(), "outlier_table": table(), "split_threshold": 1.0},
    "FlexSN": lambda: {"core": lambda x, v: ((x + v > 1).float(), v), "num_states": 1, **TORCH},
    "GatedLIFNode": lambda: {"T": 4},
    "LIAFNode": lambda: {"act": torch.relu, "threshold_related": False},
    "MPBNBaseNode": lambda: {"out_features": FEATURES},
    "MPBNLIFNode": lambda: {"out_features": FEATURES},
    "PSN": lambda: {"T": 4},
    "MaskedPSN": lambda: {"k": 2, "T": 4},
    "SlidingPSN": lambda: {"k": 2},
    "SimpleLIFNode": lambda: {"tau": 2.0, "decay_input": True},
    **{name: lambda: {"q_threshold": 1.0, "level": 4} for name in ("STBIFNeuron", "STBIFNode")},
    **{
        name: lambda: {"act_dim": 2, "dec_pop_dim": 3}
        for name in (
            "ILCBaseNode",
            "ILCIFNode",
            "ILCLIFNode",
            "ILCCUBALIFNode",
            "NoisyILCBaseNode",
            "NoisyILCCUBALIFNode",
        )
    },
    **{
        name: lambda: {"num_node": FEATURES}
        for name in ("NoisyBaseNode", "NoisyCUBALIFNode", "NoisyNonSpikingBaseNode", "NoisyNonSpikingIFNode")
    },
}
ALL = sorted(set(classes()), key=lambda kind: kind.__name__)


def made(kind: type[nn.Module]) -> Any:
    return kind(**NEEDS.get(kind.__name__, dict)())


def modes(kind: type[nn.Module]) -> tuple[str, ...]:
    return tuple(made(kind).supported_step_mode())


CASES = [pytest.param(kind, mode, id=f"{kind.__name__}-{mode}") for kind in ALL for mode in modes(kind)]


def test_the_package_has_the_classes_that_are_tested() -> None:
    assert len(ALL) >= 46
    assert {neuron.LIFNode, neuron.PSN, neuron.FlexSN, neuron.NoisyILCCUBALIFNode} <= set(ALL)


@pytest.mark.parametrize(("kind", "mode"), CASES)
def test_the_twin_of_every_neuron(kind: type[nn.Module], mode: str) -> None:
    """An activation in its place, or a read-out that changes nothing, with none of its parameters."""
    own = made(kind)
    own.step_mode = mode
    assert is_neuron(own)
    net = nn.Sequential(layer.Linear(5, FEATURES, step_mode=mode), own, layer.Linear(FEATURES, 3, step_mode=mode))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    twin = ann_twin(net)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    reads_out = "NonSpiking" in kind.__name__
    y = net[0](x)
    assert isinstance(twin[1], nn.Identity if reads_out else nn.ReLU)
    assert torch.allclose(twin(x), net[2](y if reads_out else y.relu()), atol=1e-6)
    assert [name for name, _ in twin.named_modules()] == ["", "0", "1", "2"]
    assert list(twin.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert net[1] is own
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
