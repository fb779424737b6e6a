"""A training that was stopped goes on to the same weights."""

import pickle

import pytest
import torch
from torch import nn

from sj_cka.data import AUGMENTATIONS, digits
from sj_cka.models import build
from sj_cka.training import Checkpoints, DeviceLoader, Settings, train

EPOCHS = 4


class Box:
    """Holds one checkpoint in memory."""

    def __init__(self):
        self.content, self.saves, self.aside = None, 0, []

    def load(self):
        return self.content

    def save(self, content):
        self.content = content
        self.saves += 1

    def set_aside(self):
        self.aside.append(self.content)
        self.content = None
        return "a box"


class Stopped(Exception):
    pass


def network(kind):
    if kind == "dropout":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 10))
    return build(kind, {"name": "resnet", "depth": 8}, in_channels=1, num_classes=10, T=2)


def run(kind, checkpoints=None, stop_after=None, **options):
    """A training of a new network from new batches."""
    data, net = digits(), network(kind)
    settings = Settings(epochs=EPOCHS, batch_size=16, warmup=1, clip=5.0, **options)
    augment = [lambda x, generator: AUGMENTATIONS["crop"](x, generator, padding=1)]
    batches = DeviceLoader(
        data.x_train[:48],
        data.y_train[:48],
        batch_size=16,
        seed=0,
        classes=10,
        prepare=data.as_input,
        augment=augment,
    )

    def report(epoch):
        if epoch.epoch == stop_after:
            raise Stopped

    trained = train(net, batches, settings, seed=0, keep=(1, 3), checkpoints=checkpoints, report=report)
    return net, trained


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("snn", {}),
        ("ann", {"layout": "channels_last"}),
        ("snn", {"precision": "fp16"}),
        ("dropout", {"decay": "weights"}),
    ],
)
def test_a_training_that_was_stopped_ends_with_the_same_weights_to_the_bit(kind, options, stop_after):
    net, trained = run(kind, **options)
    box = Box()
    with pytest.raises(Stopped):
        run(kind, Checkpoints(box, 1), stop_after, **options)
    again, resumed = run(kind, Checkpoints(box, 1), **options)
    assert same(net.state_dict(), again.state_dict())
    assert [(e.epoch, e.loss, e.accuracy, e.lr) for e in trained.history] == [
        (e.epoch, e.loss, e.accuracy, e.lr) for e in resumed.history
    ]
    assert list(resumed.kept) == [1, 3]
    assert all(same(trained.kept[epoch], resumed.kept[epoch]) for epoch in (1, 3))


def test_a_checkpoint_is_taken_every_so_many_epochs_but_for_the_last():
    for every, expected in ((1, 3), (2, 1), (3, 1), (4, 0)):
        box = Box()
        run("dropout", Checkpoints(box, every))
        assert box.saves == expected


def test_without_a_number_a_checkpoint_is_taken_after_a_minute():
    box = Box()
    checkpoints = Checkpoints(box)
    run("dropout", checkpoints)
    assert box.saves == 0
    checkpoints.last -= 60
    run("dropout", checkpoints)
    assert box.saves == 1


def test_a_process_that_only_reads_saves_nothing():
    box = Box()
    run("dropout", Checkpoints(box, 1, writes=False))
    assert box.saves == 0


def test_a_checkpoint_of_another_network_is_refused():
    box = Box()
    with pytest.raises(Stopped):
        run("dropout", Checkpoints(box, 1), stop_after=2)
    with pytest.raises(RuntimeError, match="expected a checkpoint of this training, got one of another"):
        run("ann", Checkpoints(box, 1))


@pytest.fixture(scope="module")
def stopped():
    """What a training left that was stopped."""
    box = Box()
    with pytest.raises(Stopped):
        run("dropout", Checkpoints(box, 1, of="one"), stop_after=2)
    return box.content


def flipped(content, bit):
    other = bytearray(content)
    other[bit // 8] ^= 1 << bit % 8
    return bytes(other)


class Mean:
    """What a pickle may run when it is read."""

    ran = False

    def __reduce__(self):
        return setattr, (Mean, "ran", True)


DAMAGED = {
    "flipped in the first line": lambda content: flipped(content, 100),
    "flipped in the middle": lambda content: flipped(content, 4 * len(content)),
    "flipped at the end": lambda content: flipped(content, 8 * len(content) - 1),
    "truncated": lambda content: content[:-1],
    "of before hashes": lambda content: content.partition(b"\n")[2],
    "longer": lambda content: content + b"x",
    "empty": lambda content: b"",
    "foreign": lambda content: b"\x89PNG\r\n\x1a\n",
    "a pickle": lambda content: pickle.dumps(Mean()),
    "of another training": lambda content: content.replace(b'"one"', b'"two"', 1),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_checkpoint_is_set_aside_with_a_sentence(stopped, damage, caplog):
    box = Box()
    box.content = damage(stopped)
    assert Checkpoints(box, 1, of="one").load() is None
    assert (box.content, box.aside) == (None, [damage(stopped)])
    assert "a checkpoint is set aside in a box, training begins anew: " in caplog.text
    assert not Mean.ran


def test_after_a_damaged_checkpoint_training_ends_as_if_there_had_been_none(stopped):
    net, _ = run("dropout")
    box = Box()
    box.content = flipped(stopped, 6 * len(stopped))
    again, _ = run("dropout", Checkpoints(box, 1, of="one"))
    assert same(net.state_dict(), again.state_dict())


def test_a_process_that_only_reads_leaves_a_damaged_checkpoint_to_the_one_that_writes(stopped):
    box = Box()
    box.content = stopped[:-1]
    assert Checkpoints(box, 1, writes=False, of="one").load() is None
    assert box.aside == []
