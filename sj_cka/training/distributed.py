"""What the processes of a `torch.distributed` group need to train one network together.

The batch is divided among the processes (`own_share`), each with the whole network (`share_weights`). Let the loss of a
process be the sum over its samples divided by the size N of the whole batch; then the sum over processes of its
gradients (`sum_gradients`) is that of the mean over the batch, however unequal the shares are:

    ∇ (1/N) Σ_i l_i = Σ_p ∇ (1/N) Σ_{i in p} l_i

This holds for networks that treat each sample by itself; batch normalisation does under `synchronised`. Without a
group, and in a group of one process, nothing here does anything.

In each function all processes must take part, with networks of the same structure on the devices of the group's
backend.
"""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from sj_cka.processes import world

BUCKET = 1 << 24  # elements that are sent at once: 67 MB of float32, beside what is sent


def own_share(indices: Tensor) -> Tensor:
    """The part of a batch that is this process's: contiguous, of sizes that differ by at most one.

    Args:
        indices: of the samples of the whole batch, `[N]`, the same on every process.

    Returns:
        `[N_p]`, a view; empty on the last processes if there are fewer samples than processes.

    Example:
        >>> own_share(torch.tensor([4, 0, 2]))
        tensor([4, 0, 2])
    """
    rank, processes = world()
    return indices.tensor_split(processes)[rank]


@torch.no_grad()
def share_weights(network: nn.Module) -> None:
    """Gives all processes the parameters and buffers of rank 0; each keeps its own layout in memory."""
    if world()[1] == 1:
        return
    for bucket in _buckets([*network.parameters(), *network.buffers()]):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        torch.distributed.broadcast(flat.view(torch.uint8), 0)  # as bytes: not every backend knows every dtype
        for tensor, sent in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(sent.view_as(tensor))


@torch.no_grad()
def sum_gradients(network: nn.Module) -> None:
    """Sums the gradient of each parameter over processes, in place.

    A parameter that has a gradient on some processes alone counts as zero on the others and has the sum on all; one
    that has none anywhere keeps none, so that an optimiser passes over it as it would in one process.
    """
    if world()[1] == 1:
        return
    for bucket in _buckets(parameter for parameter in network.parameters() if parameter.requires_grad):
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        here = bucket[0].new_ones(len(bucket))
        for i, parameter in enumerate(bucket):
            if parameter.grad is None:
                here[i] = 0
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), here])
        torch.distributed.all_reduce(flat)
        *sums, anywhere = flat.split([*(p.numel() for p in bucket), len(bucket)])
        for i, (parameter, gradient, total) in enumerate(zip(bucket, gradients, sums, strict=True)):
            gradient.copy_(total.view_as(gradient))
            if parameter.grad is None and anywhere[i] > 0:  # in this order: a look would wait for the device
                parameter.grad = gradient


def sum_of(*values: Tensor) -> tuple[Tensor, ...]:
    """Sums over processes, each of the shape and dtype of its value, without gradient.

    Example:
        >>> sum_of(torch.tensor(2.5), torch.tensor([3, 4]))
        (tensor(2.5000), tensor([3, 4]))
    """
    if world()[1] == 1:
        return tuple(value.detach() for value in values)
    sums = tuple(value.detach().clone(memory_format=torch.contiguous_format) for value in values)
    for total in sums:
        torch.distributed.all_reduce(total)
    return sums


@contextmanager
def synchronised(network: nn.Module) -> Iterator[None]:
    """While entered, batch normalisation in training mode normalises over the batches of all processes together.

    With the values `x` of a channel, n_p of them on process p, their mean μ_p and sum of centred squares M_p (Ioffe &
    Szegedy 2015, algorithm 1, with the formula of Chan, Golub & LeVeque 1979 for the variance of parts):

        n = Σ_p n_p,    μ = Σ_p n_p μ_p / n,    M = Σ_p (M_p + n_p (μ_p - μ)²)
        x̂ = (x - μ) / √(M/n + ε),    y = γ x̂ + β
        ∂L/∂x = γ / √(M/n + ε) (g - ⟨g⟩ - x̂ ⟨g x̂⟩),    g = ∂L/∂y

    L is the sum of the losses of all processes and ⟨·⟩ the mean over the values of all; the gradients of γ and β are
    those of the own values, for `sum_gradients`. Running statistics move as torch has it: by momentum, or to the mean
    over batches without one, with the unbiased variance M / (n - 1). Means and squares are taken in float32, also under
    autocast (in float64 of float64 values), and put together in float64.

    Differs from `torch.nn.SyncBatchNorm` in that it takes CPU tensors; that modules are changed for a time and not
    replaced, so that step mode, hooks, names and the state dict stay; that variances are sent as such, not as
    1/√(M_p/n_p + ε); and that one value in all is refused, as `torch.nn.BatchNorm2d` does.

    This is for `torch.nn.BatchNorm1d` to `3d` and all that call their forward, as SpikingJelly's do in both step modes;
    T and N are normalised over as there. A `torch.nn.SyncBatchNorm` is left as it is. Processes may have unequal
    shares, or no sample: `[T, 0, ...]`. All must run the same layers in the same order, forward and backward. In
    evaluation mode nothing changes: there a layer may run on one process alone. A copy of a network that is made
    meanwhile stays synchronised.

    Raises:
        ValueError: in the forward pass, on all processes, if a channel has fewer than 2 values on all together.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)] if world()[1] > 1 else []
    kinds: list[type] = [type(norm) for norm in norms]
    try:
        for norm, kind in zip(norms, kinds, strict=True):
            norm.__class__ = _over_processes(kind)
        yield
    finally:
        for norm, kind in zip(norms, kinds, strict=True):
            norm.__class__ = kind


@functools.cache
def _over_processes(kind: type) -> type:
    """A kind of batch normalisation whose `super().forward` is that of `_OverProcesses`."""
    return type(kind.__name__, (kind, _OverProcesses), {"__module__": kind.__module__})


class _OverProcesses(_BatchNorm):
    """Stands between `_BatchNorm` and its subclasses in the method resolution order."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        count, mean, squares = _statistics(x)
        self._track(count, mean, squares)
        dtype = _wide(x)
        normalised: Tensor = _Normalise.apply(
            x, self.weight, self.bias, count, mean.to(dtype), (squares / count).to(dtype), self.eps
        )
        return normalised

    @torch.no_grad()
    def _track(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        """Moves the running statistics."""
        if not self.track_running_stats:
            return
        share = self.momentum or 0.0
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                share = 1.0 / float(self.num_batches_tracked)
        for running, now in ((self.running_mean, mean), (self.running_var, squares / (count - 1))):
            if running is not None:
                running.lerp_(now.to(running.dtype), share)


@torch.no_grad()
def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values a channel `[]`, their mean `[C]` and sum of centred squares `[C]` over all processes, in float64."""
    x, over, C = x.to(_wide(x)), _over(x), x.shape[1]
    values = x.numel() // C
    # in two passes, since torch.var_mean, which makes one, is the slower on the CPU
    centre = x.sum(over, keepdim=True) / max(values, 1)
    around = x - centre
    # the rounding of the centre, which is nothing within a process, would stand out between them far from zero
    off = around.sum(over).double() / max(values, 1)
    squares = (around.square_().sum(over).double() - values * off.square()).clamp_(min=0)  # rounding
    statistics = torch.cat([off.new_full((1,), values), centre.flatten() + off, squares])
    parts = statistics.new_empty(world()[1], len(statistics))
    torch.distributed.all_gather(list(parts), statistics)
    counts, means, squares_of = parts.split([1, C, C], dim=1)
    count = counts.sum()
    if values < 2 and count < 2:  # in this order: a look at the count would wait for the device
        raise ValueError(
            f"expected at least 2 values a channel over all processes to normalise in training mode, got {int(count)} "
            f"(here a batch {list(x.shape)}): take larger batches"
        )
    mean = (counts * means).sum(0) / count
    return count, mean, (squares_of + counts * (means - mean).square()).sum(0)


class _Normalise(torch.autograd.Function):
    """Normalises `[N, C, *]` by statistics over all processes, which are functions of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        count: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, count, mean, torch.rsqrt(var + eps))
        gain, shift = (None if affine is None else affine.to(mean.dtype) for affine in (weight, bias))
        return nn.functional.batch_norm(x, mean, var, gain, shift, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, count, mean, scale = ctx.saved_tensors
        over = _over(x)
        channels = [1, -1] + [1] * (x.ndim - 2)
        grad = grad.to(mean.dtype)
        normed = (x - mean.view(channels)) * scale.view(channels)
        sums = torch.stack([(grad * normed).sum(over), grad.sum(over)])
        grad_x = None
        if ctx.needs_input_grad[0]:
            along, level = sum_of(sums)[0] / count
            gain = scale if weight is None else scale * weight
            by_statistics = normed.mul_(along.view(channels)).add_(level.view(channels))
            grad_x = (grad - by_statistics).mul_(gain.view(channels)).to(x.dtype)
        of_weight, of_bias = (
            None if affine is None else total.to(affine.dtype)
            for affine, total in zip((weight, bias), sums, strict=True)
        )
        return grad_x, of_weight, of_bias, None, None, None, None


def _wide(x: Tensor) -> torch.dtype:
    """What statistics are taken in."""
    return torch.promote_types(x.dtype, torch.float32)


def _over(x: Tensor) -> list[int]:
    """All axes but that of channels."""
    return [axis for axis in range(x.ndim) if axis != 1]


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype and device, of at most `BUCKET` elements unless one has more."""
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in alike.values():
        bucket: list[Tensor] = []
        for tensor in group:
            if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket
