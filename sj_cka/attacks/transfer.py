"""Attacks that are made on one network and shown to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Generator, Tensor, nn

from sj_cka.attacks import checks
from sj_cka.attacks.table import ATTACKS, Attack, attack_named
from sj_cka.attacks.victim import sample_axis

_DEFAULT = "pgd"


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
    checks.strength(eps)
    if sample_axis(net) != sample_axis(source):
        raise ValueError(
            f"expected a source with samples on axis {sample_axis(net)}, as the network's, got {sample_axis(source)}"
        )
    return attack_named(attack)(source, x, y, eps=eps, generator=generator, **(options or {}))


ATTACKS["transfer"] = Attack(transfer, needs="source")
