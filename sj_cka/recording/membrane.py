"""The membrane potential of SpikingJelly's neurons, as they keep it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sj_cka.recording.select import holds
from sj_cka.recording.state import is_multi_step


class Membrane:
    """The membrane potential v of one neuron after the reset, read after each of its calls.

    In multi-step mode the neuron is told to keep `v_seq` until `restore`; in single-step mode it keeps `v` anyhow.

    Args:
        name: dotted name of the neuron.
        neuron: one of SpikingJelly's neurons.

    Raises:
        ValueError: the neuron has no membrane potential, or does not keep that of every step.
    """

    def __init__(self, name: str, neuron: nn.Module) -> None:
        self.neuron: Any = neuron
        self.what = f"neuron {name!r} ({type(neuron).__name__})"
        if not hasattr(neuron, "v") and not hasattr(neuron, "store_v_seq"):
            raise ValueError(
                f"{self.what}: expected a neuron with a membrane potential v, got one without: choose layers= without "
                "it, or observe what it puts out"
            )
        self.flag = self.held = ""  # what switches the keeping on, and where the sequence is kept
        if is_multi_step(neuron):
            # CLIF (ComplementaryLIFNode) keeps all its states, v first, and leaves v_seq empty
            states = hasattr(neuron, "store_state_seqs")
            self.flag, self.held = ("store_state_seqs", "state_seqs") if states else ("store_v_seq", "v_seq")
            if not hasattr(neuron, self.flag):
                raise ValueError(
                    f"{self.what}: expected a neuron that keeps the membrane potential of every step (store_v_seq), "
                    'got one without: run it in single-step mode (functional.set_step_mode(net, "s")), or choose '
                    "layers= without it"
                )
            self.before = getattr(neuron, self.flag), getattr(neuron, self.held)
            setattr(neuron, self.flag, True)

    def take(self, like: Tensor) -> Tensor:
        """v of the call that just ended, `[T, N, ...]` or `[N, ...]`, with the shape of what it put out."""
        v = getattr(self.neuron, self.held or "v")
        if self.held:
            setattr(self.neuron, self.held, None)  # one layer's sequence is held at a time
            v = v[0] if isinstance(v, list) else v
        if not isinstance(v, Tensor) or v.shape != like.shape:
            raise ValueError(
                f"{self.what}: expected a membrane potential of the shape of its output, {list(like.shape)}, got "
                f"{holds(v)}: choose layers= without it, or observe what it puts out"
            )
        return v

    def restore(self) -> None:
        """Leaves the neuron's flag and its sequence as they were."""
        if self.flag:
            setattr(self.neuron, self.flag, self.before[0])
            setattr(self.neuron, self.held, self.before[1])
