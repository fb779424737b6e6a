"""What a recipe may say: its blocks and keys, each documented under itself."""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_type_hints

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StrictBool,
    WithJsonSchema,
    create_model,
)

from sj_cka.attacks.poisoning import Corner
from sj_cka.claims import TESTS, Claim
from sj_cka.data import Samples
from sj_cka.figures import State
from sj_cka.models import AnnInput, Coding
from sj_cka.plugins import load_plugins
from sj_cka.recipe.attack_block import Attacks
from sj_cka.recipe.choices import RULE, ByName, Named, in_yaml
from sj_cka.recipe.names import NetworkName
from sj_cka.training import Settings
from sj_cka.typed import MOST_STEPS, MOST_THREADS, SEEDS, Float, Int, Name, Seed, Strict, number, several


def _ascending(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(epochs)) != len(epochs) or (epochs and min(epochs) < 0):
        raise ValueError("expected epochs from 0, each once")
    return tuple(sorted(epochs))


Epochs = Annotated[tuple[Int, ...], AfterValidator(_ascending)]


# what a recipe writes otherwise than `Settings` has it
_OTHERWISE: dict[str, tuple[Any, Any]] = {"rule": (ByName, ByName(name="bptt"))}


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
    place: Corner = Field("bottom_right", description="the corner that it is in")
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


MOST_SEEDS, MOST_VARIANTS, MOST_BLOCKS = 1000, 200, 200


class NeuronBlock(Named):
    """A neuron of NEURONS; the paper's LIF unless named otherwise."""

    name: str = "lif"


class SNN(Strict):
    """The spiking side: time steps and neuron."""

    T: Int = Field(
        4, ge=1, le=MOST_STEPS, description="time steps that an image is shown; of recordings those of the data, data.T"
    )
    neuron: NeuronBlock = Field(NeuronBlock(), description="a neuron of NEURONS and its options")
    coding: Coding = Field(
        "direct",
        description="how <variant>.snn is given an image: as it is at every step; poisson: at each step a spike with a "
        "probability of its brightness; latency: one spike, the brighter the earlier. No other network has it",
    )


def _known_mode(mode: str) -> str:
    share = mode.removesuffix("%") if mode.endswith("%") else ""
    if mode != "max" and not (re.fullmatch(r"[0-9]{1,3}(\.[0-9]{0,9})?", share) and 0 < float(share) <= 100):
        raise ValueError(f'expected "max" or a percentile like "99.9%", got {mode!r}')
    return mode


class Converted(Strict):
    """Spiking networks that are converted from trained artificial ones, `<variant>.converted`."""

    T: Int = Field(
        64, ge=1, le=MOST_STEPS, description="time steps that an image is shown; it takes 32 to 128 to be accurate"
    )
    mode: Annotated[str, AfterValidator(_known_mode)] = Field(
        "99.9%", description='what a layer\'s threshold is of its activations: "max", or a percentile like "99.9%"'
    )


class CKABlock(Strict):
    """How CKA is measured."""

    batch_size: Int = Field(360, ge=4, description="test images in a minibatch; the unbiased HSIC needs at least 4")
    batches: Annotated[Int, Field(ge=1)] | None = Field(None, description="use the first so many minibatches")
    layers: list[str] | None = Field(None, min_length=1, description="dotted names or globs; all by default")


def _each_once(values: tuple[int, ...], *, what: str, least: int) -> tuple[int, ...]:
    if not values or min(values) < least or len(set(values)) != len(values):
        raise ValueError(f"expected at least one {what}, each once and from {least}")
    return values


def _one_or_several(one: dict[str, Any], each: dict[str, Any], most: int) -> WithJsonSchema:
    """The JSON schema of a whole number, or of a list of at most so many different ones."""
    several = {"type": "array", "items": {"type": "integer", **each}, "minItems": 1, "maxItems": most}
    return WithJsonSchema({"oneOf": [{"type": "integer", **one}, {**several, "uniqueItems": True}]})


_STEPS = {"minimum": 1, "maximum": MOST_STEPS}
StepNumbers = Annotated[
    tuple[Annotated[Int, Field(le=MOST_STEPS)], ...],
    Field(max_length=MOST_BLOCKS),
    BeforeValidator(several),
    AfterValidator(functools.partial(_each_once, what="number of steps", least=1)),
    _one_or_several(_STEPS, _STEPS, MOST_BLOCKS),
]


class Comparison(Strict):
    """Two networks whose layers are compared; `*.` stands for every variant, `@*` for every kept epoch and the last."""

    name: Name
    x: str = Field(
        description="<variant>.<snn|ann|converted>, with @init for the untrained network, @<epoch> for a kept epoch, "
        "@* for each of them and the last one in turn"
    )
    y: str = Field(description="like x; the same network shows what the steps inside its layers share")
    variants: Literal["same", "pairs"] | Annotated[list[Name], Field(min_length=1, max_length=MOST_VARIANTS)] = Field(
        "same",
        description="what * stands for: one variant in x and y; every two different ones; or, in x, each of a list of "
        "variants, while y names one",
    )
    seeds: Literal["same", "across"] = Field(
        "same",
        description="x of a seed against y of the same seed, or every seed of x against every one of y; equal ones are "
        "left out where x and y share weights",
    )
    T_x: StepNumbers | None = Field(
        None,
        description="steps that a spiking x runs with, in place of those of its training; several: each in turn",
    )
    T_y: Annotated[Int, Field(ge=1, le=MOST_STEPS)] | None = Field(None, description="steps that a spiking y runs with")
    measure: str = Field("cka", description="a measure of similarity of MEASURES, of all steps together unless cka")
    attack_y: str | None = Field(
        None, description="an entry of attack.by: y is shown the test samples under that attack, x the same without"
    )
    layers: list[str] | None = Field(None, min_length=1, description="in place of cka.layers")
    permutation_test: StrictBool = Field(
        False, description="also compare with the spikes of every neuron put at random steps, their number kept"
    )

    @property
    def over_epochs(self) -> bool:
        """Whether it is made at every kept epoch."""
        return "@*" in (self.x[-2:], self.y[-2:])

    def ceiling_of(self, network: NetworkName) -> str:
        """What tells the two parts of a noise ceiling apart, see `sj_cka.jobs.compare.rows`."""
        return network.kind if self.variants == "same" else network


class Evaluation(Strict):
    """Trained spiking networks whose accuracy is measured at other numbers of steps."""

    network: str = Field(description="<variant>.<snn|converted>; `*` stands for every variant")
    T: StepNumbers = Field(description="the numbers of steps")


class FigureBlock(Named):
    """A figure of FIGURES on the page; other keys are its options."""

    comparison: str | None = Field(None, description="the comparison that it shows")
    state: State = Field(
        "trained",
        description="trained networks, or untrained ones (the floor), or seed against seed (the noise ceiling)",
    )
    title: str | None = None


class Variant(Strict):
    """What a variant changes."""

    data: dict[str, Any] = Field({}, description="laid over the recipe's data; another name replaces them")
    model: dict[str, Any] = Field({}, description="laid over the recipe's model")
    snn: dict[str, Any] = Field({}, description="laid over the recipe's snn")
    ann_input: AnnInput | None = Field(None, description="in place of the recipe's ann_input")
    train: dict[str, Any] = Field({}, description="laid over the recipe's train")


def _listed(value: Any) -> Any:
    """A number of seeds as the list of them."""
    if isinstance(value, list):
        return value
    count = number(value)
    if not isinstance(count, int | float) or not 1 <= count <= MOST_SEEDS or count != int(count):
        raise ValueError(f"expected a number of seeds from 1 to {MOST_SEEDS:,}, or a list of seeds")
    return list(range(int(count)))


Seeds = Annotated[
    tuple[Seed, ...],
    Field(max_length=MOST_SEEDS),
    BeforeValidator(_listed),
    AfterValidator(functools.partial(_each_once, what="seed", least=0)),
    _one_or_several({"minimum": 1, "maximum": MOST_SEEDS}, {"minimum": 0, "exclusiveMaximum": SEEDS}, MOST_SEEDS),
]


_CLAIMS: Any = Field([], max_length=MOST_BLOCKS, description="what is judged on the results")


class Recipe(Strict):
    """A study, read top to bottom like a methods section."""

    title: str
    question: str
    source: str = ""
    data: Named
    model: Named
    snn: SNN = SNN()
    ann_input: AnnInput = Field(
        "steps",
        description="what artificial networks see of recordings: each frame alone, their logits averaged; or the sum "
        "of all frames",
    )
    converted: Converted = Converted()
    train: Train = Train()
    cka: CKABlock = CKABlock()
    seeds: Seeds = Field((0, 1, 2), description="a number of seeds, or the seeds")
    variants: dict[Name, Variant | None] | None = Field(
        None, min_length=1, max_length=MOST_VARIANTS, description="name: what it changes"
    )
    sweep: dict[str, list[Any]] | None = Field(
        None, min_length=1, max_length=1, description="one key path and its values, e.g. model.depth: [8, 14, 20]"
    )
    compare: list[Comparison] = Field([], max_length=MOST_BLOCKS, description="which networks are compared")
    attack: Attacks | None = Field(None, description="which networks are attacked, with what")
    evaluate: list[Evaluation] = Field(
        [], max_length=MOST_BLOCKS, description="which networks are run at other numbers of steps"
    )
    jobs: dict[Name, dict[str, Any]] = Field(
        {}, max_length=MOST_BLOCKS, description="further kinds of job, e.g. of a plugin: name: what it is to do"
    )
    figures: list[FigureBlock] = Field([], max_length=MOST_BLOCKS, description="what the page shows, in order")
    claims: Sequence[Claim] = _CLAIMS
    profiles: dict[str, dict[str, Any] | None] = Field(
        {}, max_length=MOST_BLOCKS, description="name: what is laid over the whole recipe"
    )
    never_run: list[str] = Field([], description="profiles that nobody has run yet; the report says so")


def recipe_model() -> type[Recipe]:
    """`Recipe`, with a block for each test that a claim can be put to."""
    load_plugins()
    return _recipe_model(tuple(test.block for test in TESTS.values()))


@functools.cache
def _recipe_model(claims: tuple[type[Claim], ...]) -> type[Recipe]:
    claim = Annotated[Union[claims], Field(discriminator="test")]  # type: ignore[valid-type]  # noqa: UP007
    return create_model("Recipe", __base__=Recipe, __doc__=Recipe.__doc__, claims=(list[claim], _CLAIMS))
