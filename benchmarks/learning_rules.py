"""What learning rules reach, cost and remember.

    python benchmarks/learning_rules.py [--only rates digits nmnist memory step] [--threads 1] [--tiny]

Every preset of LEARNING_RULES, with k = 2 for tbptt, and e-prop with dense recurrent weights too. `frozen`, the
control, lets the layer that classifies learn and keeps the random weights of all others. Networks have LIF neurons with
a soft reset, detached, and no normalisation; the loss is that of every step (tet) for all, BPTT included. Random
matrices are normal, of variance 1 / fan in. Intervals are 95 % t over 5 seeds, differences paired by seed. CPU seconds
are of one thread and of the training alone. All takes 25 CPU minutes (rates 8, digits 5, nmnist 8, memory and step 4);
the figures are of runs on one machine that had other work to do.

- `rates`: one learning rate for all rules on digits, by training accuracy alone, with a seed that is none of the five:
  that at which the worst of them is best, .2 (there local errors are the worst: .998; at .05 they are, .990; at .4
  e-prop is, .976). The control has the rate that suits it best, .4 (.983; .974 at .2).
- `digits`: an MLP 64-256-256-10, T = 4, 15 epochs, batches of 64, momentum .9. Target: mean test accuracy at least .94
  and the interval of the difference to the control above 0. Met by all:

                      training   test                    above frozen               CPU s / bptt
    bptt              1.000      .977 (.971 to .982)     +.044 (+.028 to +.059)      1.0 (1.21 s)
    tbptt             1.000      .975 (.968 to .982)     +.042 (+.026 to +.058)      1.5
    fa                 .999      .968 (.966 to .970)     +.035 (+.021 to +.049)      1.2
    dfa               1.000      .967 (.964 to .969)     +.034 (+.020 to +.048)      1.0
    le                 .998      .967 (.961 to .972)     +.034 (+.022 to +.046)      1.2
    ottt              1.000      .978 (.977 to .980)     +.046 (+.032 to +.059)      2.6
    sltt              1.000      .977 (.972 to .981)     +.044 (+.035 to +.053)      2.2
    eprop             1.000      .977 (.970 to .984)     +.044 (+.030 to +.058)     10.8
    decolle            .998      .968 (.962 to .974)     +.035 (+.024 to +.046)      3.2
    eprop, recurrent   .999      .972 (.964 to .980)     +.032 (+.019 to +.044)     24.9
    frozen             .986      .933 (.920 to .945)                                 1.0
    frozen, recurrent  .984      .941 (.935 to .946)                                 2.3

  A LIF's potential with a detached reset hangs on a trace of its inputs alone: le and decolle differ by rounding there.
- `nmnist`: 1,000 recordings of N-MNIST (100 for testing) as 10 frames of 17 x 17 pixels, an MLP 578-128-128-10, the
  rate of digits, 20 epochs; nothing was chosen with the test recordings (before e-prop took two thirds of its time):

                      training  test                    above frozen               bptt less it               CPU s
    bptt               .958     .888 (.858 to .918)     +.172 (+.124 to +.220)                                 2.8
    le                 .939     .826 (.812 to .840)     +.110 (+.074 to +.146)     +.062 (+.024 to +.100)      2.8
    decolle            .936     .834 (.805 to .863)     +.118 (+.067 to +.169)     +.054 (+.004 to +.104)     10.0
    ottt               .952     .880 (.844 to .916)     +.164 (+.113 to +.215)     +.008 (-.048 to +.064)      8.4
    eprop, recurrent   .937     .872 (.831 to .913)     +.154 (+.117 to +.191)     +.016 (+.002 to +.030)     61
    frozen             .808     .716 (.680 to .752)                                                            2.0
    frozen, recurrent  .792     .718 (.694 to .742)                                                            4.5

  BPTT is above local errors; it is not told apart from OTTT. On all 70,000 recordings .968, .931, .870 and .960 are
  published for BPTT, DECOLLE, OTTT and recurrent e-prop: that OTTT is the lowest is not seen here.
- `memory`: tensors on the CPU at the height of one step (torch's profiler; what oneDNN takes inside a convolution is
  not seen), beyond weights, momentum and the input, which is frames and grows with T itself. MB of 64 samples of 8 x 8
  at T = 4, 16, 64, and the last over the first:

                      MLP 64-256-256-10               convnet 16-32
    bptt               1.92   5.88  21.74   11.3       5.40  17.08   65.57   12.1
    tbptt              1.60   1.63   1.75    1.1       3.83   3.86    3.99    1.0
    fa                 1.92   5.88  21.74   11.3       5.40  17.08   65.57   12.1
    dfa                2.46   8.02  30.29   12.3       7.76  24.33   90.64   11.7
    le                 2.72   9.07  34.48   12.7       8.80  28.53  107.41   12.2
    ottt               1.35   1.38   1.50    1.1       3.13   3.16    3.28    1.1
    sltt               1.27   1.30   1.42    1.1       3.05   3.08    3.20    1.1
    eprop             39.56  39.59  39.72    1.0      44.29  44.32   44.45    1.0
    decolle            1.55   1.58   1.70    1.1       3.98   4.01    4.14    1.0
    eprop, recurrent  73.90  73.94  74.06    1.0     141.52 141.55  141.67    1.0
    frozen             1.92   5.88  21.74   11.3       5.40  17.08   65.57   12.1

  What grows in a rule that goes step by step, .15 MB from T = 4 to 64, are the logits [T, N, classes] that it gives and
  nothing else. An eligibility trace is a number for every sample and synapse, whatever T is.
- `step`: wall time of one step over that of BPTT, 64 samples of T frames of 8 x 8; median over 15 rounds, in each of
  which all take a step in turn. CPU time is the same to a tenth.

                      MLP: T = 4      T = 16     convnet: T = 4      T = 16
    bptt              1.0 (3.8 ms)  1.0 (9.0 ms)     1.0 (7.9 ms)  1.0 (22.2 ms)
    tbptt                 1.4           2.1               1.3           1.7
    fa                    1.2           1.1               1.1           1.1
    dfa                   1.0            .9                .9            .8
    le                    1.2           1.1               1.0            .9
    ottt                  2.4           3.7               2.1           2.8
    sltt                  2.0           3.1               1.8           2.3
    eprop                10.7          17.0               7.3           9.9
    decolle               3.0           4.5               2.4           3.1
    eprop, recurrent     21.4          40.4              21.2          31.8
    frozen                 .9           1.0               1.0           1.0
    frozen, recurrent     2.4           3.5               2.5           3.0

  In rules of one backward pass a layer of neurons runs all steps at once; step by step each is a call of its own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sj_cka.data import DATASETS, Samples
from sj_cka.models import build
from sj_cka.over_seeds import interval
from sj_cka.recording import reset_states
from sj_cka.training import LEARNING_RULES, DeviceLoader, Settings, accuracy, train
from sj_cka.training.step import Step

NEURON = {"name": "lif", "tau": 2.0, "v_reset": None, "detach_reset": True}
OPTIONS = {"tbptt": {"k": 2}}
LR, CONTROL_LR = 0.2, 0.4  # learning rates of all rules and of the control: see `rates`
ASIDE = 100  # the seed that they were chosen with
RATES = (0.05, 0.1, 0.2, 0.4)
REACHED = 0.94  # target of digits
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


class Learner(NamedTuple):
    """A rule on a network.

    Args:
        rule: `name` of LEARNING_RULES and options.
        recurrent: whether the network is.
    """

    rule: Mapping[str, Any]
    recurrent: bool = False

    @property
    def control(self) -> str:
        """Name of the control on the same network."""
        return "frozen, recurrent" if self.recurrent else "frozen"

    @property
    def lr(self) -> float:
        """Learning rate."""
        return CONTROL_LR if self.rule["name"] == "frozen" else LR


PRESETS = {name: Learner({"name": name} | OPTIONS.get(name, {})) for name in LEARNING_RULES if name != "pair"}
RECURRENT = {f"{name}, recurrent": PRESETS[name]._replace(recurrent=True) for name in ("eprop", "frozen")}
LEARNERS = PRESETS | RECURRENT


@dataclass(frozen=True)
class Sizes:
    """Of all parts."""

    seeds: int = 5
    hidden: tuple[int, ...] = (256, 256)
    T: int = 4
    epochs: int = 15
    rates: tuple[float, ...] = RATES
    nmnist_hidden: tuple[int, ...] = (128, 128)
    nmnist_epochs: int = 20
    batch_size: int = 64
    channels: tuple[int, ...] = (16, 32)
    memory_steps: tuple[int, ...] = (4, 16, 64)
    steps: tuple[int, ...] = (4, 16)
    rounds: int = 15


TINY = Sizes(2, (8, 8), 2, 1, (0.1,), (8, 8), 1, 8, (2, 2), (2, 4), (2,), 1)


class Task(NamedTuple):
    """What an MLP learns, and how long."""

    data: Samples
    T: int
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int


class Trained(NamedTuple):
    """A training: accuracy on the training split in the last epoch and on the test split, and its CPU seconds."""

    train: float
    test: float
    seconds: float


def mlp(task: Task, recurrent: bool, seed: int) -> nn.Module:
    data = task.data
    inputs = data.as_input(data.x_train[:1]).flatten(2 if data.T else 1).shape[-1]
    model = {"name": "mlp", "inputs": inputs, "hidden": task.hidden, "norm": "none", "recurrent": recurrent}
    channels, classes = data.channels, data.classes
    return build("snn", model, in_channels=channels, num_classes=classes, T=task.T, neuron=NEURON, seed=seed)


def trained(learner: Learner, task: Task, seed: int, lr: float) -> Trained:
    network, data = mlp(task, learner.recurrent, seed), task.data
    settings = Settings(task.epochs, task.batch_size, lr, momentum=0.9, weight_decay=0.0, loss="tet", rule=learner.rule)
    batches = DeviceLoader(
        data.x_train,
        data.y_train,
        batch_size=task.batch_size,
        seed=seed,
        classes=data.classes,
        prepare=data.as_input,
    )
    began = time.process_time()
    history = train(network, batches, settings, seed=seed).history
    seconds = time.process_time() - began
    return Trained(history[-1].accuracy, accuracy(network, data.x_test, data.y_test, prepare=data.as_input), seconds)


def trainings(names: Iterable[str], task: Task, seeds: int) -> dict[str, list[Trained]]:
    """Of each rule one a seed; rules in turn, so that a busy machine hits all alike."""
    found: dict[str, list[Trained]] = {name: [] for name in names}
    for seed in range(seeds):
        for name, own in found.items():
            own.append(trained(LEARNERS[name], task, seed, LEARNERS[name].lr))
    return found


def of_digits(sizes: Sizes) -> Task:
    data = DATASETS["digits"](train=40 if sizes is TINY else None)
    return Task(data, sizes.T, sizes.hidden, sizes.epochs, sizes.batch_size)


def rates(sizes: Sizes) -> None:
    """The learning rate of digits, by how much of the training split a training with a seed of its own gets right."""
    task = of_digits(sizes)
    print(f"training accuracy on digits in epoch {sizes.epochs}, seed {ASIDE}, by learning rate")
    print(f"{'':20}" + "".join(f"{lr:>9g}" for lr in sizes.rates))
    lowest = np.ones(len(sizes.rates))
    for name, learner in LEARNERS.items():
        got = np.array([trained(learner, task, ASIDE, lr).train for lr in sizes.rates])
        if name != learner.control:
            lowest = np.minimum(lowest, got)
        print(f"{name:20}" + "".join(f"{value:9.4f}" for value in got))
    print(f"{'lowest, not frozen':20}" + "".join(f"{value:9.4f}" for value in lowest))


def over(values: np.ndarray, sign: str = "") -> str:
    found = interval(values)
    return f"{found.mean:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def table(found: Mapping[str, list[Trained]], judged: bool) -> None:
    """Means over seeds with 95 % intervals, differences paired by seed."""
    test = {name: np.array([one.test for one in own]) for name, own in found.items()}
    print(f"{'':20}{'training':>8}  {'test':^24}{'above frozen':^28}{'CPU s / bptt':>12}")
    for name, own in found.items():
        row = f"{name:20}{np.mean([one.train for one in own]):8.3f}  {over(test[name]):24}"
        control = LEARNERS[name].control
        if control in found and name != control:
            above = test[name] - test[control]
            row += f"  {over(above, '+'):26}"
            met = test[name].mean() >= REACHED and interval(above).low > 0
        else:
            row += " " * 28
        row += f"{median(a.seconds / b.seconds for a, b in zip(own, found['bptt'], strict=True)):12.1f}"
        print(row + (f"  {'met' if met else 'missed'}" if judged and name != control else ""))
    seconds = sum(one.seconds for own in found.values() for one in own)
    print(f"  a training by bptt: {median(one.seconds for one in found['bptt']):.2f} CPU s; all: {seconds:.0f} CPU s")


def digits(sizes: Sizes) -> None:
    """Every rule on scikit-learn's digits."""
    found = trainings(LEARNERS, of_digits(sizes), sizes.seeds)
    print(f"digits, {sizes.seeds} seeds; target: test at least {REACHED:g}, and the interval above frozen above 0")
    table(found, judged=True)


@contextmanager
def recordings(sizes: Sizes) -> Iterator[Samples | None]:
    """The sample of N-MNIST; None where it is not there. In the smallest sizes simulated recordings."""
    if sizes is TINY:
        yield DATASETS["digits_dvs"](T=3, size=[8, 8], train=20)
        return
    archive = Path(os.environ.get("SJ_CKA_TEST_DATA", BESIDE)) / "nmnist_small.zip"
    if not archive.is_file():
        print(
            f"left out: expected recordings of N-MNIST (Train/<digit>/<name>.bin and Test/<digit>/<name>.bin) in "
            f"{archive}, found no such file; set SJ_CKA_TEST_DATA to the folder that holds it"
        )
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(Path(folder) / "NMNIST" / "extract")
        yield DATASETS["nmnist"](root=Path(folder), T=10, split_by="number", size=[17, 17])


def nmnist(sizes: Sizes) -> None:
    """Some rules on recordings of an event camera."""
    names = ("bptt", "le", "decolle", "ottt", "eprop, recurrent", "frozen", "frozen, recurrent")
    with recordings(sizes) as data:
        if data is None:
            return
        assert data.T is not None
        task = Task(data, data.T, sizes.nmnist_hidden, sizes.nmnist_epochs, sizes.batch_size)
        found = trainings(names, task, sizes.seeds)
        counts = f"{len(data.y_train)} recordings of N-MNIST for training, {len(data.y_test)} for testing"
    print(f"{counts}, {sizes.seeds} seeds")
    table(found, judged=False)
    test = {name: np.array([one.test for one in own]) for name, own in found.items()}
    for name in ("le", "decolle", "ottt", "eprop, recurrent"):
        by = test["bptt"] - test[name]
        bounds = interval(by)
        said = "above" if bounds.low > 0 else "below" if bounds.high < 0 else "not told apart from"
        print(f"  bptt less {name}: {over(by, '+')}: {said}")


def models(sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Title -> model."""
    mlp = {"name": "mlp", "inputs": 64, "hidden": sizes.hidden, "norm": "none"}
    convnet = {"name": "convnet", "channels": sizes.channels, "norm": "none"}
    hidden, channels = ("-".join(map(str, widths)) for widths in (sizes.hidden, sizes.channels))
    return {f"MLP {hidden}": mlp, f"convnet {channels}": convnet}


def one_step(learner: Learner, model: Mapping[str, Any], T: int, N: int) -> partial[Tensor]:
    """A step of a training on N samples of T frames of 8 x 8 pixels, which did one before."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(T, N, 1, 8, 8, generator=generator)
    y = torch.randint(10, (N,), generator=generator)
    options = {**model, "recurrent": learner.recurrent}
    network = build("snn", options, in_channels=1, num_classes=10, T=T, neuron=NEURON)
    run = Step(network, Settings(loss="tet", rule=learner.rule))
    run(x, y, N)  # finds the wiring, makes momentum
    reset_states(network)
    run.optimiser.zero_grad(set_to_none=True)
    return partial(run, x, y, N)


def peak(run: partial[Tensor]) -> int:
    """Bytes of tensors on the CPU that a step holds at its height beside what was there before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    events: Any = profiler.profiler
    changes = [event for event in events.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in changes]).max())


def memory(sizes: Sizes) -> None:
    """Memory of one step."""
    few, *_, many = steps = sizes.memory_steps
    N = sizes.batch_size
    logits = (many - few) * N * 10 * 4
    print(f"MB at the height of a step beyond weights, momentum and input, {N} samples of T frames of 8 x 8")
    print(f"  the logits of {many - few} steps more are {logits / 1e6:.2f} MB")
    for title, model in models(sizes).items():
        print(f"{title:20}" + "".join(f"{f'T = {T}':>9}" for T in steps) + f"{f'{many} / {few}':>9}{'growth':>9}")
        for name, learner in LEARNERS.items():
            if name == "frozen, recurrent":
                continue
            found = [peak(one_step(learner, model, T, N)) for T in steps]
            growth = found[-1] - found[0]
            row = f"{name:20}" + "".join(f"{value / 1e6:9.2f}" for value in found)
            told = "as T grows" if growth > 1.5 * logits else "by the logits alone"
            print(row + f"{found[-1] / found[0]:9.2f}{growth / 1e6:9.2f}  {told}")


def step(sizes: Sizes) -> None:
    """Time of one step."""
    N = sizes.batch_size
    print(f"wall and CPU time of a step over that of bptt, {N} samples of T frames; medians of {sizes.rounds} rounds")
    for title, model in models(sizes).items():
        ratios = {T: timed(model, T, N, sizes.rounds) for T in sizes.steps}
        print(f"{title:20}" + "".join(f"{f'T = {T}: wall':>16}{'CPU':>8}" for T in sizes.steps))
        for name in LEARNERS:
            print(f"{name:20}" + "".join(f"{ratios[T][name][0]:16.2f}{ratios[T][name][1]:8.2f}" for T in sizes.steps))


def timed(model: Mapping[str, Any], T: int, N: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Wall and CPU time of each rule over that of bptt, within a round."""
    runs = {name: one_step(learner, model, T, N) for name, learner in LEARNERS.items()}
    seconds: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = np.array([time.perf_counter(), time.process_time()])
            run()
            if turn:  # the first warms up
                seconds[name].append(np.array([time.perf_counter(), time.process_time()]) - began)
    own = {name: np.array(found) for name, found in seconds.items()}
    bptt = np.median(own["bptt"][:, 0])
    print(f"  a step of bptt at T = {T}: {1000 * bptt:.1f} ms")
    return {name: tuple(np.median(found / own["bptt"], axis=0).tolist()) for name, found in own.items()}


PARTS = {part.__name__: part for part in (rates, digits, nmnist, memory, step)}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does it run? Measures nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, CPU, {options.threads} threads")
    for name in options.only:
        began = time.process_time()
        print(f"\n{name}")
        PARTS[name](TINY if options.tiny else Sizes())
        print(f"  {name}: {time.process_time() - began:.0f} CPU s")


if __name__ == "__main__":
    main()
