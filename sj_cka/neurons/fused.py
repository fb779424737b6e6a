"""SpikingJelly's IF, LIF and PLIF neurons on the CPU: multi-step forward and backward, each one hand-written pass.

The (leaky) integrate-and-fire neuron in discrete time, t = 1 .. T, as SpikingJelly has it (Fang et al. 2023, Science
Advances 9, eadi1480), whose names are kept: h is the membrane potential before the reset, v the one after it, and
q = 1/tau, for the parametric LIF q = sigma(w) with a learnt w (Fang et al. 2021, ICCV, 2661-2671).

    h[t] = v[t-1] - (v[t-1] - v_reset) q + x[t]        LIF, PLIF; decay_input=False, the default here
    h[t] = v[t-1] + (x[t] - (v[t-1] - v_reset)) q      LIF, PLIF; decay_input=True
    h[t] = v[t-1] + x[t]                               IF
    s[t] = H(h[t] - v_threshold)                       spikes, H(0) = 1
    v[t] = (1 - s[t]) h[t] + s[t] v_reset              hard reset
    v[t] = h[t] - s[t] v_threshold                     soft reset (v_reset=None; the leak is then towards 0)

With v_reset = 0 the first line is h[t] = (1 - q) v[t-1] + x[t].

bfloat16 is rounded after each operation in the forward, as SpikingJelly's torch code does; the backward computes in
float32 and rounds the gradients once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sj_cka.neurons.chunks import chunks, empty_step, empty_steps, is_channels_last
from sj_cka.neurons.surrogates import Gradient


class Dynamics(NamedTuple):
    """What one layer's equations need; `tau` None: IF, or PLIF where a q is given; `v_reset` None: soft reset."""

    tau: float | None
    decay_input: bool
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    gradient: Gradient


def multi_step(x_seq: Tensor, v: Tensor | float, q: Tensor | None, p: Dynamics, keep_v: bool) -> tuple[Tensor, Tensor]:
    """Spikes [T, N, *], and v [T, N, *] (keep_v) or the last v [N, *], for an input [T, N, *] and an initial v."""
    p = p._replace(
        v_threshold=_rounded(p.v_threshold, x_seq.dtype),
        v_reset=None if p.v_reset is None else _rounded(p.v_reset, x_seq.dtype),
    )
    if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in (x_seq, v, q)):
        return _MultiStep.apply(x_seq, v, q, p, keep_v)
    spikes, v_out, _ = _forward(x_seq, v, q, p, keep_h=False, keep_v=keep_v)
    return spikes, v_out


def _rounded(value: float, dtype: torch.dtype) -> float:
    """A potential as torch takes it into sums with tensors of the dtype."""
    return float(torch.tensor(value, dtype=dtype))


def _charge(x: Tensor, v: Tensor, q: Tensor | None, p: Dynamics, h: Tensor) -> None:
    """h <- potential before reset, in SpikingJelly's order of operations, so that it is bit-equal for any tau."""
    v_reset = p.v_reset or 0.0
    if p.tau is None and q is None:
        torch.add(v, x, out=h)
        return
    if p.tau == 2.0 and v_reset == 0.0 and not p.decay_input:
        torch.add(x, v, alpha=0.5, out=h)  # v - v / 2 is exact: one rounding is left, here as there
        return
    leaking = v if v_reset == 0.0 else torch.sub(v, v_reset, out=h)
    if p.decay_input:
        leaking = torch.sub(x, leaking, out=h)
    if p.tau is not None:
        torch.div(leaking, p.tau, out=h)
    elif q is not None:
        torch.mul(leaking, q, out=h)
    if p.decay_input:
        h.add_(v)
    else:
        torch.sub(v, h, out=h).add_(x)


def _reset(h: Tensor, spikes: Tensor, p: Dynamics, v: Tensor) -> None:
    """v <- potential after reset."""
    # Products with spikes of float 0 and 1 are exact and vectorised; `where` and `masked_fill_` take ten times as long.
    if p.v_reset is None:
        torch.sub(h, spikes, alpha=p.v_threshold, out=v)
        return
    torch.addcmul(h, h, spikes, value=-1.0, out=v)
    if p.v_reset != 0.0:
        v.add_(spikes, alpha=p.v_reset)


def _forward(
    x_seq: Tensor, v: Tensor | float, q: Tensor | None, p: Dynamics, keep_h: bool, keep_v: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Spikes [T, N, *], v [T, N, *] (keep_v) or the last v [N, *], and h [T, N, *] or None."""
    T, x0 = len(x_seq), x_seq[0]
    spikes = empty_steps(T, x0)
    v_out = empty_steps(T, x0) if keep_v else empty_step(x0)
    h_seq = empty_steps(T, x0) if keep_h else None
    v_threshold = x_seq.new_full((), p.v_threshold)

    channels_last = is_channels_last(x0)
    xs, ss, vs = (chunks(seq, channels_last) for seq in (x_seq, spikes, v_out if keep_v else v_out[None]))
    hs = None if h_seq is None else chunks(h_seq, channels_last)
    v0s = chunks(v[None], channels_last) if isinstance(v, Tensor) else None
    scratches = tuple(torch.empty_like(ss[0][0]) for _ in range(2))
    start = x_seq.new_full((), 0.0 if isinstance(v, Tensor) else v)
    for i, (x, s, v_seq) in enumerate(zip(xs, ss, vs, strict=True)):
        h_scratch, v_scratch = (scratch[: len(s[0])] for scratch in scratches)
        v_t = start.expand_as(v_scratch) if v0s is None else v0s[i][0]
        for t in range(T):
            h = h_scratch if hs is None else hs[i][t]
            _charge(x[t], v_t, q, p, h)
            torch.ge(h, v_threshold, out=s[t])
            v_t = v_seq[t] if keep_v else v_seq[0] if t == T - 1 else v_scratch
            _reset(h, s[t], p, v_t)
    return spikes, v_out, h_seq


def _widened(step: Tensor, scratch: Tensor) -> Tensor:
    """One step in the dtype of the scratch, which is overwritten if it has to be."""
    return step if step.dtype == scratch.dtype else scratch.copy_(step)


def _before(h: Tensor, v_threshold: Tensor, p: Dynamics) -> Tensor:
    """v[t-1] made again from h[t-1]."""
    spikes, v = torch.empty_like(h), torch.empty_like(h)
    _reset(h, torch.ge(h, v_threshold, out=spikes), p, v)
    return v


def _grad_q(grad_h: Tensor, x: Tensor | None, v: Tensor, p: Dynamics) -> float:
    """Sum over a chunk of dL/dh[t] dh[t]/dq, v = v[t-1]; x = x[t] where the input leaks too, else None."""
    leaking = v.to(grad_h.dtype).sub(p.v_reset or 0.0)
    if x is not None:
        return float(grad_h.dot(x.to(grad_h.dtype) - leaking))
    return -float(grad_h.dot(leaking))


def _backward(
    grad_spikes: Tensor,
    grad_v: Tensor | None,
    h_seq: Tensor,
    x_seq: Tensor | None,
    v: Tensor,
    q: Tensor | None,
    p: Dynamics,
    kept_v: bool,
    needs_v: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of the input [T, N, *], of the initial v [N, *] (needs_v) and of q; grad_v as `_forward` gave v.

    With L the loss, g = g(h[t] - v_threshold), gs = dL/ds[t] and gv = dL/dv[t] (all that reaches v[t]: from outside and
    from step t + 1), for t = T .. 1:

        dL/dh[t]   = g (gs + gv (v_reset - h[t])) + gv (1 - s[t])      hard reset
        dL/dh[t]   = g (gs - gv v_threshold) + gv                      soft reset
        dL/dx[t]   = dL/dh[t]            or dL/dh[t] q if decay_input
        dL/dv[t-1] = dL/dh[t] (1 - q)
        dL/dq      = sum over t of dL/dh[t] (v_reset - v[t-1])       or, if decay_input, (x[t] + v_reset - v[t-1])

    and with detach_reset the bracket after g is gs alone. For IF, q = 0.
    """
    T, channels_last = len(h_seq), is_channels_last(h_seq[0])
    grad_x, grad_v0 = empty_steps(T, h_seq[0]), empty_step(h_seq[0]) if needs_v else None
    wide = torch.promote_types(h_seq.dtype, torch.float32)
    leak = q.to(h_seq.dtype).item() if q is not None else 0.0 if p.tau is None else 1.0 / p.tau
    # 0-dim tensors: wrapping a Python number costs 1 us a call
    zero, v_reset, decay = (h_seq.new_full((), x, dtype=wide) for x in (0.0, p.v_reset or 0.0, 1.0 - leak))
    v_threshold = h_seq.new_full((), p.v_threshold)
    total_q = 0.0

    gss, hs, gxs = (chunks(seq, channels_last) for seq in (grad_spikes, h_seq, grad_x))
    gv0s = None if grad_v0 is None else chunks(grad_v0[None], channels_last)
    gvs = None if grad_v is None else chunks(grad_v if kept_v else grad_v[None], channels_last)
    xs = None if x_seq is None else chunks(x_seq, channels_last)
    v0s = chunks(v[None], channels_last)
    scratches = tuple(torch.empty_like(gxs[0][0], dtype=wide) for _ in range(7))
    for i, (gs_steps, h_steps, gx) in enumerate(zip(gss, hs, gxs, strict=True)):
        d, bracket, kept, carry, wide_gs, wide_h, wide_gh = (scratch[: len(gx[0])] for scratch in scratches)
        gv = None
        for t in reversed(range(T)):
            if gvs is not None and (kept_v or t == T - 1):
                outside = gvs[i][t if kept_v else 0]
                gv = outside.to(wide) if gv is None else gv.add_(outside)

            gs, h = _widened(gs_steps[t], wide_gs), _widened(h_steps[t], wide_h)
            gh = gx[t] if gx[t].dtype == wide else wide_gh
            into_g, past_g = gs, zero
            torch.sub(h_steps[t], v_threshold, out=d)  # rounded as there, since some surrogates jump
            if gv is not None and not p.detach_reset:
                if p.v_reset is None:
                    into_g = torch.sub(gs, gv, alpha=p.v_threshold, out=bracket)
                elif p.v_reset == 0.0:
                    into_g = torch.addcmul(gs, gv, h, value=-1.0, out=bracket)
                else:
                    torch.sub(v_reset, h, out=bracket)
                    into_g = torch.addcmul(gs, gv, bracket, out=bracket)
            if gv is not None:
                past_g = gv
                if p.v_reset is not None:  # gv where d < 0, else 0: gv (1 - s[t]) in one pass
                    torch.ops.aten.hardtanh_backward.grad_input(gv, d, -math.inf, 0.0, grad_input=kept)
                    past_g = kept
            p.gradient(past_g, into_g, d, gh)

            if q is not None:
                v_before = _before(h_steps[t - 1], v_threshold, p) if t > 0 else v0s[i][0]
                total_q += _grad_q(gh, None if xs is None else xs[i][t], v_before, p)
            if t > 0:
                gv = torch.mul(gh, decay, out=carry)
            elif gv0s is not None:
                torch.mul(gh, decay, out=gv0s[i][0])
            if p.decay_input:
                torch.mul(gh, leak, out=gx[t])
            elif gh is wide_gh:
                gx[t].copy_(gh)
    return grad_x, grad_v0, None if q is None else q.new_tensor(total_q)


class _MultiStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_seq: Tensor, v: Tensor | float, q: Tensor | None, p: Dynamics, keep_v: bool
    ) -> tuple[Tensor, Tensor]:
        spikes, v_out, h_seq = _forward(x_seq, v, q, p, keep_h=True, keep_v=keep_v)
        learns = q is not None  # dL/dq needs v[0] too, and x if it leaks; the other v are made again from h
        v_kept = v if learns and isinstance(v, Tensor) else None
        ctx.save_for_backward(h_seq, x_seq if learns and p.decay_input else None, v_kept, q)
        ctx.v, ctx.p, ctx.kept_v = (0.0 if isinstance(v, Tensor) else v), p, keep_v
        ctx.set_materialize_grads(False)
        return spikes, v_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
        h_seq, x_seq, v, q = ctx.saved_tensors
        if grad_spikes is None:
            grad_spikes = torch.zeros_like(h_seq)
        grads = _backward(
            grad_spikes,
            grad_v,
            h_seq,
            x_seq,
            h_seq.new_full((), ctx.v).expand_as(h_seq[0]) if v is None else v,
            q,
            ctx.p,
            ctx.kept_v,
            needs_v=ctx.needs_input_grad[1],
        )
        x, v0, q = (grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False))
        return x, v0, q, None, None
