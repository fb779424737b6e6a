"""Training of one network."""

from sj_cka.training.loop import Epoch, NotFinite, Settings, accuracy, calibrate, class_scores, train

__all__ = ["Epoch", "NotFinite", "Settings", "accuracy", "calibrate", "class_scores", "train"]
