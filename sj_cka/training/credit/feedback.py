"""Fixed random matrices that carry errors in place of weights, or read a layer out."""

import functools
import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sj_cka.recording import from_rest, kept
from sj_cka.training.credit.wiring import without_noise


@functools.lru_cache(maxsize=1024)
def random_matrix(
    seed: int, name: str, shape: tuple[int, ...], fan_in: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A matrix that is the same for the same arguments: normal, variance 1 / fan_in.

    Args:
        seed: of the rule.
        name: what it belongs to.
        shape: of it.
        fan_in: how many inputs a layer of such weights has.
        dtype, device: of the result; drawn in float64 on the CPU.
    """
    generator = Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(fan_in)
    return drawn.to(device, dtype)


def in_place_of_weight(seed: int, name: str, weight: Tensor) -> Tensor:
    """What errors go back through in place of a weight [out, in, *] (Lillicrap et al. 2016)."""
    fan_in = weight[0].numel() if weight.ndim > 1 else 1
    return random_matrix(seed, f"back through {name}", tuple(weight.shape), fan_in, weight.dtype, weight.device)


def from_logits(seed: int, name: str, classes: int, units: int, like: Tensor) -> Tensor:
    """What carries an output error to neurons, `[classes, units]` (Nøkland 2016).

    Args:
        seed: of the rule.
        name: of the neurons.
        classes: of the logits.
        units: neurons of a sample.
        like: what has the dtype and the device.
    """
    return random_matrix(seed, f"error to {name}", (classes, units), units, like.dtype, like.device)


def local_readout(seed: int, name: str, classes: int, units: int, like: Tensor) -> Tensor:
    """What reads neurons out for a loss of their own, `[classes, units]` (Kaiser et al. 2020, DECOLLE).

    Arguments as of `from_logits`.
    """
    return random_matrix(seed, f"readout of {name}", (classes, units), units, like.dtype, like.device)


def transposed_paths(
    network: nn.Module, neurons: Mapping[str, nn.Module], run: Callable[[], Tensor]
) -> dict[str, Tensor]:
    """What would carry an output error to neurons if all neurons behind them were linear: products of the weights.

    Args:
        network: left as it was.
        neurons: name -> neurons.
        run: runs one step of a sample or more, gives logits `[..., classes]`.

    Returns:
        Neurons -> `[classes, units of a sample]`.
    """
    leaves: dict[str, Tensor] = {}

    def linear(name: str) -> Callable[..., Tensor]:
        def after(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            leaves[name] = torch.zeros_like(args[0]).requires_grad_()
            return args[0].detach() + leaves[name] if name == first else args[0] + leaves[name]

        return after

    first = next(iter(neurons))
    with kept(network), without_noise(network), torch.enable_grad(), ExitStack() as hooks:
        for name, module in neurons.items():
            hooks.callback(module.register_forward_hook(linear(name)).remove)
        samples = from_rest(network, run).flatten(0, -2)
        rows = [torch.autograd.grad(one, list(leaves.values()), retain_graph=True) for one in samples[0]]
    return {name: torch.stack([row[i].reshape(len(samples), -1)[0] for row in rows]) for i, name in enumerate(leaves)}
