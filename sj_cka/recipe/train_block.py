"""What a recipe says about training: all `Settings`, and what is done with the samples and the weights."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, get_args, get_type_hints

import torch
from pydantic import AfterValidator, BaseModel, Field, create_model

from sj_cka.attacks.poisoning import Place
from sj_cka.data import Samples
from sj_cka.recipe.choices import RULE, ByName, in_yaml
from sj_cka.training import Settings
from sj_cka.typed import MOST_THREADS, Float, Int, Strict


def _ascending(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(epochs)) != len(epochs) or (epochs and min(epochs) < 0):
        raise ValueError("expected epochs from 0, each once")
    return tuple(sorted(epochs))


Epochs = Annotated[tuple[Int, ...], AfterValidator(_ascending)]


# what a recipe writes otherwise than `Settings` has it
_OTHERWISE: dict[str, tuple[Any, Any]] = {"rule": (ByName, ByName(name="backprop"))}


def _of_settings(*, optional: bool) -> type[BaseModel]:
    """A block with a key for each of `Settings`, at its default or, where optional, None."""
    fields: dict[str, Any] = {}
    hints = get_type_hints(Settings, include_extras=True)
    for field in dataclasses.fields(Settings):
        plain, description = get_args(hints[field.name])
        kind, default = _OTHERWISE.get(field.name, (in_yaml(plain), field.default))
        fields[field.name] = (Annotated[kind | None if optional else kind, description], None if optional else default)
    return create_model("Settings", __base__=Strict, **fields)


class TrainOverride(_of_settings(optional=True)):  # type: ignore[misc]
    """What one kind of network trains with differently."""


class Poison(Strict):
    """A backdoor: a trigger on a share of the training samples, which get the label of one class."""

    target: Int = Field(ge=0, description="the class that the trigger is to mean")
    share: Float = Field(gt=0, le=1, description="share of the training samples, drawn from those of other classes")
    size: Int = Field(3, ge=1, description="side of the trigger, a square, in pixels")
    place: Place = Field("bottom_right", description="the corner that it is in")
    value: Float | None = Field(
        None,
        description="of its pixels, as the samples are stored; by default 255 of bytes and of images from 0 to 255, 1 "
        "of others, and of recordings one event a pixel and step",
    )

    def trigger(self, samples: Samples) -> dict[str, Any]:
        """What it looks like on samples, without what `sj_cka.attacks.poison` makes of theirs by default."""
        options = self.model_dump(include={"size", "place", "value"}, exclude_defaults=True)
        usual = samples.T is None and samples.brightest == (255.0 if samples.x_train.dtype == torch.uint8 else 1.0)
        return options if usual else {"value": samples.brightest} | options


class Train(_of_settings(optional=False)):  # type: ignore[misc]
    """Training of every network of the study."""

    augment: list[ByName] = Field([], description="random changes of the training images, in turn, e.g. [crop, flip]")
    poison: Poison | None = Field(None, description="a backdoor in the training samples")
    keep: Epochs = Field((), description="epochs whose weights are kept, for <variant>.snn@<epoch>; 0 is untrained")
    checkpoint: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="epochs between two savings of where a training stands; by default those of a minute"
    )
    ann: TrainOverride = Field(TrainOverride(), description="what the artificial networks train with instead")
    snn: TrainOverride = Field(TrainOverride(), description="what the spiking networks train with instead")
    init: Literal["fresh", "same"] = Field(
        "fresh", description="'same' gives twins equal first weights, and inflates CKA"
    )
    trained_at: Float = Field(
        0.9, ge=0, le=1, description="training accuracy below which a network counts as not trained"
    )
    threads: Int = Field(
        1, ge=1, le=MOST_THREADS, description="threads of a job; numbers are identical at equal threads only"
    )

    def of(self, kind: str) -> dict[str, Any]:
        """The settings for networks of a kind."""
        common = self.model_dump(include={field.name for field in dataclasses.fields(Settings)})
        of_kind = (self.ann if kind == "ann" else self.snn).model_dump(exclude_none=True)
        settings = common | of_kind
        rule = RULE.without_defaults(settings["rule"])
        return settings | {"rule": rule if len(rule) > 1 else rule["name"]}
