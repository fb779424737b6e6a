"""Augmentation: each image its own, seeded, nothing but what it says."""

import pytest
import torch

from sj_cka.data import AUGMENTATIONS
from sj_cka.data.augment import crop, flip

H, W = 5, 7


def images(N=64, dtype=torch.uint8):
    return torch.randint(1, 255, (N, 3, H, W), generator=torch.Generator().manual_seed(0)).to(dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_and_type_stay_and_the_seed_alone_decides(name, dtype):
    x = images(dtype=dtype)
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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crop", {"padding": 0}, "expected padding from 1, in pixels, got 0"),
        ("flip", {"share": 1.5}, "expected share, a probability from 0 to 1, got 1.5"),
    ],
)
def test_an_option_out_of_range_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        AUGMENTATIONS[name](images(4), generator(), **options)
