"""SpikingJelly's LIF neuron on the CPU, its multi-step forward and backward each one hand-written pass.

The leaky integrate-and-fire (LIF) neuron in discrete time, t = 1 .. T, as SpikingJelly has it (Fang et al. 2023,
Science Advances 9, eadi1480), whose names are kept: h is the membrane potential before the reset, v the one after it.

    h[t] = v[t-1] - (v[t-1] - v_reset) / tau + x[t]        decay_input=False, the default here
    h[t] = v[t-1] + (x[t] - (v[t-1] - v_reset)) / tau      decay_input=True
    s[t] = H(h[t] - v_threshold)                           spikes, H(0) = 1
    v[t] = (1 - s[t]) h[t] + s[t] v_reset                  hard reset
    v[t] = h[t] - s[t] v_threshold                         soft reset (v_reset=None; the leak is then towards 0)

With v_reset = 0 the first line is h[t] = (1 - 1/tau) v[t-1] + x[t]. The derivative of the step H at
d = h - v_threshold is replaced by a surrogate (Neftci et al. 2019, IEEE Signal Processing Magazine 36(6), 51-63):

    Sigmoid(alpha)    g(d) = alpha sigma(alpha d) (1 - sigma(alpha d))
    ATan(alpha)       g(d) = (alpha / 2) / (1 + (pi/2 alpha d)^2)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor
from torch.autograd.function import once_differentiable

SURROGATES = (surrogate.Sigmoid, surrogate.ATan)

# Neurons per pass and thread: the half dozen buffers of a chunk stay in a second-level cache of 2 MiB, while torch's
# own 1 to 2 us a call stay small beside the work.
_CHUNK = 65_536


class _Parameters(NamedTuple):
    """What one layer's equations need; `v_reset` None: soft reset."""

    tau: float
    decay_input: bool
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    surrogate: type[surrogate.SurrogateFunctionBase]
    alpha: float


def _is_channels_last(x: Tensor) -> bool:
    """Whether one step [N, C, H, W] lies in memory as [N, H, W, C]."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _empty_step(x: Tensor) -> Tensor:
    """Uninitialised [N, *] like x, dense."""
    return torch.empty_like(x, memory_format=torch.channels_last if _is_channels_last(x) else torch.contiguous_format)


def _empty_steps(T: int, x: Tensor) -> Tensor:
    """Uninitialised [T, N, *], dense, for T steps like x [N, *]."""
    return x.new_empty_strided((T, *x.shape), (x.numel(), *_empty_step(x).stride()))


def _chunks(x_seq: Tensor, channels_last: bool) -> list[tuple[Tensor, ...]]:
    """[T, N, *] -> for each chunk of neurons its T steps. Views, also of a tensor expanded over T, where they exist."""
    if channels_last:
        x_seq = x_seq.movedim(2, -1)
    flat = x_seq.reshape(x_seq.shape[0], x_seq[0].numel())
    size = _CHUNK * torch.get_num_threads()
    return [chunk.unbind(0) for chunk in (flat.split(size, 1) if flat.shape[1] > size else (flat,))]


def _charge(x: Tensor, v: Tensor, p: _Parameters, h: Tensor) -> None:
    """h <- potential before reset, in SpikingJelly's order of operations, so that it is bit-equal for any tau."""
    v_reset = p.v_reset or 0.0
    if p.tau == 2.0 and v_reset == 0.0 and not p.decay_input:
        torch.add(x, v, alpha=0.5, out=h)  # v - v / 2 is exact: one rounding is left, here as there
        return
    excess = v if v_reset == 0.0 else torch.sub(v, v_reset, out=h)
    if p.decay_input:
        torch.sub(x, excess, out=h).div_(p.tau).add_(v)
    else:
        torch.div(excess, p.tau, out=h)
        torch.sub(v, h, out=h).add_(x)


def _reset(h: Tensor, spikes: Tensor, p: _Parameters, v: Tensor) -> None:
    """v <- potential after reset."""
    # Products with spikes of float 0 and 1 are exact and vectorised; `where` and `masked_fill_` take ten times as long.
    if p.v_reset is None:
        torch.sub(h, spikes, alpha=p.v_threshold, out=v)
        return
    torch.addcmul(h, h, spikes, value=-1.0, out=v)
    if p.v_reset != 0.0:
        v.add_(spikes, alpha=p.v_reset)


def _forward(
    x_seq: Tensor, v: Tensor | float, p: _Parameters, keep_h: bool, keep_v: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Spikes [T, N, *], v [T, N, *] (keep_v) or the last v [N, *], and h [T, N, *] or None."""
    T, x0 = len(x_seq), x_seq[0]
    spikes = _empty_steps(T, x0)
    v_out = _empty_steps(T, x0) if keep_v else _empty_step(x0)
    h_seq = _empty_steps(T, x0) if keep_h else None
    v_threshold = x_seq.new_full((), p.v_threshold)

    channels_last = _is_channels_last(x0)
    xs, ss, vs = (_chunks(seq, channels_last) for seq in (x_seq, spikes, v_out if keep_v else v_out[None]))
    hs = None if h_seq is None else _chunks(h_seq, channels_last)
    v0s = _chunks(v[None], channels_last) if isinstance(v, Tensor) else None
    for i, (x, s, v_seq) in enumerate(zip(xs, ss, vs, strict=True)):
        h_scratch, v_scratch = torch.empty_like(s[0]), torch.empty_like(s[0])
        v_t = v_scratch.fill_(v) if v0s is None else v0s[i][0]
        for t in range(T):
            h = h_scratch if hs is None else hs[i][t]
            _charge(x[t], v_t, p, h)
            torch.ge(h, v_threshold, out=s[t])
            v_t = v_seq[t] if keep_v else v_seq[0] if t == T - 1 else v_scratch
            _reset(h, s[t], p, v_t)
    return spikes, v_out, h_seq


def _backward(
    grad_spikes: Tensor, grad_v: Tensor | None, h_seq: Tensor, p: _Parameters, kept_v: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the input [T, N, *] and of the initial v [N, *]; grad_v as `_forward` gave v.

    With L the loss, g = g(h[t] - v_threshold), gs = dL/ds[t] and gv = dL/dv[t] (all that reaches v[t]: from outside and
    from step t + 1), for t = T .. 1:

        dL/dh[t]   = g (gs + gv (v_reset - h[t])) + gv (1 - s[t])      hard reset
        dL/dh[t]   = g (gs - gv v_threshold) + gv                      soft reset
        dL/dx[t]   = dL/dh[t]            or dL/dh[t] / tau if decay_input
        dL/dv[t-1] = dL/dh[t] (1 - 1/tau)

    and with detach_reset the bracket after g is gs alone.
    """
    T, channels_last = len(h_seq), _is_channels_last(h_seq[0])
    grad_x, grad_v0 = _empty_steps(T, h_seq[0]), _empty_step(h_seq[0])
    # 0-dim tensors: wrapping a Python number costs 1 us a call
    zero, one, v_threshold, v_reset, decay, alpha = (
        h_seq.new_full((), value) for value in (0.0, 1.0, p.v_threshold, p.v_reset or 0.0, 1.0 - 1.0 / p.tau, p.alpha)
    )

    gss, hs, gxs, gv0s = (_chunks(seq, channels_last) for seq in (grad_spikes, h_seq, grad_x, grad_v0[None]))
    gvs = None if grad_v is None else _chunks(grad_v if kept_v else grad_v[None], channels_last)
    for i, (gs, h, gx, (gv0,)) in enumerate(zip(gss, hs, gxs, gv0s, strict=True)):
        d, bracket, kept, carry = (torch.empty_like(gv0) for _ in range(4))
        gv = None
        for t in reversed(range(T)):
            if gvs is not None and (kept_v or t == T - 1):
                outside = gvs[i][t if kept_v else 0]
                gv = outside if gv is None else gv.add_(outside)

            into_g, past_g = gs[t], zero
            torch.sub(h[t], v_threshold, out=d)
            if gv is not None and not p.detach_reset:
                if p.v_reset is None:
                    into_g = torch.sub(gs[t], gv, alpha=p.v_threshold, out=bracket)
                elif p.v_reset == 0.0:
                    into_g = torch.addcmul(gs[t], gv, h[t], value=-1.0, out=bracket)
                else:
                    torch.sub(v_reset, h[t], out=bracket)
                    into_g = torch.addcmul(gs[t], gv, bracket, out=bracket)
            if gv is not None:
                past_g = gv
                if p.v_reset is not None:  # gv where d < 0, else 0: gv (1 - s[t]) in one pass
                    torch.ops.aten.hardtanh_backward.grad_input(gv, d, -math.inf, 0.0, grad_input=kept)
                    past_g = kept

            if p.surrogate is surrogate.ATan:
                torch.addcmul(one, d, d, value=(math.pi / 2 * p.alpha) ** 2, out=d)
                torch.addcdiv(past_g, into_g, d, value=p.alpha / 2, out=gx[t])
            else:
                d.mul_(alpha).sigmoid_()
                torch.ops.aten.sigmoid_backward.grad_input(into_g, d, grad_input=d)  # into_g sigma (1 - sigma)
                torch.add(past_g, d, alpha=p.alpha, out=gx[t])
            gv = torch.mul(gx[t], decay, out=carry if t > 0 else gv0)
            if p.decay_input:
                gx[t].div_(p.tau)
    return grad_x, grad_v0


class _MultiStepLIF(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_seq: Tensor, v: Tensor | float, p: _Parameters, keep_v: bool) -> tuple[Tensor, Tensor]:
        spikes, v_out, h_seq = _forward(x_seq, v, p, keep_h=True, keep_v=keep_v)
        ctx.save_for_backward(h_seq)
        ctx.p, ctx.kept_v = p, keep_v
        ctx.set_materialize_grads(False)
        return spikes, v_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
        (h_seq,) = ctx.saved_tensors
        if grad_spikes is None:
            grad_spikes = torch.zeros_like(h_seq)
        grad_x, grad_v0 = _backward(grad_spikes, grad_v, h_seq, ctx.p, ctx.kept_v)
        return grad_x if ctx.needs_input_grad[0] else None, grad_v0 if ctx.needs_input_grad[1] else None, None, None


class FusedLIFNode(neuron.LIFNode):
    """SpikingJelly's `LIFNode`, its multi-step forward and backward on CPU tensors each one hand-written pass.

    Arguments, attributes and state (`v`, `v_seq`, `step_mode`, `surrogate_function`, ...) are those of the installed
    SpikingJelly's `LIFNode`. Fused are multi-step calls (`step_mode="m"`) on CPU tensors [T, N, *] of float32 or
    float64 with the surrogates Sigmoid and ATan: any tau, reset, `detach_reset` and `decay_input`; only h [T, N, *] is
    saved for the backward. Every other call (CUDA, single-step, another dtype or surrogate, torch.compile, torch.func)
    is SpikingJelly's own.

    Spikes and states equal those of SpikingJelly's torch code bit for bit (finite input); gradients do up to rounding,
    those of the initial `v` and through the final `v` and `v_seq` too. Two things differ: a second derivative raises,
    and in eval mode spikes carry the surrogate gradient, as in 2.0.0 and in 2.0.0rc1's CuPy and Triton kernels, whereas
    2.0.0rc1's torch code then cuts it off.

    Example:
        >>> node = FusedLIFNode(tau=2.0, decay_input=False, step_mode="m")
        >>> node(torch.full((3, 1), 0.75)).flatten()
        tensor([0., 1., 0.])
        >>> node.v
        tensor([0.7500])
    """

    v: Tensor | float

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self._is_fusible(x_seq):
            return super().multi_step_forward(x_seq, *args, **kwargs)
        v = self.v
        if isinstance(v, Tensor):
            (v,) = self.materialize_states((x_seq,), (v,), "m")
        needs_grad = x_seq.requires_grad or (isinstance(v, Tensor) and v.requires_grad)
        g = self.surrogate_function
        p = _Parameters(
            self.tau, self.decay_input, self.v_threshold, self.v_reset, self.detach_reset, type(g), float(g.alpha)
        )
        if torch.is_grad_enabled() and needs_grad:
            spikes, v_out = _MultiStepLIF.apply(x_seq, v, p, self.store_v_seq)
        else:
            spikes, v_out, _ = _forward(x_seq, v, p, keep_h=False, keep_v=self.store_v_seq)
        if self.store_v_seq:
            self.v_seq = v_out
            v_out = v_out[-1].clone()  # functional.detach_net detaches in place, which a view refuses
        self.v = v_out
        return spikes

    def _is_fusible(self, x_seq: Tensor) -> bool:
        g = self.surrogate_function
        return (
            x_seq.device.type == "cpu"
            and x_seq.dtype in (torch.float32, torch.float64)
            and x_seq.ndim > 0
            and len(x_seq) > 0
            and type(g) in SURROGATES
            and g.spiking
            and isinstance(g.alpha, (int, float))
            # SpikingJelly's mixed precision, in 2.0.0rc1 and in 2.0.0
            and getattr(self, "_triton_precision", None) is None
            and getattr(self, "_neuron_precision", None) is None
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
        )
