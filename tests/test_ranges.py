"""What is known of the values of samples, and what an eps or a trigger is beside that."""

import numpy as np
import pytest
import torch

from sj_cka.ranges import BYTES, UNIT, Range, check_eps, check_fills, check_splits, check_trigger, range_of, scale_of

RNG = np.random.default_rng(0)
PIXELS = RNG.random((20, 3, 5, 4), dtype=np.float32)


@pytest.mark.parametrize("values", [np.array([[3, -1], [2, 0]]), torch.tensor([[3.0, -1.0], [2.0, 0.0]])])
def test_a_range_goes_from_the_smallest_to_the_largest_value(values):
    assert range_of(values) == (-1, 3)
    assert range_of(values).width == 4
    assert str(range_of(values)) == "-1 to 3"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_four_units_in_the_last_place_are_a_rounding_and_a_hundredth_is_none(dtype):
    unit = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    for scale in (1.0, 255.0):
        bounds = Range(0.0, scale)
        assert bounds.holds(Range(-4 * unit * scale, scale + 4 * unit * scale), dtype)
        assert not bounds.holds(Range(0.0, scale + 5 * unit * scale), dtype)
        assert not bounds.holds(Range(0.0, 1.01 * scale), dtype)
        assert not bounds.holds(Range(-0.01 * scale, scale), dtype)
    assert not UNIT.holds(Range(0.0, float("nan")), dtype)
    assert not Range(0.0, 20.0).holds(Range(0.0, 21.0), torch.uint8)


def test_pixels_that_were_normalised_and_brought_back_are_a_rounding_off_at_most():
    x = torch.arange(256).div(255)
    for mean, std in ((0.4914, 0.2023), (0.1307, 0.3081), (0.9, 0.01)):
        back = (x - mean) / std * std + mean
        assert UNIT.holds(range_of(back), torch.float32)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (torch.rand(9), UNIT),
        (torch.rand(9) * 255, BYTES),
        (torch.randint(0, 255, (99,), dtype=torch.uint8), BYTES),
        (torch.tensor([0, 1], dtype=torch.uint8), UNIT),
        (torch.tensor([0.0, 16.0]), Range(0, 16)),
        (torch.tensor([-2.0, 200.0]), Range(-2, 200)),
        (torch.tensor([0.0, 4000.0]), Range(0, 4000)),
        (torch.zeros(9), None),
    ],
)
def test_a_scale_is_told_from_the_values(values, scale):
    assert scale_of(values) == scale
    assert scale_of(values.numpy()) == scale


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (PIXELS * 255, PIXELS),
        (PIXELS, PIXELS * 255),
        ((PIXELS * 255).astype(np.uint8), PIXELS),
        ((PIXELS * 255).astype(np.uint8), (PIXELS > 0.5).astype(np.uint8)),
        (PIXELS * 16, PIXELS),
        ((PIXELS - 0.5) / 0.25, PIXELS),
        (PIXELS, PIXELS * 2 - 1),
        (PIXELS * 65535, PIXELS * 255),
    ],
)
def test_splits_on_two_scales_are_refused_with_both_ranges(train, test):
    with pytest.raises(ValueError, match="expected both splits on one scale") as caught:
        check_splits(train, test)
    assert str(range_of(train)) in str(caught.value)
    assert str(range_of(test)) in str(caught.value)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (PIXELS, PIXELS[:4] * 0.4),
        (PIXELS - 0.05, PIXELS[:4]),
        (np.where(PIXELS > 0.999, 4, PIXELS), PIXELS),
        ((PIXELS - 0.5) / 0.25, (PIXELS[:4] - 0.4) / 0.3),
        ((PIXELS * 255).astype(np.uint8), (PIXELS[:4] * 90).astype(np.uint8)),
    ],
)
def test_splits_that_differ_as_samples_do_are_on_one_scale(train, test):
    check_splits(train, test)


def test_an_eps_reaches_from_one_bound_to_the_other_at_most():
    check_eps(1.0, UNIT)
    check_eps(8.0, BYTES)
    check_eps(7.9, UNIT, "l2", 64)
    check_eps(100.0, UNIT, "l2")  # of samples of unknown size
    for eps, bounds, hint in ((8, UNIT, "8/255"), (8, Range(-1, 1), "16/255"), (1.5, UNIT, "1.5/255")):
        with pytest.raises(ValueError, match=rf"expected eps up to .* width of the bounds {bounds}, got .*; {hint}\?"):
            check_eps(eps, bounds)
    with pytest.raises(ValueError, match=r"expected eps up to 8, the diameter in the L2 norm of 64 values .*, got 8.1"):
        check_eps(8.1, UNIT, "l2", 64)


def test_samples_fill_more_than_a_sixteenth_of_their_bounds():
    check_fills(Range(0, 0.2), UNIT)
    for bounds in (BYTES, Range(0, 16)):
        with pytest.raises(ValueError, match=r"go from 0 to 1 alone, .* give bounds: \[0, 1\]"):
            check_fills(UNIT, bounds)


def test_a_trigger_has_a_value_of_the_samples():
    x = torch.rand(9, 1, 4, 4)
    check_trigger(1.0, x, counts=False)
    check_trigger(0.0, x * 255, counts=False)
    check_trigger(255, x * 255, counts=False)
    check_trigger(4, torch.zeros(9, 1, 4, 4), counts=False)
    for value, of, known in ((255, x, "0 to 1"), (2, x, "0 to 1"), (-1, x, "0 to 1"), (1, x * 255, "0 to 255")):
        for part in (True, False):
            with pytest.raises(ValueError, match=f"the samples.*, {known}, got {value}"):
                check_trigger(value, of, counts=False, part=part)


def test_a_trigger_of_events_is_one_or_what_a_recording_has():
    counts = torch.zeros(2000, 2, 2, 1, 1, dtype=torch.uint8)
    counts[:, 0], counts[1999] = 200, 201  # beyond what is looked at first
    for value in (1, 200, 201):
        check_trigger(value, counts, counts=True)
    check_trigger(202, counts, counts=True, part=True)
    check_trigger(1, counts.clamp(max=0), counts=True)
    with pytest.raises(ValueError, match="expected a value of the trigger that the samples have, 0 to 201, got 255"):
        check_trigger(255, counts, counts=True)
    with pytest.raises(ValueError, match="0 to 5, got 255"):
        check_trigger(255, counts.clamp(max=5), counts=True, part=True)
