"""What a network computes for an image, and the energy of that arithmetic: operations counted while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from sj_cka.recording import is_neuron, preserved, reset_states

_MAC_PJ, _SYNOP_PJ = 4.6, 0.9

ASSUMPTION = (
    f"45 nm, float32: {_MAC_PJ} pJ a multiply-accumulate and {_SYNOP_PJ} pJ an accumulation (Horowitz 2014, ISSCC); "
    "convolutions and matrix products alone, without batch normalisation, neurons and memory traffic"
)


class Cost(NamedTuple):
    """What an image costs: means over the images, and the number of parameters; see `cost`.

    Args:
        synops: synaptic operations, the accumulations that spikes drive.
        macs: multiply-accumulates.
        energy_nj: estimate of the energy in nJ, under ASSUMPTION.
        parameters: of the network; not a mean.
    """

    synops: float
    macs: float
    energy_nj: float
    parameters: int


@torch.no_grad()
def cost(network: nn.Module, images: Tensor, *, batch_size: int = 64, axis: int = 0) -> Cost:
    """Synaptic operations, multiply-accumulates and energy of an image, counted while a network sees images.

    Energy is 4.6 pJ a multiply-accumulate (MAC) and 0.9 pJ an accumulation: an addition, and for a MAC a multiplication
    of 3.7 pJ beside it, float32 in 45 nm (Horowitz 2014, ISSCC). Counted are convolutions and matrix products, as they
    are executed; a layer before the first neuron that runs once for all T steps counts once. Not counted are biases,
    batch normalisation (folded into weights and thresholds at inference), neurons, pooling and other arithmetic between
    the layers, and the traffic of memory, often the larger part of the energy, which depends on the hardware. A network
    of `converted_snn` is shown its input T times from the start, so that all its layers run T times.

    What a value costs depends on where it comes from, not on how it looks, so that neither a silent ReLU nor a binary
    image is taken for spikes, and the count is the same in any batches:

    - Spikes are what SpikingJelly's neurons put out, where that is whole numbers; m > 1 counts as m spikes. Each costs
      an accumulation for every weight it meets, at the border of an image those inside it.
    - So do spikes that were copied, summed, averaged or multiplied by one constant on their way, as by a pooling, by
      the sum of SEW ResNet or by the scale of `sj_cka.twins.converted_snn`: these steps are linear and fold into the
      weights. A mean over m spikes costs m accumulations. Of a maximum, the chosen value counts.
    - Spikes of different worth that were mixed, as by a scale for each channel or the sum of neurons of two scales, do
      not: each value other than 0 costs a MAC for every weight it meets.
    - Where spikes meet spikes (attention), each pair of values other than 0 costs an accumulation.
    - Every other value, 0 or not, is dense and costs a MAC for every weight it meets: the images themselves, all values
      of an artificial network, what batch normalisation puts out.

    Zeros of padding count neither way, so that neurons that fire at every step cost T times the operations of the twin.
    The usual formula, and SpikingJelly's `MACCounter`, count them as MACs: 1.19 times this number for a convolution of
    3x3 on an image of 8 x 8, 2.25 times on one of 2 x 2. SpikingJelly's `SynOpCounter` leaves them out too, and agrees
    with `synops` where spikes are 0 and 1 and nothing else is: it takes every tensor of zeros and ones for spikes.

    Args:
        network: takes images `[N, ...]`; run in evaluation mode from reset states, and left as it was.
        images: `[N, ...]`, on the network's device; N from 1.
        batch_size: images a step, from 1.
        axis: that of the images; 1 for frames of recordings, `[T, N, ...]`.

    Returns:
        Means over the images. A neuron that is not one of SpikingJelly's or a subclass counts as dense, and so does
        what was done to spikes by other operations than copies, sums, means, products and pooling.

    Raises:
        ValueError: no images, a batch size below 1, or products of a kind that is not counted (of LSTM, bilinear, with
            vectors).

    Example:
        >>> from spikingjelly.activation_based import neuron
        >>> cost(nn.Sequential(neuron.IFNode(), nn.Linear(4, 3)), torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
        Cost(synops=6.0, macs=0.0, energy_nj=0.0054, parameters=15)
    """
    N = images.shape[axis]
    if N < 1 or batch_size < 1:
        raise ValueError(
            f"expected one image or more and a batch size from 1, got images of shape {tuple(images.shape)} and "
            f"batch size {batch_size}"
        )
    counter = _Counter()
    with preserved(network), ExitStack() as undo, sdpa_kernel(SDPBackend.MATH):
        undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # like SDPA's kernels, it has no matrix products to see
        network.eval()
        reset_states(network)
        network(images.narrow(axis, 0, min(2, N)))  # an artificial twin runs itself on probes the first time
        for module in network.modules():
            if is_neuron(module):
                undo.callback(module.register_forward_hook(counter.fired).remove)
        for batch in images.split(batch_size, axis):
            reset_states(network)
            with counter:
                network(batch)
            counter.worths.clear()
    synops, macs = counter.synops / N, counter.macs / N
    energy_nj = (_SYNOP_PJ * synops + _MAC_PJ * macs) / 1000
    return Cost(synops, macs, energy_nj, sum(parameter.numel() for parameter in network.parameters()))


class _Counter(TorchDispatchMode):
    """Counts products below it; knows which memory holds spikes, and what one spike is worth there.

    Marks belong to memory, not to tensors: views share them, and writing ends them. A worth is the factor by which the
    values are numbers of spikes; NaN where it differs from value to value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.synops = self.macs = 0
        self.worths: dict[StorageWeakRef, float] = {}  # a weak reference keeps the address from being used anew

    def fired(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hook of a neuron: marks what it puts out, unless that is potentials."""
        if isinstance(output, Tensor) and (not output.is_floating_point() or torch.equal(output, output.round())):
            self.mark(output, 1.0)

    def mark(self, x: Tensor, worth: float | None) -> None:
        """Remembers that these are spikes of that worth; None: that they are not."""
        key = StorageWeakRef(x.untyped_storage())
        if worth is None:
            self.worths.pop(key, None)
        else:
            self.worths[key] = worth

    def worth(self, x: Any) -> float | None:
        """What one spike is worth in these values; None where they are not made of spikes."""
        return self.worths.get(StorageWeakRef(x.untyped_storage())) if isinstance(x, Tensor) else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _composed(func):  # in inference mode linear and conv2d come as they are called
            with self:
                return func.decompose(*args, **kwargs)
        if func in _REFUSED:
            raise ValueError(f"expected convolutions, mm, bmm, addmm and baddbmm; {func} cannot be counted")
        out = func(*args, **kwargs)
        rule = _RULES.get(func)
        worth = rule(self, args, kwargs, out) if rule is not None else None
        written = [args[at] if at < len(args) else kwargs.get(name) for at, name in _written(func)]
        for x in written:
            if isinstance(x, Tensor):
                whole = x.numel() * x.element_size() == x.untyped_storage().nbytes()
                self.mark(x, worth if whole or worth == self.worth(x) else None)
        if worth is not None and not written:
            self.mark(out[0] if isinstance(out, tuple) else out, worth)
        return out

    def charge(self, worth: float, count: Tensor) -> None:
        """Adds what spikes of a worth cost."""
        if math.isnan(worth):
            self.macs += int(count.item())
        else:
            self.synops += int(count.item())


Rule = Callable[[_Counter, Any, Mapping[str, Any], Any], float | None]  # gives the worth of what the operation made


@lru_cache(maxsize=4096)
def _composed(func: Any) -> bool:
    """Whether an operation is made of others."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return func.has_kernel_for_dispatch_key(key)


@lru_cache(maxsize=4096)
def _written(func: Any) -> tuple[tuple[int, str], ...]:
    """Place and name of the arguments that an operation writes into."""
    arguments = enumerate(func._schema.arguments)
    return tuple((at, a.name) for at, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def _spikes(x: Tensor, worth: float) -> Tensor:
    """Number of spikes in each value; where their worth differs, 1 for each value other than 0."""
    if math.isnan(worth):
        return x != 0
    return x.abs() if worth == 1 else (x / worth).round().abs()


def _matrices(first: int) -> Rule:
    """A product [..., L, M] @ [..., M, N], whose factors are the arguments from `first`."""

    def rule(counter: _Counter, args: Any, kwargs: Any, out: Tensor) -> float | None:
        x, y = args[first : first + 2]
        a, b = counter.worth(x), counter.worth(y)
        if a is not None and b is not None:
            pairs = (x != 0).sum(-2, dtype=torch.float64) * (y != 0).sum(-1, dtype=torch.float64)
            counter.charge(b if math.isnan(a) else a, pairs.sum())
            return a * b if first == 0 else None  # behind the others lies what is added
        if a is not None:
            counter.charge(a, _spikes(x, a).sum(dtype=torch.float64) * y.shape[-1])
        elif b is not None:
            counter.charge(b, _spikes(y, b).sum(dtype=torch.float64) * x.shape[-2])
        else:
            counter.macs += out.numel() * x.shape[-1]
        return None

    return rule


def _convolution(counter: _Counter, args: Any, kwargs: Any, out: Tensor) -> None:
    """A convolution `[N, C, *]`, also a transposed one; a value goes to reach x channels places of the output."""
    x, weight, _, stride, padding, dilation, transposed, _, groups = args
    kernel, sizes, made = weight.shape[2:], x.shape[2:], out.shape[2:]
    axes = zip(sizes, made, kernel, stride, padding, dilation, strict=True)
    reaches = [_reach(*axis, transposed) for axis in axes]
    channels = weight.shape[1] if transposed else weight.shape[0] // groups
    worth = counter.worth(x)
    if worth is None:
        counter.macs += x.shape[0] * x.shape[1] * channels * math.prod(int(reach.sum()) for reach in reaches)
        return
    count = _spikes(x, worth).sum((0, 1), dtype=torch.float64)
    for reach in reversed(reaches):
        count = count @ reach.to(count.device)
    counter.charge(worth, count * channels)


@lru_cache(maxsize=1024)
def _reach(size: int, made: int, kernel: int, stride: int, padding: int, dilation: int, transposed: bool) -> Tensor:
    """Along one axis, to how many places of the output each place of the input goes: `[size]`."""
    windows, places = (size, made) if transposed else (made, size)
    at = torch.arange(windows)[:, None] * stride - padding + torch.arange(kernel) * dilation  # [windows, kernel]
    inside = (at >= 0) & (at < places)
    return (inside.sum(1) if transposed else torch.bincount(at[inside], minlength=places)).double()


def _kept(counter: _Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Values that are copied, chosen, or added to each other."""
    return counter.worth(args[0])


def _padded(counter: _Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Values with a constant around them."""
    return counter.worth(args[0]) if len(args) < 3 or args[2] == 0 else None


def _joined(counter: _Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Tensors side by side."""
    return reduce(_alike, map(counter.worth, args[0]))


def _sum(counter: _Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """x + alpha y."""
    b = counter.worth(args[1])
    return _alike(counter.worth(args[0]), None if b is None else b * kwargs.get("alpha", 1))


def _alike(a: float | None, b: float | None) -> float | None:
    """The worth of spikes from two sources; NaN where it is not the same."""
    if a is None or b is None:
        return None
    return a if a == b else math.nan


def _complement(counter: _Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """1 - x, which spikes where x does not."""
    return 1.0 if counter.worth(args[0]) == 1 and tuple(args[1:]) == (1,) else None


def _product(counter: _Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Values times values, which are 0 where either is, or times a constant."""
    x, y = args
    a, b = counter.worth(x), counter.worth(y)
    if a is None and b is None:
        return None
    return (_constant(x) if a is None else a) * (_constant(y) if b is None else b)


def _quotient(counter: _Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Values by a constant."""
    worth = counter.worth(args[0])
    return None if worth is None else worth / _constant(args[1])


def _constant(x: Any) -> float:
    """A number, or the one in a tensor; NaN where there are several, or it is 0 and leaves nothing to count by."""
    return float(x) or math.nan if not isinstance(x, Tensor) or x.numel() == 1 else math.nan


def _mean(counter: _Counter, args: Any, kwargs: Any, out: Tensor) -> float | None:
    """Means over equally many values."""
    worth = counter.worth(args[0])
    return None if worth is None else worth * out.numel() / args[0].numel()


def _adaptive_pool(counter: _Counter, args: Any, kwargs: Any, out: Tensor) -> float | None:
    """Means over windows, which are of one size where they divide the image."""
    x, made = args
    divides = all(size % n == 0 for size, n in zip(x.shape[-len(made) :], made, strict=True))
    worth = _mean(counter, args, kwargs, out)
    return worth if worth is None or divides else math.nan


def _average_pool(counter: _Counter, args: tuple[Any, ...], kwargs: Any, out: Tensor) -> float | None:
    """Means over windows of a kernel, of one size unless the border cuts them off."""
    defaults: tuple[Any, ...] = ([], 0, False, True, None)  # of stride and what stands behind it
    _, padding, ceil_mode, pad_counts, divisor = args[2:] + defaults[len(args) - 2 :]
    worth = counter.worth(args[0])
    if worth is None:
        return None
    cut = ceil_mode or (padding not in (0, [0, 0], [0, 0, 0]) and not pad_counts)
    return worth / (divisor or (math.nan if cut else math.prod(args[1])))


_ATEN = torch.ops.aten

_RULES: dict[Any, Rule] = {
    _ATEN.convolution.default: _convolution,
    **{op.default: _matrices(0) for op in (_ATEN.mm, _ATEN.bmm)},
    **{op.default: _matrices(1) for op in (_ATEN.addmm, _ATEN.baddbmm)},
    **{op.default: _kept for op in (_ATEN.clone, _ATEN._to_copy, _ATEN.relu, _ATEN.relu_, _ATEN.repeat)},
    **{op.default: _kept for op in (_ATEN.index_select, _ATEN.flip, _ATEN.amax)},
    **{op.default: _kept for op in (_ATEN.max_pool2d_with_indices, _ATEN.max_pool3d_with_indices)},
    **{op.default: _kept for op in (_ATEN.adaptive_max_pool2d, _ATEN.adaptive_max_pool3d)},
    **dict.fromkeys((_ATEN.sum.default, _ATEN.sum.dim_IntList), _kept),
    **dict.fromkeys((_ATEN.mean.default, _ATEN.mean.dim), _mean),
    **dict.fromkeys((_ATEN._adaptive_avg_pool2d.default, _ATEN._adaptive_avg_pool3d.default), _adaptive_pool),
    **dict.fromkeys((_ATEN.avg_pool2d.default, _ATEN.avg_pool3d.default), _average_pool),
    **dict.fromkeys((_ATEN.cat.default, _ATEN.stack.default), _joined),
    **dict.fromkeys((_ATEN.add.Tensor, _ATEN.add_.Tensor), _sum),
    **dict.fromkeys((_ATEN.mul.Tensor, _ATEN.mul_.Tensor, _ATEN.mul.Scalar, _ATEN.mul_.Scalar), _product),
    **dict.fromkeys((_ATEN.div.Tensor, _ATEN.div_.Tensor, _ATEN.div.Scalar, _ATEN.div_.Scalar), _quotient),
    _ATEN.rsub.Scalar: _complement,
    _ATEN.constant_pad_nd.default: _padded,
}

# products that would be missed
_REFUSED = {
    *(_ATEN.mv.default, _ATEN.addmv.default, _ATEN.dot.default, _ATEN._trilinear.default),
    *(_ATEN._cudnn_rnn.default, _ATEN.miopen_rnn.default, _ATEN.mkldnn_rnn_layer.default),
}
