"""What a twin can be given: frames, keywords, flags, several tensors, and what it cannot."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka.twins import ann_twin

T, N = 4, 5


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normed(features: int = 16, mode: str = "m") -> nn.Sequential:
    """Linear, batch normalisation with statistics of its own for every feature, neuron, Linear."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Linear(28, features), layer.BatchNorm1d(features), neuron.LIFNode(), layer.Linear(features, 10)
    )
    functional.set_step_mode(net, "m")
    net.train()(5 * numbers(4, 16, 28))
    functional.reset_net(net)
    functional.set_step_mode(net, mode)
    return net.eval()


def of_one_frame(net: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    y = nn.functional.linear(x, net[0].weight, net[0].bias)
    y = (y - net[1].running_mean) / (net[1].running_var + net[1].eps).sqrt() * net[1].weight + net[1].bias
    return nn.functional.linear(y.relu(), net[3].weight, net[3].bias)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 12, 16])
@pytest.mark.parametrize("t", [1, 2, 3, 4, 16])
def test_frames_of_as_many_samples_as_features_are_frames(t: int, n: int, train: bool) -> None:
    net, frames = normed(), 5 * numbers(t, n, 28)
    twin = ann_twin(net)
    assert torch.allclose(twin(frames), torch.stack([of_one_frame(net, x) for x in frames]), atol=1e-5)
    if train and t * n > 1:
        twin.train()(frames)
        merged = net[0](frames).flatten(0, 1)
        expected = 0.9 * net[1].running_mean + 0.1 * merged.mean(0)
        assert torch.allclose(twin[1].running_mean, expected, atol=1e-5)


def test_every_number_of_samples_finds_its_own_drive() -> None:
    net = normed()
    twin = ann_twin(net)
    for n in (16, 12, 1, 16):
        frames = 5 * numbers(T, n, 28, seed=n)
        assert torch.allclose(twin(frames), of_one_frame(net, frames), atol=1e-5)
        assert torch.allclose(twin(frames[0]), of_one_frame(net, frames[0]), atol=1e-5)


def test_channels_that_no_frames_would_fit_stay_channels() -> None:
    """`[N, C, L]`, of which the last axis alone is C or of another length than the features of Linear."""
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(28, 20), layer.BatchNorm1d(16), neuron.LIFNode(), layer.Linear(20, 10)).eval()
    functional.set_step_mode(net, "m")
    net[1].running_mean.copy_(numbers(16))
    x = numbers(3, 16, 28)
    y = nn.functional.linear(x, net[0].weight, net[0].bias) - net[1].running_mean[:, None]
    expected = nn.functional.linear((y / (1 + net[1].eps) ** 0.5).relu(), net[3].weight, net[3].bias)
    assert torch.allclose(ann_twin(net)(x), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_images_of_one_channel_that_are_flattened_are_no_frames(mode: str) -> None:
    net = nn.Sequential(layer.Flatten(), layer.Linear(28 * 28, 10), neuron.LIFNode())
    functional.set_step_mode(net, mode)
    x = numbers(N, 1, 28, 28)
    assert torch.allclose(ann_twin(net)(x), net[1](x.flatten(1)).relu(), atol=1e-5)


class Net(nn.Module):
    """Two layers, multi-step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif, self.fc2 = layer.Linear(6, 7), neuron.LIFNode(), layer.Linear(7, 3)
        functional.set_step_mode(self, "m")

    def layers(self, x):
        return self.fc2(self.lif(self.fc1(x)))

    def forward(self, x, scale: float = 1.0, also: bool = False):
        y = self.layers(x) * scale
        return {"logits": y, "hidden": self.lif(self.fc1(x))} if also else y


def by_hand(net: Net, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(hidden(net, x), net.fc2.weight, net.fc2.bias)


def hidden(net: Net, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, net.fc1.weight, net.fc1.bias).relu()


def test_an_input_by_keyword() -> None:
    net, x = Net(), numbers(N, 6)
    twin = ann_twin(net)
    assert torch.allclose(twin(x=x), by_hand(net, x), atol=1e-6)
    assert torch.allclose(twin(scale=2.0, x=x), 2 * by_hand(net, x), atol=1e-6)
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        twin(x, y=x)
    with pytest.raises(TypeError, match=r"Net.forward\(self, x, scale.*missing a required argument: 'x'"):
        twin()


def test_flags_that_change_the_structure_of_the_output() -> None:
    net, x = Net(), numbers(N, 6)
    twin = ann_twin(net)
    for _ in range(2):
        assert torch.allclose(twin(x), by_hand(net, x), atol=1e-6)
        both = twin(x, also=True)
        assert torch.allclose(both["logits"], by_hand(net, x), atol=1e-6)
        assert torch.allclose(both["hidden"], hidden(net, x), atol=1e-6)
        assert torch.allclose(twin(x, 3.0), 3 * by_hand(net, x), atol=1e-6)


def test_an_attribute_that_changes_the_structure_of_the_output() -> None:
    class Shows(Net):
        also = False

        def forward(self, x):
            return super().forward(x, also=self.also)

    net, x = Shows(), numbers(N, 6)
    twin = ann_twin(net)
    for also in (False, True, False):
        twin.also = also
        y = twin(x)
        assert torch.allclose(y["logits"] if also else y, by_hand(net, x), atol=1e-6)


def test_an_output_whose_structure_hangs_on_the_data_is_an_error() -> None:
    class Moody(Net):
        def forward(self, x):
            return super().forward(x, also=bool(x.abs().amax() > 9 and x.shape[-2] == N))

    twin, x = ann_twin(Moody()), numbers(N, 6)
    assert twin(x).shape == (N, 3)
    with pytest.raises(RuntimeError, match="expected an output of the same structure from the same input"):
        twin(10 * x)


class Pair(NamedTuple):
    x: torch.Tensor
    word: str


@pytest.mark.parametrize("what", ["dict", "list", "named"])
def test_a_batch_that_holds_its_tensors_is_driven(what: str) -> None:
    class Holds(Net):
        def forward(self, batch):
            x = {"dict": lambda: batch["x"], "list": lambda: batch[0], "named": lambda: batch.x}[what]()
            return {"logits": self.layers(x)}

    net, x = Holds(), numbers(N, 6)
    batch = {"dict": {"x": x, "id": "a"}, "list": [x, None], "named": Pair(x, "a")}[what]
    y = ann_twin(net)(batch)["logits"]
    assert y.shape == (N, 3)
    assert torch.allclose(y, by_hand(net, x), atol=1e-6)


def test_a_batch_in_keywords_alone_is_driven() -> None:
    class Keywords(Net):
        def forward(self, **batch):
            return self.layers(batch["a"] + batch["b"])

    net, a, b = Keywords(), numbers(N, 6), numbers(N, 6, seed=1)
    assert torch.allclose(ann_twin(net)(a=a, b=b), by_hand(net, a + b), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, N])
def test_two_inputs_that_both_have_steps_both_get_one(n: int) -> None:
    class Two(Net):
        def forward(self, a, b):
            return self.layers(a).mean(0) + self.layers(b).mean(0)

    net, a, b = Two(), numbers(n, 6), numbers(n, 6, seed=1)
    assert torch.allclose(ann_twin(net)(a, b), by_hand(net, a) + by_hand(net, b), atol=1e-6)
    assert torch.allclose(ann_twin(net)(a, b=b), by_hand(net, a) + by_hand(net, b), atol=1e-6)


def test_a_second_input_without_steps_stays_without() -> None:
    class Loss(Net):
        def forward(self, x, labels):
            y = self.layers(x).mean(0)
            return y, nn.functional.cross_entropy(y, labels, reduction="none")

    net, x, labels = Loss(), numbers(N, 6), torch.arange(N) % 3
    y, loss = ann_twin(net)(x, labels)
    assert torch.allclose(y, by_hand(net, x), atol=1e-6)
    assert torch.allclose(loss, nn.functional.cross_entropy(by_hand(net, x), labels, reduction="none"), atol=1e-6)


def test_samples_that_a_reading_would_mix_are_kept_apart() -> None:
    """The mean over axis 0 of what is given without a step would be the mean over the samples."""

    class Centred(Net):
        def forward(self, x, also):
            return self.layers(x).mean(0) + self.fc1(also).mean(0)[..., :3]

    net, x, also = Centred(), numbers(N, 6), numbers(N, 6, seed=1)
    expected = by_hand(net, x) + net.fc1(also)[..., :3]
    assert torch.allclose(ann_twin(net)(x, also), expected, atol=1e-6)


def test_a_network_that_mixes_samples_itself_has_a_twin() -> None:
    class Mixes(Net):
        def forward(self, x):
            y = self.layers(x)
            return y - y.mean(1, keepdim=True)

    net, x = Mixes(), numbers(N, 6)
    y = by_hand(net, x)
    assert torch.allclose(ann_twin(net)(x), y - y.mean(0), atol=1e-6)


class Opaque:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


@pytest.mark.parametrize(
    ("given", "named"), [(Opaque(numbers(N, 6)), "Opaque"), (torch.tensor(1.0), "Tensor"), ([1.0, "a"], "float, str")]
)
def test_an_input_without_tensors_is_refused(given: object, named: str) -> None:
    class Opens(Net):
        def forward(self, batch):
            return self.layers(batch.x)

    with pytest.raises(TypeError, match=rf"expected a tensor \[N, ...\] in the input of the twin, .*got {named}"):
        ann_twin(Opens())(given)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_twin_compiles_before_its_first_call(mode: str) -> None:
    net, x = normed(mode=mode), numbers(N, 28)
    twin = ann_twin(net)
    compiled = torch.compile(twin, backend="eager")
    assert torch.allclose(compiled(x), of_one_frame(net, x), atol=1e-5)
    assert torch.allclose(compiled(x[:2]), of_one_frame(net, x[:2]), atol=1e-5)
    assert torch.allclose(twin(x), of_one_frame(net, x), atol=1e-5)
