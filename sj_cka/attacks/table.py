"""All attacks by name; `sj_cka.attacks.transfer`, which makes any of them on another network, adds itself."""

from __future__ import annotations

from sj_cka.attacks.decision import boundary, hop_skip_jump
from sj_cka.attacks.events import add_events, drop_events
from sj_cka.attacks.gradient import fgsm, pgd, pgd_paper
from sj_cka.attacks.masking import pgd_surrogates
from sj_cka.attacks.noise import gaussian, salt_and_pepper, uniform
from sj_cka.attacks.promise import Attack, held
from sj_cka.attacks.square import square
from sj_cka.plugins import lookup

ATTACKS: dict[str, Attack] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "pgd_paper": pgd_paper,
    "pgd_surrogates": pgd_surrogates,
    "square": square,
    "boundary": boundary,
    "hop_skip_jump": hop_skip_jump,
    "gaussian": gaussian,
    "uniform": uniform,
    "salt_and_pepper": salt_and_pepper,
    "drop_events": drop_events,
    "add_events": add_events,
}


def attack_named(name: str) -> Attack:
    """An attack of the table, which is held to what it promises (`sj_cka.attacks.promise.held`), a plugin's too.

    Raises:
        UnknownName: no such attack.
    """
    return held(lookup(ATTACKS, name, "attack"))
