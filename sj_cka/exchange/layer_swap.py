"""A network whose layers can be taken out and put in: what they put out, and its logits with one of them replaced."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sj_cka.recording import Observation, ObservationPlan, Tap, What, from_rest, named, own_run, unwrapped
from sj_cka.recording.trace import depth, holds
from sj_cka.training import class_scores

_ONE_CALL = ("as is", "frames")  # ways to run a network in which it makes its steps itself


class Form(NamedTuple):
    """How the features of one sample at one step lie: D of them at each place of a space, () for vectors."""

    D: int
    space: tuple[int, ...]

    def __str__(self) -> str:
        if not self.space:
            return f"vectors of {self.D}"
        return f"maps of {self.D} channels and {' x '.join(map(str, self.space))} pixels"


def form(tap: Tap, rows: Tensor) -> Form:
    """That of a layer: maps where what it puts out is, else vectors of all features of a sample.

    Args:
        tap: of the layer.
        rows: `[S, n, ...]`, as the tap gives them; of multi-step layers before the first neuron `[1, n, 1, ...]`.
    """
    before = sum(axis != tap.time_axis for axis in range(tap.axis))  # axes that stand before the samples
    folded = any(kind == "F" for kind, _ in (*tap.factors, *tap.time_factors))
    of_sample = tuple(rows.shape[2:])
    if of_sample[:before] == (1,) * before and len(of_sample) - before >= 3 and not folded:
        return Form(of_sample[before], of_sample[before + 1 :])
    return Form(rows[0, 0].numel(), ())


@dataclass(frozen=True)
class SwappableNetwork:
    """A network in evaluation mode, with the plan of its observation. Features are `[S, n, P, D]`: S steps of n samples
    with D features at each of P places, pixels of maps; P is 1 of vectors. What a network draws, as Poisson spikes, it
    draws alike in every run, until somebody draws from torch's generator between two of them.

    Args:
        model: the network.
        plan: with the layers.
        called: what errors call it.

    Raises:
        ValueError: a network that is called once a step, or is not given frames time first.
    """

    model: nn.Module
    plan: ObservationPlan
    called: str

    def __post_init__(self) -> None:
        if self.plan.drive.mode not in _ONE_CALL:
            raise ValueError(
                f"expected networks that make all their time steps in one call, got network {self.called}, which is "
                f"called once a step ({self.plan.drive.mode}): functional.set_step_mode(net, 'm')"
            )

    def keeping(self, layers: Collection[str]) -> SwappableNetwork:
        """The same with these layers alone."""
        taps = tuple(tap for tap in self.plan.taps if tap.layer in layers)
        return replace(self, plan=replace(self.plan, taps=taps))

    def steps(self, tap: Tap) -> int:
        """How many steps a layer has: 1 where it does not change with time."""
        return 1 if tap.time == "static" else self.plan.T

    def forms(self, batch: Tensor) -> dict[str, Form]:
        """How the features of every layer lie."""
        return {layer: form(tap, calls[0]) for layer, (tap, *calls) in self._rows(batch).items()}

    def features(self, batch: Tensor) -> dict[str, Tensor]:
        """What every layer puts out on what the network is given."""
        found = {}
        for layer, (tap, *calls) in self._rows(batch).items():
            rows = torch.cat(calls)
            found[layer] = rows.reshape(*rows.shape[:2], form(tap, rows).D, -1).transpose(2, 3)
        return found

    def _rows(self, batch: Tensor) -> dict[str, list[Any]]:
        """Layer -> its tap, and copies of `[S, n, ...]` of each of its calls."""
        n = self.plan.drive.samples(batch)

        def watched() -> dict[str, list[Any]]:
            found: dict[str, list[Any]] = {tap.layer: [tap] for tap in self.plan.taps}

            def keep(tap: Tap, step: int, rows: Tensor, what: What) -> None:
                found[tap.layer].append(rows.clone())

            observation = Observation(self.model, self.plan, n, keep)
            try:
                self._call(batch)
            finally:
                observation.close()
            observation.check()
            return found

        with own_run(), torch.no_grad(), same_draws(batch.device):
            return from_rest(self.model, watched)

    def logits(self, batch: Tensor, tap: Tap | None = None, new: Tensor | None = None) -> Tensor:
        """Class scores `[n, classes]`, if a layer is given with other features in place of its own.

        Args:
            batch: what the network is given.
            tap: of the layer.
            new: its features.

        Raises:
            ValueError: other logits than `[n, classes]` or `[T, n, classes]`.
        """
        n = self.plan.drive.samples(batch)

        def replaced() -> Any:
            if tap is None or new is None:
                return self._call(batch)
            replacing, module = _Replacing(tap, new, n, self.plan.T), named(self.model)[tap.module]
            hooks = module.register_forward_pre_hook(replacing.before), module.register_forward_hook(replacing)
            try:
                return self._call(batch)
            finally:
                for hook in hooks:
                    hook.remove()

        with own_run(), torch.no_grad(), same_draws(batch.device):
            logits = from_rest(self.model, replaced)
        if not isinstance(logits, Tensor) or logits.ndim not in (2, 3) or logits.shape[-2] != n:
            raise ValueError(
                f"expected logits [n, classes] or [T, n, classes] for n = {n} samples, network {self.called} gave "
                f"{holds(logits)}"
            )
        return class_scores(logits)

    def put_back(self, batch: Tensor) -> tuple[dict[str, str], list[str]]:
        """Puts the features of every layer into their place, its own ones and others.

        Returns:
            Layer -> why the network does not go on from its own features; and the layers whose features make no
            difference to the logits, however large they are.
        """
        own, features = self.logits(batch), self.features(batch)
        refused, unread = dict[str, str](), list[str]()
        for tap in self.plan.taps:
            x = features[tap.layer]
            try:
                again = self.logits(batch, tap, x)
            except (RuntimeError, ValueError) as error:
                why = " ".join(str(error).split())[:200]
                refused[tap.layer] = f"network {self.called} does not take its own features back: {why}"
                continue
            if not torch.allclose(own, again, rtol=1e-3, atol=1e-3 * float(own.abs().max())):
                refused[tap.layer] = f"network {self.called} gives other logits once its own features are put back"
                continue
            loud = 1e3 * torch.randn_like(x, dtype=torch.float64)
            if torch.equal(self.logits(batch, tap, loud.to(x.dtype)), own):
                unread.append(tap.layer)
        return refused, unread

    def _call(self, batch: Tensor) -> Any:
        return unwrapped(self.model)(batch.clone())  # a first layer that works in place must not change the next run


def same_draws(device: torch.device) -> AbstractContextManager[None]:
    """Leaves torch's generators as they were found."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


class _Replacing:
    """Hooks that give other features in the layout of a layer's own; of one that works in place, in its input too."""

    def __init__(self, tap: Tap, new: Tensor, n: int, T: int) -> None:
        self.tap, self.new, self.n, self.T, self.depth = tap, new, n, T, depth()
        self.calls = count()
        self.given: list[tuple[Tensor, int]] = []  # what the layer is given, and how often it was changed before

    def before(self, module: nn.Module, args: Any) -> None:
        """As the layer is called."""
        if depth() == self.depth:
            self.given = [(x, x._version) for x in args if isinstance(x, Tensor)]

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        if depth() != self.depth:
            return None
        step = self.tap.step_of(next(self.calls), self.T)
        if step is None:
            return None
        replaced = self.tap.picked(output).clone(memory_format=torch.contiguous_format)
        rows = self.tap.split(replaced, self.n, self.T)  # a view: `replaced` is contiguous
        rows.copy_(self.new[step : step + len(rows)].transpose(2, 3).reshape(rows.shape))
        for x, version in self.given:
            if x._version != version and x.shape == replaced.shape:
                x.copy_(replaced)
        return replaced
