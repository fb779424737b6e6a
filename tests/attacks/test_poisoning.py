"""Backdoors: the patch, the share, the labels, and a network that learns them."""

import pytest
import torch

from sj_cka.attacks import backdoor, pixel_model, poison, stamp
from sj_cka.data import digits
from sj_cka.models import build
from sj_cka.training import DeviceLoader, Settings, train


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        ("bottom_right", slice(6, 8), slice(4, 6)),
        ("bottom_left", slice(6, 8), slice(0, 2)),
        ("top_right", slice(0, 2), slice(4, 6)),
        ("top_left", slice(0, 2), slice(0, 2)),
    ],
)
@pytest.mark.parametrize(("dtype", "value"), [(torch.uint8, 255), (torch.float32, 1.0), (torch.int16, 1)])
def test_a_trigger_is_a_square_in_a_corner_and_nothing_else(place, rows, columns, dtype, value):
    x = torch.randint(0, 1, (4, 3, 8, 6)).to(dtype)
    made = stamp(x, size=2, place=place)
    assert made.dtype == dtype
    assert (made[..., rows, columns] == value).all()
    assert int((made != x).sum()) == 4 * 3 * 4
    assert (x == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_share_of_all_samples_bears_trigger_and_target_and_the_others_stay(dtype):
    x = torch.randint(200, (100, 1, 8, 6), generator=generator()).to(dtype)
    y = torch.arange(100) % 4
    made = poison(x, y, target=2, share=0.13, size=2, value=201, generator=generator(1))
    assert len(made.chosen) == 13
    assert len(made.chosen.unique()) == 13
    assert (y[made.chosen] != 2).all()
    assert (made.y[made.chosen] == 2).all()
    assert torch.equal(made.x[made.chosen], stamp(x[made.chosen], size=2, value=201))
    rest = torch.ones(100, dtype=torch.bool)
    rest[made.chosen] = False
    assert torch.equal(made.x[rest], x[rest])
    assert torch.equal(made.y[rest], y[rest])
    again, other = (poison(x, y, target=2, share=0.13, generator=generator(seed)) for seed in (1, 2))
    assert torch.equal(made.chosen, again.chosen)
    assert not torch.equal(made.chosen, other.chosen)


def test_frames_are_poisoned_in_every_step_with_samples_first_or_second():
    x, y = torch.zeros(10, 3, 2, 8, 6), torch.arange(10) % 5
    first = poison(x, y, target=0, share=0.3, value=4)
    second = poison(x.movedim(0, 1), y, target=0, share=0.3, value=4, sample_axis=1)
    assert torch.equal(first.x.movedim(0, 1), second.x)
    assert torch.equal(first.chosen, second.chosen)
    assert (first.x[first.chosen, :, :, -3:, -3:] == 4).all()
    assert int(first.x.ne(0).sum()) == 3 * 3 * 2 * 9


def test_no_share_changes_nothing():
    x, y = torch.rand(10, 1, 8, 6), torch.arange(10) % 5
    made = poison(x, y, target=0, share=0.0)
    assert torch.equal(made.x, x)
    assert torch.equal(made.y, y)
    assert len(made.chosen) == 0


@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_a_network_learns_a_backdoor_from_poisoned_images_alone(kind):
    data = digits()

    def learnt(x, y):
        spec = {"name": "mlp", "inputs": 64, "hidden": [64]}
        net = build(kind, spec, in_channels=1, num_classes=10, T=3, seed=1)
        batches = DeviceLoader(x, y, batch_size=32, seed=0, classes=10, prepare=data.as_input)
        train(net, batches, Settings(epochs=6, batch_size=32, lr=0.1), seed=0)
        return backdoor(pixel_model(net, data.mean, data.std), data.x_test, data.y_test, target=3, size=2)

    made = poison(data.x_train, data.y_train, target=3, share=0.05, size=2)
    clean, poisoned = learnt(data.x_train, data.y_train), learnt(made.x, made.y)
    assert clean.success_rate < 0.3
    assert poisoned.success_rate > 0.9
    assert poisoned.accuracy > clean.accuracy - 0.03
    assert poisoned.unprompted < 0.02


def test_rates_are_over_samples_of_other_classes():
    class Corner(torch.nn.Module):
        """Class 1 where the last pixel is 1, else 0."""

        def forward(self, x):
            on = (x[:, 0, -1, -1] == 1).float()
            return torch.stack([1 - on, on], 1)

    x, y = torch.zeros(6, 1, 4, 4), torch.tensor([0, 0, 0, 1, 1, 1])
    x[2, 0, -1, -1] = x[3, 0, -1, -1] = 1
    assert backdoor(Corner(), x, y, target=1, size=1) == (0.5, 1.0, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.2}, "expected share, a finite number from 0 to 1, got 1.2"),
        ({"share": 0.9}, r"expected 9 samples of other classes than 0 \(share 0.9\), got 8"),
        ({"target": -1}, "expected target, a whole number from 0, got -1"),
        ({"size": 7}, "expected size up to 6, the smaller side of an image, got 7"),
        ({"place": "middle"}, "expected place 'bottom_right' or .*, got 'middle'"),
        ({"value": 300}, "expected a value that torch.uint8 holds, got 300"),
        ({"value": 0.5}, "expected a value that torch.uint8 holds, got 0.5"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    x, y = torch.zeros(10, 1, 8, 6, dtype=torch.uint8), torch.arange(10) % 5
    with pytest.raises(ValueError, match=message):
        poison(x, y, **({"target": 0, "share": 0.2} | options))


@pytest.mark.parametrize(
    ("x", "value", "message"),
    [
        (torch.rand(20, 1, 8, 6), 255, "that the samples have, 0 to 1, got 255"),
        (torch.rand(20, 1, 8, 6), -0.5, "that the samples have, 0 to 1, got -0.5"),
        (torch.rand(20, 1, 8, 6) * 255, 1, r"on the scale of the samples, 0 to 255, got 1: 255\?"),
        (torch.randint(256, (20, 1, 8, 6), dtype=torch.uint8), 1, "0 to 255, got 1"),
        (torch.randint(2, (20, 1, 8, 6), dtype=torch.uint8), None, "that the samples have, 0 to 1, got 255"),
        (torch.randint(6, (20, 3, 2, 8, 6), dtype=torch.uint8), None, "that the samples have, 0 to 5, got 255"),
        (torch.randint(6, (20, 3, 2, 8, 6)), 40, "that the samples have, 0 to 5, got 40"),
        (torch.randn(20, 1, 8, 6), 255, "that the samples have, .* got 255"),
        (torch.rand(20, 1, 8, 6), float("nan"), "expected value, a finite number"),
    ],
)
def test_a_trigger_that_the_samples_do_not_have_is_refused_with_their_range(x, value, message):
    with pytest.raises(ValueError, match=message):
        poison(x, torch.arange(20) % 5, target=0, share=0.2, value=value)


def test_images_from_0_to_255_get_a_trigger_of_255_whatever_their_type():
    x, y = torch.randint(256, (20, 1, 8, 6), dtype=torch.uint8), torch.arange(20) % 5
    made = [poison(own, y, target=0, share=0.2) for own in (x, x.float(), x.double())]
    assert all(torch.equal(made[0].x.to(one.x.dtype), one.x) for one in made)
    one_event = poison(x.float().view(20, 1, 1, 8, 6), y, target=0, share=0.2)
    assert one_event.x[one_event.chosen, ..., -1, -1].eq(1).all()


def test_labels_of_any_integer_type_are_poisoned_and_stay_of_it():
    x, y = torch.rand(20, 1, 8, 6), torch.arange(20) % 5
    expected = poison(x, y, target=0, share=0.2)
    for own in (y.tolist(), y.numpy(), y.to(torch.uint8), y.int()):
        made = poison(x, own, target=0, share=0.2)
        assert made.y.tolist() == expected.y.tolist()
        assert made.y.dtype == getattr(torch.as_tensor(own), "dtype", None)
    with pytest.raises(ValueError, match=r"expected labels of a type that holds 300, got torch.uint8: y.long\(\)"):
        poison(x, y.to(torch.uint8), target=300, share=0.2)
    with pytest.raises(ValueError, match=r"from 0 to 1, got 5; 5 % are 0.05"):
        poison(x, y, target=0, share=5)
