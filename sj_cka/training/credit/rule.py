"""Learning rules as two choices: how errors go through space, and what of the past a weight's update knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sj_cka.plugins import OptionError, check_option
from sj_cka.recording import unwrapped
from sj_cka.training.credit.assignment import Assignment, Loss, Losses, Watch
from sj_cka.training.credit.checks import check_ends, check_fits, check_goes_on, check_own, check_sums
from sj_cka.training.credit.feedback import transposed_paths
from sj_cka.training.credit.wiring import Wiring, wiring_of

Space = Literal["backprop", "feedback_alignment", "direct_feedback_alignment", "local_error"]
Time = Literal["bptt", "truncated", "presynaptic_trace", "eligibility_trace", "none"]
Feedback = Literal["random", "symmetric"]


@dataclass(frozen=True)
class Rule:
    """Which error reaches a layer, and what of the past its update takes into account.

    With s_l the spikes of layer l, h_l its potential, W_l its weights and L[t] the loss at step t:

    - in space, the error dL/ds_l is, by "backprop", W_{l+1}^T dL/dh_{l+1}; by "feedback_alignment", B_{l+1} dL/dh_{l+1}
      with a fixed random B_{l+1} (Lillicrap et al. 2016); by "direct_feedback_alignment", B_l dL/dlogits (Nøkland
      2016); by "local_error" that of a loss of its own on a fixed random readout of s_l, and nothing from above (Kaiser
      et al. 2020, DECOLLE). The layer that the logits come from has its exact gradient in all of them.
    - in time, "bptt" goes through all steps; "truncated" through blocks of k of them, states detached between them
      (Williams & Peng 1990, with blocks that do not overlap); the others run step by step, with a backward pass and a
      loss each. An error at step t meets, in place of the input at t, with "presynaptic_trace" a trace of the inputs up
      to t, which leaks as the neuron does and knows nothing of its spikes (Xiao et al. 2022, OTTT); with
      "eligibility_trace" one for every synapse, which follows the neuron, reset and all (Bellec et al. 2020, e-prop);
      with "none" the input at t alone (Meng et al. 2023, SLTT).

    Spikes through recurrent weights are an input like any other: step by step, no error goes back through them. Biases
    have the trace of an input that is always 1. Weights of batch normalisation, and of neurons, are told of the step
    alone.

    Args:
        space, time: the two choices.
        k: steps of a block, for "truncated".
        feedback: for "direct_feedback_alignment": "random", or "symmetric", the products of the transposed weights from
            the logits down to the layer, as they are at the time.
        seed: of what is random.

    Raises:
        OptionError: an unknown choice, or one that another has no use for.
    """

    space: Space = "backprop"
    time: Time = "bptt"
    k: int | None = None
    feedback: Feedback = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        for option, known in (("space", Space), ("time", Time), ("feedback", Feedback)):
            names, got = get_args(known), getattr(self, option)
            check_option(got in names, option, f"one of {', '.join(names)}", repr(got))
        if self.time == "truncated":
            fits = _is_whole(self.k) and self.k >= 1
            check_option(fits, "k", "the steps of a block, a whole number from 1", repr(self.k))
        elif self.k is not None:
            raise OptionError("k", f'expected k with time "truncated" alone, got {self.k} with {self.time!r}')
        check_option(_is_whole(self.seed), "seed", "a whole number", repr(self.seed))
        if self.feedback == "symmetric" and self.space != "direct_feedback_alignment":
            why = {"feedback_alignment": ", since symmetric feedback alignment is backprop"}.get(self.space, "")
            raise OptionError(
                "feedback", f'expected "symmetric" with direct_feedback_alignment alone, got {self.space!r}{why}'
            )

    @property
    def per_step(self) -> bool:
        """Whether it asks for a loss of every step."""
        return self.time != "bptt"

    @property
    def direct(self) -> bool:
        """Whether errors come to neurons by a way of their own, and nothing through the layers behind them."""
        return self.space in ("direct_feedback_alignment", "local_error")

    @property
    def traced(self) -> bool:
        """Whether errors meet a trace in place of the input."""
        return self.time in ("presynaptic_trace", "eligibility_trace")

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        forward: Callable[[Tensor], Tensor],
        loss: Loss,
        scale: Callable[[Tensor], Tensor],
        local_loss: Loss | None = None,
        only: int | None = None,
        after_block: Callable[[], None] | None = None,
        watch: Watch | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Leaves the gradients of a batch, as `sj_cka.training.learning_rules.bptt` does.

        Args:
            network, x, y, forward, loss, scale: see there. Where the rule is `per_step`, the loss is the mean of that
                of each step.
            local_loss: of the logits of local readouts; None for the same.
            only: take the loss of this step, from 0, divided by T, in place of that of all.
            after_block: called after each block of steps that ran.
            watch: called at each call of a layer of weights with its name, output and input.

        Raises:
            ValueError: the rule does not go with the network; the message says why.
        """
        if self == Rule() and only is None and watch is None:
            logits = forward(x)
            value = loss(logits, y)
            scale(value).backward()
            return logits, value
        if self.per_step:  # once: of an image a network may draw them
            x = in_steps(network, x)
        wiring = self.wiring(network, x)
        T = len(in_steps(network, x)) if self.per_step or only is not None else 1
        blocks = x.split(self.k or 1) if self.per_step else [x]
        parts, total, done = [], torch.zeros((), device=x.device), 0
        losses = Losses(loss, local_loss or loss, scale)
        symmetric = self._symmetric(network, wiring, blocks[0])
        with Assignment(self, network, wiring, losses, symmetric, watch) as assignment:
            for block in blocks:
                out = forward(block)
                if self.per_step and out.shape[:2] != (len(block), len(y)):
                    raise ValueError(
                        f"expected logits of every step, [{len(block)}, {len(y)}, classes], for the time rule "
                        f"{self.time!r}, got {list(out.shape)} for input {list(block.shape)}: the first axis of what a "
                        "network takes is time, unless it says by a method `in_steps` how it makes steps of it"
                    )
                part, weight = slice(None), len(block) / T if self.per_step else 1.0
                if only is not None:
                    part, weight = slice(only - done, only - done + 1) if only >= done else slice(0), 1 / T
                total = total + assignment.backward(out, part, y, weight)
                assignment.forget()
                done += len(block)
                parts.append(out.detach())
                if after_block is not None:
                    after_block()
        return torch.cat(parts) if self.per_step else parts[0], total

    def _symmetric(self, network: nn.Module, wiring: Wiring, block: Tensor) -> dict[str, Tensor] | None:
        if self.feedback == "random":
            return None
        few = in_steps(network, block)[:1, :1] if wiring.spiking else block[:1]
        if not few.numel():  # the empty share of a process
            few = few.new_zeros([max(1, size) for size in few.shape])
        return transposed_paths(network, wiring.neurons, lambda: network(few))

    def wiring(self, network: nn.Module, x: Tensor) -> Wiring:
        """The wiring of a network, found with its first batch, when the rule is also checked against it."""
        known = _known.setdefault(network, {})
        T = len(in_steps(network, x)) if self.per_step else None
        # with other modules it is another network; those that a wiring knows live as long as it
        key = self, T, network.training, tuple(map(id, network.modules()))
        if key not in known:
            step = x if T is None else in_steps(network, x)[:1]
            # two steps: what is recurrent shows in the second
            wiring = wiring_of(network, lambda: network(step), 1 if T is None else 2)
            check_fits(self, network, wiring, T)
            if self.per_step:
                check_ends(network, step)
            if self.time == "eligibility_trace":
                check_sums(network, wiring, lambda: network(step))
            for name, module in wiring.neurons.items() if self.per_step else ():
                zeros = step.new_zeros(wiring.shapes[name])
                if self.time == "eligibility_trace":
                    check_own(name, module, zeros)
                check_goes_on(name, module, zeros)
            known[key] = wiring
        return known[key]


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def in_steps(network: nn.Module, x: Tensor) -> Tensor:
    """What a network is given, as steps `[T, N, ...]`: a network that shows an image T times tells how, by `in_steps`.

    Any other takes its steps as they are.
    """
    of_network = getattr(unwrapped(network), "in_steps", None)
    steps: Tensor = x if of_network is None else of_network(x)
    return steps


_known: WeakKeyDictionary[nn.Module, dict[object, Wiring]] = WeakKeyDictionary()
