"""The data of a study: read once for each variant that has its own."""

from pathlib import Path
from typing import NamedTuple

from pydantic_core import to_jsonable_python

from sj_cka.data import SHAPES, AbsentData, DataError, Samples, imagine
from sj_cka.job import DataBlock, canonical
from sj_cka.plugins import OptionError
from sj_cka.recipe import Condition, Study
from sj_cka.recipe.choices import DATA, options_of
from sj_cka.recipe.faults import fault_of
from sj_cka.recipe.source import KeyPath


class Data(NamedTuple):
    """A data set as a job names it, and its samples."""

    block: DataBlock
    samples: Samples

    @property
    def described(self) -> str:
        """Its name with the numbers and the shape of its samples."""
        x_train, x_test = self.samples.x_train, self.samples.x_test
        counts = f"{len(x_train)} training and {len(x_test)} test {self.samples.called}"
        return f"{self.block.name['name']}: {counts} {list(x_train.shape[1:])}"


def read_data(study: Study, *, imagined: bool = False) -> dict[str, Data]:
    """The data of every variant.

    Args:
        study: the recipe as read.
        imagined: take random samples of a known shape where nothing of a data set is there.

    Raises:
        RecipeError: they cannot be read, are too few, or have other steps than the recipe gives.
    """
    read: dict[str, Data] = {}
    of_variant = {}
    for name, condition in study.conditions.items():
        written = canonical(to_jsonable_python(condition.data))
        if written not in read:
            read[written] = _read(condition, imagined)
        of_variant[name] = read[written]
        _check_steps(condition, read[written].samples)
    return of_variant


def _read(condition: Condition, imagined: bool) -> Data:
    named = condition.data
    options = DATA.typed(named)
    places = [key for key, value in options.items() if isinstance(value, Path)]
    where: KeyPath = ("data", *places[:1])
    for key in places:
        try:
            options[key] = options[key].expanduser().absolute()
        except RuntimeError as error:
            message = f"expected a path, got {str(options[key])!r}: {error}; write the folder out"
            raise condition.source.error(("data", key), message) from error
    given = options_of(options)
    if imagined and "download" in given:
        given["download"] = False  # a plan fetches nothing
    try:
        samples = DATA.function(named["name"])(**given)
    except OSError as error:
        raise condition.source.error(where, f"it cannot be read: {error.strerror or error}") from error
    except OptionError as error:
        raise fault_of(error, condition.source, ("data",)) from error
    except DataError as error:
        if not (imagined and isinstance(error, AbsentData) and named["name"] in SHAPES):
            raise condition.source.error(where, str(error)) from error
        samples = imagine(SHAPES[named["name"]](**given))
    for split, x, least in (("test", samples.x_test, 4), ("training", samples.x_train, 2)):
        if len(x) < least:
            message = f"expected at least {least} {split} {samples.called}, got {len(x)}"
            raise condition.source.error(where, message)
    block = DataBlock(to_jsonable_python(options), DATA.without_defaults(named), samples.fingerprint)
    return Data(block, samples)


def _check_steps(condition: Condition, samples: Samples) -> None:
    """Recordings bring their own steps, and what happens in each.

    Raises:
        RecipeError: the recipe gives others.
    """
    if samples.T is not None and condition.snn.coding != "direct":
        message = f"expected direct: recordings are events, and need no coding; got {condition.snn.coding}"
        raise condition.source.error(("snn", "coding"), message)
    if samples.T is not None and "T" in condition.snn.model_fields_set and condition.snn.T != samples.T:
        why = "recordings bring their own steps, data.T of them"
        message = f"expected no snn.T, or {samples.T}: {why}; got {condition.snn.T}"
        raise condition.source.error(("snn", "T"), message)
