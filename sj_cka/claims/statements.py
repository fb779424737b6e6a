"""Claims of the papers as checkable statements, as a recipe gives them."""

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from sj_cka.typed import MOST_STEPS, Float, Int, Strict

NEAR = 0.95  # share of the noise ceiling from which on a value is near it


class Arm(Strict):
    """An arm of a claim: what is measured, of which network or comparison."""

    measure: str = Field(description="a name of MEASUREMENTS")
    network: str | None = Field(None, description="for accuracy: <variant>.<snn|ann>; in a trend snn or ann")
    T: Annotated[Int, Field(ge=1, le=MOST_STEPS)] | None = Field(
        None, description="for accuracy: steps that the network runs with, out of those that evaluate names"
    )
    attack: str | None = Field(None, description="for accuracy: the entry of attack.by that the network is under")
    eps: Float | None = Field(None, description="for accuracy under attack: its strength, if it has several")
    comparison: str | None = Field(None, description="for CKA: the comparison whose layers are meant")
    minus: str | None = Field(
        None, description="another comparison, or network (in a trend snn or ann), whose value is taken off"
    )
    variant: str | None = Field(None, description="the variant, where the comparison is over all")
    layers: list[str] | None = Field(None, min_length=1, description="for CKA: dotted names or globs; all by default")
    split: Literal["train", "test"] = "test"


class Claim(Strict):
    """A statement that is judged by one of TESTS, named by a field `test` of its own."""

    test: str
    says: str = Field(description="the statement, in a sentence")
    source: str = Field(description="who states it, and how surely that is known")
    primary: StrictBool = Field(
        False, description="one of the claims that the study is made for: corrected for their number; else exploratory"
    )
    margin: Float | None = Field(
        None, ge=0, description="differences within it are of no matter; None for that of the measurement"
    )
    reason: str | None = Field(None, description="why a difference within the margin is of no matter")
    spread: Float | None = Field(
        None, gt=0, description="standard deviation over seeds that is expected; None for that of the measurement"
    )

    def arms(self) -> dict[str, Arm]:
        """What is measured, by key, see `path_of`; each test's own."""
        raise NotImplementedError


def path_of(arm: str) -> tuple[str | int, ...]:
    """The key path of an arm in its claim.

    Example:
        >>> path_of("pairs.0.a")
        ('pairs', 0, 'a')
    """
    return tuple(int(part) if part.isdigit() else part for part in arm.split("."))


class OneArm(Claim):
    """A measurement against a fixed value, against the ceiling, or over a sweep."""

    a: Arm

    def arms(self) -> dict[str, Arm]:
        """The measurements, by key."""
        return {"a": self.a}


class TwoArms(OneArm):
    """A measurement against another; or, with c and d, how far a is above b against how far c is above d."""

    b: Arm
    c: Arm | None = Field(None, description="with d: a less b is set against c less d, an interaction")
    d: Arm | None = None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.c is None) != (self.d is None):
            raise ValueError(f"expected c and d, or neither: got {'d' if self.c is None else 'c'} alone")
        return self

    def arms(self) -> dict[str, Arm]:
        """The measurements, by key."""
        return {key: arm for key in "abcd" if (arm := getattr(self, key)) is not None}


class Greater(TwoArms):
    """a is greater than b, by more than the margin."""

    test: Literal["greater"]


class Less(TwoArms):
    """a is less than b, by more than the margin."""

    test: Literal["less"]


class Differs(TwoArms):
    """a differs from b by more than the margin, either way."""

    test: Literal["differs"]


class Same(TwoArms):
    """a and b differ by less than the margin: contradicted where they differ by more."""

    test: Literal["same"]


class ArmPair(Strict):
    """Two measurements of `greater_in_all`."""

    a: Arm
    b: Arm


class GreaterInAll(Claim):
    """a is greater than b in every pair, by more than the margin: contradicted where it is less in one of them."""

    test: Literal["greater_in_all"]
    pairs: list[ArmPair] = Field(min_length=2, max_length=100)

    def arms(self) -> dict[str, Arm]:
        """The measurements, by key."""
        return {f"pairs.{i}.{arm}": getattr(pair, arm) for i, pair in enumerate(self.pairs) for arm in "ab"}

    def parts(self) -> list[Greater]:
        """Each pair as a claim of its own."""
        rest = self.model_dump(exclude={"test", "pairs"})
        return [Greater(test="greater", a=pair.a, b=pair.b, **rest) for pair in self.pairs]


class Above(OneArm):
    """a lies above a value, by more than the margin."""

    test: Literal["above"]
    value: Float


class Below(OneArm):
    """a lies below a value, by more than the margin."""

    test: Literal["below"]
    value: Float


class NearCeiling(OneArm):
    """a over its noise ceiling is above NEAR, and layers of one name are more alike than those of different names."""

    test: Literal["near_ceiling"]


class Trend(OneArm):
    """a grows, or falls, with log2 of the swept value, by more than the margin a doubling."""

    test: Literal["trend"]
    direction: Literal["up", "down"]
