"""CKA over minibatches: sums of HSIC between every layer and step of two networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.gram import BEYOND, pack, places
from sj_cka.cka.hsic import hsic, pair_products
from sj_cka.cka.jackknife import contributions
from sj_cka.cka.labelled import dataset
from sj_cka.cka.layer_grams import ALIKE, MIN_SAMPLES, Grams, Whole, grams
from sj_cka.cka.measures import MEASURES
from sj_cka.cka.result import CKAResult
from sj_cka.plugins import lookup

_CHUNK = 1 << 20  # numbers of an intermediate that are held at once
SIZES = tuple(2**k for k in range(6, 20))  # samples at which the value is taken as well: is n enough?


@dataclass
class _Side:
    """What is known of one network: the layers, rows and, over batches, where and why each row was undefined."""

    layers: tuple[str, ...]
    index: Tensor
    reasons: list[str | None]  # of the batches so far: None once a row was defined in any of them
    broken: dict[int, int | None]  # row -> first sample that is not finite, None where float64 does not hold the HSIC

    @classmethod
    def of(cls, batch: Grams) -> _Side:
        return cls(batch.layers, batch.index, list(batch.reasons), {})

    def add(self, batch: Grams, place: int) -> None:
        for row, reason in enumerate(batch.reasons):
            if reason is None:
                self.reasons[row] = None
            elif reason == BEYOND:
                self.broken.setdefault(row, None)
            elif reason.startswith("NaN"):
                self.broken.setdefault(row, place + int(reason.rsplit(" ", 1)[1]))

    def merge(self, other: _Side, place: int) -> None:
        self.reasons = [
            None if theirs is None else mine for mine, theirs in zip(self.reasons, other.reasons, strict=True)
        ]
        for row, sample in other.broken.items():
            self.broken.setdefault(row, None if sample is None else place + sample)

    def reason(self, row: int) -> str | None:
        if row not in self.broken:
            return self.reasons[row]
        sample = self.broken[row]
        return BEYOND if sample is None else f"NaN or infinite at sample {sample}"


class CKA:
    """Accumulates CKA between all layers and steps of two networks over minibatches of the same samples.

    Every minibatch adds n_b HSIC_1 of each pair to float64 sums, and the ratio is taken last (after Nguyen et al. 2021,
    eq. 3; the weight n_b lets a short batch count as a short one):

        CKA = sum_b n_b HSIC(K_b, L_b) / sqrt( sum_b n_b HSIC(K_b, K_b) sum_b n_b HSIC(L_b, L_b) )

    Being sums, states merge: of processes, or of parts of a data set.

    Args:
        samples: also keep what every sample contributes to every pair of layers (all steps concatenated), which
            intervals, the influence of samples and the value against n need: 4 bytes for each sample and pair.
        permutations: also take so many baselines in which the samples of y are in another order, drawn anew each time.
        measures: further names of MEASURES, of all steps concatenated.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> cka = CKA()
        >>> for _ in range(2):  # [T, N, D]: four steps of a spiking layer, one of its twin
        ...     cka.update({"lif": torch.rand(4, 16, 8, generator=g)}, {"relu": torch.rand(1, 16, 8, generator=g)})
        >>> cka.compute().data.cka.dims
        ('layer_x', 'step_x', 'layer_y', 'step_y')
    """

    def __init__(self, *, samples: bool = True, permutations: int = 0, measures: Sequence[str] = ()) -> None:
        if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 0:
            raise ValueError(f"expected a number of permutations from 0, got {permutations!r}")
        self.samples, self.permutations = samples, permutations
        names = [measures] if isinstance(measures, str) else measures
        self.measures = {name: lookup(MEASURES, name, "measure") for name in names if name != "cka"}
        self.reset()

    def reset(self) -> None:
        """Forgets all minibatches."""
        self.x: _Side | None = None
        self.y: _Side | None = None
        self.n = 0
        self.batches = 0
        self.end = 0  # behind the last sample, those left out counted as well
        self.sums: dict[str, Tensor] = {}  # add over minibatches and processes
        self.lists: dict[str, list[Tensor]] = {}  # one of each minibatch, in order

    def update(
        self,
        features_x: Mapping[str, Tensor | np.ndarray],
        features_y: Mapping[str, Tensor | np.ndarray] | None = None,
        *,
        given: Mapping[str, Tensor | np.ndarray] | None = None,
        groups: Mapping[str, Tensor] | None = None,
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
            seed: of the minibatch, made from its inputs: what its permutations are drawn from, so that they are the
                same in whatever process it is seen, and by which `CKAResult.difference` knows the inputs again. By
                default the permutations follow the number of the minibatch.

        Raises:
            ValueError: shapes, layers or numbers of steps that do not fit each other or the batches before; the sums
                are then what they were.
        """
        x = grams(features_x)
        y = x if features_y is None else grams(features_y)
        z = None if given is None else grams(given)
        self.update_grams(x, y, given=z, groups=groups, place=place, seed=seed)

    def update_grams(
        self,
        x: Grams,
        y: Grams,
        *,
        given: Grams | None = None,
        groups: Mapping[str, Tensor] | None = None,
        place: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Adds one minibatch given as centred Grams, see `update`."""
        for other in (y, given):
            if other is not None and x.n != other.n:
                raise ValueError(f"expected the same samples on both sides, got N = {x.n} and {other.n}")
        if given is not None and len(given.rows) != 1:
            raise ValueError(f"given: expected one layer of one step, got {_summary(given.layers, given.index)}")
        if self.batches and ("zz" in self.sums) != (given is not None):
            raise ValueError("expected given= for every minibatch or for none")
        if self.batches and ("batch seed" in self.lists) != (seed is not None):
            raise ValueError("expected seed= for every minibatch or for none")
        if seed is not None and not -(2**63) <= seed < 2**63:
            raise ValueError(f"expected a seed of at most 63 bits and a sign, got {seed}")
        for name, chosen in (groups or {}).items():
            if chosen.dtype != torch.bool or chosen.shape != (x.n,):
                raise ValueError(
                    f"group {name!r}: expected one bool for each of {x.n} samples, got {chosen.dtype} of shape "
                    f"{tuple(chosen.shape)}"
                )
        if self.x is None or self.y is None:
            self.x, self.y = _Side.of(x), _Side.of(y)
        for name, side, batch in (("x", self.x, x), ("y", self.y, y)):
            _expect_same(name, side, batch.layers, batch.index)
        place = self.end if place is None else place
        self.x.add(x, place)
        self.y.add(y, place)
        n, own_x = x.n, _within(x)
        self._sum("xy", n * hsic(x.rows, y.rows, n))
        self._sum("xx", n * own_x)
        self._sum("yy", n * (own_x if y is x else _within(y)))
        if given is not None:
            z = given.rows
            for name, rows in (("xz", x.rows), ("yz", y.rows), ("zz", z)):
                self._sum(name, n * hsic(rows, z, n))
        for name, batch in (("x", x), ("y", y)):
            for layer, counts in batch.counts.items():
                self._sum(f"counts {name} {layer}", counts)
        self._list("batch n", torch.tensor([n]))
        self._list("batch place", torch.tensor([place]))
        if seed is not None:
            self._list("batch seed", torch.tensor([seed]))
        self._keep_batch(x.whole, y.whole)
        for name, chosen in (groups or {}).items():
            self._group(name, x.whole, y.whole, chosen)
        if self.permutations:
            self._permute(x.whole, y.whole, self.batches if seed is None else seed)
        broken = self.lists["batch xx"][-1].mT.isnan() | self.lists["batch yy"][-1].to(x.rows.device).isnan()
        for name, measure in self.measures.items():
            value = measure.of(x.whole, y.whole).to(broken.device)
            known = value.isfinite()  # else a layer has no structure in this minibatch, or is broken
            self._sum(f"measure {name}", n * value.where(known, 0.0).masked_fill(broken, torch.nan))
            self._sum(f"weight {name}", n * (known | broken).to(torch.float64))
        self.n += n
        self.end = max(self.end, place + n)
        self.batches += 1

    def merge(self, other: CKA) -> None:
        """Adds what another accumulator of the same layers has seen, on samples after this one's.

        Raises:
            ValueError: other layers, steps or options.
        """
        if other.x is None or other.y is None:
            return
        if self.x is None or self.y is None:
            self.load_state_dict(other.state_dict())
            return
        for name, mine, theirs in (("x", self.x, other.x), ("y", self.y, other.y)):
            _expect_same(name, mine, theirs.layers, theirs.index)
        if self._options() != other._options() or ("zz" in self.sums) != ("zz" in other.sums):
            raise ValueError(f"expected accumulators of the same options, got {self._options()} and {other._options()}")
        if ("batch seed" in self.lists) != ("batch seed" in other.lists):
            raise ValueError("expected seed= for every minibatch or for none")
        for mine, theirs in ((self.x, other.x), (self.y, other.y)):
            mine.merge(theirs, self.end)
        for name, value in other.sums.items():
            self._sum(name, value)
        for name, values in other.lists.items():
            moved = [value + self.end for value in values] if name == "batch place" else values
            self.lists.setdefault(name, []).extend(moved)
        self.n += other.n
        self.end += other.end
        self.batches += other.batches

    def all_reduce(self, group: Any = None) -> None:
        """Merges the accumulators of all processes of a `torch.distributed` group, in the order of their ranks.

        Every process must call it; each then holds the sums of all. Processes may have seen different numbers of
        minibatches, or none. Without a process group it does nothing.
        """
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        states: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(states, _on_cpu(self.state_dict()), group=group)
        self.reset()
        for state in states:
            part = CKA()
            part.load_state_dict(state)
            self.merge(part)

    def state_dict(self) -> dict[str, Any]:
        """The sums and names, as tensors, lists and numbers."""
        state: dict[str, Any] = {
            "n": self.n,
            "batches": self.batches,
            "end": self.end,
            "options": self._options(),
            "sums": {name: value.clone() for name, value in self.sums.items()},
            "lists": {name: [value.clone() for value in values] for name, values in self.lists.items()},
        }
        for name, side in (("x", self.x), ("y", self.y)):
            if side is not None:
                state[name] = {
                    "layers": list(side.layers),
                    "index": side.index.clone(),
                    "reasons": list(side.reasons),
                    "broken": dict(side.broken),
                }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state that `state_dict` gave, its options too."""
        self.__init__(**state["options"])  # type: ignore[misc]
        self.n, self.batches, self.end = state["n"], state["batches"], state["end"]
        self.sums = {name: value.clone() for name, value in state["sums"].items()}
        self.lists = {name: [value.clone() for value in values] for name, values in state["lists"].items()}
        if "x" in state:
            self.x, self.y = (
                _Side(tuple(s["layers"]), s["index"].clone(), list(s["reasons"]), dict(s["broken"]))
                for s in (state["x"], state["y"])
            )

    def compute(self, attrs: Mapping[str, Any] | None = None) -> CKAResult:
        """The result over all minibatches so far.

        Args:
            attrs: names and numbers that the result carries along.

        Raises:
            ValueError: nothing was seen yet.
        """
        if self.x is None or self.y is None:
            raise ValueError("expected at least one minibatch before compute(), got none: call update() first")
        sums = {name: value.cpu().numpy() for name, value in self.sums.items()}
        at_x, at_y = self.x.index.numpy(), self.y.index.numpy()
        sums["xy"] = sums["xy"][at_x][:, :, at_y]
        if "zz" in sums:
            sums["xz"], sums["yz"] = sums["xz"][at_x, 0], sums["yz"][at_y, 0]
        undefined = [
            {"side": name, "layer": layer, "step": t + 1, "reason": reason}
            for name, side in (("x", self.x), ("y", self.y))
            for layer, rows in zip(side.layers, side.index.tolist(), strict=True)
            for t, row in enumerate(rows)
            if (reason := side.reason(row)) is not None
        ]
        lists = {name: torch.cat(values).cpu().numpy() for name, values in self.lists.items()}
        data = dataset(self.x.layers, self.y.layers, sums, lists, n=self.n, undefined=undefined, attrs=attrs or {})
        return CKAResult(data)

    def _options(self) -> dict[str, Any]:
        return {"samples": self.samples, "permutations": self.permutations, "measures": list(self.measures)}

    def _sum(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value.to(self.sums[name].device) if name in self.sums else value.clone()

    def _list(self, name: str, value: Tensor) -> None:
        self.lists.setdefault(name, []).append(value)

    def _keep_batch(self, x: Whole, y: Whole) -> None:
        """S = n (n-3) HSIC_1 of the minibatch and, if wanted, what its samples contribute and its first few give."""
        self._list("batch xy", 2 * pair_products(x.rows, y.rows).unsqueeze(0))
        own = [side.norms().square().unsqueeze(0) for side in ((x,) if x is y else (x, y))]
        self._list("batch xx", own[0])
        self._list("batch yy", own[-1])
        if not self.samples:
            return
        for name, value in contributions(x, y)._asdict().items():
            self._list(f"sample {name}", value)
        for size in SIZES:
            if size < x.n:
                self._first(size, x, y)

    def _group(self, name: str, x: Whole, y: Whole, chosen: Tensor) -> None:
        members = chosen.nonzero().flatten().cpu()
        if len(members) >= MIN_SAMPLES:
            self._subset(f"group {name}", x, y, members)
            return
        nothing = x.rows.new_zeros(len(x.layers), len(y.layers))  # it is there, with no samples
        self._sum(f"group {name} n", torch.zeros((), dtype=torch.float64))
        for own, value in (("xy", nothing), ("xx", nothing[:, 0]), ("yy", nothing[0])):
            self._sum(f"group {name} {own}", value)

    def _first(self, n: int, x: Whole, y: Whole) -> None:
        """HSIC of the first n samples by the trace formula, which takes row sums in place of Grams centred anew."""
        sides = [side.first(n) for side in ((x,) if x is y else (x, y))]
        each, alike = [], []
        for rows, sums in sides:
            raw = 2 * torch.linalg.vector_norm(rows, dim=1).square()
            centring = sums.sum(1).square() / ((n - 1) * (n - 2)) - 2 / (n - 2) * sums.square().sum(1)
            each.append((raw + centring).to(x.rows.device))
            # what centring leaves of alike samples is rounding, see Whole.part
            alike.append(each[-1] <= ALIKE**2 * raw.to(x.rows.device))
        (K, r), (L, s) = sides[0], sides[-1]
        s = s.to(r.device)
        both = (
            2 * pair_products(K, L) + r.sum(1, keepdim=True) * s.sum(1) / ((n - 1) * (n - 2)) - 2 / (n - 2) * r @ s.mT
        )
        both = both.masked_fill(alike[0].unsqueeze(1) | alike[-1], 0.0)
        self._sum(f"size {n} n", torch.tensor(n, dtype=torch.float64))
        self._sum(f"size {n} xy", both / (n - 3))
        for name, own, none in (("xx", each[0], alike[0]), ("yy", each[-1], alike[-1])):
            self._sum(f"size {n} {name}", own.masked_fill(none, 0.0) / (n - 3))

    def _subset(self, name: str, x: Whole, y: Whole, samples: Tensor) -> None:
        """HSIC of some samples of the minibatch alone."""
        n = len(samples)
        rows = [side.part(samples) for side in ((x,) if x is y else (x, y))]
        self._sum(f"{name} n", torch.tensor(n, dtype=torch.float64))
        self._sum(f"{name} xy", n * hsic(rows[0], rows[-1], n))
        for own, side in (("xx", rows[0]), ("yy", rows[-1])):
            self._sum(f"{name} {own}", n * hsic(side.unsqueeze(1), side.unsqueeze(1), n)[:, 0, 0])

    def _permute(self, x: Whole, y: Whole, seed: int) -> None:
        """HSIC with the samples of y in other orders, which depend on the seed alone."""
        n, device = x.n, y.rows.device
        generator = torch.Generator().manual_seed(seed)
        found = x.rows.new_zeros(self.permutations, len(x.layers), len(y.layers))
        place = places(n, slice(0, n), device).to(torch.int32)
        size = max(1, _CHUNK // len(y.layers))
        for into in found:
            order = torch.randperm(n, generator=generator).to(device)
            at = pack(place[order.unsqueeze(1), order])
            for rows, some in zip(x.rows.split(size, 1), at.split(size), strict=True):
                moved = y.rows.index_select(1, some)
                into += rows @ moved.to(rows.device).mT
        self._sum("permuted", found * (2.0 / (n - 3)))


def _expect_same(name: str, side: _Side, layers: Sequence[str], index: Tensor) -> None:
    if side.layers != tuple(layers) or not torch.equal(side.index, index):
        raise ValueError(
            f"{name}: expected the layers and steps of the batches before, {_summary(side.layers, side.index)}, "
            f"got {_summary(layers, index)}"
        )


def _summary(layers: Sequence[str], index: Tensor) -> str:
    return (
        f"{len(layers)} layers ({', '.join(layers[:3])}{', ...' if len(layers) > 3 else ''}) of {index.shape[1]} steps"
    )


def _within(batch: Grams) -> Tensor:
    """HSIC `[layers, T, T]` between the steps of each layer."""
    T = batch.index.shape[1]
    blocks = batch.rows.new_zeros(len(batch.index), T, T)
    for layer, (first, last) in enumerate(batch.index[:, [0, -1]].tolist()):
        span = batch.rows[first : last + 1]  # the rows of a layer lie together; one row stands for all its steps
        blocks[layer] = hsic(span, span, batch.n)
    return blocks


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state
