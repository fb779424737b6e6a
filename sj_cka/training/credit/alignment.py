"""The updates of a learning rule beside those of BPTT, at the same weights, on the same batch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from sj_cka.recording import kept, reset_states
from sj_cka.training.credit.rule import Rule, in_steps
from sj_cka.training.credit.wiring import Wiring, without_noise
from sj_cka.training.device_loader import check_labels
from sj_cka.training.learning_rules import rule_of

Updates = dict[str, Tensor]
"""Module -> the gradients of its parameters, in one vector."""


class Alignment(NamedTuple):
    """How the updates of a rule lie to BPTT's.

    Args:
        whole: a row a layer: `layer`, `cosine`, `norm_ratio` (rule over BPTT). NaN where either is 0, as of a layer
            before silent neurons.
        by_step: a row a layer and step (from 1), with `step`: both updates of the loss of that step alone.
        hidden: the layers that do not classify: those that do have BPTT's update in every rule.
    """

    whole: pd.DataFrame
    by_step: pd.DataFrame
    hidden: list[str]


def alignment(rule: str | Mapping[str, Any] | Rule, network: nn.Module, x: Tensor, y: Tensor) -> Alignment:
    """Cosine and ratio of norms of a rule's updates and BPTT's, with a loss of every step, in evaluation mode.

    Args:
        rule: a name of LEARNING_RULES, a mapping with `name` and options, or a `Rule`.
        network: left as it was; numbers are taken in float64, of a copy.
        x: as the network takes it: images that it shows T times, or steps `[T, N, ...]`.
        y: labels `[N]`.

    Raises:
        ValueError: a rule that does not go with the network, or has no definition; labels that are no classes, or a
            network that does not give the same logits of every step at once and step by step.
    """
    made = rule_of(rule)
    with in_float64(network, x, y) as (twin, steps, y):
        check_spiking(made.wiring(twin, steps))
        check_steps(twin, steps, y)
        return beside_bptt(made, twin, steps, y)


def beside_bptt(rule: Rule, network: nn.Module, steps: Tensor, y: Tensor) -> Alignment:
    """`alignment` of a network that is in float64."""
    rows = []
    for t in (None, *range(len(steps))):
        own, back = (updates(one, network, steps, y, only=t) for one in (rule, Rule()))
        rows += [(layer, 0 if t is None else t + 1, *_beside(own[layer], back[layer])) for layer in back]
    table = pd.DataFrame(rows, columns=["layer", "step", "cosine", "norm_ratio"])
    whole = table[table["step"] == 0].drop(columns="step")
    hidden = [layer for layer in whole["layer"] if layer not in rule.wiring(network, steps).classifier]
    return Alignment(whole, table[table["step"] > 0].reset_index(drop=True), hidden)


def _beside(own: Tensor, back: Tensor) -> tuple[float, float]:
    norms = own.norm(), back.norm()
    if not all(norms):
        return float("nan"), float("nan") if not norms[1] else 0.0
    return float(own @ back / (norms[0] * norms[1])), float(norms[0] / norms[1])


def per_step(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits `[T, N, classes]`, mean over steps and samples."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)))


def updates(
    rule: Callable[..., tuple[Tensor, Tensor]],
    network: nn.Module,
    steps: Tensor,
    y: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = per_step,
    **options: Any,
) -> Updates:
    """What a rule leaves, by module; zeros where it leaves nothing.

    Args:
        rule: a function like those of LEARNING_RULES.
        network: as it is to be run.
        steps: `[T, N, ...]`.
        y: labels `[N]`.
        loss: the mean over steps.
        options: more of the rule's arguments.
    """
    reset_states(network)
    network.zero_grad(set_to_none=True)
    rule(network, steps, y, forward=network, loss=loss, scale=lambda value: value, **options)
    return by_module({name: p.grad for name, p in network.named_parameters()}, network)


def by_module(gradients: Mapping[str, Tensor | None], network: nn.Module) -> Updates:
    """Gradients of parameters by the module that holds these; a copy."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            gradient = gradients.get(name)
            flat = torch.zeros_like(parameter) if gradient is None else gradient.detach().clone()
            parts.setdefault(name.rpartition(".")[0], []).append(flat.flatten())
    return {module: torch.cat(of_module) for module, of_module in parts.items()}


@contextmanager
def in_float64(network: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """A copy of a network in float64, in evaluation mode and on the CPU; its input as steps `[T, N, ...]`; labels.

    On the CPU, since kernels of neurons, CuPy's say, need not know float64.
    """
    with kept(network):
        reset_states(network)
        twin = copy.deepcopy(network).to("cpu", torch.float64)
    for module in twin.modules():
        if getattr(module, "backend", "torch") != "torch":
            module.backend = "torch"  # type: ignore[assignment]
    with without_noise(twin), torch.enable_grad():
        yield twin, in_steps(twin, x.cpu()).to(torch.float64), y.cpu()


def check_steps(network: nn.Module, steps: Tensor, y: Tensor) -> None:
    """Raises ValueError unless a network in float64 gives logits of every step, which it gives step by step, too."""
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(f"expected labels [N], whole numbers from 0, got {list(y.shape)} of {y.dtype}")
    with torch.no_grad():
        reset_states(network)
        logits = network(steps)
        if logits.ndim != 3 or logits.shape[:2] != (len(steps), len(y)):
            raise ValueError(
                f"expected logits of every step and label, [{len(steps)}, {len(y)}, classes], got {list(logits.shape)} "
                f"for input {list(steps.shape)}: the first axis of what a network takes is time, unless it says by a "
                "method `in_steps` how it makes steps of it"
            )
        check_labels(y, logits.shape[-1])
        reset_states(network)
        by_step = [network(step) for step in steps.split(1)]
    reset_states(network)
    same = all(one.shape == whole.shape for one, whole in zip(by_step, logits.split(1), strict=True))
    if not same or not torch.allclose(torch.cat(by_step), logits, rtol=1e-6, atol=1e-9, equal_nan=True):
        raise ValueError(
            "expected a network that gives the same logits for all steps at once and for one after the other; put "
            'layers and neurons in step mode "m", and take out what is random or looks at several steps'
        )


def check_alive(network: nn.Module, wiring: Wiring, steps: Tensor) -> None:
    """Raises ValueError where a layer of neurons never spikes: no error goes through it, and all rules agree there."""
    check_spiking(wiring)
    counts = dict.fromkeys(wiring.neurons, 0.0)

    def count(name: str, module: nn.Module, args: Any, out: Tensor) -> None:
        counts[name] += float(out.detach().abs().sum())

    reset_states(network)
    with ExitStack() as hooks, torch.no_grad():
        for name, module in wiring.neurons.items():
            hooks.callback(module.register_forward_hook(functools.partial(count, name)).remove)
        network(steps)
    reset_states(network)
    if silent := [name for name, total in counts.items() if not total]:
        raise ValueError(
            f"expected neurons that spike, those of {silent[0]!r} are silent on these samples: all rules would agree; "
            "take other samples, larger weights or a lower threshold"
        )


def check_spiking(wiring: Wiring) -> None:
    """Raises ValueError where there are no spiking neurons, as in an artificial network."""
    if not wiring.spiking:
        raise ValueError("expected a spiking network, which is looked at step by step; found no spiking neurons")


def check_learning(back: Updates) -> None:
    """Raises ValueError where BPTT gives a layer nothing, so that every rule would agree with it."""
    if dead := [layer for layer, gradient in back.items() if not gradient.any()]:
        raise ValueError(
            f"expected samples on which BPTT has a gradient for every layer, it has none for {dead[0]!r}: every rule "
            "would agree with it; take other samples, or weights with which more neurons spike"
        )
