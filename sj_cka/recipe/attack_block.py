"""What a recipe says about attacks: which, on which networks, how strong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from sj_cka.recipe.names import NetworkName
from sj_cka.typed import Float, Int, Name, Strict, several

NOISE = "noise_like"  # not in ATTACKS: it is made from another attack


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values or min(values) <= 0 or sorted(set(values)) != list(values):
        raise ValueError("expected at least one eps above 0, each once, from the smallest to the largest")
    return values


_EPS_SCHEMA = {"oneOf": [{"type": ["number", "string"]}, {"type": "array", "items": {"type": ["number", "string"]}}]}
Strengths = Annotated[
    tuple[Float, ...],
    Field(max_length=100),
    BeforeValidator(several),
    AfterValidator(_ascending),
    WithJsonSchema(_EPS_SCHEMA),
]


class AttackBlock(BaseModel):
    """An attack of ATTACKS under a name of its own, or `noise_like`; other keys are its options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str | None = Field(None, description="a name of ATTACKS, or noise_like; by default that of the entry")
    eps: Strengths | None = Field(None, description="in place of attack.eps")
    rate: Annotated[Float, Field(gt=0, lt=1)] | None = Field(
        None, description="success rate at which the attack is made, in place of eps; found by bisection"
    )
    eps_max: Annotated[Float, Field(gt=0)] | None = Field(None, description="with rate: the largest eps tried")
    source: str | None = Field(
        None, description="for transfer: the network that is attacked; * stands for the variant of the one shown it"
    )
    like: str | None = Field(None, description="for noise_like: the entry whose measured L2 norm the noise has")

    @model_validator(mode="after")
    def _one_strength(self) -> AttackBlock:
        if self.rate is not None and self.eps is not None:
            raise ValueError("expected eps or rate, got both")
        if (self.rate is None) != (self.eps_max is None):
            raise ValueError("expected rate and eps_max together")
        return self

    def options(self) -> dict[str, Any]:
        """The options of the attack itself."""
        return dict(self.model_extra or {})


class Attacks(Strict):
    """Attacks on trained networks, with images of the test split."""

    images: Int = Field(128, ge=4, description="test samples under attack: the first so many")
    batch_size: Int = Field(128, ge=1, description="samples that are attacked at once")
    networks: list[str] = Field(
        ["*.snn", "*.ann"], min_length=1, description="<variant>.<snn|ann|converted>; * stands for every variant"
    )
    eps: Strengths = Field(
        description="strengths of every attack: in pixels from 0 to 1; for some another unit, see the attack"
    )
    by: dict[Name, AttackBlock | None] = Field(
        min_length=1, max_length=100, description="name: an attack and its options"
    )


class Attacking(NamedTuple):
    """An entry of `attack.by` with all its settings resolved.

    Args:
        name: of the entry.
        attack: a name of ATTACKS, or NOISE.
        options: of that attack.
        eps: strengths; (None,) where it is made at a success rate.
        rate, eps_max: success rate and largest eps, if it is.
        source: pattern of the network that a transfer attacks.
        like: the entry that noise has the norm of.
    """

    name: str
    attack: str
    options: Mapping[str, Any]
    eps: tuple[float | None, ...]
    rate: float | None = None
    eps_max: float | None = None
    source: str | None = None
    like: str | None = None

    def source_of(self, network: NetworkName) -> NetworkName | None:
        """The network that is attacked in place of another, if this is a transfer."""
        return None if self.source is None else NetworkName(self.source.replace("*", network.variant))

    def concerns(self, network: NetworkName) -> bool:
        """Whether a network is shown it: not the one that it was made on itself."""
        return self.source_of(network) != network

    def label(self, eps: float | None) -> str:
        """One strength of it, as a figure names it."""
        return self.name if eps is None else f"{self.name} at eps {eps:g}"


def resolved(attacks: Attacks) -> dict[str, Attacking]:
    """The entries with all their settings, by name; noise takes its strengths from the entry that it is like."""
    entries: dict[str, Attacking] = {}
    for name, given in attacks.by.items():
        block = given or AttackBlock()
        eps: tuple[float | None, ...] = block.eps or attacks.eps
        if block.rate is not None:
            eps = (None,)
        elif block.like is not None and block.like in entries:
            eps = entries[block.like].eps
        entries[name] = Attacking(
            name, block.name or name, block.options(), eps, block.rate, block.eps_max, block.source, block.like
        )
    return entries
