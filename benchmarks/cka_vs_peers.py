"""What a comparison costs past the forward pass: this project, the pairwise formula and three packages, same work.

    python benchmarks/cka_vs_peers.py [--only a b c] [--n 256 1024] [--quick] [--threads 2] [--tiny]

(a) two ResNet-20 ANNs, 30 x 30 layers; (b) the paper's comparison, ResNet-20 SNN (T = 4) and ANN, 73 x 73 layers;
(c) what the time steps cost. The networks have random weights and have seen images once in training mode. All tools
take turns in one process, each after a forward pass of both networks alone; a tool's time is less the median of those.
A run waits for other processes to be quiet and is taken again if they were not; a ratio is this project / the tool.
While the time is taken the C library keeps what is freed (glibc): whether a tool's memory is asked for anew in each run
is otherwise luck, and costs the tools that need most of it up to four times their time.
Memory is the peak over the start of a fresh process for each tool, that of the forward passes likewise (Linux). Errors
are taken against the trace formula in float64 ("own": against what the tool says that it computes); NaN counts entries
that should have a value, "wrong" those that are off by 0.001 or have none.

The packages are optional; a folder of their own keeps them, and what they ask for, out of the environment:

    python -m pip --python .venv/bin/python install --no-deps --target .venv/peers \\
        pytorch-cka cka-pytorch torch_cka lightning lightning-utilities torchmetrics seaborn
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_cka import compare
from sj_cka.cka.gram import centred_grams
from sj_cka.cka.measures import hsic
from sj_cka.models import build
from sj_cka.recording import is_neuron
from sj_cka.training import calibrate

OURS = "this project"
SLOW = 30.0  # seconds beyond which a tool runs once only, come what may
PATIENCE, TRIES = 600, 8  # half seconds to wait for other processes before a run; runs
TINY = {"only": ["a", "c"], "n": [16], "depth": 14, "side": 8, "threads": 1}  # (b) is made of the two
WRONG = 1e-3  # an entry off by more is counted as wrong
# glibc's allocator: all from a heap that never shrinks, and what is large apart and given back when freed
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}


@dataclass(frozen=True)
class Work:
    """Two networks, the layers of both in order of execution, and one batch; a loader of it, as the packages ask."""

    x: nn.Module
    y: nn.Module
    layers: list[str]
    images: Tensor
    dataset: str = "images"
    patient: bool = True  # waits for other processes to be quiet

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.images, torch.zeros(len(self.images))

    def __len__(self) -> int:
        return 1


def run(net: nn.Module, images: Tensor) -> None:
    functional.reset_net(net)
    net(images)


def forward(work: Work) -> None:
    run(work.x, work.images)
    run(work.y, work.images)


def in_hooks(work: Work, what: Callable[[Tensor, bool], Any]) -> list[list[Any]]:
    """`what` of the features of every layer, for both networks.

    It is given `[S, n, D]`, S = T steps, or 1 where nothing changes with time, and whether these are spikes.
    """
    sides: list[list[Any]] = []
    for net in (work.x, work.y):
        found: dict[nn.Module, Any] = {}

        def hook(module: nn.Module, args: Any, out: Tensor, found: Any = found, T: Any = net.T) -> None:
            found[module] = what(out.flatten(1)[None] if T is None else out.flatten(2), is_neuron(module))

        modules = [net.get_submodule(name) for name in work.layers]
        with ExitStack() as hooks:
            for module in modules:
                hooks.callback(module.register_forward_hook(hook).remove)
            run(net, work.images)
        sides.append([found[module] for module in modules])
    return sides


def ours(work: Work) -> np.ndarray:
    return compare(work.x, work.y, work, layers=work.layers, progress=False).matrix().to_numpy()


def concatenated(X: Tensor) -> Tensor:
    """Features `[n, S D]`."""
    return X[0] if len(X) == 1 else X.transpose(0, 1).flatten(1)


def trace_formula(K: Tensor, L: Tensor) -> float:
    """[tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n (n-3)) of Grams with zero diagonals."""
    n, KL = len(K), K @ L
    return float(KL.trace() + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * KL.sum()) / (n * (n - 3))


def pairwise(work: Work) -> np.ndarray:
    """Float32 Grams, and the trace formula with a matrix product for every pair of layers."""

    def gram(X: Tensor, _: bool) -> Tensor:
        flat = concatenated(X)
        return (flat @ flat.T).fill_diagonal_(0)

    K, L = in_hooks(work, gram)
    own = [np.array([trace_formula(G, G) for G in side]) for side in (K, L)]
    return np.array([[trace_formula(k, m) for m in L] for k in K]) / np.sqrt(np.outer(*own))


def pytorch_cka(work: Work) -> np.ndarray:
    from cka import compute_cka

    [matrix] = compute_cka(work.x, work.y, work, layers=work.layers, device="cpu", progress=False)
    return matrix.double().numpy()


def cka_pytorch(work: Work) -> np.ndarray:
    from cka_pytorch import CKACalculator

    calculator = CKACalculator(work.x, work.y, work.layers, work.layers, verbose=False)
    matrix = calculator.calculate_cka_matrix(work, num_epochs=1).double().numpy()
    names = calculator.hook_manager1.module_names, calculator.hook_manager2.module_names
    calculator.reset()
    return matrix[np.ix_(*([side.index(name) for name in work.layers] for side in names))]


def torch_cka(work: Work) -> np.ndarray:
    from torch_cka import CKA

    names = {"model1_name": "x", "model2_name": "y", "model1_layers": work.layers, "model2_layers": work.layers}
    comparison = CKA(work.x, work.y, **names)
    with redirect_stderr(io.StringIO()):  # its progress bar
        comparison.compare(work, work)
    for module in (*work.x.modules(), *work.y.modules()):  # its hooks stay otherwise
        module._forward_hooks.clear()
    return comparison.export()["CKA"].double().numpy()  # in order of execution


def concatenated_grams(work: Work) -> np.ndarray:
    """This project's functions on features concatenated over time: no values of single steps."""
    sides = in_hooks(work, lambda X, spikes: centred_grams(concatenated(X)[None], spikes=spikes).rows)
    rows_x, rows_y = (torch.cat(side) for side in sides)
    own = [np.array([float(hsic(row, row, len(work.images))) for row in side]) for side in sides]
    return hsic(rows_x, rows_y, len(work.images)).numpy() / np.sqrt(np.outer(*own))


def raw_grams(work: Work) -> None:
    in_hooks(work, lambda X, _: X @ X.mT)


TOOLS: dict[str, Callable[[Work], Any]] = {
    "forward": forward,
    OURS: ours,
    "pairwise": pairwise,
    "pytorch-cka": pytorch_cka,
    "cka-pytorch": cka_pytorch,
    "torch_cka": torch_cka,
    "concatenated": concatenated_grams,
    "raw Grams": raw_grams,
}
MODULES = {"pytorch-cka": "cka", "cka-pytorch": "cka_pytorch", "torch_cka": "torch_cka"}
# where it is not HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)) with the unbiased HSIC_1, which on one batch all others give
OWN: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "pytorch-cka": ("clipped to 0 ... 1", lambda xy, own: np.clip(xy / np.sqrt(own), 0, 1)),
    "cka-pytorch": ("1e-4 added below the root", lambda xy, own: xy / np.sqrt(own + 1e-4)),
}


def reference(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """HSIC_1 of all pairs `[P, Q]`, and HSIC_1(x, x) HSIC_1(y, y), NaN without structure: trace formula in float64."""

    def gram(X: Tensor, _: bool) -> Tensor:
        flat = concatenated(X).clone().double()
        flat -= flat.mean(0)  # HSIC_1 does not change with it, and float64 keeps its digits
        return (flat @ flat.T).fill_diagonal_(0)

    def between(K: Tensor, L: Tensor) -> Tensor:
        n, k, m = K.shape[-1], K.sum(-1), L.sum(-1)
        terms = K.flatten(1) @ L.flatten(1).T - 2 / (n - 2) * (k @ m.T)
        return (terms + k.sum(-1)[:, None] * m.sum(-1) / ((n - 1) * (n - 2))) / (n * (n - 3))

    K, L = (torch.stack(side) for side in in_hooks(work, gram))
    xx, yy = (np.array([float(between(G[None], G[None])) for G in side]) for side in (K, L))
    return between(K, L).numpy(), np.outer(np.where(xx > 0, xx, np.nan), np.where(yy > 0, yy, np.nan))


def others() -> float:
    """Seconds of CPU that other processes have taken since the machine started."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - time.process_time()


def stopwatch(tool: str, work: Work) -> tuple[float, Any]:
    """Seconds and result of a run, the last of a few if other processes took more than 5 % of its time in each."""
    for _ in range(TRIES if work.patient else 1):
        gc.collect()
        for _ in range(PATIENCE if work.patient else 0):
            before = others()
            time.sleep(0.5)
            if others() - before < 0.05:  # the clock of the CPU ticks 100 times a second
                break
        before, began = others(), time.perf_counter()
        result = TOOLS[tool](work)
        took = time.perf_counter() - began
        disturbed = others() - before > 0.05 * took + 0.03
        if not disturbed or took > SLOW:
            break
    if disturbed:
        print(f"  {tool}: {took:.3f} s, timed while other processes were running")
    return took, result


def seconds(work: Work, tools: Sequence[str], rounds: int) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Time past the forward passes, and what each tool found; under "forward" the time of those themselves."""
    for tool in tools:
        TOOLS[tool](replace(work, images=work.images[:16]))
    times: dict[str, list[float]] = {tool: [] for tool in ("forward", *tools)}
    found: dict[str, np.ndarray] = {}
    forward(work)
    for tool in list(tools) * rounds:
        if not times[tool] or times[tool][0] < SLOW:
            for name in ("forward", tool):
                took, found[name] = stopwatch(name, work)
                times[name].append(took)
    alone = median(times["forward"])
    return {tool: [t - alone * (tool != "forward") for t in own] for tool, own in times.items()}, found


def peaks(work: Work, tools: Sequence[str], peers: Path, rounds: int) -> dict[str, float]:
    """Peak memory in MB over the start, of each tool in a process of its own; the median."""
    environment = os.environ | GIVE_BACK
    with tempfile.TemporaryDirectory() as folder:
        torch.save(work, Path(folder) / "work.pt")
        options = ["--peers", str(peers), "--threads", str(torch.get_num_threads())]
        commands = {tool: [sys.executable, __file__, "--child", tool, folder, *options] for tool in tools}
        return {
            tool: median(float(subprocess.check_output(command, env=environment)) for _ in range(rounds))
            for tool, command in commands.items()
        }


def child(tool: str, folder: str) -> None:
    """Prints the peak of this process over its start, after a warm-up on a few images."""
    work = torch.load(Path(folder) / "work.pt", weights_only=False)
    TOOLS[tool](replace(work, images=work.images[:8]))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = resident("VmRSS")
    TOOLS[tool](work)
    print(resident("VmHWM") - start)


def resident(key: str) -> float:
    [kilobytes] = re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1024


def report(title: str, work: Work, tools: list[str], rounds: int, peers: Path, targets: dict[str, float]) -> None:
    """Measures and prints one table."""
    times, found = seconds(work, tools, rounds)
    memory = peaks(work, ["forward", *tools], peers, min(rounds, 3) if len(work.images) < 1024 else 1)
    xy, own = reference(work)
    cka = xy / np.sqrt(own)
    defined = np.isfinite(cka)
    middle = {tool: median(values) for tool, values in times.items()}
    print(f"\n{title}, {len(cka)} x {len(cka)} layers, n = {len(work.images)}, {defined.mean():.1%} of pairs defined")
    print(f"  forward passes alone: {middle['forward']:.3f} s ({spread(times['forward'])}), {memory['forward']:.0f} MB")
    print(f"{'s past forward':>31s}{'(range)':>19s}{'ratio':>7s}{'MB':>7s}{'past fwd':>9s}{'ratio':>7s}", end="")
    print(f"{'error':>9s}{'own':>9s}{'NaN':>5s}{'wrong':>6s}")
    measured = {"MB past the forward passes": memory[OURS] - memory["forward"]}
    for tool in tools:
        off = np.abs(found[tool] - cka)
        own_off = np.abs(found[tool] - OWN[tool][1](xy, own)) if tool in OWN else off
        wrong = (off > WRONG).sum() + np.isfinite(found[tool][~defined]).sum()
        past = memory[tool] - memory["forward"]
        ratios = middle[OURS] / middle[tool], memory[OURS] / memory[tool]
        print(f"  {tool:14s}{middle[tool]:15.3f}{spread(times[tool]):>19s}{ratios[0]:7.2f}", end="")
        print(f"{memory[tool]:7.0f}{past:9.0f}{ratios[1]:7.2f}{np.nanmax(off):9.1e}{np.nanmax(own_off):9.1e}", end="")
        print(f"{np.isnan(off[defined]).sum():5d}{wrong:6d}" + (f"  {OWN[tool][0]}" if tool in OWN else ""))
        measured |= {f"time of {tool}": ratios[0], f"memory of {tool}": ratios[1], f"error of {tool}": np.nanmax(off)}
    for what, limit in targets.items():
        target(what, measured.get(what, np.nan), limit)


def spread(values: Sequence[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def target(text: str, value: float, limit: float) -> None:
    verdict = "not measured" if np.isnan(value) else "met" if value <= limit else "missed"
    print(f"  target: {text} {value:.2g}, at most {limit:g}: {verdict}")


def networks(kinds: Sequence[str], seeds: Sequence[int], images: Tensor, depth: int, T: int = 4) -> list[nn.Module]:
    nets = []
    for kind, seed in zip(kinds, seeds, strict=True):
        net = build(kind, {"name": "resnet", "depth": depth}, in_channels=3, num_classes=10, T=T, seed=seed)  # type: ignore[arg-type]
        calibrate(net, images[:256], batch_size=64)
        nets.append(net.eval())
    return nets


def twins(images: Tensor, options: argparse.Namespace, T: int) -> Work:
    x, y = networks(("snn", "ann"), (1, 1), images, options.depth, T)
    layers = compare(x, y, images[:8], progress=False).layers_x
    return Work(x, y, layers, images, patient=not options.tiny)


def two_anns(images: Tensor, options: argparse.Namespace) -> Work:
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range((options.depth - 2) // 6)]
    layers = [f"{block}{name}" for block in blocks for name in (".lif1", ".bn2", ".conv2", "")]
    layers = [name for name in layers if not name.endswith("bn2") or ".1." in name]
    x, y = networks(("ann", "ann"), (1, 2), images, options.depth)
    return Work(x, y, layers, images, patient=not options.tiny)


def cost_of_time(work: Work, T: int, other: str, limit: float, rounds: int) -> None:
    times, _ = seconds(work, [OURS, other], rounds)
    print(f"\n(c) SNN (T = {T}) and ANN, {len(work.layers)} layers each, n = {len(work.images)}; seconds")
    for tool, values in times.items():
        print(f"  {tool:14s}{median(values):8.3f} ({spread(values)}){' past forward' * (tool != 'forward')}")
    target(f"time of {other}", median(times[OURS]) / median(times[other]), limit)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("a", "b", "c"), nargs="+", default=["a", "b", "c"], help="parts")
    parser.add_argument("--n", type=int, nargs="+", help="images of (a), default 256 and 1024")
    parser.add_argument("--quick", action="store_true", help="two rounds, and (a) at n = 256 alone")
    parser.add_argument("--peers", type=Path, default=Path(sys.prefix) / "peers", help="folder of the packages")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depth", type=int, default=20, help="of the ResNets, from 14")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does it run? Measures nothing")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    if options.peers.is_dir():
        sys.path.append(str(options.peers))
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    np.seterr(invalid="ignore", divide="ignore")  # layers without structure
    if options.child:
        if options.child[0] in MODULES:
            importlib.import_module(MODULES[options.child[0]])
        return child(*options.child)
    if any(os.environ.get(name) != value for name, value in KEEP.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP)  # read once, at the start
    print(f"torch {torch.__version__}, {options.threads} threads")
    tools = [OURS, "pairwise"]
    for tool, module in MODULES.items():
        try:
            importlib.import_module(module)
            tools.append(tool)
            print(f"  {tool} {version(tool)}")
        except ImportError as error:
            print(f"  {tool}: not installed ({error})")
    images = torch.randn(
        16 if options.tiny else max(1024, *(options.n or [0])),
        *(3, options.side, options.side),
        generator=torch.Generator().manual_seed(0),
    )
    rounds = 1 if options.tiny else 2 if options.quick else 5
    if "a" in options.only:
        for n in options.n or ([256] if options.quick else [256, 1024]):
            limits = (0.75, 1.1) if n < 1024 else (0.35, 0.9)
            targets = {"time of pairwise": limits[0], "time of pytorch-cka": limits[1], "memory of pytorch-cka": 0.3}
            targets |= {f"error of {OURS}": 1e-6} | ({"MB past the forward passes": 40} if n <= 256 else {})
            times = rounds if n < 1024 else min(rounds, 3)
            report(
                f"(a) two ResNet-{options.depth} ANNs",
                two_anns(images[:n].clone(), options),
                tools,
                times,
                options.peers,
                targets,
            )
    if "b" in options.only:
        work, targets = twins(images[:256].clone(), options, 4), {"time of pairwise": 0.7, f"error of {OURS}": 1e-6}
        report(f"(b) ResNet-{options.depth} SNN (T = 4) and ANN", work, tools[:2], rounds, options.peers, targets)
    if "c" in options.only:
        cost_of_time(twins(images[:256].clone(), options, 4), 4, "concatenated", 1.1, rounds)
        cost_of_time(twins(images[:64].clone(), options, 32), 32, "raw Grams", 1.5, rounds)


if __name__ == "__main__":
    main()
