"""CKA over minibatches: sums of HSIC between every layer and step of two networks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.activity import Activity
from sj_cka.cka.gram import as_tensor
from sj_cka.cka.layer_grams import Grams, flat, grams
from sj_cka.cka.layer_steps import LayerSteps, summary
from sj_cka.cka.measures import MEASURES
from sj_cka.cka.permutations import STEPS, PermutedSamples, classes_of, permutations_of, permuted_steps
from sj_cka.cka.result import CKAResult
from sj_cka.cka.sums import (
    DIMS,
    Accumulator,
    BatchSums,
    Centred,
    FirstSamples,
    GroupSums,
    MeasureMeans,
    OwnSums,
    SampleShares,
    StepSums,
)
from sj_cka.plugins import lookup
from sj_cka.processes import gathered, in_group

LayerFeatures = Mapping[str, Tensor | np.ndarray]
_STATE = ("n", "batches", "end", "left_out", "asked")


class CKA:
    """Accumulates CKA between all layers and steps of two networks over minibatches of the same samples.

    Every minibatch adds n_b HSIC_1 of each pair to float64 sums, and the ratio is taken last (after Nguyen et al. 2021,
    eq. 3; the weight n_b lets a short batch count as a short one):

        CKA = sum_b n_b HSIC(K_b, L_b) / sqrt( sum_b n_b HSIC(K_b, K_b) sum_b n_b HSIC(L_b, L_b) )

    Being sums, states merge: of processes, or of parts of a data set.

    Args:
        samples: also keep what every sample contributes to every pair of layers (all steps concatenated), which
            `interval`, `difference`, `against_n` and `influence` need: 4 bytes for each sample and pair. Without it an
            interval needs 8 minibatches.
        permutations: also take so many baselines in which the samples of y are in another order, drawn anew each time,
            for `CKAResult.baseline`; or a mapping `{"samples": 200, "classes": 200, "steps": 1}`. "classes" are
            baselines in which samples of y change places within their class, `baseline(within="classes")`. "steps" also
            compares with the order of the steps permuted for every unit and sample: `CKAResult.permuted_steps`, for the
            `null` of `dynamics`.
        measures: further names of `sj_cka.cka.MEASURES`, of all steps concatenated, e.g. "rsa", "procrustes":
            `CKAResult.matrix(measure=...)`.
        resume: `compare(..., into=)` may add to what is here already.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> cka = CKA()
        >>> for _ in range(2):  # [T, N, D]: four steps of a spiking layer, one of its twin
        ...     cka.update({"lif": torch.rand(4, 16, 8, generator=g)}, {"relu": torch.rand(1, 16, 8, generator=g)})
        >>> cka.compute().data.cka.dims
        ('layer_x', 'step_x', 'layer_y', 'step_y')
    """

    def __init__(
        self,
        *,
        samples: bool = True,
        permutations: int | Mapping[str, int] = 0,
        measures: str | Sequence[str] = (),
        resume: bool = False,
    ) -> None:
        self.samples, self.permutations, self.resume = samples, permutations_of(permutations), resume
        names = [measures] if isinstance(measures, str) else measures
        self.measures = {name: lookup(MEASURES, name, "measure") for name in names if name != "cka"}
        self.options: dict[str, Any] = {
            "samples": samples,
            "permutations": self.permutations,
            "measures": list(self.measures),
        }
        self.reset()

    def reset(self) -> None:
        """Forgets all minibatches."""
        self.sides: tuple[LayerSteps, ...] = ()  # of x and y, once a minibatch was seen
        self.n = self.batches = 0
        self.end = 0  # behind the last sample, those left out counted as well
        self.left_out: list[int] = []  # numbers of minibatches that were too small
        self.asked: dict[str, Any] = {}  # what every minibatch brings, or none
        self.also: dict[str, CKA] = {}  # of other observables, and of permuted steps
        self.parts: list[Accumulator] = [StepSums(), MeasureMeans(self.measures)]
        for within, count in ((False, self.permutations["samples"]), (True, self.permutations["classes"])):
            self.parts += [PermutedSamples(count, within=within)] if count else []
        self.parts += [FirstSamples(), SampleShares()] if self.samples else []
        self.parts += [GroupSums(), BatchSums(), Activity(), OwnSums()]

    @property
    def read(self) -> int:
        """Minibatches so far, those left out as well."""
        return self.batches + len(self.left_out)

    def update(
        self,
        features_x: LayerFeatures,
        features_y: LayerFeatures | None = None,
        *,
        given: LayerFeatures | None = None,
        groups: Mapping[str, Tensor] | None = None,
        labels: Any = None,
        place: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Adds one minibatch.

        Args:
            features_x: `{layer: [T, N, ...]}` of the first network, N >= 4 samples, tensors or arrays.
            features_y: `{layer: [T', N, ...]}` of the second on the same samples; None compares x with itself.
            given: `{name: [1, N, ...]}`, one layer, for `CKAResult.partial`.
            groups: name -> bool `[N]`, samples whose CKA is taken for themselves; they may overlap.
            place: of the first sample among all, where some were left out; by default behind those before.
            labels: of the samples, `[N]` or several numbers for each, for permutations within classes.
            seed: of the minibatch, made from its inputs: what its permutations are drawn from, so that they are the
                same in whatever process it is seen, and by which `CKAResult.difference` knows the inputs again. By
                default the permutations follow the number of the minibatch.

        Raises:
            ValueError: shapes, layers or numbers of steps that do not fit each other or the batches before; the sums
                are then what they were.
        """
        sides = [features_x] if features_y is None else [features_x, features_y]
        centred = [grams(side) for side in sides]
        z = None if given is None else grams(given)
        also = {}
        if self.permutations["steps"]:
            draws = [torch.Generator().manual_seed(2 * (self.read if seed is None else seed) + i) for i in range(2)]
            permuted = [grams(_permuted(side, draw)) for side, draw in zip(sides, draws, strict=False)]
            also[STEPS] = permuted[0], permuted[-1]
        self.update_grams(
            centred[0], centred[-1], given=z, groups=groups, labels=labels, place=place, seed=seed, also=also
        )

    def update_grams(
        self,
        x: Grams,
        y: Grams,
        *,
        given: Grams | None = None,
        groups: Mapping[str, Tensor] | None = None,
        labels: Any = None,
        place: int | None = None,
        seed: int | None = None,
        also: Mapping[str, tuple[Grams, Grams]] | None = None,
    ) -> None:
        """Adds one minibatch given as centred Grams, see `update`; `also` holds those of other observables by name."""
        place = self.end if place is None else place
        asked = {"given": given is not None, "seed": seed is not None, "also": sorted(also or {})}
        classes = self._classes(labels, x.n)
        batch = Centred(x, y, given, groups or {}, place, seed, self.batches, classes)
        self._expect(batch, asked)
        self.asked = asked
        sides = LayerSteps.of(x, place), LayerSteps.of(y, place)
        self.sides = self.sides or sides
        for side, more in zip(self.sides, sides, strict=True):
            side.merge(more)
        for part in self.parts:
            part.update(batch)
        self.n += x.n
        self.end = max(self.end, place + x.n)
        self.batches += 1
        for name, pair in (also or {}).items():
            self.also.setdefault(name, CKA(samples=False)).update_grams(*pair, place=place, seed=seed)

    def leave_out(self, n: int) -> None:
        """Counts a minibatch of n samples that is too small to be used."""
        self.left_out.append(self.read)
        self.end += n

    def merge(self, other: CKA) -> None:
        """Adds what another accumulator of the same layers has seen, on samples after this one's.

        Raises:
            ValueError: other layers, steps or options.
        """
        left_out = self.left_out + [self.read + number for number in other.left_out]
        if other.sides:
            self._expect_same(other)
            for mine, theirs in zip(self.sides, other.sides, strict=True):
                mine.merge(theirs, self.end)
            for part, more in zip(self.parts, other.parts, strict=True):
                part.merge(more, self.end)
            for name, more_of in other.also.items():
                self.also.setdefault(name, CKA(samples=False)).merge(more_of)
        self.n += other.n
        self.end += other.end
        self.batches += other.batches
        self.left_out = left_out

    def all_reduce(self, group: Any = None) -> None:
        """Merges the accumulators of all processes of a `torch.distributed` group, in the order of their ranks.

        Every process must call it; each then holds the sums of all. Processes may have seen different numbers of
        minibatches, or none. Without a process group it does nothing.
        """
        if not in_group():
            return
        states = gathered(self.state_dict(), group)
        self.reset()
        for state in states:
            part = CKA()
            part.load_state_dict(state)
            self.merge(part)

    def state_dict(self) -> dict[str, Any]:
        """The sums and names, as tensors on the CPU, lists and numbers."""
        return {
            "options": self.options,
            **{name: copy.copy(getattr(self, name)) for name in _STATE},
            "sides": [copy.deepcopy(vars(side)) for side in self.sides],
            "parts": [
                {key: [value.cpu() for value in values] for key, values in part.tensors.items()} for part in self.parts
            ],
            "also": {name: other.state_dict() for name, other in self.also.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state that `state_dict` gave, its options too."""
        self.__init__(**state["options"], resume=self.resume)  # type: ignore[misc]
        for name in _STATE:
            setattr(self, name, copy.copy(state[name]))
        self.sides = tuple(LayerSteps(**copy.deepcopy(side)) for side in state["sides"])
        for part, tensors in zip(self.parts, state["parts"], strict=True):
            part.tensors = {key: list(values) for key, values in tensors.items()}
        for name, other in state["also"].items():
            self.also[name] = CKA()
            self.also[name].load_state_dict(other)

    def compute(self, attrs: Mapping[str, Any] | None = None) -> CKAResult:
        """The result over all minibatches so far.

        Args:
            attrs: names and numbers that the result carries along.

        Raises:
            ValueError: nothing was seen yet.
        """
        if not self.sides:
            raise ValueError("expected at least one minibatch before compute(), got none: call update() first")
        x, y = self.sides
        variables: dict[str, tuple[Any, ...]] = {}
        for part in self.parts:
            variables |= part.variables(self.n, x, y)
        undefined = [*x.undefined("x"), *y.undefined("y")]
        return CKAResult.from_hsic(
            x.layers,
            y.layers,
            **{name: variables.pop(name)[1] for name in DIMS},
            n=self.n,
            undefined=undefined,
            attrs=attrs,
            beside=variables,
            also={name: other.compute({**(attrs or {}), "observe": name}) for name, other in self.also.items()},
        )

    def ready(self) -> CKA:
        """Itself, to be added to by a comparison.

        Raises:
            ValueError: it holds minibatches and was not made to `resume`.
        """
        if self.read and not self.resume:
            raise ValueError(
                f"expected into= to be empty, got a CKA that holds {self.read} minibatches: pass a new CKA(), or "
                "one made with resume=True to add to them"
            )
        return self

    def empty(self) -> CKA:
        """One of the same options that has seen nothing."""
        return CKA(**self.options, resume=self.resume)

    def _classes(self, labels: Any, n: int) -> Tensor | None:
        """Classes of samples where permutations within them are asked for."""
        if not self.permutations["classes"]:
            return None
        if labels is None:
            raise ValueError('permutations={"classes": ...}: expected labels= of the samples, got none')
        return classes_of(labels, n)

    def _expect(self, batch: Centred, asked: Mapping[str, Any]) -> None:
        """Raises ValueError where a minibatch does not fit itself or those before."""
        n, given, seed = batch.x.n, batch.given, batch.seed
        for other in (batch.y, given):
            if other is not None and other.n != n:
                raise ValueError(f"expected the same samples on both sides, got N = {n} and {other.n}")
        if given is not None and len(given.rows) != 1:
            raise ValueError(f"given: expected one layer of one step, got {summary(given)}")
        for name, brings in asked.items():
            if self.asked.get(name, brings) != brings:
                raise ValueError(f"expected {name}= for every minibatch or for none")
        if self.permutations["steps"] and STEPS not in asked["also"]:
            raise ValueError(f"expected also={{{STEPS!r}: (x, y)}}, Grams of the permuted steps that were asked for")
        if seed is not None and not -(2**63) <= seed < 2**63:
            raise ValueError(f"expected a seed of at most 63 bits and a sign, got {seed}")
        for name, mask in batch.groups.items():
            if mask.dtype != torch.bool or mask.shape != (n,):
                raise ValueError(
                    f"group {name!r}: expected one bool for each of {n} samples, got {mask.dtype} of shape "
                    f"{tuple(mask.shape)}"
                )
        for name, side, rows in zip("xy", self.sides, (batch.x, batch.y), strict=bool(self.sides)):
            side.expect(name, rows)

    def _expect_same(self, other: CKA) -> None:
        """Raises ValueError where another accumulator is of other layers or options; an empty one takes them over."""
        if not self.sides:
            end, left_out = self.end, self.left_out
            self.__init__(**other.options, resume=self.resume)  # type: ignore[misc]
            self.end, self.left_out, self.asked = end, left_out, other.asked
            self.sides = tuple(replace(side, reasons=list(side.reasons), broken={}) for side in other.sides)
        for name, mine, theirs in zip("xy", self.sides, other.sides, strict=True):
            mine.expect(name, theirs)
        mine_asked, asked = ({**cka.options, **cka.asked} for cka in (self, other))
        if mine_asked != asked:
            raise ValueError(f"expected accumulators of the same options, got {mine_asked} and {asked}")


def _permuted(features: LayerFeatures, generator: torch.Generator) -> dict[str, Tensor]:
    """The same features with the order of the steps permuted for every unit and sample."""
    tensors = {layer: as_tensor(X) for layer, X in features.items()}
    return {layer: permuted_steps(flat(X), generator) if len(X) > 1 else X for layer, X in tensors.items()}
