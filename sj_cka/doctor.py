"""What this machine has, and whether the numbers are right on it."""

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

import numpy as np
import torch
from spikingjelly.activation_based import functional, neuron, surrogate

from sj_cka.cka import cka, compare
from sj_cka.models import build
from sj_cka.neurons import lif, lif_backend
from sj_cka.neurons.backends import unfused
from sj_cka.recording import record
from sj_cka.report import why_no_png

_PACKAGES = ("torch", "torchvision", "spikingjelly", "numpy", "scipy", "pandas", "xarray", "plotly", "pydantic")
_TOLERANCE = 1e-6


def examine() -> Iterator[tuple[str, bool]]:
    """Lines that describe this machine, one at a time, and whether each is as it must be.

    Only a self-test that fails is not: what is missing costs speed, pictures or a choice, and the line says so.
    """
    yield f"sj_cka {version('sj_cka')}, Python {platform.python_version()}, {platform.platform()}", True
    yield ", ".join(f"{name} {_version(name)}" for name in _PACKAGES), True
    obstacle = why_no_png()
    pictures = f"figures as PNG: {f'no; {obstacle}' if obstacle else 'yes, kaleido and a browser are here'}"
    parts = {"devices": _devices(), "neurons": _backends(), "pictures": [pictures], "extras": _extras()}
    for title, lines in parts.items():
        yield f"\n{title}", True
        for line in lines:
            yield f"  {line}", True
    began = time.perf_counter()
    yield "\nself-test", True
    for device in _usable():
        for what, test in SELF_TESTS.items():
            try:
                fault = test(device)
            except Exception as error:  # whatever went wrong is what is told
                fault = f"{type(error).__name__}: {error}"
            yield f"  {'fail' if fault else 'pass'}  {device}: {what}{f': {fault}' if fault else ''}", not fault
    yield f"  {time.perf_counter() - began:.1f} s", True


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _usable() -> list[torch.device]:
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def _devices() -> Iterator[str]:
    yield f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch"
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}: {found.name}, {found.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        yield f"cuda: none that torch {torch.__version__} ({built}) can use"


def _backends() -> Iterator[str]:
    for device in _usable():
        chosen = lif_backend(device)
        yield f"{device}: {chosen.name} ({chosen.reason})"
    yield "cpu, left to SpikingJelly's own torch code: neurons of networks that were not built here, and"
    for what, names in unfused().items():
        yield f"  {what}: {', '.join(names)}"
    if not torch.cuda.is_available():
        yield "cuda: not asked, there is no device"


def _extras() -> Iterator[str]:
    """Every extra but that of the tests, with what it lacks or has in another version than it pins."""
    wanted: dict[str, dict[str, str | None]] = {}
    for line in requires("sj_cka") or []:
        package, extra = re.match(r"([\w.-]+)(?:==([\w.]+))?", line), re.search(r"extra == ['\"](\w+)['\"]", line)
        if package and extra and extra[1] != "test":
            wanted.setdefault(extra[1], {})[package[1]] = package[2]
    for name, packages in wanted.items():
        if missing := [own for own in packages if _version(own) == "missing"]:
            yield f"{name}: lacks {', '.join(missing)}: pip install 'sj-cka[{name}]'"
        elif others := [
            f"{own} {version(own)}, not {pin}" for own, pin in packages.items() if pin not in (None, version(own))
        ]:
            yield f"{name}: has {'; '.join(others)}: pip install 'sj-cka[{name}]'"
        else:
            yield f"{name}: {', '.join(f'{own} {version(own)}' for own in packages)}"


def _same_spikes(device: torch.device) -> str:
    """The chosen LIF against SpikingJelly's torch code, which 2.0.0 runs on the CPU alone."""
    x = torch.randn(4, 8, 512, generator=torch.Generator().manual_seed(0))
    slow = neuron.LIFNode(decay_input=False, v_reset=0.0, surrogate_function=surrogate.Sigmoid(6.0), step_mode="m")
    fast = lif(device=device).to(device)
    differing = int((slow(x) != fast(x.to(device)).cpu()).sum())
    return f"{differing} of {x.numel()} spikes differ" if differing else ""


def _same_cka(device: torch.device) -> str:
    """CKA of two matrices against the definition in float64."""
    generator = torch.Generator().manual_seed(0)
    X, Y = torch.randn(40, 30, generator=generator), torch.randn(40, 50, generator=generator)
    Y[:, :30] += X
    expected = _by_definition(X.double().numpy(), Y.double().numpy())
    found = cka(X.to(device), Y.to(device))
    return "" if abs(found - expected) < _TOLERANCE else f"{found:.9f} instead of {expected:.9f}"


def _by_definition(X: np.ndarray, Y: np.ndarray) -> float:
    """Unbiased linear CKA by the trace formula of Song et al. 2012."""

    def hsic(K: np.ndarray, L: np.ndarray) -> float:
        n, KL = len(K), K @ L
        middle = K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * KL.sum()
        return float((np.trace(KL) + middle) / (n * (n - 3)))

    K, L = (Z @ Z.T * (1 - np.eye(len(Z))) for Z in (X, Y))
    return hsic(K, L) / (hsic(K, K) * hsic(L, L)) ** 0.5


def _compares(device: torch.device) -> str:
    """Two networks, layer by layer: every defined value against the definition on the features as recorded."""
    images = 3 * torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    model = {"name": "resnet", "depth": 8}
    snn = build("snn", model, in_channels=1, num_classes=3, T=2, device=device).eval()
    ann = build("ann", model, in_channels=1, num_classes=3, device=device).eval()
    found = compare(snn, ann, [images], progress=False).matrix()
    features = []
    for net in (snn, ann):
        functional.reset_net(net)
        with record(net) as layers, torch.no_grad():
            net(images)
        features.append({name: X.transpose(0, 1).flatten(1).double().cpu().numpy() for name, X in layers.items()})
    checked = 0
    for x, y in found.stack().dropna().index:
        expected = _by_definition(features[0][x], features[1][y])
        if abs(found.loc[x, y] - expected) > _TOLERANCE:
            return f"{x} and {y}: {found.loc[x, y]:.9f} instead of {expected:.9f}"
        checked += 1
    return "" if checked else "no pair of layers is defined"


SELF_TESTS: dict[str, Callable[[torch.device], str]] = {
    "LIF spikes as SpikingJelly's torch code does": _same_spikes,
    "CKA is that of its definition in float64": _same_cka,
    "compare gives the CKA of what the layers put out": _compares,
}
