"""Claims of the papers as checkable statements, as a recipe gives them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sj_cka.typed import Float, Strict


class Measurement(Strict):
    """What is measured, of which network or comparison."""

    measure: str = Field(description="a name of MEASUREMENTS")
    network: str | None = Field(None, description="for accuracy: <variant>.<snn|ann>; in a trend snn or ann")
    comparison: str | None = Field(None, description="for CKA: the comparison whose layers are meant")
    variant: str | None = Field(None, description="the variant, where the comparison is over all")
    split: Literal["train", "test"] = "test"


class _Claim(Strict):
    says: str = Field(description="the statement, in a sentence")
    source: str = Field(description="who states it, and how surely that is known")


class OneArm(_Claim):
    """A measurement against a fixed value, against the ceiling, or over a sweep."""

    a: Measurement

    def arms(self) -> dict[str, Measurement]:
        """The measurements, by key."""
        return {"a": self.a}


class TwoArms(OneArm):
    """A measurement against another."""

    b: Measurement

    def arms(self) -> dict[str, Measurement]:
        """The measurements, by key."""
        return {"a": self.a, "b": self.b}


class Greater(TwoArms):
    """a is greater than b."""

    test: Literal["greater"]


class Less(TwoArms):
    """a is less than b."""

    test: Literal["less"]


class Differs(TwoArms):
    """a differs from b, either way."""

    test: Literal["differs"]


class Above(OneArm):
    """a lies above a value."""

    test: Literal["above"]
    value: Float


class Below(OneArm):
    """a lies below a value."""

    test: Literal["below"]
    value: Float


class NearCeiling(OneArm):
    """(a - floor) / (ceiling - floor) is above 0.5."""

    test: Literal["near_ceiling"]


class Trend(OneArm):
    """a grows, or falls, with log2 of the swept value."""

    test: Literal["trend"]
    direction: Literal["up", "down"]


Claim = Annotated[Greater | Less | Differs | Above | Below | NearCeiling | Trend, Field(discriminator="test")]
