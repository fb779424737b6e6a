"""How what a module puts out becomes steps of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from sj_cka.recording.select import Pick, not_a_tensor, readable

Factor = tuple[Literal["T", "N", "F"], int]


@dataclass(frozen=True)
class Tap:
    """How the outputs of one module become `[S, n, ...]`, S steps of n samples.

    Args:
        layer: the layer's name: the module's, with `#use` where the module is used several times in a step.
        module: dotted name of the module.
        uses: calls of the module in one step (or in one pass, where the calls do not make the steps).
        use: which of them this layer is.
        time: "axis": steps lie in an axis of the output, "calls": one call is one step, "static": no change with time.
        axis: axis that counts samples.
        factors: what that axis folds, slowest first: T steps, N samples, F windows or tokens (they are features).
        time_axis: axis of the steps where it is one of its own.
        time_factors: what that axis folds, slowest first: T steps and F features of each.
        step_first: whether the calls of several uses run step by step (else use by use, as in a container over time).
        by_number: whether the calls are taken for steps by their number alone.
        select: takes the layer's tensor out of an output that holds several; None where it is a tensor.
        neuron: whether the module is a neuron.
        real: whether its output holds real numbers.
        steady: whether all of several steps were the very same, and finite, in the probes: the layer probably lies
            before the first neuron.
        maps: whether `[S, n, ...]` are `[S, n, C, H, W, ...]`, so that an average over space makes sense.
        width: number of features of one sample at one step.
    """

    layer: str
    module: str
    uses: int
    use: int
    time: Literal["axis", "calls", "static"]
    axis: int
    factors: tuple[Factor, ...] = (("N", 1),)
    time_axis: int | None = None
    time_factors: tuple[Factor, ...] = (("T", 1),)
    step_first: bool = True
    by_number: bool = False
    select: Pick | None = None
    neuron: bool = False
    real: bool = True
    steady: bool = False
    maps: bool = False
    width: int = 0

    def step_of(self, call: int, T: int) -> int | None:
        """Step (from 0) that a call of the module gives of this layer; None if the call is another use of it."""
        if self.time != "calls":
            return 0 if call == self.use else None
        step, use = divmod(call, self.uses) if self.step_first else divmod(call, T)[::-1]
        return step if use == self.use else None

    def picked(self, output: Any) -> Tensor:
        """The layer's tensor in an output of the module."""
        if self.select is not None:
            output = self.select(output)
        if not isinstance(output, Tensor) or output.is_nested:
            raise TypeError(not_a_tensor(self.module, output))
        return readable(output)

    def rows(self, output: Any, n: int, T: int) -> Tensor:
        """`[S, n, ...]` of one output: S = T where the steps lie in it, else 1."""
        return self.split(self.picked(output), n, T)

    def split(self, x: Tensor, n: int, T: int) -> Tensor:
        """`[S, n, ...]` of a tensor that is laid out as the layer's."""
        folds = {self.axis: self.factors}
        if self.time_axis is not None:
            folds[self.time_axis] = self.time_factors
        kinds: list[str] = []
        sizes: list[int] = []
        for axis, size in enumerate(x.shape):
            factors = folds.get(axis, (("F", size),))
            kinds += [kind for kind, _ in factors]
            sizes += [n if kind == "N" else T if kind == "T" else count for kind, count in factors]
        try:
            y = x.reshape(sizes)
        except RuntimeError as error:
            raise ValueError(
                f"layer {self.layer!r}: expected an output that splits into {sizes} for {n} samples and {T} steps, got "
                f"shape {tuple(x.shape)}; was the network given other steps than in the probes?"
            ) from error
        if self.time != "axis":
            return y.movedim(kinds.index("N"), 0).unsqueeze(0)
        return y.movedim((kinds.index("T"), kinds.index("N")), (0, 1))

    def averaged(self, x: Tensor) -> Tensor:
        """A tensor that is laid out as the layer's without its axis of steps, if that is one of its own."""
        if self.time_axis is None:
            return x
        return x.squeeze(self.time_axis) if x.shape[self.time_axis] == 1 else x.mean(self.time_axis)
