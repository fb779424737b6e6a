"""What a study needs, tried on a few samples before anything runs, so that a fault costs nothing."""

from sj_cka.trial.attacks import attack_block, check_attacks, check_poison
from sj_cka.trial.networks import Size, check_augmentations, check_layers, network_options, tried

__all__ = [
    "Size",
    "attack_block",
    "check_attacks",
    "check_augmentations",
    "check_layers",
    "check_poison",
    "network_options",
    "tried",
]
