"""Augmentation: each image its own, seeded, nothing but what it says."""

import pytest
import torch

from sj_cka.data import AUGMENTATIONS
from sj_cka.data.augment import crop, cutout, drop_events, flip, roll

H, W = 5, 7
MOVING = ["crop", "roll", "flip", "cutout"]  # what works on pixels


def images(N=64, dtype=torch.uint8):
    return torch.randint(1, 255, (N, 3, H, W), generator=torch.Generator().manual_seed(0)).to(dtype)


def frames(N=64, dtype=torch.int16):
    return torch.randint(1, 9, (N, 4, 2, H, W), generator=torch.Generator().manual_seed(0)).to(dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


CASES = [(name, dtype, images) for name in MOVING for dtype in (torch.uint8, torch.float32)]
CASES += [(name, dtype, frames) for name in AUGMENTATIONS for dtype in (torch.uint8, torch.int16)]


@pytest.mark.parametrize(("name", "dtype", "samples"), CASES)
def test_shape_and_type_stay_and_the_seed_alone_decides(name, dtype, samples):
    x = samples(dtype=dtype)
    before = x.clone()
    made, again, other = (AUGMENTATIONS[name](x, generator(seed)) for seed in (0, 0, 1))
    assert made.shape == x.shape
    assert made.dtype == dtype
    assert torch.equal(made, again)
    assert not torch.equal(made, other)
    assert torch.equal(x, before)


def test_a_crop_is_a_window_of_the_image_with_a_black_border():
    x, padding = images(), 2
    padded = torch.nn.functional.pad(x, [padding] * 4)
    shifts = set()
    for image, border in zip(crop(x, generator(), padding=padding), padded, strict=True):
        windows = {
            (i, j): border[:, i : i + H, j : j + W] for i in range(2 * padding + 1) for j in range(2 * padding + 1)
        }
        [shift] = [shift for shift, window in windows.items() if torch.equal(window, image)]
        shifts.add(shift)
    assert {i for i, _ in shifts} == {j for _, j in shifts} == set(range(2 * padding + 1))
    assert any(i != j for i, j in shifts)


def test_a_flip_turns_some_images_and_leaves_the_others():
    x = images(400)
    made = flip(x, generator())
    turned = (made == x.flip(-1)).flatten(1).all(1)
    assert ((made == x).flatten(1).all(1) ^ turned).all()
    assert 150 < int(turned.sum()) < 250
    assert torch.equal(flip(x, generator(), share=0.0), x)
    assert torch.equal(flip(x, generator(), share=1.0), x.flip(-1))


def test_a_roll_loses_nothing_and_reaches_every_shift():
    x = images()
    shifts = set()
    for image, rolled in zip(x, roll(x, generator(), pixels=1), strict=True):
        [shift] = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if torch.equal(image.roll((i, j), (-2, -1)), rolled)]
        shifts.add(shift)
    assert shifts == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_a_cutout_is_a_square_whose_centre_is_anywhere():
    x = images(400)
    holes = (cutout(x, generator(), size=3) == 0).all(1)
    for hole in holes:
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert len(rows) * len(columns) == hole.sum()
        for at, length in ((rows, H), (columns, W)):
            assert at[-1] - at[0] + 1 == len(at)
            # a square that begins or ends outside is cut off
            assert len(at) == 3 or (len(at) == 2 and (at[0] == 0 or at[-1] == length - 1))
    assert (holes.float().mean(0) > 0).all()


def test_all_frames_and_both_polarities_of_a_recording_change_alike():
    x = frames()
    first = x[:, :1, :1].expand_as(x).contiguous()
    for name in MOVING:
        made = AUGMENTATIONS[name](first, generator())
        assert torch.equal(made, made[:, :1, :1].expand_as(made)), name
        assert torch.equal(AUGMENTATIONS[name](x, generator())[:, 0, 0], made[:, 0, 0]), name


def test_each_event_is_lost_by_itself_with_its_probability():
    x = torch.full((50, 4, 2, H, W), 6, dtype=torch.uint8)
    x[:, 0] = 0
    kept = drop_events(x, generator(), share=0.3)
    assert (kept <= x).all()
    assert (kept[:, 0] == 0).all()
    counts = kept[:, 1:].float()
    N = counts.numel()
    # binomial of 6 and 0.7: mean 4.2, variance 1.26; five standard errors
    assert abs(counts.mean() - 4.2) < 5 * (1.26 / N) ** 0.5
    assert abs(counts.var() - 1.26) < 5 * 1.26 * (2 / N) ** 0.5
    assert torch.equal(drop_events(x, generator(), share=0.0), x)
    assert drop_events(x, generator(), share=1.0).sum() == 0


@pytest.mark.parametrize(
    ("name", "samples", "message"),
    [
        ("drop_events", images(4), "images have no events to drop"),
        ("drop_events", frames(4).float(), "in whole numbers, got torch.float32"),
        *((name, torch.zeros(4, 3, 70), r"expected samples with pixels, .* got \[4, 3, 70\]") for name in MOVING),
    ],
)
def test_samples_that_it_is_not_for_are_refused(name, samples, message):
    with pytest.raises(ValueError, match=message):
        AUGMENTATIONS[name](samples, generator())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("roll", {"pixels": 0}, "expected pixels, the largest shift, from 1, got 0"),
        ("cutout", {"size": 0}, "expected size, pixels a side, from 1, got 0"),
        ("drop_events", {"share": -0.1}, "expected share, a probability from 0 to 1, got -0.1"),
        ("crop", {"padding": 0}, "expected padding from 1, in pixels, got 0"),
        ("flip", {"share": 1.5}, "expected share, a probability from 0 to 1, got 1.5"),
    ],
)
def test_an_option_out_of_range_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        AUGMENTATIONS[name](images(4), generator(), **options)
