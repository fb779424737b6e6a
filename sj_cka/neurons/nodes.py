"""SpikingJelly's IF, LIF and PLIF nodes with the fused multi-step passes on the CPU."""

from typing import Any, ClassVar

import torch
from spikingjelly.activation_based import base, neuron
from torch import Tensor

from sj_cka.neurons import compiling, cupy_launch, fused
from sj_cka.neurons.current import SynapticCurrent
from sj_cka.neurons.surrogates import gradient_of

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def detach_states(module: base.MemoryModule) -> None:
    """Takes what a module remembers out of the graph; not in place, which the views of compiled passes refuse."""
    for name, value in module._memories.items():
        module._memories[name] = _detached(value)


def _detached(value: Any) -> Any:
    if isinstance(value, list | tuple):  # as the queue of a delay
        return type(value)(map(_detached, value))
    return value.detach() if isinstance(value, Tensor) else value


class FusedNode(neuron.BaseNode):
    """What the fused nodes have in common: a node of SpikingJelly, its multi-step forward and backward on CPU tensors
    each one hand-written pass, and on CUDA tensors, if asked for, each one compiled kernel.

    Arguments, attributes and state (`v`, `v_seq`, `step_mode`, `surrogate_function`, ...) are those of the installed
    SpikingJelly's node. Fused are multi-step calls (`step_mode="m"`) on CPU tensors [T, N, *] of float32, float64 or
    bfloat16 with the surrogates of SURROGATES and any other option; for the backward only h [T, N, *] is saved, and
    the input where a PLIF leaks it. Every other call (on CUDA, single-step, another dtype or surrogate, under
    torch.compile or torch.func) is SpikingJelly's own.

    Where the attribute `compiled` is set, torch.compile makes a kernel of each pass (`sj_cka.neurons.compiling`), with
    the same spikes and states. Inputs of bfloat16, of more than 32 steps or of less than 2 neurons run the passes as
    they are. Where `fused_on_cuda` is set, CUDA tensors, of float16 too, run such kernels, for up to 32 steps.

    With 2.0.0rc1's `backend="cupy"`, CUDA tensors run SpikingJelly's kernels, which `sj_cka.neurons.cupy_launch`
    launches; where the attribute `lean` is False, SpikingJelly does.

    Spikes and states equal those of SpikingJelly's torch code bit for bit (finite input); gradients do up to rounding,
    those of `w`, of the initial `v` and through the final `v` and `v_seq` too. Two things differ: a second derivative
    raises, and in eval mode spikes carry the surrogate gradient, as in 2.0.0 and in 2.0.0rc1's CuPy and Triton kernels,
    whereas 2.0.0rc1's torch code then cuts it off (IF and LIF).
    """

    v: Tensor | float
    compiled = False
    fused_on_cuda = False
    lean = True
    kind: ClassVar[str]

    def _leak(self) -> tuple[float | None, Tensor | None, bool]:
        """tau, q and decay_input, as `fused` has them."""
        raise NotImplementedError

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs:
            return super().multi_step_forward(x_seq, *args, **kwargs)
        if self.lean and x_seq.is_cuda and getattr(self, "backend", None) == "cupy":
            tau, q, decay_input = self._leak()
            leak, surrogate = None if tau is None else 1.0 / tau, self.surrogate_function
            launched = cupy_launch.Neuron(
                self.kind, leak, decay_input, self.v_threshold, self.v_reset, self.detach_reset, surrogate
            )
            if cupy_launch.launches(x_seq, launched):
                spikes, v_seq = cupy_launch.multi_step(x_seq, self._before(x_seq), q, launched)
                return self._after(spikes, v_seq, v_seq[-1].clone())  # a view would keep all steps
        # the surrogate last: torch.compile, under which nothing is fused, warns of the cache in `gradient_of`
        if not self._is_fusible(x_seq) or (gradient := gradient_of(self.surrogate_function)) is None:
            return super().multi_step_forward(x_seq)
        v = self._before(x_seq)
        tau, q, decay_input = self._leak()
        p = fused.Dynamics(tau, decay_input, self.v_threshold, self.v_reset, self.detach_reset, gradient)
        spikes, v_out = fused.multi_step(x_seq, v, q, p, self.store_v_seq, self.compiled or x_seq.is_cuda)
        # functional.detach_net detaches in place, which a view refuses
        return self._after(spikes, v_out, v_out[-1].clone() if self.store_v_seq else v_out)

    def _before(self, x_seq: Tensor) -> Tensor | float:
        """The potential before the first step."""
        return self.materialize_states((x_seq,), (self.v,), "m")[0] if isinstance(self.v, Tensor) else self.v

    def detach(self) -> None:
        """Takes the states out of the graph; see `detach_states`."""
        detach_states(self)

    def _after(self, spikes: Tensor, v_seq: Tensor, v: Tensor) -> Tensor:
        """Keeps the last potential, and all where they are wanted; gives the spikes."""
        self.v = v
        if self.store_v_seq:
            self.v_seq = v_seq
        return spikes

    def _is_fusible(self, x_seq: Tensor) -> bool:
        if x_seq.ndim == 0 or len(x_seq) == 0:
            return False
        # an empty share of a batch always: 2.0.0's CUDA kernels refuse it
        on_cuda = x_seq.is_cuda and (x_seq.numel() == 0 or (self.fused_on_cuda and compiling.fits(x_seq)))
        return (
            (on_cuda or x_seq.device.type == "cpu")
            and (x_seq.dtype in _DTYPES or (on_cuda and x_seq.dtype == torch.float16))
            # SpikingJelly's mixed precision, in 2.0.0rc1 and in 2.0.0
            and getattr(self, "_triton_precision", None) is None
            and getattr(self, "_neuron_precision", None) is None
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
        )


class FusedIFNode(FusedNode, neuron.IFNode):
    """SpikingJelly's `IFNode`, fused on the CPU; see `FusedNode`.

    Example:
        >>> FusedIFNode(step_mode="m")(torch.full((3, 1), 0.5)).flatten()
        tensor([0., 1., 0.])
    """

    kind = "if"

    def _leak(self) -> tuple[float | None, Tensor | None, bool]:
        return None, None, False


class FusedLIFNode(FusedNode, neuron.LIFNode):
    """SpikingJelly's `LIFNode`, fused on the CPU; see `FusedNode`.

    Example:
        >>> node = FusedLIFNode(tau=2.0, decay_input=False, step_mode="m")
        >>> node(torch.full((3, 1), 0.75)).flatten()
        tensor([0., 1., 0.])
        >>> node.v
        tensor([0.7500])
    """

    kind = "lif"

    def _leak(self) -> tuple[float | None, Tensor | None, bool]:
        return self.tau, None, self.decay_input


class FusedCurrentLIFNode(SynapticCurrent, FusedLIFNode):
    """`CurrentLIFNode`, whose LIF is fused on the CPU; see `SynapticCurrent` and `FusedNode`.

    Example:
        >>> node = FusedCurrentLIFNode(step_mode="m")
        >>> node(torch.full((3, 1), 0.75)).flatten()  # I = .75, 1.125, 1.3125; h = .75, 1.5, 1.5625
        tensor([0., 1., 1.])
        >>> node.v
        tensor([0.5625])
    """


class FusedPLIFNode(FusedNode, neuron.ParametricLIFNode):
    """SpikingJelly's `ParametricLIFNode`, fused on the CPU, the gradient of its learnt `w` too; see `FusedNode`.

    Example:
        >>> node = FusedPLIFNode(init_tau=2.0, decay_input=False, step_mode="m")
        >>> node(torch.full((3, 1), 0.75)).sum().backward()
        >>> node.w.grad < 0  # a faster leak would make fewer spikes
        tensor(True)
    """

    kind = "plif"

    def _leak(self) -> tuple[float | None, Tensor | None, bool]:
        return None, self.w.sigmoid(), self.decay_input

    def _is_fusible(self, x_seq: Tensor) -> bool:
        return super()._is_fusible(x_seq) and self.w.ndim == 0 and self.w.device == x_seq.device
