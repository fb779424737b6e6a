"""Data: events counted in time steps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number

from sj_cka.data import bin_events, bin_spikes

H, W = 3, 5
BOTH = pytest.mark.parametrize("split_by", ["number", "time"])


def plain(t, x, y, p, *, T, H, W, split_by):
    """Event by event, as the rule reads."""
    counts = np.zeros((T, 2, H, W), np.float32)
    for i in range(len(t)):
        if split_by == "number":
            each, since = len(t) // T, i
        else:
            each, since = (int(t[-1]) - int(t[0])) // T, int(t[i]) - int(t[0])
        frame = T - 1 if each == 0 else min(since // each, T - 1)
        counts[frame, p[i], y[i], x[i]] += 1
    return torch.from_numpy(counts)


@st.composite
def events(draw, at_least=0):
    n = draw(st.integers(at_least, 40))
    t = sorted(draw(st.lists(st.integers(0, 10_000), min_size=n, max_size=n)))
    columns = (draw(st.lists(st.integers(0, end - 1), min_size=n, max_size=n)) for end in (W, H, 2))
    return np.asarray(t, np.int64), *(np.asarray(column, np.int64) for column in columns)


@BOTH
@settings(max_examples=40, deadline=None)
@given(events=events(), T=st.integers(1, 12))
def test_the_counts_are_those_of_a_loop_over_the_events(split_by, events, T):
    found = bin_events(*events, T=T, H=H, W=W, split_by=split_by)
    assert found.dtype == torch.float32
    assert torch.equal(found, plain(*events, T=T, H=H, W=W, split_by=split_by))


@BOTH
@settings(max_examples=30, deadline=None)
@given(events=events(), T=st.integers(1, 12))
def test_every_event_is_counted_once_at_its_own_pixel(split_by, events, T):
    t, x, y, p = events
    found = bin_events(t, x, y, p, T=T, H=H, W=W, split_by=split_by).sum(0)
    expected = torch.zeros(2, H, W)
    expected.index_put_(tuple(torch.from_numpy(own) for own in (p, y, x)), torch.ones(len(t)), accumulate=True)
    assert torch.equal(found, expected)


@BOTH
@settings(max_examples=40, deadline=None)
@given(events=events(at_least=1), T=st.integers(1, 6))
def test_the_counts_are_spikingjelly_s_wherever_it_gives_any(split_by, events, T):
    t, x, y, p = events
    try:
        expected = integrate_events_by_fixed_frames_number({"t": t, "x": x, "y": y, "p": p}, split_by, T, H, W)
    except IndexError:
        # it cannot do a bin of time without an event, the last one taken without the rest
        each = (t[-1] - t[0]) // T
        inside = [((t >= t[0] + i * each) & (t < t[0] + (i + 1) * each)).any() for i in range(T)]
        assert split_by == "time"
        assert not all(inside)
        return
    assert np.array_equal(bin_events(t, x, y, p, T=T, H=H, W=W, split_by=split_by), expected)


@BOTH
def test_spikes_are_binned_as_events_of_a_row_of_pixels_are(split_by):
    random = np.random.default_rng(0)
    t, unit = np.sort(random.integers(0, 999, 50)), random.integers(0, 7, 50)
    nothing = np.zeros_like(unit)
    as_events = bin_events(t, unit, nothing, nothing, T=4, H=1, W=7, split_by=split_by)
    assert torch.equal(bin_spikes(t, unit, T=4, D=7, split_by=split_by), as_events[:, 0, 0])


@BOTH
def test_a_recording_without_events_is_dark_in_every_frame(split_by):
    found = bin_events([], [], [], [], T=3, H=H, W=W, split_by=split_by)
    assert found.shape == (3, 2, H, W)
    assert found.dtype == torch.float32
    assert found.sum() == 0


@BOTH
def test_a_single_event_is_in_the_last_frame(split_by):
    assert bin_events([7], [4], [2], [1], T=3, H=H, W=W, split_by=split_by).nonzero().tolist() == [[2, 1, 2, 4]]


def test_events_at_one_time_are_all_in_the_last_frame_by_time():
    found = bin_events([5] * 8, [0] * 8, [0] * 8, [0] * 8, T=4, H=H, W=W, split_by="time")
    assert found.sum((1, 2, 3)).tolist() == [0, 0, 0, 8]


def test_the_last_microsecond_and_the_rest_that_does_not_divide_are_in_the_last_frame():
    # 11 us // 4 = 2 us a frame: 0-1, 2-3, 4-5, 6-11
    t = [0, 1, 2, 5, 6, 7, 8, 11, 11]
    nothing = [0] * len(t)
    found = bin_events(t, nothing, nothing, nothing, T=4, H=H, W=W, split_by="time")
    assert found.sum((1, 2, 3)).tolist() == [2, 1, 1, 5]


def test_by_number_the_last_frame_takes_the_rest():
    nothing = [0] * 11
    found = bin_events(range(11), nothing, nothing, nothing, T=4, H=H, W=W)
    assert found.sum((1, 2, 3)).tolist() == [2, 2, 2, 5]


def test_an_empty_bin_of_time_is_a_frame_of_zeros():
    found = bin_events([0, 1, 90], [0] * 3, [0] * 3, [0] * 3, T=3, H=H, W=W, split_by="time")
    assert found.sum((1, 2, 3)).tolist() == [2, 0, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, ">u4", np.int64])
def test_the_type_of_the_numbers_does_not_matter(dtype):
    t, x, y, p = np.array([3, 3, 200]), np.array([4, 0, 1]), np.array([0, 2, 1]), np.array([True, False, True])
    found = bin_events(t.astype(dtype), x.astype(dtype), y.astype(dtype), p, T=2, H=H, W=W, split_by="time")
    assert found.nonzero().tolist() == [[0, 0, 2, 0], [0, 1, 0, 4], [1, 1, 1, 1]]


@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_time_that_runs_backwards_is_refused_though_unsigned_differences_wrap(dtype):
    with pytest.raises(ValueError, match=r"times that do not fall, got 4 us after 5 us at event 2"):
        bin_events(np.array([0, 5, 4], dtype), [0] * 3, [0] * 3, [0] * 3, T=2, H=H, W=W)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [0, W]}, f"expected x from 0 to {W - 1}, a column of the sensor, got {W} at event 1"),
        ({"x": [-1, 0]}, "got -1 at event 0"),
        ({"y": [0, H]}, f"expected y from 0 to {H - 1}, a row of the sensor, got {H} at event 1"),
        ({"p": [0, 2]}, "expected p from 0 to 1, OFF or ON, got 2 at event 1"),
        ({"p": [0]}, r"got 2 of t_us, 2 of x, 2 of y, 1 of p: the recording is cut off or damaged"),
        ({"x": [0.0, 1.0]}, r"expected x as whole numbers \[N\], got float64 \[2\]"),
        ({"t_us": [[0, 1]]}, r"expected t_us as whole numbers \[N\], got int64 \[1, 2\]"),
        ({"T": 0}, "expected T, a number of frames from 1, got 0"),
        ({"split_by": "times"}, 'expected split_by "number" or "time", got \'times\''),
    ],
)
def test_what_cannot_be_binned_is_refused_with_what_came(change, message):
    given = {"t_us": [0, 1], "x": [0, 0], "y": [0, 0], "p": [0, 1], "T": 2, "H": H, "W": W} | change
    with pytest.raises(ValueError, match=message):
        bin_events(**given)


def test_a_spike_of_no_unit_is_refused():
    with pytest.raises(ValueError, match="expected unit from 0 to 2, a unit, got 3 at event 1"):
        bin_spikes([0, 1], [0, 3], T=2, D=3)
