"""What a recipe may say: its blocks and keys, each documented under itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    WithJsonSchema,
    create_model,
)

from sj_cka.claims import TESTS, Claim
from sj_cka.figures import State
from sj_cka.plugins import load_plugins
from sj_cka.recipe.attack_block import Attacks
from sj_cka.recipe.choices import Named
from sj_cka.recipe.names import NetworkName
from sj_cka.recipe.train_block import Train
from sj_cka.typed import MOST_STEPS, SEEDS, Int, Name, Seed, Strict, number, several

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


class Alignment(Strict):
    """How CKA is measured."""

    batch_size: Int = Field(360, ge=4, description="test images in a minibatch; the unbiased HSIC needs at least 4")
    batches: Annotated[Int, Field(ge=1)] | None = Field(None, description="use the first so many minibatches")
    layers: list[str] | None = Field(None, min_length=1, description="dotted names or globs; all by default")


def _each_once(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values or min(values) < 1 or len(set(values)) != len(values):
        raise ValueError("expected at least one number of steps, each once and from 1")
    return values


_STEPS_SCHEMA = {
    "oneOf": [
        {"type": "integer", "minimum": 1, "maximum": MOST_STEPS},
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 1, "maximum": MOST_STEPS},
            "minItems": 1,
            "maxItems": MOST_BLOCKS,
            "uniqueItems": True,
        },
    ]
}
Steps = Annotated[
    tuple[Annotated[Int, Field(le=MOST_STEPS)], ...],
    Field(max_length=MOST_BLOCKS),
    BeforeValidator(several),
    AfterValidator(_each_once),
    WithJsonSchema(_STEPS_SCHEMA),
]


class Comparison(Strict):
    """Two networks whose layers are compared; `*` stands for every variant."""

    name: Name
    x: str = Field(
        description="<variant>.<snn|ann|converted>, with @init for the untrained network, @<epoch> for a kept epoch"
    )
    y: str = Field(description="like x; the same network shows what the steps inside its layers share")
    variants: Literal["same", "pairs"] = Field(
        "same", description="what * stands for: one variant in x and y, or every two different ones"
    )
    seeds: Literal["same", "other"] = Field(
        "same", description="x of a seed against y of the same seed, or of the others"
    )
    T_x: Steps | None = Field(
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

    def ceiling_of(self, network: NetworkName) -> str:
        """What tells the two parts of a noise ceiling apart, see `sj_cka.jobs.compare.rows`."""
        return network if self.variants == "pairs" else network.kind


class Evaluation(Strict):
    """Trained spiking networks whose accuracy is measured at other numbers of steps."""

    network: str = Field(description="<variant>.<snn|converted>; `*` stands for every variant")
    T: Steps = Field(description="the numbers of steps")


class FigureBlock(Named):
    """A figure of FIGURES on the page; other keys are its options."""

    comparison: str | None = Field(None, description="the comparison that it shows")
    state: State = Field(
        "trained",
        description="trained networks, or untrained ones (the floor), or seed against seed (the noise ceiling)",
    )
    title: str | None = None

    def options(self) -> dict[str, Any]:
        """Its name and options."""
        return {"name": self.name, **(self.model_extra or {})}


AnnInput = Literal["steps", "sum"]


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


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise ValueError("expected at least one seed, each once and from 0")
    return seeds


_SEEDS_SCHEMA = {
    "oneOf": [
        {"type": "integer", "minimum": 1, "maximum": MOST_SEEDS},
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": SEEDS},
            "minItems": 1,
            "maxItems": MOST_SEEDS,
            "uniqueItems": True,
        },
    ]
}
Seeds = Annotated[
    tuple[Seed, ...],
    Field(max_length=MOST_SEEDS),
    BeforeValidator(_listed),
    AfterValidator(_distinct),
    WithJsonSchema(_SEEDS_SCHEMA),
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
    cka: Alignment = Alignment()
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
