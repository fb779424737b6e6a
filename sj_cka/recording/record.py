"""Hooks on the layers of a network, and `record`, which keeps all that they put out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sj_cka.recording.axes import Tap
from sj_cka.recording.drive import Drive, Layout, steps_are_samples
from sj_cka.recording.layers import LayerSpec
from sj_cka.recording.plan import Plan, plan
from sj_cka.recording.state import is_neuron, preserved

Receive = Callable[[Tap, int, Tensor], None]


class Observation:
    """Hooks on the layers of a plan, for one pass over n samples.

    `receive(tap, step, rows)` gets `[S, n, ...]` of every call and the first of its S steps, from 0; S = 1 where a call
    is one step, or where the layer does not change with time.
    """

    def __init__(self, model: nn.Module, plan: Plan, n: int, receive: Receive) -> None:
        self.plan, self.n, self.receive = plan, n, receive
        self.calls: Counter[str] = Counter()
        self.taps: dict[str, list[Tap]] = {}
        for tap in plan.taps:
            self.taps.setdefault(tap.module, []).append(tap)
        modules = dict(model.named_modules())
        self.handles = [modules[name].register_forward_hook(self._hook(name)) for name in self.taps]

    def close(self) -> None:
        """Takes the hooks off."""
        for handle in self.handles:
            handle.remove()

    def check(self) -> None:
        """Raises RuntimeError where a layer was called more or less often than in the probes."""
        for name, taps in self.taps.items():
            expected = taps[0].uses * (self.plan.T if taps[0].time == "calls" else 1)
            if self.calls[name] != expected:
                raise RuntimeError(
                    f"layer {name!r} was called {self.calls[name]} times on this batch, {expected} times in the "
                    "probes; a layer whose calls depend on the data cannot be compared: choose layers= without it"
                )

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            call = self.calls[name]
            self.calls[name] += 1
            for tap in self.taps[name]:
                if (step := tap.step_of(call, self.plan.T)) is not None:
                    self.receive(tap, step, tap.rows(output, self.n, self.plan.T))

        return hook


@contextmanager
def record(model: nn.Module, layers: LayerSpec = None, *, layout: Layout | None = None) -> Iterator[dict[str, Tensor]]:
    """Records what the layers of a network put out while the caller runs it.

    A network of single-step neurons gives one step for each call; any other may be called on several batches, whose
    samples are joined along N. Values are detached copies. The first call runs three probes on a few of its samples
    first and leaves the network as it was.

    Args:
        model: any network.
        layers: dotted names, globs, module types or predicates `(name, module) -> bool`; None for the default layers:
            every neuron, every other leaf that is called and every block output, without the last Linear.
        layout: what the caller gives the network, "NCHW" (samples first) or "TNCHW"; None finds out.

    Yields:
        `{layer: [T, N, ...]}`, filled by every call; T = 1 for a layer that does not change with time.

    Raises:
        ValueError: a layer that is not there, is never called or has no axis of samples; fewer than 3 samples.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> with record(net) as features:
        ...     _ = net(torch.randn(7, 3))
        >>> {layer: tuple(X.shape) for layer, X in features.items()}
        {'0': (1, 7, 5), '1': (1, 7, 5)}
    """
    features: dict[str, Tensor] = {}
    recording = _Recording(model, layers, layout, features)
    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(recording.before, with_kwargs=True).remove)
        hooks.callback(model.register_forward_hook(recording.after).remove)
        hooks.callback(recording.stop)
        yield features


class _Recording:
    """What lasts from call to call: the plan, found at the first one, and the hooks of the call under way."""

    def __init__(self, model: nn.Module, layers: LayerSpec, layout: Layout | None, features: dict[str, Tensor]) -> None:
        self.model, self.layers, self.layout, self.features = model, layers, layout, features
        neurons = [module for module in model.modules() if is_neuron(module)]
        self.call_is_step = bool(neurons) and all(getattr(m, "step_mode", "s") == "s" for m in neurons)
        self.plan: Plan | None = None
        self.probing = False
        self.observation: Observation | None = None
        self.call: dict[str, list[Tensor]] = {}

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.probing:
            return
        self.stop()  # the call before this one may have ended in an exception
        if self.plan is None:
            self.probing = True
            try:
                self.plan = self._plan((args, kwargs))
            finally:
                self.probing = False
            self.call_is_step = self.call_is_step and self.plan.T == 1
        self.call = {tap.layer: [] for tap in self.plan.taps}
        n = self.plan.drive.samples((args, kwargs))
        self.observation = Observation(model, self.plan, n, lambda tap, _, rows: self._keep(tap, rows))

    def after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.probing or self.observation is None:
            return
        self.observation.close()
        self.observation.check()
        self.observation = None
        for layer, rows in self.call.items():
            new = torch.cat(rows)
            if layer in self.features:
                new = torch.cat([self.features[layer], new], dim=0 if self.call_is_step else 1)
            self.features[layer] = new

    def stop(self) -> None:
        """Takes the hooks off the layers, if a call left them there."""
        if self.observation is not None:
            self.observation.close()
            self.observation = None

    def _keep(self, tap: Tap, rows: Tensor) -> None:
        self.call[tap.layer].append(rows.detach().clone())

    def _plan(self, batch: tuple[tuple[Any, ...], dict[str, Any]]) -> Plan:
        drives = {
            layout: Drive("as is", sample_axis=axis, forward=_call) for layout, axis in (("NCHW", 0), ("TNCHW", 1))
        }
        layout = self.layout
        if layout is None and drives["NCHW"].samples(batch) < 3:  # too short to be tried as an axis of samples
            layout = "TNCHW" if any(getattr(m, "step_mode", "s") == "m" for m in self.model.modules()) else "NCHW"
        elif layout is None:
            with preserved(self.model):
                layout = "TNCHW" if steps_are_samples(self.model, drives["NCHW"], batch) else "NCHW"
        if layout not in drives:
            raise ValueError(f"expected layout to be one of {', '.join(drives)}, got {layout!r}")
        if (n := drives[layout].samples(batch)) < 3:
            raise ValueError(f"record tells samples from steps by probes on 3 samples, got a first call with {n}")
        return plan(self.model, batch, layers=self.layers, drive=drives[layout])


def _call(model: nn.Module, batch: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    args, kwargs = batch
    return model(*args, **kwargs)
