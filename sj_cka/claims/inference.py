"""What follows from values of networks that were trained apart: estimates, p-values and their correction.

Networks are what is independent, not comparisons: one network may stand in several comparisons, and in both arms of a
claim. So the variance of an effect is that of a jackknife that leaves out what is independent, one at a time, in groups
of like ones (Arvesen 1969), with the degrees of freedom of Satterthwaite (1946). For two arms without a network in
common that is Welch's t to the digit, for arms that share all networks of a seed the paired t, and for every seed of x
against every seed of y it is (MS_x + MS_y) / n^2, the variance of two crossed samples without taking their interaction
off. Values are taken as they are: on Fisher's z, unequal spreads make equal means differ (`benchmarks/verdicts.py`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t and its quantiles

from sj_cka.over_seeds import Interval

MIN_SEEDS = 3
LEVEL = 0.05
# CKA of float32 features is good to about 1e-7: a standard error below this is rounding
ROUNDING = 1e-6

Place = tuple[int, int]
"""(arm, cell): where a value stands."""


class Cells(NamedTuple):
    """Where the values of an arm come from, one a cell.

    Args:
        seeds: (seed of x, seed of y) of each cell.
        origins: of each cell what random numbers it hangs on: the trainings and the first weights of its networks.
    """

    seeds: Sequence[tuple[int, int]]
    origins: Sequence[frozenset[str]]


class Unit(NamedTuple):
    """What can be left out alone.

    Args:
        places: the values that go with it.
        origins: whatever hangs on one of these goes.
    """

    places: frozenset[Place]
    origins: frozenset[str]


ALL: frozenset[str] = frozenset()
"""What is left out where nothing is."""


def units(arms: Sequence[Cells]) -> list[list[Unit]]:
    """What is independent in several arms, in groups of like ones.

    Values that hang together through networks in common are one unit: those of a seed, as a rule. An arm that hangs
    together as a whole (every seed of x against every seed of y) is taken apart into its networks.
    """
    places = {(i, j): origins for i, arm in enumerate(arms) for j, origins in enumerate(arm.origins)}
    groups: dict[frozenset[tuple[int, str]], list[Unit]] = {}
    for component in _components(places):
        whole = any(sum(place[0] == i for place in component) == len(arm.seeds) for i, arm in enumerate(arms))
        found = [_unit(component, places)]
        if whole and len(component) > 1:
            found = _networks(component, places, arms)
        for unit, roles in zip(found, _roles(found, arms), strict=True):
            groups.setdefault(roles if whole else frozenset((arm, "") for arm, _ in unit.places), []).append(unit)
    return list(groups.values())


def _components(places: dict[Place, frozenset[str]]) -> list[set[Place]]:
    """Places that hang together, directly or through others."""
    components: list[tuple[set[Place], set[str]]] = []
    for place, origins in places.items():
        joined, of_joined, apart = {place}, set(origins), []
        for other, of_other in components:
            if of_other & origins:
                joined |= other
                of_joined |= of_other
            else:
                apart.append((other, of_other))
        components = [*apart, (joined, of_joined)]
    return [component for component, _ in components]


def _unit(component: set[Place], places: dict[Place, frozenset[str]]) -> Unit:
    return Unit(frozenset(component), frozenset().union(*(places[place] for place in component)))


def _networks(component: set[Place], places: dict[Place, frozenset[str]], arms: Sequence[Cells]) -> list[Unit]:
    """The networks of a component; those that never go alone, such as two from equal first weights, are one.

    So are those of a seed that stand in an arm of one cell a seed: else its values would count for both of them.
    """
    diagonal = {i for i, arm in enumerate(arms) if len({x for x, _ in arm.seeds}) == len(arm.seeds)}
    merged: list[frozenset[str]] = []
    for place in component:
        for own in [places[place]] if place[0] in diagonal else [frozenset({origin}) for origin in places[place]]:
            together = [other for other in merged if other & own]
            merged = [other for other in merged if not other & own] + [own.union(*together)]
    at = {own: frozenset(place for place in component if places[place] & own) for own in merged}
    by_places: dict[frozenset[Place], frozenset[str]] = {}
    for own, where in at.items():
        by_places[where] = by_places.get(where, frozenset()) | own
    largest = [where for where in by_places if not any(where < other for other in by_places)]
    return [
        Unit(where, frozenset().union(*(own for other, own in by_places.items() if other <= where)))
        for where in sorted(largest, key=sorted)
    ]


def _roles(networks: Sequence[Unit], arms: Sequence[Cells]) -> list[frozenset[tuple[int, str]]]:
    """The arms that each network stands in, and whether as x or as y; where any is both, an arm makes no difference."""
    found: list[dict[int, str]] = []
    for unit in networks:
        roles = {}
        for i in {arm for arm, _ in unit.places}:
            seeds = [arms[i].seeds[j] for arm, j in unit.places if arm == i]
            as_x, as_y = (len({pair[side] for pair in seeds}) == 1 for side in (0, 1))
            roles[i] = "x" if as_x and not as_y else "y" if as_y and not as_x else "" if as_x else "both"
        found.append(roles)
    alike = {i for roles in found for i, role in roles.items() if role == "both"}
    return [frozenset((i, "both" if i in alike else role) for i, role in roles.items()) for roles in found]


class Estimate(NamedTuple):
    """An effect with its standard error, the degrees of freedom of that, and the seeds of the arm that has fewest."""

    value: float
    se: float
    df: float
    n: int

    def interval(self, level: float = 1 - LEVEL) -> Interval:
        """Two-sided Student t interval; NaN where there is no standard error."""
        half = float(stdtrit(self.df, 0.5 + level / 2) * self.se) if self.df > 0 else float("nan")
        return Interval(self.value, self.value - half, self.value + half, self.n)


def estimate(effect: Callable[[frozenset[str]], float], arms: Sequence[Cells]) -> Estimate:
    """An effect with the standard error of the jackknife over `units`; see `spread`."""
    n = min((len({seeds[0] for seeds in arm.seeds}) for arm in arms), default=0)
    value, variance, df = (float(found) for found in spread(effect, arms))
    return Estimate(value, variance**0.5, df, n)


def spread(effect: Callable[[frozenset[str]], Any], arms: Sequence[Cells]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effects `[...]` with their variance by the jackknife over `units`, and its degrees of freedom.

    Args:
        effect: origins that are left out -> the effects of all values that hang on none of them.
        arms: where the values come from.
    """
    value = np.asarray(effect(ALL), dtype=float)
    variance, squares, freedom = np.zeros(value.shape), np.zeros(value.shape), 0
    groups = units(arms)
    for group in groups:
        size = len(group)
        left = np.stack([np.asarray(effect(unit.origins), dtype=float) for unit in group])
        own = (size - 1) / size * ((left - left.mean(axis=0)) ** 2).sum(axis=0)
        variance = variance + (own if size > 1 else np.nan)
        squares, freedom = squares + own**2 / max(size - 1, 1), freedom + size - 1
    variance = variance if groups else np.full(value.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        # equal values everywhere: no spread to weigh the groups by
        df = np.where(squares > 0, variance**2 / squares, float(freedom))
    return value, np.asarray(variance), df


class Chances(NamedTuple):
    """p-values of what may be said of an effect: each decides at or below LEVEL.

    Args:
        above: that it is greater than the margin, and below: less than minus the margin (twice the one-sided p).
        below: see above.
        within: that it lies within the margin (the larger of two one-sided p: Schuirmann 1987).

    Whatever the effect is, the probability that the least of them says something false is at most LEVEL: beyond the
    margin, both false answers lie on one side of one bound; within it, each has half of LEVEL.
    """

    above: float
    below: float
    within: float


UNKNOWN = Chances(1.0, 1.0, 1.0)


def chances(found: Estimate, margin: float) -> Chances:
    """The p-values of an effect; 1 under MIN_SEEDS seeds."""
    if found.n < MIN_SEEDS or not np.isfinite([found.value, found.se]).all() or found.df <= 0:
        return UNKNOWN
    low, high = (np.array([found.value - margin, found.value + margin]) / max(found.se, ROUNDING)).tolist()
    less, more = (float(p) for p in (stdtr(found.df, low), stdtr(found.df, -high)))
    above, below = 2 * float(stdtr(found.df, -low)), 2 * float(stdtr(found.df, high))
    return Chances(min(1.0, above), min(1.0, below), max(less, more) if margin > 0 else 1.0)


def holm(p: Iterable[float]) -> list[float]:
    """p-values corrected for their number after Holm (1979), in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    values = list(p)
    order, corrected, least = sorted(range(len(values)), key=values.__getitem__), values.copy(), 0.0
    for rank, i in enumerate(order):
        least = corrected[i] = max(least, min(1.0, (len(values) - rank) * values[i]))
    return corrected


def corrected(p: Sequence[float], primary: Sequence[bool]) -> list[float]:
    """p-values of the claims of a study: primary ones after Holm over these, others as they are.

    Example:
        >>> corrected([0.01, 0.04, 0.03], [True, False, True])
        [0.02, 0.04, 0.03]
    """
    over = iter(holm(value for value, among in zip(p, primary, strict=True) if among))
    return [next(over) if among else value for value, among in zip(p, primary, strict=True)]
