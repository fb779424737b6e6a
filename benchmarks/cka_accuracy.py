"""How far `compare` is from float64: all 73 x 73 layer pairs of a ResNet-20 SNN and ANN, 256 images, T = 4.

    python benchmarks/cka_accuracy.py [--n 256] [--tiny]

The reference is the trace formula in float64 on the CPU, on recorded features, concatenated over time. The networks run
on CUDA where it is; they have random weights and have seen the images once in training mode (else nothing spikes). The
second line shifts the features of one layer by 1000 times their std and compares with the reference of the shifted
numbers, as float32 holds them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_cka import compare, record
from sj_cka.cka.gram import centred_grams
from sj_cka.cka.measures import hsic
from sj_cka.models import build
from sj_cka.training import calibrate

T = 4
TINY = {"n": 16, "depth": 14, "side": 8}


def gram(X: Tensor) -> np.ndarray:
    """Float64 Gram, zero diagonal, of features [S, n, ...] concatenated over S = T steps (or one, shown T times)."""
    flat = X.expand(T, *X.shape[1:]).flatten(2).transpose(0, 1).flatten(1).cpu().double()
    flat = flat - flat.mean(0)  # HSIC_1 does not change with it, and float64 keeps its digits
    K = (flat @ flat.T).numpy()
    np.fill_diagonal(K, 0)
    return K


def trace_formula(K: np.ndarray, L: np.ndarray) -> float:
    """[tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n (n-3)) of symmetric Grams."""
    n, rows_k, rows_l = len(K), K.sum(0), L.sum(0)
    terms = (K * L).sum() + rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows_k @ rows_l)
    return float(terms) / (n * (n - 3))


def features(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What every layer puts out on x."""
    functional.reset_net(net)
    with record(net) as recorded, torch.no_grad():
        net(x)
    functional.reset_net(net)
    return recorded


def main() -> None:
    """Prints errors and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=256, help="images")
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet, from 14")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does it run? Measures nothing")
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    n, side = options.n, options.side
    on = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0)).to(on)
    nets = []
    for kind in ("snn", "ann"):
        net = build(
            kind, {"name": "resnet", "depth": options.depth}, in_channels=3, num_classes=10, T=T, seed=1, device=on
        )  # type: ignore[arg-type]
        calibrate(net, x, batch_size=64)
        nets.append(net.eval())
    began = time.perf_counter()
    found = compare(*nets, [x], progress=False).matrix().to_numpy()
    seconds = time.perf_counter() - began

    recorded = [features(net, x) for net in nets]
    K, L = ([gram(X) for X in side.values()] for side in recorded)
    own = [[trace_formula(G, G) for G in side] for side in (K, L)]
    expected = np.array([[trace_formula(k, m) for m in L] for k in K]) / np.sqrt(np.outer(*own))
    defined = np.isfinite(found)
    print(f"{on}: {found.shape[0]} x {found.shape[1]} layers, n = {n}, T = {T}: compare took {seconds:.1f} s")
    print(
        f"defined: {100 * defined.mean():.1f} % of the pairs; largest error {np.nanmax(np.abs(found - expected)):.1e}"
    )

    X, Y = recorded[0]["layer2.1"], recorded[1]["layer2.1"]
    shifted = X + 1000 * X.std()
    rows = [centred_grams(side.flatten(2)).rows.sum(0, keepdim=True) for side in (shifted, Y, X)]
    value, plain = (
        float(hsic(a, rows[1], n) / (hsic(a, a, n).sqrt() * hsic(rows[1], rows[1], n).sqrt()))
        for a in (rows[0], rows[2])
    )
    k, m = gram(shifted), gram(Y)
    reference = trace_formula(k, m) / np.sqrt(trace_formula(k, k) * trace_formula(m, m))
    print(f"shifted by 1000 std: error {abs(value - reference):.1e}; change by the shift {abs(value - plain):.1e}")


if __name__ == "__main__":
    main()
