"""Attacks on spiking and artificial networks, with and without gradients, from one table.

Every attack is one function `attack(net, x, y, *, eps, generator=None, **options) -> x_adv`, where `net` maps inputs in
the unit of eps to logits `[N, classes]`: `pixel_model` makes one of any network, and says where the samples lie. All
are held to ball and bounds in one place (`held`), a plugin's too: `@promises("radius", norm="linf")` says to which.
"""

from sj_cka.attacks.ascent import MaskedGradient
from sj_cka.attacks.black_box import boundary, hop_skip_jump, square
from sj_cka.attacks.gradient import fgsm, pgd, pgd_paper, pgd_surrogates, with_surrogate
from sj_cka.attacks.matched import Matched, RateNotReached, craft, eps_for_success, noise_like
from sj_cka.attacks.measure import (
    Perturbation,
    accuracy,
    losses,
    perturbation,
    right,
    success_rate,
    within,
    without_gradient,
)
from sj_cka.attacks.model import PixelModel, pixel_model, pixels
from sj_cka.attacks.noise import add_events, drop_events, gaussian, salt_and_pepper, uniform
from sj_cka.attacks.poisoning import Backdoor, Poisoned, backdoor, poison, stamp
from sj_cka.attacks.promise import AttackFunction, BrokenPromise, Promise, held, promises
from sj_cka.attacks.table import ATTACKS, Attack, attack_named, transfer
from sj_cka.attacks.victim import NoGradient

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackFunction",
    "Backdoor",
    "BrokenPromise",
    "MaskedGradient",
    "Matched",
    "NoGradient",
    "Perturbation",
    "PixelModel",
    "Poisoned",
    "Promise",
    "RateNotReached",
    "accuracy",
    "add_events",
    "attack_named",
    "backdoor",
    "boundary",
    "craft",
    "drop_events",
    "eps_for_success",
    "fgsm",
    "gaussian",
    "held",
    "hop_skip_jump",
    "losses",
    "noise_like",
    "perturbation",
    "pgd",
    "pgd_paper",
    "pgd_surrogates",
    "pixel_model",
    "pixels",
    "poison",
    "promises",
    "right",
    "salt_and_pepper",
    "square",
    "stamp",
    "success_rate",
    "transfer",
    "uniform",
    "with_surrogate",
    "within",
    "without_gradient",
]
