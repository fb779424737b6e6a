"""Training of one network."""

from sj_cka.training.batches import Resident
from sj_cka.training.checkpoint import Checkpoints, Shelf
from sj_cka.training.evaluation import accuracy, calibrate, class_scores
from sj_cka.training.loop import Epoch, NotFinite, Trained, train
from sj_cka.training.settings import Settings

__all__ = [
    "Checkpoints",
    "Epoch",
    "NotFinite",
    "Resident",
    "Settings",
    "Shelf",
    "Trained",
    "accuracy",
    "calibrate",
    "class_scores",
    "train",
]
