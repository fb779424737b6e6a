"""What the ridge and the number of samples do to exchanged layers, and what an exchange takes.

    python benchmarks/exchange.py [--epochs 10] [--tiny]

Twins are trained on digits, T = 4: an MLP with three hidden layers of 128, and ResNet-8s with and without shortcuts.
Then layers of neurons of the spiking network are put into the artificial one and the other way round, on one thread.
The default ridge of `sj_cka.exchange.exchange` rests on it.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import pandas as pd
import torch
from torch import nn

from sj_cka.data import digits
from sj_cka.data.samples import Samples
from sj_cka.exchange import exchange
from sj_cka.models import build
from sj_cka.training import DeviceLoader, Settings, train

MODELS: dict[str, dict[str, Any]] = {
    "MLP": {"name": "mlp", "inputs": 64, "hidden": [128, 128, 128]},
    "ResNet-8": {"name": "resnet", "depth": 8},
    "ResNet-8 without shortcuts": {"name": "resnet", "depth": 8, "residual": []},
}
RIDGES = (1e-6, 1e-4, 1e-2)
FITS = (64, 128, 256, 512)  # samples that maps are fitted on


def main() -> None:
    """Prints a table for each pair of twins."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="20 samples, one epoch, an MLP alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = digits(train=20) if given.tiny else digits()
    for name in list(MODELS)[: 1 if given.tiny else None]:
        twins = [_trained(kind, MODELS[name], data, 1 if given.tiny else given.epochs) for kind in ("snn", "ann")]
        fits = (20,) if given.tiny else FITS if name == "MLP" else FITS[-1:]
        rows = [_measured(twins, data, fit, ridge) for fit in fits for ridge in RIDGES]
        print(f"{name}\n{pd.DataFrame(rows).to_string(index=False)}")
    print("lost: by a network with itself, at worst; left: mean over layers and both ways; seconds: of CPU, for both")
    print("target: at ridge 1e-6 and 512 samples the most that a network with itself loses is 0")


def _trained(kind: Any, model: dict[str, Any], data: Samples, epochs: int) -> nn.Module:
    neuron = {"name": "lif", "tau": 2.0}
    network = build(kind, model, in_channels=data.channels, num_classes=data.classes, T=4, neuron=neuron, seed=0)
    batches = DeviceLoader(
        data.x_train, data.y_train, batch_size=64, seed=0, classes=data.classes, prepare=data.as_input
    )
    train(network, batches, Settings(epochs=epochs), seed=0)
    return network.eval()


def _measured(twins: list[nn.Module], data: Samples, fit: int, ridge: float) -> dict[str, float]:
    began = time.process_time()
    given = data.x_train[:fit], data.x_test, data.y_test
    ways = [
        exchange(x, y, *given, layers=["*lif*"], prepare=data.as_input, ridge=ridge, orders=1)
        for x, y in (twins, twins[::-1])
    ]
    lost = max(float((way.whole - way.layers["self"]).max()) for way in ways)
    left = sum(float(way.layers["accuracy"].mean()) for way in ways) / 2
    spent = time.process_time() - began
    whole = sum(way.whole for way in ways) / 2
    return {"fit": fit, "ridge": ridge, "lost": lost, "left": left, "as they are": whole, "seconds": spent}


if __name__ == "__main__":
    main()
