"""The data of a study: read once for each variant that has its own, with the steps that recordings bring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pydantic_core import to_jsonable_python

from sj_cka.data import SHAPES, AbsentData, DataError, Samples, imagine
from sj_cka.jobs import DataBlock, canonical
from sj_cka.plugins import OptionError
from sj_cka.recipe import Condition, NetworkName, Study
from sj_cka.recipe.choices import DATA, options_of
from sj_cka.recipe.faults import fault_of
from sj_cka.recipe.source import KeyPath


class Data(NamedTuple):
    """A data set as a job names it, and its samples."""

    block: DataBlock
    samples: Samples


def read_data(study: Study, *, imagined: bool = False) -> tuple[Study, dict[str, Data]]:
    """The data of every variant, and the study with the steps that recordings bring.

    Args:
        study: the recipe as read.
        imagined: take random samples of a known shape where nothing of a data set is there.

    Raises:
        RecipeError: they cannot be read, are too few, or have other steps than the recipe gives.
    """
    read: dict[str, Data] = {}
    found, conditions = {}, {}
    for name, condition in study.conditions.items():
        written = canonical(to_jsonable_python(condition.data))
        if written not in read:
            read[written] = _read(condition, imagined)
        found[name] = read[written]
        conditions[name] = _in_time(condition, found[name].samples)
    return replace(study, conditions=conditions), found


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


def _in_time(condition: Condition, samples: Samples) -> Condition:
    """A variant whose spiking networks run as many steps as its recordings have; an image is one input to any ANN."""
    if samples.T is None:
        return replace(condition, ann_input="steps")
    if "T" in condition.snn.model_fields_set and condition.snn.T != samples.T:
        why = "recordings bring their own steps, data.T of them"
        message = f"expected no snn.T, or {samples.T}: {why}; got {condition.snn.T}"
        raise condition.source.error(("snn", "T"), message)
    return replace(condition, snn=condition.snn.model_copy(update={"T": samples.T}))


def check_converted(networks: list[NetworkName], study: Study, data: dict[str, Data]) -> None:
    """No network may be converted for recordings.

    Raises:
        RecipeError: one is.
    """
    for name in networks:
        if name.kind == "converted" and data[name.variant].samples.T is not None:
            raise study.error(
                (), f"expected trained networks on recordings: {name} would be converted, which is for images"
            )


def check_time(study: Study, data: dict[str, Data]) -> None:
    """What takes images, and what changes the number of steps, does not go with recordings.

    Raises:
        RecipeError: the first such thing.
    """

    def recorded(network: NetworkName) -> bool:
        return data[network.variant].samples.T is not None

    why = "of recordings it has the steps of its data: sweep data.T to vary them"
    for i, comparison in enumerate(study.recipe.compare):
        for sides in study.sides(comparison).values():
            for side, name, T in (("x", sides.x, sides.T_x), ("y", sides.y, sides.T_y)):
                if recorded(name) and name.kind == "converted":
                    message = f"expected a trained network: {name} would be converted, which is for images"
                    raise study.error(("compare", i, side), message)
                if recorded(name) and T is not None:
                    raise study.error(("compare", i, f"T_{side}"), f"expected none for {name}: {why}")
    for i, evaluation in enumerate(study.recipe.evaluate):
        for name in study.networks(evaluation.network):
            if recorded(name):
                raise study.error(("evaluate", i, "network"), f"{name} cannot run with another number of steps: {why}")
