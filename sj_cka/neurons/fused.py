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

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sj_cka.neurons import compiling
from sj_cka.neurons.chunks import chunks, dense, empty_step, empty_steps, is_channels_last, shaped
from sj_cka.neurons.surrogates import Gradient


class Dynamics(NamedTuple):
    """What one layer's equations need; `tau` None: IF, or PLIF where a q is given; `v_reset` None: soft reset."""

    tau: float | None
    decay_input: bool
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    gradient: Gradient


Steps = Sequence[Tensor]  # [M] each


class Saved(NamedTuple):
    """What the backward needs of the forward: h [T, N, *]; and where q learns, q, the initial v, a number or [N, *],
    and the input [T, N, *] if that leaks too. The other v are made again from h."""

    h_seq: Tensor
    x_seq: Tensor | None
    v: Tensor | None
    q: Tensor | None


def multi_step(
    x_seq: Tensor, v: Tensor | float, q: Tensor | None, p: Dynamics, keep_v: bool, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """Spikes [T, N, *], and v [T, N, *] (keep_v) or the last v [N, *], for an input [T, N, *] and an initial v."""
    p = p._replace(
        v_threshold=_rounded(p.v_threshold, x_seq.dtype),
        v_reset=None if p.v_reset is None else _rounded(p.v_reset, x_seq.dtype),
    )
    compiled = compiled and compiling.fits(x_seq)
    if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in (x_seq, v, q)):
        return _MultiStep.apply(x_seq, v, q, p, keep_v, compiled)
    spikes, v_out, _ = (_forward_compiled if compiled else _forward)(x_seq, v, q, p, keep_h=False, keep_v=keep_v)
    return spikes, v_out


@functools.cache
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


def _forward_steps(x: Steps, v: Tensor, q: Tensor | None, p: Dynamics, h: Steps, spikes: Steps, v_after: Steps) -> None:
    """Fills h, spikes and v after the reset, T times [M] each, for x of as many steps and the v before the first."""
    v_threshold = x[0].new_full((), p.v_threshold)
    for t in range(len(x)):
        _charge(x[t], v, q, p, h[t])
        torch.ge(h[t], v_threshold, out=spikes[t])
        _reset(h[t], spikes[t], p, v_after[t])
        v = v_after[t]


def _forward(
    x_seq: Tensor, v: Tensor | float, q: Tensor | None, p: Dynamics, keep_h: bool, keep_v: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Spikes [T, N, *], v [T, N, *] (keep_v) or the last v [N, *], and h [T, N, *] or None."""
    T, x0 = len(x_seq), x_seq[0]
    spikes = empty_steps(T, x0)
    v_out = empty_steps(T, x0) if keep_v else empty_step(x0)
    h_seq = empty_steps(T, x0) if keep_h else None

    channels_last = is_channels_last(x0)
    v_kept = v_out if keep_v else v_out[None]
    v0 = v if isinstance(v, Tensor) else x_seq.new_full((), v).expand_as(x0)
    scratches: tuple[Tensor, ...] = ()
    for x, s, v_seq, h, v_before in _by_chunk((x_seq, spikes, v_kept, h_seq, v0[None]), channels_last):
        scratches = scratches or tuple(torch.empty_like(s[0]) for _ in range(2))  # the first chunk is the largest
        h_scratch, v_scratch = (scratch[: len(s[0])] for scratch in scratches)
        v_after = v_seq if keep_v else [*[v_scratch] * (T - 1), v_seq[0]]
        _forward_steps(x, v_before[0], q, p, h or [h_scratch] * T, s, v_after)
    return spikes, v_out, h_seq


def _by_chunk(seqs: Iterable[Tensor | None], channels_last: bool) -> Iterator[tuple[Any, ...]]:
    """For each chunk of neurons the steps of each sequence; None of none."""
    return zip(*(repeat(None) if seq is None else chunks(seq, channels_last) for seq in seqs), strict=False)


def _forward_kernel(x: Tensor, v: Tensor, q: Tensor | None, *, p: Dynamics, keep_h: bool, keep_v: bool) -> list[Tensor]:
    """`_forward` without writing to what it is given, to be compiled: x [T, M], v [M] or a number."""
    steps = x.unbind(0)
    h, spikes, v_after = ([torch.empty_like(step) for step in steps] for _ in range(3))
    _forward_steps(steps, torch.empty_like(steps[0]).copy_(v), q, p, h, spikes, v_after)
    kept = [torch.stack(h)] if keep_h else []
    return [torch.stack(spikes), torch.stack(v_after) if keep_v else v_after[-1], *kept]


def _forward_compiled(
    x_seq: Tensor, v: Tensor | float, q: Tensor | None, p: Dynamics, keep_h: bool, keep_v: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`_forward` by a compiled kernel."""
    channels_last = is_channels_last(x_seq[0])
    start = dense(v[None], channels_last)[0] if isinstance(v, Tensor) else x_seq.new_full((), v)
    spikes, v_out, *kept = compiling.run(
        _forward_kernel, (dense(x_seq, channels_last), start, q), p=p, keep_h=keep_h, keep_v=keep_v
    )
    h_seq = shaped(kept[0], x_seq[0]) if kept else None
    return shaped(spikes, x_seq[0]), shaped(v_out, x_seq[0]), h_seq


def _widened(step: Tensor, scratch: Tensor) -> Tensor:
    """One step in the dtype of the scratch, which is overwritten if it has to be."""
    return step if step.dtype == scratch.dtype else scratch.copy_(step)


def _before(h: Tensor, v_threshold: Tensor, p: Dynamics) -> Tensor:
    """v[t-1] made again from h[t-1]."""
    spikes, v = torch.empty_like(h), torch.empty_like(h)
    _reset(h, torch.ge(h, v_threshold, out=spikes), p, v)
    return v


def _dh_dq(x: Tensor | None, v: Tensor, p: Dynamics, wide: torch.dtype) -> Tensor:
    """dh[t]/dq, v = v[t-1]; x = x[t] where the input leaks too, else None."""
    leaking = v.to(wide).sub(p.v_reset or 0.0)
    return leaking.neg_() if x is None else x.to(wide) - leaking


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Inductor adds up in the dtype of the products one after the other, torch.dot in blocks."""
    return (x.double() * y.double()).sum()


def _bracket(gs: Tensor, gv: Tensor, h: Tensor, p: Dynamics, out: Tensor) -> Tensor:
    """What g is multiplied by, see `_backward_steps`; without detach_reset."""
    if p.v_reset is None:
        return torch.sub(gs, gv, alpha=p.v_threshold, out=out)
    if p.v_reset == 0.0:
        return torch.addcmul(gs, gv, h, value=-1.0, out=out)
    return torch.addcmul(gs, gv, torch.sub(out.new_full((), p.v_reset), h, out=out), out=out)


def _backward_steps(
    grad_spikes: Steps,
    grad_v: Steps | None,
    h: Steps,
    x: Steps | None,
    v: Tensor | None,
    q: Tensor | None,
    p: Dynamics,
    grad_x: Steps,
    grad_v0: Tensor | None,
    scratches: Steps,
    dot: Callable[[Tensor, Tensor], Tensor],
) -> list[Tensor]:
    """Fills the gradients of x, T times [M], and of the v before the first step [M]; gives the parts of that of q.

    With L the loss, g = g(h[t] - v_threshold), gs = dL/ds[t] and gv = dL/dv[t] (all that reaches v[t]: from outside and
    from step t + 1), for t = T .. 1:

        dL/dh[t]   = g (gs + gv (v_reset - h[t])) + gv (1 - s[t])      hard reset
        dL/dh[t]   = g (gs - gv v_threshold) + gv                      soft reset
        dL/dx[t]   = dL/dh[t]            or dL/dh[t] q if decay_input
        dL/dv[t-1] = dL/dh[t] (1 - q)
        dL/dq      = sum over t of dL/dh[t] (v_reset - v[t-1])       or, if decay_input, (x[t] + v_reset - v[t-1])

    and with detach_reset the bracket after g is gs alone. For IF, q = 0.
    """
    d, bracket, kept, carry, wide_gs, wide_h, wide_gh = scratches
    wide = d.dtype
    # 0-dim tensors: wrapping a Python number costs 1 us a call
    leak = q.to(h[0].dtype).to(wide) if q is not None else d.new_full((), 0.0 if p.tau is None else 1.0 / p.tau)
    decay, zero = 1.0 - leak, d.new_zeros(())
    v_threshold = h[0].new_full((), p.v_threshold)
    parts = []
    gv = None
    alone = 0 if grad_v is None else len(h) - len(grad_v)  # of the last v alone there is a gradient, or of each
    for t in reversed(range(len(h))):
        if grad_v is not None and t >= alone:
            gv = grad_v[t - alone].to(wide) if gv is None else gv.add_(grad_v[t - alone])
        gs, wide_h_t = _widened(grad_spikes[t], wide_gs), _widened(h[t], wide_h)
        gh = grad_x[t] if grad_x[t].dtype == wide else wide_gh
        torch.sub(h[t], v_threshold, out=d)  # rounded as there, since some surrogates jump
        past_g = zero if gv is None else gv
        if gv is not None and p.v_reset is not None:  # gv where d < 0, else 0: gv (1 - s[t]) in one pass
            past_g = torch.ops.aten.hardtanh_backward.grad_input(gv, d, -math.inf, 0.0, grad_input=kept)
        into_g = gs if gv is None or p.detach_reset else _bracket(gs, gv, wide_h_t, p, bracket)
        p.gradient(past_g, into_g, d, gh)

        if v is not None:
            v_before = _before(h[t - 1], v_threshold, p) if t > 0 else v
            parts.append(dot(gh, _dh_dq(None if x is None else x[t], v_before, p, wide)))
        if t > 0:
            gv = torch.mul(gh, decay, out=carry)
        elif grad_v0 is not None:
            torch.mul(gh, decay, out=grad_v0)
        if p.decay_input:
            torch.mul(gh, leak, out=grad_x[t])
        elif gh is wide_gh:
            grad_x[t].copy_(gh)
    return parts


def _backward(
    grad_spikes: Tensor, grad_v: Tensor | None, saved: Saved, p: Dynamics, needs_v: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of the input [T, N, *], of the initial v [N, *] (needs_v) and of q.

    grad_v is [T, N, *] or, for the last v, [1, N, *].
    """
    h_seq, x_seq, v, q = saved
    T, channels_last = len(h_seq), is_channels_last(h_seq[0])
    grad_x, grad_v0 = empty_steps(T, h_seq[0]), empty_step(h_seq[0]) if needs_v else None
    v0 = None if v is None else v.expand_as(h_seq[0])[None]
    seqs = (grad_spikes, grad_v, h_seq, x_seq, v0, grad_x, None if grad_v0 is None else grad_v0[None])
    scratches: tuple[Tensor, ...] = ()
    total_q, wide = 0.0, torch.promote_types(h_seq.dtype, torch.float32)
    for gs, gv, h, x, v_before, gx, gv0 in _by_chunk(seqs, channels_last):
        scratches = scratches or tuple(torch.empty_like(gx[0], dtype=wide) for _ in range(7))
        v_first, gv_first = (None if steps is None else steps[0] for steps in (v_before, gv0))
        own = [scratch[: len(gx[0])] for scratch in scratches]
        total_q += sum(map(float, _backward_steps(gs, gv, h, x, v_first, q, p, gx, gv_first, own, torch.dot)))
    return grad_x, grad_v0, None if q is None else q.new_tensor(total_q)


def _backward_kernel(
    grad_spikes: Tensor,
    grad_v: Tensor | None,
    h: Tensor,
    x: Tensor | None,
    v: Tensor | None,
    q: Tensor | None,
    *,
    p: Dynamics,
    needs_v: bool,
) -> list[Tensor]:
    """`_backward` without writing to what it is given, to be compiled: [T, M] (grad_v also [1, M]), v [M] or a number;
    in the place of the gradient of q its parts [T]."""
    gs, hs = grad_spikes.unbind(0), h.unbind(0)
    gv, xs = (None if seq is None else seq.unbind(0) for seq in (grad_v, x))
    grad_x, grad_v0 = [torch.empty_like(step) for step in hs], torch.empty_like(hs[0]) if needs_v else None
    scratches = [torch.empty_like(hs[0], dtype=torch.promote_types(h.dtype, torch.float32)) for _ in range(7)]
    v0 = None if v is None else torch.empty_like(hs[0]).copy_(v)
    parts = _backward_steps(gs, gv, hs, xs, v0, q, p, grad_x, grad_v0, scratches, _dot)
    of_v, of_q = [] if grad_v0 is None else [grad_v0], [torch.stack(parts)] if parts else []
    return [torch.stack(grad_x), *of_v, *of_q]


def _backward_compiled(
    grad_spikes: Tensor, grad_v: Tensor | None, saved: Saved, p: Dynamics, needs_v: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`_backward` by a compiled kernel."""
    h_seq, x_seq, v, q = saved
    channels_last = is_channels_last(h_seq[0])
    gs, gv, h, x = (None if seq is None else dense(seq, channels_last) for seq in (grad_spikes, grad_v, h_seq, x_seq))
    v0 = dense(v[None], channels_last)[0] if v is not None and v.ndim > 0 else v
    grad_x, *others = compiling.run(_backward_kernel, (gs, gv, h, x, v0, q), p=p, needs_v=needs_v)
    grad_v0 = shaped(others.pop(0), h_seq[0]) if needs_v else None
    grad_q = None if q is None else others.pop().sum().to(q.dtype)
    return shaped(grad_x, h_seq[0]), grad_v0, grad_q


class _MultiStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_seq: Tensor, v: Tensor | float, q: Tensor | None, p: Dynamics, keep_v: bool, compiled: bool
    ) -> tuple[Tensor, Tensor]:
        run = _forward_compiled if compiled else _forward
        spikes, v_out, h_seq = run(x_seq, v, q, p, keep_h=True, keep_v=keep_v)
        learns = q is not None
        v_kept = v if isinstance(v, Tensor) else x_seq.new_full((), v)
        ctx.save_for_backward(h_seq, x_seq if learns and p.decay_input else None, v_kept if learns else None, q)
        ctx.p, ctx.kept_v, ctx.compiled = p, keep_v, compiled
        ctx.set_materialize_grads(False)
        return spikes, v_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = Saved(*ctx.saved_tensors)
        gs = torch.zeros_like(saved.h_seq) if grad_spikes is None else grad_spikes
        gv = grad_v if grad_v is None or ctx.kept_v else grad_v[None]
        grads = (_backward_compiled if ctx.compiled else _backward)(gs, gv, saved, ctx.p, ctx.needs_input_grad[1])
        x, v0, q = (grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False))
        return x, v0, q, None, None, None
