"""What Fisher information takes, exact and empirical, for networks of two sizes.

    python benchmarks/fisher.py [--samples 128] [--tiny]

CPU seconds of this process on one thread: untrained spiking networks on digits, T = 4, 10 classes.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from sj_cka.data import digits
from sj_cka.fisher import empirical_fisher, fisher_information
from sj_cka.models import build

MODELS: list[dict[str, Any]] = [{"name": "mlp", "inputs": 64, "hidden": [256, 256]}, {"name": "resnet", "depth": 8}]


def main() -> None:
    """Prints a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tiny", action="store_true", help="2 samples")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, N = digits(), 2 if given.tiny else given.samples
    x, y = data.as_input(data.x_test[:N]), data.y_test[:N]
    for model in MODELS:
        network = build("snn", model, in_channels=data.channels, num_classes=data.classes, T=4)
        empirical_fisher(network, x[:1], y[:1])  # what is loaded once in a process is not counted
        began = time.process_time()
        fisher_information(network, x)
        between = time.process_time()
        empirical_fisher(network, x, y)
        exact, empirical = between - began, time.process_time() - between
        print(f"{model['name']:8} {N} samples: {exact:6.1f} CPU s, with labels of the data {empirical:6.1f} CPU s")


if __name__ == "__main__":
    main()
