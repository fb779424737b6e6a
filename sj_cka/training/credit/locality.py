"""What a learning rule's updates hang on: layers are disturbed, and steps, and it is seen which updates move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Generator, Tensor, nn

from sj_cka.training.credit.alignment import Updates, by_module, check_alive, check_steps, in_float64, per_step, updates
from sj_cka.training.credit.assignment import Loss
from sj_cka.training.credit.layers import of_bias, of_weight
from sj_cka.training.credit.rule import Rule
from sj_cka.training.credit.wiring import Wiring
from sj_cka.training.learning_rules import rule_of

MOVED = 1e-9  # relative change of an update, in float64, from which on it moved


@dataclass(frozen=True)
class Locality:
    """Which updates of a rule move when something is disturbed that they might not know of.

    Args:
        rule: the rule.
        space: tidy, a row a disturbed block and a layer: `disturbed` (neurons of the block, or the layers of the
            logits), `layer`, `below` (whether the layer lies below the block, so that nothing of its own run changes),
            `change` of its update, over the norm of that, and `change_error_held`, the same with the error of the
            logits held as it was.
        time: tidy, a row a disturbed step, a step and a layer: `disturbed` (of the input, from 1), `step`, `layer`,
            `remembers` (whether it feeds neurons), `change` of the part of the update that belongs to the step; NaN
            where that is 0 and stays so.
        not_local: batch normalisation, which takes what other samples are.
    """

    rule: Rule
    space: pd.DataFrame
    time: pd.DataFrame
    not_local: tuple[str, ...]

    @property
    def across_blocks(self) -> float:
        """Share of updates of layers below a disturbed block that move; 0: the rule is local in space."""
        return _share(self.space[self.space["below"]]["change"])

    @property
    def across_blocks_error_held(self) -> float:
        """The same with the error of the logits held: 0 where all that comes from above is that error."""
        return _share(self.space[self.space["below"]]["change_error_held"])

    @property
    def across_steps(self) -> float:
        """Share of updates of a step that move when a later one is disturbed; 0: the rule can run online.

        Of layers that feed neurons: the logits of a step are those of that step alone, for every rule.
        """
        later = (self.time["disturbed"] > self.time["step"]) & self.time["remembers"]
        return _share(self.time[later]["change"])

    def __str__(self) -> str:
        lines = [
            f"{self.across_blocks:.0%} of updates move when a block above is disturbed "
            f"({self.across_blocks_error_held:.0%} with the error of the logits held)",
            f"{self.across_steps:.0%} of updates of a step move when a later step is disturbed",
        ]
        if self.not_local:
            lines.append(f"not local, whatever the rule: {', '.join(self.not_local)} (batch normalisation)")
        return "\n".join(lines)


def _share(changes: pd.Series) -> float:
    known = changes.dropna()
    return float((known > MOVED).mean()) if len(known) else math.nan


def locality(
    rule: str | Mapping[str, Any] | Rule, network: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0
) -> Locality:
    """Disturbs the weights of every block, and the input of every step, and sees which updates of a rule move.

    In float64, in evaluation mode and with a loss of every step. A block is a layer of neurons with the layers that
    feed it, the last one the layers that the logits come from. The update of a step is that which the activity of the
    layer at this step has brought about, when all steps have run: step by step, it is there at once; through time, it
    waits for what later steps send back.

    Args:
        rule: a name of LEARNING_RULES, a mapping with `name` and options, or a `Rule`.
        network: left as it was.
        x: as the network takes it: images that it shows T times, or steps `[T, N, ...]`.
        y: labels `[N]`.
        seed: of the disturbances.

    Raises:
        ValueError: as of `alignment`, or silent neurons.
    """
    generator, rule = Generator().manual_seed(seed), rule_of(rule)
    with in_float64(network, x, y) as (twin, steps, y):
        wiring = rule.wiring(twin, steps)
        check_steps(twin, steps, y)
        check_alive(twin, wiring, steps)
        error = _error_of_logits(rule, twin, steps, y)
        before, before_held = _both(rule, twin, steps, y, error())
        space = []
        blocks = {**wiring.blocks, ", ".join(wiring.classifier): wiring.classifier}
        order = {layer: i for i, layers in enumerate(blocks.values()) for layer in layers if layer in before}
        for i, (name, layers) in enumerate(blocks.items()):
            with _disturbed(twin, layers, generator):
                after, after_held = _both(rule, twin, steps, y, error())
            for layer in order:
                changes = _change(before[layer], after[layer]), _change(before_held[layer], after_held[layer])
                space.append((name, layer, order[layer] < i, *changes))
        time = []
        of_steps = by_step(rule, twin, wiring, steps, y)
        for t in range(len(steps)):
            other = steps.clone()
            noise = torch.randn(steps[t].shape, generator=generator, dtype=torch.float64).to(steps.device)
            other[t] += noise * steps.std().clamp(min=0.1)
            moved = by_step(rule, twin, wiring, other, y)
            time += [
                (t + 1, s + 1, layer, bool(wiring.into[layer]), _change(of_steps[s][layer], moved[s][layer]))
                for s in range(len(steps))
                for layer in of_steps[s]
            ]
        return Locality(
            rule,
            pd.DataFrame(space, columns=["disturbed", "layer", "below", "change", "change_error_held"]),
            pd.DataFrame(time, columns=["disturbed", "step", "layer", "remembers", "change"]),
            tuple(wiring.norms),
        )


def by_step(rule: Rule, network: nn.Module, wiring: Wiring, steps: Tensor, y: Tensor) -> list[Updates]:
    """The parts of a rule's updates that belong to each step; they add up to it. Of layers of weights that learn."""
    parts: list[dict[str, Tensor]] = [{} for _ in steps]
    if rule.per_step and (rule.k or 1) == 1:  # each step makes its own update
        totals: list[Updates] = []

        def note() -> None:
            totals.append(by_module({name: p.grad for name, p in network.named_parameters()}, network))

        updates(rule, network, steps, y, after_block=note)
        for t, total in enumerate(totals):
            before = totals[t - 1] if t else {layer: torch.zeros_like(of_layer) for layer, of_layer in total.items()}
            parts[t] = {layer: total[layer] - before[layer] for layer in wiring.layers if layer in total}
        return parts
    learning = {n: m for n, m in wiring.layers.items() if any(p.requires_grad for p in m.parameters())}
    calls: dict[str, list[_Call]] = {layer: [] for layer in learning}

    def watch(layer: str, out: Tensor, x: Tensor) -> None:
        if layer not in learning:
            return
        call = _Call(x, torch.zeros_like(out))
        calls[layer].append(call)

        def add(grad: Tensor) -> None:
            call.grad.add_(grad)

        out.register_hook(add)

    updates(rule, network, steps, y, watch=watch)
    with torch.no_grad():
        for layer, module in learning.items():
            # a step a call, or several: `[T, N, ...]`, or both axes merged
            size = sum(len(x) for x, _ in calls[layer]) // len(steps)
            pairs = [zip(x.split(size), grad.split(size), strict=True) for x, grad in calls[layer]]
            each = [_Call(*pair) for of_call in pairs for pair in of_call]
            for part, (x, grad) in zip(parts, each, strict=True):
                grads = [of_weight(module, grad, x)]
                if getattr(module, "bias", None) is not None:
                    grads.append(of_bias(module, grad))
                part[layer] = torch.cat([g.flatten() for g in grads])
    return parts


class _Call(NamedTuple):
    """What a layer was given, and the error of what it put out."""

    x: Tensor
    grad: Tensor


def _both(rule: Rule, network: nn.Module, steps: Tensor, y: Tensor, held: Loss) -> tuple[Updates, Updates]:
    """Updates by the loss of the logits, and by another in its place; local losses are as ever."""
    own, other = (updates(rule, network, steps, y, loss=loss, local_loss=per_step) for loss in (per_step, held))
    return own, other


def _change(before: Tensor, after: Tensor) -> float:
    """Relative change of an update; NaN where it is 0 and stays so."""
    norm, distance = float(before.norm()), float((after - before).norm())
    return distance / norm if norm else (math.inf if distance else math.nan)


@contextmanager
def _disturbed(network: nn.Module, layers: list[str], generator: Generator) -> Iterator[None]:
    """Weights of layers with noise of half their size, as they were at the end."""
    weights = [p for layer in layers for p in network.get_submodule(layer).parameters(recurse=False)]
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            size = 0.5 * weight.std().clamp(min=1e-3) if weight.numel() > 1 else 0.5
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device) * size)
    yield
    with torch.no_grad():
        for weight, values in zip(weights, kept, strict=True):
            weight.copy_(values)


def _error_of_logits(rule: Rule, network: nn.Module, steps: Tensor, y: Tensor) -> Callable[[], Loss]:
    """What makes losses whose gradient by the logits is that of a run now, whatever the logits are later."""
    errors: list[Tensor] = []

    def note(logits: Tensor, y: Tensor) -> Tensor:
        value = per_step(logits, y)
        errors.extend(torch.autograd.grad(value, logits, retain_graph=True))
        return value

    updates(rule, network, steps, y, loss=note, local_loss=per_step)

    def held() -> Loss:
        left = list(errors)
        return lambda logits, y: (logits * left.pop(0)).sum()

    return held
