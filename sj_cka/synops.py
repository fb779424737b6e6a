"""Operations counted while a network runs: which memory holds spikes, and what each kind of product costs."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counter(TorchDispatchMode):
    """Counts products below it; knows which memory holds spikes, and what one spike is worth there.

    Marks belong to memory, not to tensors: views share them, in whatever order they read it, and writing other values
    ends them. A worth is the factor by which the values are numbers of spikes; NaN where it differs from value to
    value, 0 in new memory that holds nothing but zeros, or nothing yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.synops = self.macs = 0
        self.worths: dict[StorageWeakRef, float] = {}  # a weak reference keeps the address from being used anew
        self.data: set[StorageWeakRef] = set()  # memory of what was made of the images

    def show(self, images: Tensor) -> None:
        """Begins a batch."""
        self.worths.clear()
        self.data = {StorageWeakRef(images.untyped_storage())}

    def fired(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hook of a neuron or an encoder: marks what it puts out, unless that is potentials."""
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
        return self.held(x) or None

    def held(self, x: Any) -> float | None:
        """The same, but 0 of zeros, which go with spikes of any worth."""
        return self.worths.get(StorageWeakRef(x.untyped_storage())) if isinstance(x, Tensor) else None

    def of_data(self, x: Tensor) -> bool:
        """Whether these values were made of the images."""
        return StorageWeakRef(x.untyped_storage()) in self.data

    def constant(self, x: Any) -> float:
        """A number, or the one in a tensor; NaN where there are several, one for each image, or 0 to count by."""
        if isinstance(x, Tensor) and (x.numel() != 1 or self.of_data(x)):
            return math.nan
        return float(x) or math.nan

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _composed(func):  # in inference mode linear and conv2d come as they are called
            with self:
                return func.decompose(*args, **kwargs)
        if func in _REFUSED:
            raise ValueError(f"expected convolutions, mm, bmm, addmm and baddbmm; {func} cannot be counted")
        rule = _RULES.get(func)
        for x in _tensors(args[rule in (_blank, _filled, _copied) :]):
            if rule is not None and self.held(x) == 0 and x.any():  # written by what is not seen here
                self.mark(x, None)
        out = func(*args, **kwargs)
        worth = rule(self, args, kwargs, out) if rule is not None else None
        written = [args[at] if at < len(args) else kwargs.get(name) for at, name in _written(func)]
        if any(map(self.of_data, _tensors((args, kwargs)))):
            self.data.update(StorageWeakRef(x.untyped_storage()) for x in _tensors((out, written)))
        for x in written:
            if isinstance(x, Tensor):
                whole = x.numel() * x.element_size() == x.untyped_storage().nbytes()
                self.mark(x, worth if whole else _beside(self.held(x), worth))
        if worth is not None and not written:
            self.mark(out[0] if isinstance(out, tuple) else out, worth)
        return out

    def charge(self, worth: float, count: Tensor) -> None:
        """Adds what spikes of a worth cost."""
        if math.isnan(worth):
            self.macs += int(count.item())
        else:
            self.synops += int(count.item())


Rule = Callable[[Counter, Any, Mapping[str, Any], Any], float | None]  # gives the worth of what the operation made


@lru_cache(maxsize=4096)
def _composed(func: Any) -> bool:
    """Whether an operation is made of others."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return func.has_kernel_for_dispatch_key(key)


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested containers, but for those without memory of their own kind (sparse)."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.layout is torch.strided]


@lru_cache(maxsize=4096)
def _written(func: Any) -> tuple[tuple[int, str], ...]:
    """Place and name of the arguments that an operation writes values into."""
    if torch.Tag.inplace_view in func.tags:  # as_strided_, transpose_, squeeze_: another view of the same values
        return ()
    arguments = enumerate(func._schema.arguments)
    return tuple((at, a.name) for at, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def _spikes(x: Tensor, worth: float) -> Tensor:
    """Number of spikes in each value; where their worth differs, 1 for each value other than 0."""
    if math.isnan(worth):
        return x != 0
    return x.abs() if worth == 1 else (x / worth).round().abs()


def _matrices(first: int) -> Rule:
    """A product [..., L, M] @ [..., M, N], whose factors are the arguments from `first`."""

    def rule(counter: Counter, args: Any, kwargs: Any, out: Tensor) -> float | None:
        x, y = args[first : first + 2]
        if 0 in (counter.held(x), counter.held(y)):
            return None
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


def _convolution(counter: Counter, args: Any, kwargs: Any, out: Tensor) -> None:
    """A convolution `[N, C, *]`, also a transposed one; a value goes to reach x channels places of the output."""
    x, weight, _, stride, padding, dilation, transposed, _, groups = args
    if counter.held(x) == 0:
        return
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


def _blank(counter: Counter, args: Any, kwargs: Any, out: Any) -> float:
    """New memory, or zeros."""
    return 0.0


def _filled(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """One value everywhere."""
    return 0.0 if float(args[1]) == 0 else None


def _beside(held: float | None, worth: float | None) -> float | None:
    """The worth of memory that held one of these and of which a part was written with the other."""
    if held == 0 or worth == 0:
        return worth if held == 0 else held
    return worth if worth == held else None


def _copied(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Values that are written over others."""
    return counter.held(args[1])


def _kept(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Values that are copied, chosen, or added to each other."""
    return counter.worth(args[0])


def _padded(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Values with a constant around or between them."""
    return counter.worth(args[0]) if len(args) < 3 or args[2] == 0 else None


def _joined(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Tensors side by side."""
    return reduce(_alike, map(counter.held, args[0]))


def _sum(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """x + alpha y."""
    b = counter.held(args[1])
    return _alike(counter.held(args[0]), None if b is None else b * kwargs.get("alpha", 1))


def _difference(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """x - alpha y."""
    return _sum(counter, args, {"alpha": -kwargs.get("alpha", 1)}, out)


def _negative(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """-x."""
    return _product(counter, (args[0], -1), kwargs, out)


def _alike(a: float | None, b: float | None) -> float | None:
    """The worth of spikes from two sources; NaN where it is not the same."""
    if a is None or b is None:
        return None
    return a or b if 0 in (a, b) else a if a == b else math.nan


def _complement(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """1 - x, which spikes where x does not."""
    return 1.0 if counter.worth(args[0]) == 1 and tuple(args[1:]) == (1,) else None


def _product(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Values times values, which are 0 where either is, or times a constant."""
    x, y = args
    a, b = counter.worth(x), counter.worth(y)
    if a is None and b is None:
        return None
    return (counter.constant(x) if a is None else a) * (counter.constant(y) if b is None else b)


def _quotient(counter: Counter, args: Any, kwargs: Any, out: Any) -> float | None:
    """Values by a constant."""
    return None if (worth := counter.worth(args[0])) is None else worth / counter.constant(args[1])


def _mean(counter: Counter, args: Any, kwargs: Any, out: Tensor) -> float | None:
    """Means over equally many values."""
    return None if (worth := counter.worth(args[0])) is None else worth * out.numel() / args[0].numel()


def _adaptive_pool(counter: Counter, args: Any, kwargs: Any, out: Tensor) -> float | None:
    """Means over windows, which are of one size where they divide the image."""
    x, made = args
    divides = all(size % n == 0 for size, n in zip(x.shape[-len(made) :], made, strict=True))
    worth = _mean(counter, args, kwargs, out)
    return worth if worth is None or divides else math.nan


def _average_pool(counter: Counter, args: tuple[Any, ...], kwargs: Any, out: Tensor) -> float | None:
    """Means over windows of a kernel, of one size unless the border cuts them off."""
    defaults: tuple[Any, ...] = ([], 0, False, True, None)  # of stride and what stands behind it
    _, padding, ceil_mode, pad_counts, divisor = args[2:] + defaults[len(args) - 2 :]
    worth = counter.worth(args[0])
    if worth is None:
        return None
    cut = ceil_mode or (padding not in (0, [0, 0], [0, 0, 0]) and not pad_counts)
    return worth / (divisor or (math.nan if cut else math.prod(args[1])))


_ATEN = torch.ops.aten


def _overloads(rule: Rule, *names: str) -> dict[Any, Rule]:
    """A rule for every overload of operations, by their names."""
    packets = [getattr(_ATEN, name) for name in names]
    return {getattr(packet, overload): rule for packet in packets for overload in packet.overloads()}


_PADS = [f"{way}_pad{axes}d" for way in ("reflection", "replication") for axes in (1, 2, 3)]
_UPSAMPLINGS = ["upsample_nearest", "_upsample_nearest_exact"]
_POOLS = ["max_pool{}d_with_indices", "adaptive_max_pool{}d", "fractional_max_pool{}d"]

_RULES: dict[Any, Rule] = {
    _ATEN.convolution.default: _convolution,
    **{op.default: _matrices(0) for op in (_ATEN.mm, _ATEN.bmm)},
    **{op.default: _matrices(1) for op in (_ATEN.addmm, _ATEN.baddbmm)},
    **_overloads(_blank, "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    **_overloads(_blank, "zeros", "zeros_like", "new_zeros", "zero_"),
    **_overloads(_filled, "fill_"),
    **_overloads(_copied, "copy_"),
    **_overloads(_kept, "clone", "_to_copy", "relu", "relu_", "repeat", "tril", "triu", "roll", "flip"),
    **_overloads(_kept, "index_select", "index", "_unsafe_index", "gather", "amax", "amin", "im2col", *_PADS),
    **_overloads(_kept, "pixel_shuffle", "pixel_unshuffle", "native_channel_shuffle", "channel_shuffle"),
    **_overloads(_kept, *(f"{kind}{axes}d" for kind in _UPSAMPLINGS for axes in (1, 2, 3)), "sum", "cumsum"),
    **_overloads(_kept, *(pool.format(axes) for pool in _POOLS for axes in (2, 3))),
    **dict.fromkeys((_ATEN.max.dim, _ATEN.min.dim), _kept),
    **_overloads(_mean, "mean"),
    **_overloads(_adaptive_pool, "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    **_overloads(_average_pool, "avg_pool2d", "avg_pool3d"),
    **_overloads(_joined, "cat", "stack"),
    **dict.fromkeys((_ATEN.add.Tensor, _ATEN.add_.Tensor), _sum),
    **dict.fromkeys((_ATEN.sub.Tensor, _ATEN.sub_.Tensor), _difference),
    **dict.fromkeys((_ATEN.neg.default, _ATEN.neg_.default), _negative),
    **dict.fromkeys((_ATEN.mul.Tensor, _ATEN.mul_.Tensor, _ATEN.mul.Scalar, _ATEN.mul_.Scalar), _product),
    **dict.fromkeys((_ATEN.div.Tensor, _ATEN.div_.Tensor, _ATEN.div.Scalar, _ATEN.div_.Scalar), _quotient),
    _ATEN.rsub.Scalar: _complement,
    **_overloads(_padded, "constant_pad_nd", "masked_fill", "masked_fill_"),
}

# products that would be missed
_REFUSED = {
    *(_ATEN.mv.default, _ATEN.addmv.default, _ATEN.dot.default, _ATEN._trilinear.default),
    *(_ATEN._cudnn_rnn.default, _ATEN.miopen_rnn.default, _ATEN.mkldnn_rnn_layer.default),
}
