"""What tests of attacks share: tiny trained networks, and images and frames that they know."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sj_cka.attacks import PixelModel, pixel_model, right
from sj_cka.data import digits
from sj_cka.models import build
from sj_cka.training import DeviceLoader, Settings, calibrate, train


class Case(NamedTuple):
    """A network, and inputs that it classifies right, most of them or all."""

    net: PixelModel
    x: Tensor
    y: Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _trained(kind: str) -> PixelModel:
    data = digits()
    net = build(kind, {"name": "convnet", "channels": [16, 32], "pools": 1}, in_channels=1, num_classes=10, T=3, seed=1)
    settings = Settings(epochs=12, batch_size=32, lr=0.1)
    batches = DeviceLoader(data.x_train, data.y_train, batch_size=32, seed=0, classes=10, prepare=data.as_input)
    train(net, batches, settings, seed=0)
    net.zero_grad(set_to_none=True)
    return pixel_model(net.eval(), data.mean, data.std)


@pytest.fixture(scope="session")
def trained() -> dict[str, PixelModel]:
    """A spiking network and its artificial twin that know digits: 1 x 8 x 8, from 0 to 1."""
    return {kind: _trained(kind) for kind in ("snn", "ann")}


@pytest.fixture(params=["snn", "ann"])
def case(request: pytest.FixtureRequest, trained: dict[str, PixelModel]) -> Case:
    """Each of the two with 256 test images."""
    data = digits()
    return Case(trained[request.param], data.x_test[:256], data.y_test[:256])


@pytest.fixture
def snn(trained: dict[str, PixelModel]) -> Case:
    """The spiking one."""
    data = digits()
    return Case(trained["snn"], data.x_test[:256], data.y_test[:256])


@pytest.fixture
def ann(trained: dict[str, PixelModel]) -> Case:
    """The artificial one."""
    data = digits()
    return Case(trained["ann"], data.x_test[:256], data.y_test[:256])


@pytest.fixture
def frames() -> Case:
    """Frames [T, N, 2, H, W] = [3, 10, 2, 8, 6] from 0 to 1, and a spiking network whose own classes are the labels."""
    net = build("snn", {"name": "convnet", "channels": [8, 8]}, in_channels=2, num_classes=4, T=3, seed=2)
    x = torch.randint(4, (3, 10, 2, 8, 6), generator=generator(1)) / 3
    # calibrate wants samples first
    calibrate(net, x.movedim(1, 0), prepare=lambda batch: batch.movedim(0, 1))
    model = pixel_model(net.eval(), sample_axis=1)
    with torch.no_grad():
        net.fc.bias -= model(x).mean(0)  # or all are taken for one class
        y = model(x).argmax(1)
    assert right(model, x, y).all()
    return Case(model, x, y)


@pytest.fixture(scope="session")
def foolbox():
    """foolbox, which with this SciPy gives a warning when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import foolbox
    return foolbox
