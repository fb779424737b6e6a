"""Training: it learns, it is seeded, it stops at NaN."""

import math

import pytest
import torch
from torch import nn

from sj_cka.data import digits
from sj_cka.models import build
from sj_cka.training import DeviceLoader, NotFinite, Settings, accuracy, train
from sj_cka.training.step import channels_last, check_precision

QUICK = Settings(epochs=2, batch_size=16)


def network(kind="snn", seed=0):
    return build(kind, {"name": "resnet", "depth": 8}, in_channels=1, num_classes=10, T=2, seed=seed)


def some(n=48):
    data = digits()
    return data.x_train[:n], data.y_train[:n]


def fit(net, x, y, settings, seed=0, **options):
    """The epochs of a training on images that lie in memory."""
    batches = DeviceLoader(x, y, batch_size=settings.batch_size, seed=seed, classes=10)
    return train(net, batches, settings, seed=seed, **options).history


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_a_network_learns_images_that_it_sees(kind):
    x, y = some(96)
    net = network(kind)
    history = fit(net, x, y, Settings(epochs=25, batch_size=16), seed=0)
    assert history[-1].loss < history[0].loss / 2
    assert accuracy(net, x, y) > 0.9


@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_does_not(kind):
    x, y = some()
    torch.manual_seed(1)
    first, second, other = network(kind), network(kind), network(kind)
    histories = [fit(net, x, y, QUICK, seed=s) for net, s in ((first, 3), (second, 3), (other, 4))]
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert [e.loss for e in histories[0]] == [e.loss for e in histories[1]]


def test_one_step_is_sgd_on_the_cross_entropy_of_the_mean_over_time_with_decay_on_all_parameters():
    x, y = some(8)
    net, by_hand = linear(), linear()
    settings = Settings(epochs=1, batch_size=8, lr=0.5, momentum=0.9, weight_decay=0.1)
    history = fit(net, x, y, settings, seed=0)
    loss = nn.functional.cross_entropy(by_hand(x), y)
    loss.backward()
    expected = [p - 0.5 * (p.grad + 0.1 * p) for p in by_hand.parameters()]
    assert all(torch.allclose(p, e, atol=1e-6) for p, e in zip(net.parameters(), expected, strict=True))
    assert history[0].loss == pytest.approx(loss.item(), rel=1e-6)


def test_the_learning_rate_falls_along_a_cosine_to_zero():
    x, y = some(32)
    history = fit(linear(), x, y, Settings(epochs=4, batch_size=8, lr=0.2), seed=0)
    assert [e.lr for e in history] == pytest.approx([0.1 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])


def test_every_image_is_seen_once_an_epoch_in_an_order_from_the_seed_alone():
    seen = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(1, 2)

        def forward(self, x):
            seen.append(x.flatten().tolist())
            return self.fc(x)

    x, y = torch.arange(10.0).reshape(10, 1), torch.zeros(10, dtype=torch.int64)
    for _ in range(2):
        torch.manual_seed(len(seen))
        fit(Watch(), x, y, Settings(epochs=2, batch_size=4), seed=5)
    first, second = seen[:6], seen[6:]
    assert first == second
    assert sorted(i for batch in first[:3] for i in batch) == list(range(10))
    assert first[:3] != first[3:]


def test_a_last_batch_of_one_image_is_left_out():
    x, y = some(17)
    assert fit(network("ann"), x, y, Settings(epochs=1, batch_size=16), seed=0)[0].accuracy * 16 % 1 == 0


def test_a_loss_that_is_no_number_stops_with_epoch_and_step():
    x, y = some(32)
    x = x.clone()
    x[:] = float("nan")
    with pytest.raises(NotFinite, match=r"the loss became nan in epoch 1, step 1 of 2: lower train\.lr"):
        fit(linear(), x, y, QUICK, seed=0)


def test_the_firing_rate_is_spikes_per_neuron_and_step():
    x, y = some(32)
    net, counted = network(), []
    for module in net.modules():
        if type(module).__name__ == "FusedLIFNode":
            module.register_forward_hook(lambda m, a, out: counted.append((out.sum().item(), out.numel())))
    history = fit(net, x, y, Settings(epochs=1, batch_size=16), seed=0)
    assert history[0].firing_rate == pytest.approx(sum(s for s, _ in counted) / sum(n for _, n in counted))
    assert 0 < history[0].firing_rate < 1
    assert math.isnan(fit(network("ann"), x, y, Settings(epochs=1), seed=0)[0].firing_rate)


def test_each_epoch_is_reported_when_it_ends():
    x, y = some(32)
    told = []
    assert fit(linear(), x, y, QUICK, seed=0, report=told.append) == told


def test_the_rate_of_every_layer_is_told_and_their_mean_over_neurons_is_the_whole():
    x, y = some(32)
    net, counted = network(), {}
    for name, module in net.named_modules():
        if type(module).__name__ == "FusedLIFNode":
            counted[name] = []
            module.register_forward_hook(lambda m, a, out, n=name: counted[n].append((out.sum().item(), out.numel())))
    [epoch] = fit(net, x, y, Settings(epochs=1, batch_size=16))
    expected = {name: sum(s for s, _ in seen) / sum(n for _, n in seen) for name, seen in counted.items()}
    assert epoch.rates == pytest.approx(expected)
    assert epoch.images_s == pytest.approx(32 / epoch.seconds)
    assert epoch.memory_mb > 50


def test_the_learning_rate_rises_linearly_over_the_warm_up_and_falls_to_zero():
    x, y = some(32)
    rates, net = [], linear()
    settings = Settings(epochs=4, batch_size=8, lr=0.2, warmup=2)
    step = torch.optim.SGD.step

    def watched(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", watched)
        fit(net, x, y, settings)
    falling = [0.1 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert rates == pytest.approx([0.025 * i for i in range(1, 9)] + falling)


def test_weight_decay_can_spare_biases_and_batch_normalisation():
    x, y = some(16)
    nets = [linear(), linear()]
    for net, decay in zip(nets, ("all", "weights"), strict=True):
        net[1].bias.data += 1.0
        settings = Settings(epochs=1, batch_size=16, lr=0.5, momentum=0.0, weight_decay=0.1, decay=decay)
        fit(net, x, y, settings)
    assert torch.equal(nets[0][1].weight, nets[1][1].weight)
    apart = nets[1][1].bias - nets[0][1].bias
    before = linear()[1].bias + 1.0
    assert torch.allclose(apart, 0.5 * 0.1 * before, atol=1e-6)


def test_clipping_bounds_the_norm_of_all_gradients_together():
    x, y = some(16)
    start, net = linear(), linear()
    fit(net, 100 * x, y, Settings(epochs=1, batch_size=16, lr=1.0, momentum=0.0, weight_decay=0.0, clip=0.25))
    moved = torch.cat([(a - b).flatten() for a, b in zip(net.parameters(), start.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-4)


class Drifting(nn.Module):
    """Logits [T, N, 10] that differ from step to step."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return torch.stack([self.fc(x.flatten(1)) * t for t in (1.0, 2.0, 4.0)])


@pytest.mark.parametrize("loss", ["mean", "tet"])
def test_the_loss_is_that_of_the_mean_logits_or_the_mean_of_that_of_every_step(loss):
    x, y = some(16)
    torch.manual_seed(0)
    net = Drifting()
    logits = net(x).detach()
    if loss == "mean":
        expected = nn.functional.cross_entropy(logits.mean(0), y)
    else:
        expected = torch.stack([nn.functional.cross_entropy(step, y) for step in logits]).mean()
    [epoch] = fit(net, x, y, Settings(epochs=1, batch_size=16, loss=loss))
    assert epoch.loss == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["snn", "ann"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_leaves_weights_in_float32(kind, precision):
    x, y = some(64)
    net, plain = network(kind), network(kind)
    history = fit(net, x, y, Settings(epochs=8, batch_size=16, precision=precision))
    exact = fit(plain, x, y, Settings(epochs=8, batch_size=16))
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    assert history[-1].loss < 0.95 * history[0].loss
    assert history[0].loss == pytest.approx(exact[0].loss, rel=0.1)
    assert history[0].loss != exact[0].loss  # it really is another precision


def test_the_automatic_precision_is_float32_on_the_cpu_and_half_on_cuda():
    settings = Settings(precision="auto")
    assert settings.autocast_dtype(torch.device("cpu")) is None
    assert settings.autocast_dtype(torch.device("cuda")) == torch.float16


def test_bfloat16_is_refused_where_neurons_have_cupy_kernels():
    class CuPy(nn.Identity):
        backend = "cupy"

    net = nn.Sequential()
    net.add_module("lif", CuPy())
    with pytest.raises(ValueError, match=r"expected precision fp16 or float32.*'lif' know no bf16"):
        check_precision(net, Settings(precision="bf16"), torch.device("cuda"))


@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_the_layout_in_memory_changes_rounding_alone_and_is_put_back(kind):
    x, y = some(32)
    nets = [network(kind), network(kind)]
    found = [
        fit(net, x, y, Settings(epochs=1, batch_size=16, layout=layout))
        for net, layout in zip(nets, ("contiguous", "channels_last"), strict=True)
    ]
    assert found[1][0].loss == pytest.approx(found[0][0].loss, rel=1e-3)
    assert all(parameter.is_contiguous() for net in nets for parameter in net.parameters())


@pytest.mark.parametrize(
    ("layout", "size", "device", "precision", "expected"),
    [
        ("auto", 8, "cpu", "float32", False),
        ("auto", 16, "cpu", "float32", True),
        ("auto", 8, "cuda", "float32", True),
        ("auto", 32, "cuda", "auto", True),
        ("contiguous", 32, "cpu", "float32", False),
        ("channels_last", 8, "cpu", "float32", True),
    ],
)
def test_the_layout_is_chosen_where_it_pays(layout, size, device, precision, expected):
    settings = Settings(layout=layout, precision=precision)
    assert channels_last(settings, torch.zeros(3, size, size), torch.device(device)) is expected


def test_a_network_that_cannot_be_compiled_is_told_so(monkeypatch):
    class NoCompiler(Exception):
        pass

    NoCompiler.__module__ = "torch._inductor.exc"

    def compile_(net):
        def fail(x):
            raise NoCompiler("No working C++ compiler found")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    x, y = some(16)
    with pytest.raises(
        RuntimeError, match=r"train\.compile: torch\.compile cannot compile Sequential here \(No working"
    ):
        fit(linear(), x, y, Settings(epochs=1, batch_size=16, compile=True))


def test_compiling_hands_the_network_to_torch_and_changes_no_name(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda net: lambda x: (seen.append(len(x)), net(x))[1])
    x, y = some(32)
    nets = [linear(), linear()]
    for net, compile_ in zip(nets, (False, True), strict=True):
        fit(net, x, y, Settings(epochs=1, batch_size=16, compile=compile_))
    assert seen == [16, 16]
    assert torch.equal(nets[0][1].weight, nets[1][1].weight)


def test_weights_are_kept_after_the_epochs_asked_for_and_before_the_first():
    x, y = some(32)
    net = network("ann")
    first = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    batches = DeviceLoader(x, y, batch_size=16, seed=0, classes=10)
    trained = train(net, batches, Settings(epochs=3, batch_size=16), seed=0, keep=(0, 1, 3))
    assert list(trained.kept) == [0, 1, 3]
    assert all(torch.equal(tensor, first[name]) for name, tensor in trained.kept[0].items())
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in trained.kept[3].items())
    assert not torch.equal(trained.kept[1]["conv1.weight"], net.conv1.weight)


def test_a_loader_with_torchvision_transforms_takes_the_place_of_resident_images():
    from torchvision.transforms import v2

    x, y = some(40)
    change = v2.Compose([v2.RandomCrop(8, padding=2), v2.Normalize([0.3], [0.4])])

    class Photographs(torch.utils.data.Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, i):
            return change(x[i]), int(y[i])

    loader = torch.utils.data.DataLoader(Photographs(), batch_size=16, shuffle=True, drop_last=True)
    trained = train(linear(), loader, Settings(epochs=3), seed=0)
    assert [epoch.epoch for epoch in trained.history] == [1, 2, 3]
    assert trained.history[-1].loss < trained.history[0].loss


def test_labels_that_are_no_class_of_the_network_are_named_whether_they_come_first_or_later():
    x, y = some(32)
    for at in (0, 20):
        wrong = y.clone()
        wrong[at] = 10
        loader = [(x[:16], wrong[:16]), (x[16:], wrong[16:])]
        with pytest.raises(
            ValueError, match=r"expected labels from 0 to 9, since the network has 10 classes; got .* to 10"
        ):
            train(linear(), loader, Settings(epochs=1), seed=0)


def test_dropout_is_drawn_from_the_seed_alone_and_the_random_state_stays():
    x, y = some(32)
    found = []
    for seed, state in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
        torch.manual_seed(state)
        before = torch.get_rng_state()
        train(net, [(x, y)], Settings(epochs=2), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(net[2].weight.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# recordings


def recordings(n=48, size=16):
    counts = torch.randint(0, 4, (n, 3, 2, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return counts, torch.arange(n) % 10


def frames_first(x):
    return x.transpose(0, 1).float()


@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_frames_are_laid_out_as_images_are_and_train_the_same(kind):
    x, y = recordings()
    found = {}
    for layout in ("contiguous", "channels_last"):
        net = build(kind, {"name": "convnet", "channels": [4, 6]}, in_channels=2, num_classes=10, T=3)
        seen = []
        net.get_submodule("stage1.0.conv").register_forward_pre_hook(lambda m, x, seen=seen: seen.append(x[0]))
        batches = DeviceLoader(x, y, batch_size=16, seed=0, classes=10, prepare=frames_first)
        train(net, batches, Settings(epochs=1, batch_size=16, layout=layout), seed=0)
        image = seen[0].flatten(0, -4)
        assert image.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
        found[layout] = net.state_dict()
    for name, tensor in found["contiguous"].items():
        assert torch.allclose(tensor, found["channels_last"][name], atol=1e-4), name


def test_the_layout_of_frames_is_chosen_by_the_size_of_a_frame():
    for size, chosen in ((8, False), (16, True)):
        x, y = recordings(16, size)
        net = build("snn", {"name": "convnet", "channels": [4, 6]}, in_channels=2, num_classes=10, T=3)
        seen = []
        net.get_submodule("stage1.0.conv").register_forward_pre_hook(lambda m, x, seen=seen: seen.append(x[0]))
        batches = DeviceLoader(x, y, batch_size=16, seed=0, classes=10, prepare=frames_first)
        train(net, batches, Settings(epochs=1, batch_size=16), seed=0)
        assert seen[0].flatten(0, 1).is_contiguous(memory_format=torch.channels_last) == chosen
