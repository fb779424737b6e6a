"""Images as spikes: values of the encoders, what is refused, and one run after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import sj_cka
from sj_cka import ann_twin, compare
from sj_cka.attacks import pgd, pixel_model, square
from sj_cka.attacks.victim import NoGradient
from sj_cka.data import npz, photos
from sj_cka.energy import cost
from sj_cka.models import MODELS, build
from sj_cka.models.coding import Coding, Encoder
from sj_cka.models.time_axis import OverTime
from sj_cka.plan import plan
from sj_cka.plugins import OptionError
from sj_cka.recipe import RecipeError, read
from sj_cka.recording import reset_states
from sj_cka.training import certify

Write = Callable[..., Path]
GREY = torch.tensor([[[[1.0, 0.75, 0.5], [0.3, 0.1, 0.0]]]])  # [N, C, H, W]
MLP = {"name": "mlp", "inputs": 6, "hidden": [8], "norm": "none"}
CODED: list[Coding] = ["poisson", "latency"]


def network(coding: Coding, model: dict[str, Any] = MLP, **options: Any) -> torch.nn.Module:
    return build("snn", model, in_channels=1, num_classes=3, coding=coding, **options).eval()


def images(n: int = 12, **options: Any) -> torch.Tensor:
    return torch.rand((n, 1, 2, 3), generator=torch.Generator().manual_seed(0), **options)


def test_a_latency_is_one_spike_the_brighter_the_earlier() -> None:
    spikes = Encoder("latency")(GREY, T=5)
    assert spikes.shape == (5, 1, 1, 2, 3)
    # round(4 (1 - p)) of 1, .75, .5, .3 (2.8), .1 (3.6), 0
    assert spikes.argmax(0).flatten().tolist() == [0, 1, 2, 3, 4, 4]
    assert torch.equal(spikes.sum(0), torch.ones_like(GREY))


def test_poisson_spikes_come_with_the_probability_of_a_pixel() -> None:
    torch.manual_seed(0)
    spikes = Encoder("poisson")(GREY.expand(50, 1, 2, 3), T=200)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(spikes.mean((0, 1)).flatten(), GREY.flatten(), atol=4 * 0.5 / 100)  # 10,000 draws each
    assert torch.equal(spikes[:, :, 0, 0, 0], torch.ones(200, 50))
    assert not torch.equal(spikes[0], spikes[1])
    assert not torch.equal(spikes[:, 0], spikes[:, 1])


def test_poisson_spikes_are_drawn_anew_from_torchs_generator() -> None:
    net, x = network("poisson", T=4), images()
    torch.manual_seed(3)
    one, other = net(x), reset(net)(x)
    torch.manual_seed(3)
    assert torch.equal(reset(net)(x), one)
    assert not torch.equal(other, one)


def reset(net: torch.nn.Module) -> torch.nn.Module:
    reset_states(net)
    return net


def test_brightness_is_told_by_the_range_of_each_channel_and_clipped_to_it() -> None:
    encoder = Encoder("latency", ([-1.0, 0.0], [1.0, 10.0]))
    x = torch.tensor([[-1.0, 5.0], [1.0, 10.0], [9.0, -9.0]])  # [N, C]
    assert encoder(x, T=3).argmax(0).tolist() == [[2, 1], [0, 0], [0, 2]]
    assert list(encoder.state_dict()) == []


@pytest.mark.parametrize("stored", [np.float32, np.uint8])
def test_the_range_of_standardised_images_is_that_of_their_pixels(tmp_path: Path, stored: type) -> None:
    x = np.random.default_rng(0).uniform(0.1, 0.8, size=(20, 2, 3, 4)) * (255 if stored is np.uint8 else 1)
    y = np.arange(20) % 2
    split = {f"{name}_{part}": a for part in ("train", "test") for name, a in (("x", x.astype(stored)), ("y", y))}
    np.savez(tmp_path / "images.npz", **split)
    data = npz(path=tmp_path / "images.npz", layout="NCHW")
    ends = torch.stack([torch.zeros(2, 3, 4), torch.ones(2, 3, 4)]).mul(255 if stored is np.uint8 else 1)
    low, high = data.as_input(ends.to(data.x_train.dtype))[:, :, 0, 0]
    torch.testing.assert_close(torch.tensor(data.input_range), torch.stack([low, high]))
    p = Encoder("latency", data.input_range)(data.as_input(data.x_test), T=256).argmax(0)
    pixels = data.x_test.double() / (255 if stored is np.uint8 else 1)
    assert (255 * (1 - pixels) - p).abs().max() <= 0.51  # so the bytes come back


def test_patches_of_photographs_are_coded_by_their_own_contrast(tmp_path: Path) -> None:
    data = photos(samples=40)
    assert data.coded_range == ((-2.5,), (2.5,))
    p = Encoder("poisson", data.coded_range)(data.as_input(data.x_test[:40]), T=200).mean(0)
    assert p.std() > 0.17  # by the range of their bytes it is .063
    assert replace(data, contrast=None).coded_range == data.input_range


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("name", MODELS)
def test_every_network_is_given_spikes_for_an_image_and_frames_as_they_are(name: str, coding: Coding) -> None:
    small: dict[str, dict[str, Any]] = {
        "mlp": {"inputs": 1024, "hidden": [4]},
        "resnet": {"depth": 8},
        "resnet_imagenet": {"width": 1 / 16},
        "vgg": {"depth": 5, "width": 1 / 16},
        "spikformer": {"dim": 8, "heads": 1, "depth": 1},
    }
    net = network(coding, {"name": name, **small.get(name, {})}, T=3)
    x = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.manual_seed(1)
        of_image = net(x)
        torch.manual_seed(1)
        frames = net.in_steps(x)  # type: ignore[operator]
        assert frames.shape == (3, *x.shape)
        assert set(frames.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(reset(net)(frames), of_image)


@pytest.mark.parametrize("coding", ["direct", "poisson"])
def test_a_network_of_one_s_own_may_have_an_encoder(coding: Coding, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(OverTime):
        axes = (2, 3)

        def __init__(self, make: Any, T: int | None, in_channels: int, num_classes: int) -> None:
            super().__init__(T, in_channels, num_classes)
            self.encoder = torch.nn.Linear(in_channels, num_classes)

        def layers(self, x: torch.Tensor, T: int | None) -> torch.Tensor:
            return self.encoder(x if T is None or len(x) == T else x.expand(T, *x.shape[1:]))

    monkeypatch.setitem(MODELS, "own", Own)
    assert network(coding, {"name": "own"}, T=3)(torch.rand(5, 1)).shape == (3, 5, 3)


def test_without_a_coding_a_network_is_as_it_was() -> None:
    plain, direct = build("snn", MLP, in_channels=1, num_classes=3), network("direct")
    assert [name for name, _ in direct.named_modules()] == [name for name, _ in plain.named_modules()]
    assert "input_coding" not in dict(direct.named_modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coding": "rate"}, "expected one of direct, poisson, latency, got 'rate'"),
        ({"coding": "latency", "T": 1}, "expected direct or poisson at T = 1, where all latencies are one"),
        ({"coding": "poisson", "input_range": ([1.0], [0.0])}, "expected the lowest and the highest value"),
    ],
)
def test_a_coding_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build("snn", MLP, in_channels=1, num_classes=3, **options)


def test_artificial_networks_and_those_of_others_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="expected direct: an artificial network has no steps to spike in"):
        build("ann", MLP, in_channels=1, num_classes=3, coding="poisson")
    monkeypatch.setitem(MODELS, "other", lambda neuron, **options: torch.nn.Linear(3, 3))
    with pytest.raises(OptionError, match=r"expected direct: Linear is no sj_cka\.models\.time_axis\.OverTime"):
        network("poisson", {"name": "other"})
    with pytest.raises(ValueError, match="codes its input in spikes; take the network behind it"):
        ann_twin(network("poisson"))


def test_spikes_for_an_image_cost_accumulations() -> None:
    x = images()
    assert cost(network("latency", T=4), x).macs == 0
    assert cost(network("latency", T=4), x).synops >= 6 * 8  # one spike a pixel meets the 8 weights of it
    assert cost(network("direct", T=4), x).macs == 6 * 8


def test_a_comparison_draws_alike_each_time_and_leaves_the_random_state() -> None:
    net, ann, x = network("poisson", T=4), build("ann", MLP, in_channels=1, num_classes=3).eval(), images(40)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # silent neurons
        one, again = (compare(net, ann, x, progress=False) for _ in range(2))
        itself = compare(net, loader=x, progress=False)
        copy = compare(net, network("poisson", T=4), x, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    pd.testing.assert_frame_equal(one.to_frame(), again.to_frame())
    assert (one.layers_x[0], one.data.sizes["step_x"]) == ("input_coding", 4)
    # in one pass with itself it is the same spikes, beside a copy other ones
    assert itself.matrix().loc["input_coding", "input_coding"] == pytest.approx(1)
    assert copy.matrix().loc["input_coding", "input_coding"] < 0.9


def test_attacks_take_answers_and_get_no_gradient() -> None:
    model, x, y = pixel_model(network("latency", T=4)), images(4), torch.tensor([0, 1, 2, 0])
    with pytest.raises(NoGradient, match=r"take an attack without gradients, e\.g\. square"):
        pgd(model, x, y, eps=0.1, steps=1)
    assert square(model, x, y, eps=0.1, queries=3).shape == x.shape


@pytest.mark.parametrize("coding", CODED)
def test_rules_that_learn_step_by_step_see_the_spikes_of_an_image(coding: Coding) -> None:
    torch.manual_seed(0)
    assert certify("ottt", network(coding, MLP | {"hidden": [16, 16]}, T=4), images(16), torch.arange(16) % 3)


CODINGS = (
    "variants:\n  all: {}\n  none:\n    model: {residual: []}\n",
    "variants:\n  direct: {}\n  poisson: {snn: {coding: poisson}}\n  latency: {snn: {coding: latency}}\n",
)
OTHERS = [
    ("shortcuts, x: all.snn, y: none.snn", "codings, x: direct.snn, y: poisson.snn"),
    ("comparison: twins, variant: all", "comparison: twins, variant: direct"),
    ("comparison: twins, variant: none", "comparison: twins, variant: poisson"),
]


def test_a_study_of_codings_has_the_same_numbers_again(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    path = recipe_file(CODINGS, *OTHERS, ("seeds: 2", "seeds: 1"))
    jobs = plan(read(path))
    trained = {name: job for (name, _), job in jobs.trained.items()}
    assert trained["direct.ann"].key == trained["poisson.ann"].key
    assert "coding" not in trained["direct.snn"].args
    assert trained["poisson.snn"].args["coding"] == "poisson"
    tables = []
    for store in ("one", "two"):
        torch.manual_seed(len(tables))  # of no matter
        result = sj_cka.run(path, workers=1, progress=False, store=store, out=f"{store}-figures")
        tables.append([pd.read_csv(result.folder / f"{name}.csv") for name in ("cka", "accuracy", "cost")])
    for one, two in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(one, two)
    costs = tables[0][2].set_index("network")["macs"]
    assert costs["poisson.snn"] < costs["direct.snn"]


ATTACK = "attack:\n  networks: [poisson.snn]\n  images: 8\n  eps: 0.1\n  by: {pgd: {}, square: {queries: 2}}\nfigures:"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("y: poisson.snn", "y: latency.snn, T_y: 1", r"compare\[1\]\.T_y: expected 2 steps or more: all latencies"),
        ("figures:", ATTACK, "expected a network with a gradient to its input for pgd, poisson.snn is given spikes"),
        ("coding: poisson", "coding: rate", "snn.coding: expected 'direct', 'poisson' or 'latency'"),
    ],
)
def test_a_recipe_is_told_where_a_coding_does_not_go(recipe_file: Write, old: str, new: str, message: str) -> None:
    path = recipe_file(CODINGS, *OTHERS)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecipeError, match=message):
        plan(read(path))


def test_recordings_have_no_coding(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SJ_CKA_DATA", raising=False)
    path = recipe_file(
        ("data: {name: npz, path: images.npz}", "data: {name: nmnist, T: 4}"),
        ("snn:\n  T: 2\n", "snn:\n  coding: poisson\n"),
    )
    with pytest.raises(RecipeError, match=r"snn\.coding: expected direct: recordings are events, and need no coding"):
        plan(read(path), imagined=True)
