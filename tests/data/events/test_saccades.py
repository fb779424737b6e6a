"""The simulated event camera, against one that looks at one pixel after the other."""

import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from sj_cka.data import bin_events, digits, digits_dvs, photos, photos_dvs, saccades
from sj_cka.plugins import OptionError

H, W = 9, 11


def image(seed=0):
    return torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def still(monkeypatch):
    """A camera all of whose pixels are alike, and without noise."""
    here = sys.modules["sj_cka.data.events.saccades"]  # as an attribute it is the function
    monkeypatch.setattr(here, "_NOISE_HZ", 0.0)
    monkeypatch.setattr(here, "_MISMATCH", 0.0)
    return here


def brightness(picture, row, column):
    """Bilinear between the centres of the pixels, zero around the picture."""
    i, j = math.floor(row), math.floor(column)
    total = 0.0
    for a, share_a in ((i, 1 - (row - i)), (i + 1, row - i)):
        for b, share_b in ((j, 1 - (column - j)), (j + 1, column - j)):
            if 0 <= a < len(picture) and 0 <= b < len(picture[0]):
                total += share_a * share_b * picture[a][b]
    return total


def pixel_events(camera, picture, row, column):
    """Signs of the events of one pixel, and the moments between which they come."""
    corners = [*camera._TRIANGLE, camera._TRIANGLE[0]]
    places = [
        (a[0] + s / camera._STEPS * (b[0] - a[0]), a[1] + s / camera._STEPS * (b[1] - a[1]))
        for a, b in pairwise(corners)
        for s in range(camera._STEPS)
    ] + [corners[0]]
    logs = []
    for x, y in places:
        # from the sensor's centre, in sides of the sensor; then in pixels of the picture
        down, right = (row + 0.5) / H - 0.5 + camera._AMPLITUDE * y, (column + 0.5) / W - 0.5 + camera._AMPLITUDE * x
        seen = brightness(picture, down / camera._FILLS * 8 + 3.5, right / camera._FILLS * 8 + 3.5)
        logs.append(math.log(seen + camera._DARK))
    last, found = logs[0], []
    for moment, now in enumerate(logs[1:]):
        while abs(now - last) >= camera._THRESHOLD:
            sign = 1 if now > last else -1
            last += sign * camera._THRESHOLD
            found.append((moment, sign))
    return found


def test_every_pixel_has_the_events_that_a_pixel_alone_would_have(still):
    picture = image()
    [events] = saccades(picture, size=(H, W))
    made = {}
    step = 3 * still._SACCADE_US / (3 * still._STEPS)
    for t, x, y, p in zip(*events, strict=True):
        made.setdefault((y, x), []).append((min(int(t / step), 3 * still._STEPS - 1), 1 if p else -1))
    end = 3 * still._STEPS - 1  # back where it began, whole thresholds away: rounding decides on the last event
    differing = 0
    for row in range(H):
        for column in range(W):
            expected = [event for event in pixel_events(still, picture[0, 0].tolist(), row, column) if event[0] < end]
            found = [event for event in made.get((row, column), []) if event[0] < end]
            # float32 may cross a threshold a moment earlier or later
            differing += [sign for _, sign in found] != [sign for _, sign in expected]
            assert abs(len(found) - len(expected)) <= 1
            if len(found) == len(expected):
                assert all(abs(a - b) <= 1 for (a, _), (b, _) in zip(found, expected, strict=True))
    assert differing <= 1
    assert len(events.t_us) > 300


def test_a_camera_that_comes_back_has_seen_as_much_on_as_off(still):
    for events in saccades(torch.cat([image(seed) for seed in range(5)]), size=(20, 12)):
        signed = bin_events(*events, T=1, H=20, W=12)[0]
        assert (signed[1] - signed[0]).abs().max() <= 1  # what is left of a change is less than a threshold


def test_events_come_in_order_of_time_through_all_three_saccades():
    for events in saccades(torch.cat([image(seed) for seed in range(3)])):
        assert (np.diff(events.t_us) >= 0).all()
        assert 0 <= events.t_us[0]
        assert events.t_us[-1] < 300_000
        assert (np.bincount(events.t_us // 100_000, minlength=3) > 200).all()


def test_a_dark_image_gives_noise_alone_at_its_rate():
    N, side = 40, 34
    count = sum(len(events.t_us) for events in saccades(torch.zeros(N, 1, 8, 8), size=(side, side)))
    expected = N * side * side * 0.3 * 0.3  # Hz times seconds
    assert abs(count - expected) < 5 * math.sqrt(expected)


def test_batches_do_not_change_what_is_seen_and_the_seed_does(still, monkeypatch):
    pictures = torch.cat([image(seed) for seed in range(5)])
    whole, parts = (list(saccades(pictures, size=(H, W), batch_size=size)) for size in (5, 2))
    for one, other in zip(whole, parts, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    monkeypatch.setattr(still, "_NOISE_HZ", 5.0)
    first, again, other = (next(iter(saccades(pictures, seed=seed))) for seed in (0, 0, 1))
    assert np.array_equal(first.t_us, again.t_us)
    assert not np.array_equal(first.t_us, other.t_us)


@pytest.mark.parametrize(
    ("images", "size", "message"),
    [
        (torch.zeros(2, 3, 8, 8), (9, 9), r"expected images \[N, 1, H, W\] from 0 to 1, got \[2, 3, 8, 8\]"),
        (torch.full((2, 1, 8, 8), 16.0), (9, 9), "from 0 to 1"),
        (torch.zeros(2, 1, 8, 8), (9, 7), r"each from 8, got \[9, 7\]"),
        (torch.zeros(2, 1, 8, 8), (9, 9, 9), "rows and columns"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(images, size, message):
    with pytest.raises(ValueError, match=message):
        list(saccades(images, size=size))


# the digits, and patches of photographs


def test_the_recordings_are_of_the_digits_in_their_order():
    frames, images = digits_dvs(T=3, size=(16, 12), train=30), digits()
    assert frames.x_train.shape == (30, 3, 2, 16, 12)
    assert frames.x_test.shape == (360, 3, 2, 16, 12)
    assert torch.equal(frames.y_train, images.y_train[:30])
    assert torch.equal(frames.y_test, images.y_test)
    # where a digit is bright is where its edges pass: counts of events tell the digits apart
    centred = frames.x_test.float().sum((1, 2)).flatten(1)
    centred -= centred.mean(0)
    pictures = torch.nn.functional.interpolate(images.x_test, (16, 12), mode="bilinear").flatten(1)
    pictures -= pictures.mean(0)
    own = torch.nn.functional.cosine_similarity(centred, pictures)
    shifted = torch.nn.functional.cosine_similarity(centred, pictures.roll(1, 0))
    assert own.mean() > shifted.mean() + 0.2


def test_recordings_of_patches_are_of_the_photos_in_their_order():
    frames, images = photos_dvs(T=3, size=(24, 20), samples=8), photos(samples=8)
    assert frames.x_train.shape == (128, 3, 2, 24, 20)
    assert torch.equal(frames.y_train, images.y_train)
    assert torch.equal(frames.y_test, images.y_test)
    assert frames.classes == 16
    assert "simulated" in frames.remarks[0]
    assert set(images.remarks) < set(frames.remarks)
    grey = (0.5 + 0.2 * images.as_input(images.x_test)).clamp(0, 1)
    [events] = saccades(grey[:1], size=(24, 20))
    frame = bin_events(*events, T=3, H=24, W=20)
    inside = (slice(6, 18), slice(5, 15))  # noise and thresholds are others than those of the first recording
    seen, own = (x.float().sum((0, 1))[inside].flatten() for x in (frames.x_test[0], frame))
    assert torch.corrcoef(torch.stack([seen, own]))[0, 1] > 0.9
    assert seen.sum() > 20


def test_fewer_training_samples_leave_the_others_as_they_are():
    few, more = (digits_dvs(T=2, size=(8, 8), train=train) for train in (10, 80))
    assert torch.equal(few.x_test, more.x_test)
    assert few.fingerprint != more.fingerprint
    assert more.fingerprint == digits_dvs(T=2, size=(8, 8), train=80).fingerprint
    assert "simulated" in more.remarks[0]


def test_frames_of_equal_number_hold_equal_numbers_and_those_of_equal_time_do_not():
    number, time = (
        digits_dvs(T=4, split_by=split_by, size=(8, 8), train=10).x_train for split_by in ("number", "time")
    )
    for counts, equal in ((number, True), (time, False)):
        own = counts.sum((2, 3, 4))
        assert ((own[:, 0] == own[:, 1]) & (own[:, 1] == own[:, 2])).all() == equal
    assert torch.equal(number.sum(1), time.sum(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T": 0}, "expected T, a number of frames from 1, got 0"),
        ({"size": (4, 9)}, r"expected size, .* got \[4, 9\]"),
        ({"train": 5000}, "expected train, a number of training samples from 10 to 1437, got 5000"),
    ],
)
def test_an_option_out_of_range_is_told(options, message):
    with pytest.raises(OptionError, match=message):
        digits_dvs(**options)


def test_patches_too_few_are_told():
    with pytest.raises(OptionError, match="training samples a class, 8 to 1000, got 4"):
        photos_dvs(samples=4)
