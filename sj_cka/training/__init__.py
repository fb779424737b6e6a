"""Training of one network, and what its learning rule computes."""

from sj_cka.training.checkpoint import Checkpoints, CheckpointSlot
from sj_cka.training.credit.alignment import Alignment, alignment
from sj_cka.training.credit.certificate import Certificate, certify
from sj_cka.training.credit.locality import Locality, locality
from sj_cka.training.credit.rule import Rule
from sj_cka.training.device_loader import DeviceLoader
from sj_cka.training.evaluation import accuracy, calibrate, class_scores
from sj_cka.training.learning_rules import LEARNING_RULES, capturable
from sj_cka.training.loop import Epoch, NotFinite, Trained, train
from sj_cka.training.settings import Settings


def __getattr__(name: str) -> object:
    renamed = ImportError("sj_cka.training.Resident is called DeviceLoader now")
    raise renamed if name == "Resident" else AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "LEARNING_RULES",
    "Alignment",
    "Certificate",
    "CheckpointSlot",
    "Checkpoints",
    "DeviceLoader",
    "Epoch",
    "Locality",
    "NotFinite",
    "Rule",
    "Settings",
    "Trained",
    "accuracy",
    "alignment",
    "calibrate",
    "capturable",
    "certify",
    "class_scores",
    "locality",
    "train",
]
