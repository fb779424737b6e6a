"""What every attack is held to: copies of what it is given, ball and bounds of what it gives; a plugin's too."""

import functools

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from sj_cka.attacks import (
    ATTACKS,
    BrokenPromise,
    accuracy,
    backdoor,
    craft,
    eps_for_success,
    losses,
    noise_like,
    pgd,
    pixel_model,
    promises,
    right,
    square,
    stamp,
    transfer,
    uniform,
    without_gradient,
)
from sj_cka.attacks.promise import promise_of, rounding

pytestmark = pytest.mark.filterwarnings("ignore::sj_cka.attacks.MaskedGradient", "ignore:.*have no other input")

CHEAP = {
    "pgd": {"steps": 3},
    "pgd_surrogates": {"steps": 3},
    "square": {"queries": 12},
    "boundary": {"steps": 11},
    "hop_skip_jump": {"steps": 2, "evaluations": 5},
}
EVENTS = ("drop_events", "add_events")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def masked(x, place):
    mask = torch.zeros(x.shape[-2:], dtype=torch.bool)
    mask[:3] = True
    return x.masked_fill_(mask, 0.25) if place else x.masked_fill(mask, 0.25)


def assigned(x, place):
    x = x if place else x.clone()
    x[..., 2:, :] = x[..., :-2, :].clone()
    return x


def clamped(x, place):
    x = x if place else x.clone()
    x[:, :, 1].clamp_(0.2, 0.4)
    return x


# what people do to the input first: in place, and the same on a copy
FIRST = {
    "normalised": lambda x, place: x.sub_(0.5).div_(0.25) if place else (x - 0.5) / 0.25,
    "rectified": lambda x, place: nn.ReLU(inplace=place)(x),
    "masked": masked,
    "assigned": assigned,
    "clamped": clamped,
}


class First(nn.Module):
    """Something done to the images, then one layer."""

    def __init__(self, name, place):
        super().__init__()
        self.first = functools.partial(FIRST[name], place=place)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.last = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def forward(self, x):
        return self.last(self.first(x))


def images(N=14):
    x = torch.rand(N, 1, 8, 8, generator=generator(1))
    return x, First("normalised", False)(x).argmax(1)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_network_that_works_in_place_is_attacked_as_one_that_does_not(name, first):
    given, y = images()
    x = (given * 16).round() if name in EVENTS else given
    before = x.clone()
    made = []
    for place in (False, True):
        options = dict(CHEAP.get(name, {}))
        if name == "transfer":
            options = {"source": First(first, place), "options": {"steps": 3}}
        made.append(ATTACKS[name](First(first, place), x, y, eps=0.1, generator=generator(), **options))
    assert torch.equal(*made)
    assert torch.equal(x, before)


@pytest.mark.parametrize("first", FIRST)
def test_what_is_measured_of_a_network_that_works_in_place_is_the_same(first):
    x, y = images()
    before = x.clone()
    for measure in (right, losses, without_gradient):
        plain, in_place = (measure(First(first, place), x, y) for place in (False, True))
        assert torch.equal(plain, in_place)
    plain, in_place = (backdoor(First(first, place), x, y, target=1) for place in (False, True))
    assert plain == in_place
    if accuracy(First(first, False), x, y) > 0:
        options = {"rate": 0.5, "eps_max": 0.9, "tries": 3, "steps": 2}
        plain, in_place = (eps_for_success("pgd", First(first, place), x, y, **options) for place in (False, True))
        assert torch.equal(plain.x_adv, in_place.x_adv)
    assert torch.equal(x, before)


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("mean", [None, 0.5])
def test_every_step_of_a_network_that_works_in_place_sees_the_same_image(step_mode, mean):
    class Rectified(nn.Module):
        def __init__(self, place):
            super().__init__()
            self.place, self.flat = place, layer.Flatten(step_mode=step_mode)
            self.neuron = neuron.IFNode(step_mode=step_mode)

        def forward(self, x):
            x = x.sub_(0.3).mul_(2) if self.place else (x - 0.3) * 2
            return self.neuron(self.flat(x))

    x = images()[0]
    before = x.clone()
    plain, in_place = (
        pixel_model(Rectified(place), mean, mean, T=4)(x if mean is None else x + 0.5) for place in (False, True)
    )
    assert torch.equal(plain, in_place)
    assert 0 < float(plain.mean()) < 1
    assert torch.equal(x, before)


# what a plugin may do


def far(net, x, y, *, eps, generator=None, norm="linf"):
    return x + 2 * eps


def outside(net, x, y, *, eps, generator=None, bounds=(0.0, 1.0)):
    return x + 1


def changing(net, x, y, *, eps, generator=None):
    return x.add_(0.1).clone()


def nowhere(net, x, y, *, eps, generator=None):
    return x / 0


def of_another_type(net, x, y, *, eps, generator=None, **options):
    return x.double()


def of_another_shape(net, x, y, *, eps, generator=None):
    return x[:, :, :-1]


def nothing(net, x, y, *, eps, generator=None):
    return None


BROKEN = {
    far: r"far: expected a result within eps 0.1 of its input \(linf\), got 0.2",
    outside: "outside: expected a result within bounds 0 to 1, got 1",
    changing: "changing: expected the given inputs to stay as they are, the attack changed them",
    nowhere: "nowhere: expected a result of finite numbers",
    of_another_type: r"of_another_type: expected a result like x, torch.float32 \[14, 1, 8, 8\] .* got torch.float64",
    of_another_shape: r"of_another_shape: expected a result like x, .* got torch.float32 \[14, 1, 7, 8\]",
    nothing: "nothing: expected a result like x, .* got NoneType",
}


@pytest.mark.parametrize("attack", BROKEN)
@pytest.mark.parametrize("way", ["name", "function", "transfer"])
def test_an_attack_of_a_plugin_that_breaks_its_promise_is_named(attack, way, monkeypatch):
    (x, y), net = images(), First("normalised", False)
    before = x.clone()
    monkeypatch.setitem(ATTACKS, "mine", attack)
    ways = {
        "name": lambda: craft("mine", net, x, y, eps=0.1),
        "function": lambda: craft(attack, net, x, y, eps=0.1),
        "transfer": lambda: transfer(net, x, y, eps=0.1, source=net, attack="mine"),
    }
    with pytest.raises(BrokenPromise, match=BROKEN[attack]):
        ways[way]()
    assert torch.equal(x, before)


def test_a_plugin_says_in_a_line_what_it_keeps():
    @promises("radius", norm="l2")
    def brighter(net, x, y, *, eps, generator=None, factor=1.0):
        """Adds to every value."""
        return x + factor * eps / 8

    (x, y), net = images(), First("normalised", False)
    assert brighter.__doc__ == "Adds to every value."
    assert torch.allclose(craft(brighter, net, x, y, eps=0.2), x + 0.025)
    with pytest.raises(
        BrokenPromise, match=r"brighter: expected a result within eps 0.2 of its input \(l2\), got 0.22"
    ):
        craft(brighter, net, x, y, eps=0.2, factor=1.1)
    assert promise_of(brighter).ball({}) == "l2"


def test_a_plugin_that_promises_nothing_is_held_to_bounds_alone():
    (x, y), net = images(), First("normalised", False)
    made = craft(lambda net, x, y, *, eps, generator, bounds=(0, 1): 1 - x, net, x, y, eps=0.01)
    assert torch.equal(made, 1 - x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rounding_is_no_broken_promise_and_a_hundredth_of_eps_is_one(dtype, norm):
    """Points on the border of a ball as an attack makes them, of 3 to 3,000 values; 1 % farther is farther."""
    for size in (3, 64, 3000):
        for eps in (0.03, 0.5, 8.0):
            x = (torch.rand(50, size, generator=generator(size)) * 2 - 1).to(dtype)
            delta = torch.randn(50, size, generator=generator(1)).to(dtype)
            delta = delta.sign() * eps if norm == "linf" else delta * (eps / delta.norm(dim=1, keepdim=True))
            moved = (x + delta).double() - x.double()
            moved = moved.abs().amax() if norm == "linf" else moved.norm(dim=1).amax()
            slack = rounding(eps, float((x + delta).abs().amax()), norm, size, dtype)
            assert float(moved) <= eps + slack
            if dtype in (torch.float32, torch.float64):
                assert slack < 0.01 * eps


# what people pass


@pytest.mark.parametrize("name", ["pgd", "square", "gaussian", "salt_and_pepper"])
def test_images_a_rounding_outside_the_bounds_are_taken_as_at_the_bound(name):
    (x, y), net = images(), First("normalised", False)
    x = x / x.max()
    x[0, 0, 0, 0] = 0
    off = x + 1.2e-7
    off[0, 0, 0, 0] = -1e-7
    before = off.clone()
    made = ATTACKS[name](net, off, y, eps=0.1, **CHEAP.get(name, {}))
    assert torch.equal(made, ATTACKS[name](net, off.clamp(0, 1), y, eps=0.1, **CHEAP.get(name, {})))
    assert 0 <= made.min() <= made.max() <= 1
    assert torch.equal(off, before)
    with pytest.raises(ValueError, match=r"expected x within bounds 0 to 1, got 0 to 1.01"):
        ATTACKS[name](net, x * 1.01, y, eps=0.1)
    with pytest.raises(ValueError, match=r"expected x within bounds 0 to 1, got 0 to 1.0000"):
        ATTACKS[name](net, x + 1e-5 * (x > 0), y, eps=0.1)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "square", "gaussian", "uniform", "pgd_surrogates", "hop_skip_jump"])
@pytest.mark.parametrize("eps", [8, 4.0, 1.5])
def test_an_eps_wider_than_the_bounds_is_refused(name, eps):
    (x, y), net = images(), First("normalised", False)
    options = {"norm": "linf"} if name == "hop_skip_jump" else {}
    with pytest.raises(ValueError, match=rf"expected eps up to 1, .* bounds 0 to 1, got {eps:g}; {eps:g}/255\?"):
        ATTACKS[name](net, x, y, eps=eps, **options)


def test_an_l2_eps_beyond_the_diameter_a_long_step_and_percentages_are_refused():
    (x, y), net = images(), First("normalised", False)
    for name in ("pgd", "fgsm", "hop_skip_jump"):
        with pytest.raises(ValueError, match="expected eps up to 8, the diameter in the L2 norm of 64 values"):
            ATTACKS[name](net, x, y, eps=9, norm="l2")
    with pytest.raises(ValueError, match=r"expected eps up to 8"):
        ATTACKS["boundary"](net, x, y, eps=9)
    with pytest.raises(ValueError, match=r"expected rel_stepsize, a finite number from 0 to 2.5, got 8"):
        pgd(net, x, y, eps=0.1, rel_stepsize=8)
    with pytest.raises(ValueError, match=r"from 0 to 1, got 5; 5 % are 0.05"):
        ATTACKS["salt_and_pepper"](net, x, y, eps=5)
    with pytest.raises(ValueError, match=r"expected eps up to 1, .* got 8"):
        eps_for_success("pgd", net, x, y, rate=0.5, eps_max=8)
    assert uniform(None, x, y, eps=8, bounds=None).max() > 5  # without bounds nobody knows


@pytest.mark.parametrize(
    "labels",
    [
        torch.Tensor.tolist,
        lambda y: tuple(y.tolist()),
        torch.Tensor.numpy,
        lambda y: y.numpy().astype("uint16"),
        lambda y: y.numpy()[::-1][::-1],
        lambda y: y.to(torch.int32),
        lambda y: y.to(torch.uint8),
        lambda y: y.to(torch.uint32),
    ],
)
def test_labels_are_lists_arrays_or_tensors_of_whole_numbers(labels):
    (x, y), net = images(), First("normalised", False)
    for name in ("pgd", "square", "gaussian", "transfer"):
        options = {"source": net} if name == "transfer" else {}
        assert torch.equal(
            craft(name, net, x, labels(y), eps=0.1, batch_size=9, **options),
            craft(name, net, x, y, eps=0.1, batch_size=9, **options),
        )
    assert accuracy(net, x, labels(y)) == accuracy(net, x, y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda y: nn.functional.one_hot(y), r"got shape \(14, 3\); one row a sample: y.argmax\(1\)"),
        (lambda y: y[:, None].numpy(), r"got shape \(14, 1\); y.squeeze\(1\)"),
        (lambda y: y.double().tolist(), r"expected y of whole numbers, the classes, got torch.float64: y.long\(\)"),
        (lambda y: ["cat"] * 14, r"expected y of whole numbers, the classes, got \['cat'"),
        (lambda y: None, "expected y of whole numbers, the classes, got None"),
        (lambda y: y == 0, r"got torch.bool: y.long\(\)"),
        (lambda y: [-1] * 14, "expected labels from 0 in y, got -1"),
    ],
)
def test_other_labels_are_told_what_to_do(labels, message):
    (x, y), net = images(), First("normalised", False)
    for name in ("pgd", "gaussian"):
        with pytest.raises(ValueError, match=message):
            craft(name, net, x, labels(y), eps=0.1)


def test_attacks_work_inside_inference_mode():
    (x, y), net = images(), First("normalised", False)
    expected = pgd(pixel_model(net, 0.5, 0.5), x, y, eps=0.1)
    zero = without_gradient(net, x, y)
    with torch.inference_mode():
        made = pgd(pixel_model(net, 0.5, 0.5), x.clone(), y.clone(), eps=0.1)
        assert torch.equal(without_gradient(net, x, y), zero)
        assert torch.equal(square(net, x.clone(), y, eps=0.1), square(net, x, y, eps=0.1))
        born_inside = First("normalised", False)
    assert torch.equal(made, expected)
    with pytest.raises(ValueError, match=r"made outside torch.inference_mode, last.1.weight was made in it"):
        pgd(born_inside, x, y, eps=0.1)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (lambda x: x.numpy(), r"expected x, a tensor, got ndarray: torch.as_tensor\(x\)"),
        (lambda x: x.to_sparse(), r"expected x, a dense tensor, got torch.sparse_coo: x.to_dense\(\)"),
        (lambda x: x.half(), "expected x of torch.float32, as the network's weights, got torch.float16"),
        (lambda x: x.to("meta"), r"expected x with values, got it on the device meta"),
        (lambda x: x.to(torch.complex64), "expected x of floating point"),
    ],
)
def test_inputs_that_are_none_are_told_what_to_do(inputs, message):
    (x, y), net = images(), First("normalised", False)
    for name in ("pgd", "square"):
        with pytest.raises(ValueError, match=message):
            ATTACKS[name](net, inputs(x), y, eps=0.1)


def test_functions_beside_attacks_tell_the_same_of_their_inputs():
    x = images()[0]
    for call in (lambda own: noise_like(own, x), lambda own: noise_like(x, own), stamp):
        with pytest.raises(ValueError, match="expected x, a tensor, got ndarray"):
            call(x.numpy())
    with pytest.raises(ValueError, match="expected x of finite numbers"):
        noise_like(x, x * float("nan"))
    off = noise_like(x, x.clamp(max=1) + 1.2e-7 * (x > 0.9))
    assert 0 <= off.min() <= off.max() <= 1


@pytest.mark.parametrize("name", ["pgd", "square", "gaussian"])
def test_pixels_from_0_to_1_within_bounds_of_bytes_are_refused(name):
    (x, y), net = images(), First("normalised", False)
    with pytest.raises(ValueError, match="expected samples on the scale of the bounds 0 to 255, got fractions"):
        ATTACKS[name](net, x, y, eps=8, bounds=(0, 255))
    for own in ((x * 255).round(), x.round()):  # of the second nobody knows
        ATTACKS[name](net, own, y, eps=8, bounds=(0, 255), **CHEAP.get(name, {}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_inputs_and_networks_of_another_precision_work_together(dtype):
    (x, y), net = images(), First("normalised", False).to(dtype)
    x = x.to(dtype)
    for name in ("pgd", "square", "uniform"):
        made = ATTACKS[name](net, x, y, eps=0.1, **CHEAP.get(name, {}))
        assert made.dtype == dtype
        assert not torch.equal(made, x)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_and_exported_networks_are_refused_and_told_what_to_give():
    (x, y), net = images(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    for made in (torch.jit.trace(net, x), nn.Sequential(torch.jit.script(net))):
        with pytest.raises(ValueError, match="expected a network of Python modules, got TorchScript"):
            pgd(made, x, y, eps=0.1)
        with pytest.raises(ValueError, match="expected a network of Python modules, got TorchScript"):
            right(made, x, y)
    exported = torch.export.export(net, (x,))
    for made, told in ((exported, "an nn.Module, got ExportedProgram"), (exported.module(), "mode, .* has none")):
        with pytest.raises(ValueError, match=f"expected a network.*{told}"):
            pgd(made, x, y, eps=0.1)


def test_images_are_normalised_and_shown_once():
    class Normalize(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.std = [0.5], [0.25]

    net = First("rectified", False)
    inner = pixel_model(net, 0.5, 0.25)
    for of in (inner, nn.Sequential(inner), nn.Sequential(Normalize(), net)):
        with pytest.raises(ValueError, match=r"expected mean and std once, .*: (PixelModel|Normalize)"):
            pixel_model(of, 0.5, 0.25)
    with pytest.raises(ValueError, match="expected T once, got T=2 for a network that shows images T=4 times"):
        pixel_model(pixel_model(net, T=4), T=2)
    with pytest.raises(ValueError, match="expected sample_axis=1, that of the PixelModel inside, got 0"):
        pixel_model(pixel_model(net, sample_axis=1))
    x = images()[0]
    assert torch.equal(pixel_model(inner)(x), inner(x))
    layers = nn.Sequential(nn.LayerNorm(8), net)
    assert torch.equal(pixel_model(layers, 0.5, 0.25)(x), layers((x - 0.5) / 0.25))
