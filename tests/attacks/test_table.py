"""What holds for every attack of the table."""

import inspect
from itertools import pairwise

import pytest
import torch
from torch import nn

from sj_cka.attacks import ATTACKS, NoGradient, accuracy, attack_named, perturbation, pixel_model, right
from sj_cka.recipe.choices import ATTACK

EVENTS = {"drop_events", "add_events"}
SLOW = {"boundary": {"steps": 20}, "hop_skip_jump": {"steps": 2, "evaluations": 10}, "square": {"queries": 40}}
CHEAP = {name: {"steps": 3} for name in ("pgd", "pgd_surrogates")} | SLOW
STRONG = {"boundary": 2.0, "hop_skip_jump": 2.0, "drop_events": 0.5, "add_events": 0.5, "pgd_paper": 0.4}

pytestmark = pytest.mark.filterwarnings("ignore::sj_cka.attacks.MaskedGradient")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def attack(name, case, n=24, *, eps=None, seed=0, **options):
    """The attack, and what it gives for the first n samples of images, or of their sixteenths as counts."""
    net, x, y = case[0], case[1][:n], case[2][:n]
    options = CHEAP.get(name, {}) | options
    if name == "transfer":
        options |= {"source": net, "options": {"steps": 3}}
    if name in EVENTS:
        x = (x * 16).round()
    eps = STRONG.get(name, 0.2) if eps is None else eps
    return x, ATTACKS[name](net, x, y, eps=eps, generator=generator(seed), **options)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_changes_inputs_and_keeps_their_shape_and_type(name, case):
    x, x_adv = attack(name, case)
    before = x.clone()
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    assert float(perturbation(x, x_adv).linf.max()) > 0
    assert torch.equal(x, before)
    if name not in EVENTS | {"pgd_paper"}:
        assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


@pytest.mark.parametrize("name", ATTACKS)
def test_no_strength_changes_nothing_to_the_bit(name, case):
    x, x_adv = attack(name, case, eps=0.0)
    assert torch.equal(x_adv, x)
    assert x_adv.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_generator_alone_decides_and_the_global_random_state_stays(name, snn):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    _, made = attack(name, snn)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    _, again = attack(name, snn)
    assert torch.equal(made, again)
    _, other = attack(name, snn, seed=1)
    drawn = name not in {"fgsm", "pgd_paper"}
    assert torch.equal(made, other) != drawn


@pytest.mark.parametrize("name", ATTACKS)
def test_without_a_generator_it_is_one_seeded_with_0(name, snn):
    x, made = attack(name, snn)
    options = CHEAP.get(name, {}) | ({"source": snn.net, "options": {"steps": 3}} if name == "transfer" else {})
    eps = STRONG.get(name, 0.2)
    for _ in range(2):
        assert torch.equal(ATTACKS[name](snn.net, x, snn.y[:24], eps=eps, **options), made)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("mode", [True, False])
def test_the_network_is_left_as_it_was(name, mode, case):
    net = case.net.train(mode)
    net.zero_grad(set_to_none=True)  # which foolbox leaves
    net.net.fc.bias.requires_grad_(False)
    for module in net.modules():
        if hasattr(module, "v") and hasattr(module, "reset"):
            module.v = torch.full((2, 3), 0.25)
    modes = {key: module.training for key, module in net.named_modules()}
    flags = {key: p.requires_grad for key, p in net.named_parameters()}
    values = {key: value.clone() for key, value in net.state_dict(keep_vars=False).items()}
    states = {key: m.v for key, m in net.named_modules() if hasattr(m, "v") and hasattr(m, "reset")}
    try:
        attack(name, case)
        assert {key: module.training for key, module in net.named_modules()} == modes
        assert {key: p.requires_grad for key, p in net.named_parameters()} == flags
        assert all(p.grad is None for p in net.parameters())
        assert all(torch.equal(value, values[key]) for key, value in net.state_dict().items())
        assert all(net.get_submodule(key).v is v for key, v in states.items())
        assert torch.equal(next(iter(states.values()), torch.tensor(0.25)), torch.full((2, 3), 0.25)) or not states
    finally:
        net.net.fc.bias.requires_grad_(True)
        net.eval()


@pytest.mark.parametrize("name", ATTACKS.keys() - EVENTS - {"boundary", "hop_skip_jump", "transfer"})
def test_the_network_runs_in_evaluation_mode_and_from_reset_states(name, snn):
    seen = []
    lif = snn.net.net.stage1.get_submodule("0").lif
    bn = snn.net.net.stage1.get_submodule("0").bn
    hooks = [
        lif.register_forward_pre_hook(lambda module, _: seen.append(module.v)),
        bn.register_forward_pre_hook(lambda module, _: seen.append(float(module.training))),
    ]
    try:
        attack(name, (snn.net.train(), *snn[1:]))
    finally:
        for hook in hooks:
            hook.remove()
        snn.net.eval()
    looks = name not in {"gaussian", "uniform", "salt_and_pepper"}
    assert bool(seen) == looks
    assert all(value == 0.0 for value in seen)


@pytest.mark.parametrize("name", ATTACKS.keys() - EVENTS)
def test_frames_with_time_first_are_changed_and_keep_their_layout(name, frames):
    net, x, y = frames
    options = CHEAP.get(name, {}) | ({"source": net, "options": {"steps": 3}} if name == "transfer" else {})
    eps = 16.0 if name in {"boundary", "hop_skip_jump"} else 0.3
    x_adv = ATTACKS[name](net, x, y, eps=eps, generator=generator(), **options)
    assert x_adv.shape == x.shape
    assert x_adv.is_contiguous()
    moved = perturbation(x, x_adv, sample_axis=1)
    assert moved.linf.shape == (10,)
    assert float(moved.linf.max()) > 0


@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd_paper", "pgd_surrogates", "square"])
def test_frames_with_time_first_get_what_the_same_frames_with_samples_first_get(name, frames):
    class SamplesFirst(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x.movedim(0, 1))

    _, x, y = frames
    options = CHEAP.get(name, {}) | ({"norm": "l2"} if name == "pgd" else {})
    made = ATTACKS[name](frames.net, x, y, eps=0.3, generator=generator(), **options)
    other = SamplesFirst(frames.net)
    same = ATTACKS[name](other, x.movedim(1, 0), y, eps=0.3, generator=generator(), **options)
    assert torch.equal(made.movedim(1, 0), same)


@pytest.mark.parametrize("name", ATTACKS)
def test_its_options_can_stand_in_a_recipe(name):
    function = ATTACKS[name].function
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:5] == ["net", "x", "y", "eps", "generator"]
    assert all(parameters[key].kind is inspect.Parameter.KEYWORD_ONLY for key in list(parameters)[3:])

    fields = ATTACK.options_model(name).model_fields
    handed = {"net", "x", "y", "eps", "source"}
    assert fields.keys() == parameters.keys() - handed - {"generator"}
    assert not any(field.is_required() for field in fields.values())


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_says_it_needs_no_gradient_runs_without_any(name, case):
    class Blind(nn.Module):
        def forward(self, x):
            return case.net(x.detach()).detach()

    if ATTACKS[name].needs in ("gradient", "source"):
        with pytest.raises(NoGradient):
            attack(name, (Blind(), *case[1:]))
    else:
        x, x_adv = attack(name, (Blind(), *case[1:]))
        assert x_adv.shape == x.shape


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_trial_lowers_are_options_of_the_attack(name):
    options = inspect.signature(ATTACKS[name]).parameters
    assert all(
        options[key].default >= few >= 1 or key == "restarts" for key, few in (ATTACKS[name].trial or {}).items()
    )


def test_the_ball_of_an_attack_is_that_of_its_options_and_noise_has_none():
    balls = {name: entry.ball({}) for name, entry in ATTACKS.items()}
    in_linf = {"fgsm", "pgd", "pgd_surrogates", "square"}
    assert {name for name, ball in balls.items() if ball == "linf"} == in_linf
    assert {name for name, ball in balls.items() if ball == "l2"} == {"boundary", "hop_skip_jump"}
    assert ATTACKS["pgd"].ball({"norm": "l2"}) == "l2"


def test_a_function_alone_in_the_table_is_taken_to_need_the_gradient(monkeypatch):
    def mine(net, x, y, *, eps, generator=None, bounds=(0.0, 1.0)):
        """Does nothing."""
        return x.clone()

    monkeypatch.setitem(ATTACKS, "mine", mine)
    assert attack_named("mine").needs == "gradient"
    assert attack_named("mine").with_defaults({"eps": 0.1})["bounds"] == (0.0, 1.0)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "square", "gaussian", "uniform", "salt_and_pepper"])
def test_accuracy_under_attack_falls_with_eps_within_noise(name, case):
    """Five strengths, 256 images: a change of more than 2 sqrt(2 p (1 - p) / 256) is more than chance."""
    options = {"queries": 60} if name == "square" else {"steps": 5} if name == "pgd" else {}
    rates = [accuracy(case.net, case.x, case.y)]
    for eps in (0.03, 0.06, 0.12, 0.25):
        x_adv = ATTACKS[name](case.net, case.x, case.y, eps=eps, generator=generator(), **options)
        rates.append(accuracy(case.net, x_adv, case.y))
    assert rates[0] > 0.9
    for before, after in pairwise(rates):
        assert after <= before + 2 * (2 * before * (1 - before) / 256) ** 0.5 + 1 / 256
    p = (rates[0] + rates[-1]) / 2
    assert rates[-1] < rates[0] - 2 * (2 * p * (1 - p) / 256) ** 0.5


def test_attacks_with_a_gradient_beat_noise_of_the_same_radius(case):
    made = {
        name: ATTACKS[name](case.net, case.x, case.y, eps=0.15, generator=generator(), **options)
        for name, options in {"pgd": {"steps": 10}, "square": {"queries": 100}, "uniform": {}}.items()
    }
    rates = {name: accuracy(case.net, x, case.y) for name, x in made.items()}
    # 0.2 is five standard errors of a difference of shares of 256
    assert rates["pgd"] < rates["uniform"] - 0.2
    assert rates["square"] < rates["uniform"] - 0.2


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf"), "0.1", True])
def test_an_eps_that_is_none_is_refused(name, eps, snn):
    with pytest.raises(ValueError, match="expected eps, a finite number"):
        attack(name, snn, eps=eps)


@pytest.mark.parametrize("name", ATTACKS)
def test_labels_that_do_not_fit_are_refused(name, snn):
    short = (snn.net, snn.x[:8], snn.y[:5])
    with pytest.raises(ValueError, match=r"expected y of shape \(8,\), a label for each sample .* got shape \(5,\)"):
        attack(name, short)
    with pytest.raises(ValueError, match=r"expected y of whole numbers, the classes, got torch.float32"):
        attack(name, (snn.net, snn.x[:8], snn.y[:8].float()))


@pytest.mark.parametrize("name", ATTACKS.keys() - EVENTS)
def test_inputs_that_are_no_pixels_are_refused(name, snn):
    with pytest.raises(ValueError, match=r"expected x of floating point, .* got torch.uint8; .*pixels\(x\)"):
        attack(name, (snn.net, (snn.x * 16).to(torch.uint8), snn.y))
    broken = snn.x.clone()
    broken[3] = float("nan")
    with pytest.raises(ValueError, match="expected x of finite numbers"):
        attack(name, (snn.net, broken, snn.y))
    if name != "pgd_paper":
        with pytest.raises(ValueError, match=r"expected x within bounds 0 to 1, got 0 to 16; give the bounds"):
            attack(name, (snn.net, snn.x * 16, snn.y))


@pytest.mark.parametrize("name", ATTACKS.keys() - EVENTS - {"gaussian", "uniform", "salt_and_pepper"})
def test_labels_beyond_the_classes_of_the_network_are_refused(name, snn):
    y = snn.y.clone()
    y[0] = 10
    with pytest.raises(ValueError, match="expected labels below 10, the classes of the network, got 10"):
        attack(name, (snn.net, snn.x, y))


def test_frames_for_a_network_that_takes_images_are_told_what_to_do(frames):
    net = pixel_model(frames.net.net)
    with pytest.raises(ValueError, match=r"frames \[T, N, ...\] need a network with sample_axis=1"):
        ATTACKS["pgd"](net, frames.x, frames.y, eps=0.1)


def test_a_network_with_time_in_its_logits_is_told_what_to_do(snn):
    with pytest.raises(
        ValueError, match=r"gives logits \[N, classes\] for N = 8 samples, got \(3, 8, 10\); .*pixel_model"
    ):
        ATTACKS["pgd"](snn.net.net, snn.x[:8], snn.y[:8], eps=0.1)


def test_a_generator_of_a_device_is_refused(snn):
    class Elsewhere:
        device = torch.device("cuda")

    with pytest.raises(ValueError, match="expected a generator of the CPU"):
        ATTACKS["pgd"](snn.net, snn.x, snn.y, eps=0.1, generator=Elsewhere())


def test_inputs_of_another_precision_than_the_weights_are_refused(snn):
    with pytest.raises(ValueError, match=r"expected x of torch.float32, as the network's weights, got torch.float64"):
        ATTACKS["pgd"](snn.net, snn.x.double(), snn.y, eps=0.1)


def test_the_fixtures_are_classified_right(case, frames):
    assert accuracy(case.net, case.x, case.y) > 0.9
    assert right(frames.net, frames.x, frames.y).all()
    assert len(frames.y.unique()) > 1
