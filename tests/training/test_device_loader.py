"""Batches that live on a device: order, share, augmentation, what is refused."""

import pytest
import torch

from sj_cka.data import AUGMENTATIONS, Shape, imagine
from sj_cka.training import DeviceLoader

IMAGES = torch.arange(23 * 2, dtype=torch.uint8).view(23, 2, 1, 1)
LABELS = torch.arange(23) % 4


def test_the_old_name_says_the_new_one():
    with pytest.raises(ImportError, match="Resident is called DeviceLoader now"):
        from sj_cka.training import Resident  # noqa: F401


def loader(**options):
    return DeviceLoader(IMAGES, LABELS, **{"batch_size": 5, "seed": 0, "classes": 4} | options)


def order(batches):
    return [int(i) // 2 for x, _ in batches for i in x[:, 0, 0, 0]]


def test_every_image_comes_once_an_epoch_with_its_label():
    batches = loader()
    pairs = [(x, y) for x, y in batches]
    assert [len(x) for x, _ in pairs] == [5, 5, 5, 5, 3] == [len(y) for _, y in pairs]
    assert len(batches) == 5
    seen = torch.cat([x[:, 0, 0, 0].long() // 2 for x, _ in pairs])
    assert sorted(seen.tolist()) == list(range(23))
    assert torch.equal(torch.cat([y for _, y in pairs]), LABELS[seen])


def test_the_order_is_that_of_the_seed_with_and_without_augmentation():
    batches, changed, other = loader(), loader(augment=[AUGMENTATIONS["flip"]]), loader(seed=1)
    first, second = order(batches), order(batches)
    assert first == order(changed)
    assert first != second
    assert second == order(changed)
    assert first != order(other)


def test_a_last_batch_of_one_is_left_out():
    assert [len(y) for _, y in loader(batch_size=11)] == [11, 11]
    assert len(loader(batch_size=11)) == 2


def test_what_is_stored_is_augmented_first_and_then_normalised():
    batches = loader(augment=[lambda x, generator: x + 1, lambda x, generator: x * 2], prepare=lambda x: x.float() / 4)
    x, _ = next(iter(batches))
    plain, _ = next(iter(loader()))
    assert torch.equal(x, ((plain + 1) * 2).float() / 4)


def test_a_state_brings_back_order_and_augmentation():
    data = imagine(Shape((3, 8, 8), 4, 20, 8), train=20)

    def made():
        return DeviceLoader(
            data.x_train, data.y_train, batch_size=8, seed=0, classes=4, augment=[AUGMENTATIONS["crop"]]
        )

    batches, again = made(), made()
    list(batches)
    again.load_state_dict(batches.state_dict())
    for (x, y), (x_again, y_again) in zip(batches, again, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(
        ValueError, match="expected labels from 0 to 2, since the network has 3 classes; got labels from 0 to 3"
    ):
        loader(classes=3)


def test_a_label_too_few_is_refused():
    with pytest.raises(ValueError, match=r"expected a label for each of 23 samples, got labels \[22\]"):
        DeviceLoader(IMAGES, LABELS[1:], batch_size=5, seed=0, classes=4)
