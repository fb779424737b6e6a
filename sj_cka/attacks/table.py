"""All attacks by name, each with all there is to know of it; and those that are made on another network."""

import functools
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch import Generator, Tensor, nn

from sj_cka.attacks.black_box import boundary, hop_skip_jump, square
from sj_cka.attacks.gradient import fgsm, pgd, pgd_paper, pgd_surrogates
from sj_cka.attacks.noise import add_events, drop_events, gaussian, salt_and_pepper, uniform
from sj_cka.attacks.promise import AttackFunction, Promise, held, promise_of
from sj_cka.attacks.victim import sample_axis
from sj_cka.plugins import lookup
from sj_cka.ranges import Norm

Needs = Literal["gradient", "answers", "source", "nothing"]
EpsUnit = Literal["pixels", "normalised", "counts"]
_DEFAULT = "pgd"  # attack of a transfer


class Attack:
    """An entry of ATTACKS: a function, which is held to what it promises, and what a study has to know of it.

    Args:
        function: `attack(net, x, y, *, eps, generator=None, **options) -> x_adv`; its ball is what `promises` says.
        needs: of the attacked network: its "gradient", or no more than its "answers"; or the gradient of another one,
            its option `source`; or "nothing", as noise. An attack that does not say so is taken to need the gradient,
            so that a study asks for one without beside it.
        unit: of eps and inputs: "pixels" from 0 to 1, on recordings counts of events; "normalised": images as the
            network takes them; "counts": of events, on recordings alone.
        trial: largest values of options with which it is tried on two samples before a study runs; None where two
            samples are too few.
    """

    promise: Promise

    def __init__(
        self,
        function: AttackFunction,
        *,
        needs: Needs = "gradient",
        unit: EpsUnit = "pixels",
        trial: Mapping[str, int] | None = MappingProxyType({}),
    ) -> None:
        self.function, self.needs, self.unit, self.trial = held(function), needs, unit, trial
        self.promise = promise_of(self.function)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The function itself."""
        return self.function(*args, **kwargs)

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments by name, those that are not given at their default."""
        parameters = inspect.signature(self.function).parameters
        return {name: parameter.default for name, parameter in parameters.items()} | dict(options)

    def ball(self, options: Mapping[str, Any]) -> Norm | None:
        """The norm in which eps is the radius of a ball in pixels or counts; None where it is none, and of noise."""
        plain = self.unit == "pixels" and self.needs != "nothing"
        return self.promise.ball(self.with_defaults(options)) if plain else None


def inside(attack: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The attack that does the work, and its options: of a transfer the one that it makes on its source.

    Example:
        >>> inside("transfer", {"attack": "fgsm", "options": {"norm": "l2"}}), inside("pgd", {"steps": 5})
        (('fgsm', {'norm': 'l2'}), ('pgd', {'steps': 5}))
    """
    if attack != "transfer":
        return attack, dict(options)
    return options.get("attack", _DEFAULT), dict(options.get("options") or {})


def transfer(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    source: nn.Module,
    attack: str = _DEFAULT,
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """An attack on another network, whose gradients are not masked where this one's are (Papernot et al. 2016).

    Args:
        net: the network that will be shown the result; not run.
        x, y, eps, generator: what the attack is given.
        source: the network that is attacked, from the same inputs to logits; a `pixel_model` of its own, with its own
            mean and std.
        attack: a name of ATTACKS.
        options: further arguments of that attack.

    Returns:
        Inputs like x.

    Raises:
        ValueError: samples on another axis of `source` than of `net`; and what the attack raises.
        UnknownName: no such attack.
    """
    if sample_axis(net) != sample_axis(source):
        raise ValueError(
            f"expected a source with samples on axis {sample_axis(net)}, as the network's, got {sample_axis(source)}"
        )
    return attack_named(attack)(source, x, y, eps=eps, generator=generator, **(options or {}))


ATTACKS: dict[str, Attack] = {
    "fgsm": Attack(fgsm),
    "pgd": Attack(pgd, trial={"steps": 1, "restarts": 2}),
    "pgd_paper": Attack(pgd_paper, unit="normalised"),
    "pgd_surrogates": Attack(pgd_surrogates, trial={"steps": 1, "restarts": 2}),
    "square": Attack(square, needs="answers", trial={"queries": 2}),
    # these start from samples that are classified otherwise
    "boundary": Attack(boundary, needs="answers", trial=None),
    "hop_skip_jump": Attack(hop_skip_jump, needs="answers", trial=None),
    "gaussian": Attack(gaussian, needs="nothing"),
    "uniform": Attack(uniform, needs="nothing"),
    "salt_and_pepper": Attack(salt_and_pepper, needs="nothing"),
    "drop_events": Attack(drop_events, needs="nothing", unit="counts"),
    "add_events": Attack(add_events, needs="nothing", unit="counts"),
    "transfer": Attack(transfer, needs="source"),
}


def attack_named(name: str) -> Attack:
    """An attack of the table; a function that a plugin put there alone is taken as an entry that says nothing else.

    Raises:
        UnknownName: no such attack.
    """
    entry = lookup(ATTACKS, name, "attack")
    return entry if isinstance(entry, Attack) else Attack(entry)
