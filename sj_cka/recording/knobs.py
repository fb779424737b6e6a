"""Integer attributes of a network that may be its number of time steps, and how they are turned."""

import re
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from sj_cka.recording.snapshot import OF_TORCH

MAX_NAMES = 4  # attributes of other names that are tried
_TRIALS = 2  # runs in which they are: with the probes on 2 and 3 samples, and one to tell samples from steps, 5
_OF_TIME = {
    f"{of}{what}"
    for of in ("", "n", "nb", "num", "no", "total", "max", "sim", "simulation", "snn", "inference")
    for what in ("step", "steps", "timestep", "timesteps", "timewindow", "simsteps", "simulationsteps", "tsteps")
} | {"nt", "numt", "tmax", "timelength", "timelen", "timebins", "numtimebins", "nframes", "numframes", "simlength"}
# sizes of weights and of maps and parts of a network, which are no time: never tried (heads would pass for steps)
_SIZES = re.compile(
    r"^(in|out)_|channel|dim|width|size|feature|hidden|class|head|kernel|stride|group|layer|block|depth|patch|expert",
    re.IGNORECASE,
)
_LIBRARIES = ("torch", "spikingjelly")
_ABSENT: Any = object()


@dataclass(frozen=True)
class Knob:
    """One integer: an entry of a namespace (attributes of a module or of a configuration in it) or of a dict.

    Args:
        holder: the namespace or dict.
        key: the entry.
        value: what it is.
        module: dotted name of the module whose attribute it is; None for one of a configuration.
    """

    holder: dict[Any, Any]
    key: str
    value: int
    module: str | None = None

    @property
    def of_time(self) -> bool:
        """Whether its name says that it counts time steps."""
        bare = self.key.replace("_", "")
        return bare == "T" or bare.lower() in _OF_TIME


def knobs(model: nn.Module) -> list[Knob]:
    """All positive integers of a network that a user's code may read its number of steps from, the root's first.

    Of torch's and SpikingJelly's own modules, and of configurations, only those are named that are called after time.
    """
    counts: list[Knob] = []
    visited: set[int] = set()
    for name, module in model.named_modules():
        space = vars(module)
        theirs = type(module).__module__.partition(".")[0] in _LIBRARIES
        within = [Knob(space, key, value, name) for key, value in _of_class(type(module)) if key not in space]
        within += _within(space, 2, visited, name, OF_TORCH)
        counts += [k for k in within if k.of_time or not (theirs or k.module is None)]
    return counts


def trials(model: nn.Module, T: int) -> list[list[Knob]]:
    """The sets of attributes of value T to try as the number of steps: those called after time first, all at once."""
    equal = [knob for knob in knobs(model) if knob.value == T]
    of_time = [knob for knob in equal if knob.of_time]
    others: dict[str, list[Knob]] = {}
    for knob in equal:
        if not knob.of_time and T > 1 and not _SIZES.search(knob.key):
            others.setdefault(knob.key, []).append(knob)
    sets = [*([of_time] if of_time else []), *list(others.values())[:MAX_NAMES]]
    if len(sets) > _TRIALS:  # one for each would take more runs than there are
        sets[_TRIALS - 1 :] = [[knob for some in sets[_TRIALS - 1 :] for knob in some]]
    return sets


@contextmanager
def turned(some: Sequence[Knob], value: int) -> Iterator[None]:
    """Sets knobs to a value while it lasts, past any setter; what was there before is there again afterwards."""
    before = [(knob, knob.holder.get(knob.key, _ABSENT)) for knob in some]
    try:
        for knob in some:
            knob.holder[knob.key] = type(knob.value)(value)
        yield
    finally:
        for knob, old in before:
            if old is _ABSENT:
                knob.holder.pop(knob.key, None)
            else:
                knob.holder[knob.key] = old


def _within(
    space: dict[Any, Any],
    depth: int,
    visited: set[int],
    module: str | None = None,
    skip: frozenset[str] = frozenset(),
) -> Iterator[Knob]:
    """The integers of a namespace or dict, and of the configurations in it, `depth` deep."""
    if id(space) in visited:
        return
    visited.add(id(space))
    for key, value in list(space.items()):
        if not isinstance(key, str) or key in skip:
            continue
        if _is_count(value):
            yield Knob(space, key, value, module)
        elif depth and isinstance(value, dict):
            yield from _within(value, depth - 1, visited)
        elif depth and _is_configuration(value):
            yield from _within(vars(value), depth - 1, visited)


def _of_class(kind: type) -> Iterator[tuple[str, int]]:
    """Integers that stand in the classes of a user's own module."""
    for cls in kind.__mro__:
        if cls.__module__.partition(".")[0] not in (*_LIBRARIES, "builtins"):
            yield from ((key, value) for key, value in vars(cls).items() if _is_count(value) and key[:2] != "__")


def _is_count(value: Any) -> bool:
    return (type(value) is int or isinstance(value, np.integer)) and bool(value > 0)


def _is_configuration(value: Any) -> bool:
    no_values = (nn.Module, Tensor, type, types.ModuleType, types.FunctionType, types.MethodType, np.ndarray)
    return hasattr(value, "__dict__") and not isinstance(value, no_values)
