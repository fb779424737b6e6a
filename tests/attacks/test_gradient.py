"""FGSM and PGD: equal to an independent implementation, inside their ball, as cheap as they say."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sj_cka.attacks import NoGradient, accuracy, fgsm, losses, perturbation, pgd, pgd_paper, pixel_model
from sj_cka.attacks.ascent import Ball, scaled, unit

pytestmark = pytest.mark.filterwarnings("ignore::sj_cka.attacks.MaskedGradient")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small(seed=0, D=6, classes=3):
    """A smooth network of vectors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, classes))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_equals_that_of_foolbox(norm, case, foolbox):
    eps = {"linf": 0.1, "l2": 0.8}[norm]
    theirs = {"linf": foolbox.attacks.LinfFastGradientAttack, "l2": foolbox.attacks.L2FastGradientAttack}[norm]
    model = foolbox.PyTorchModel(case.net, bounds=(0, 1), device="cpu")
    expected = theirs(random_start=False).run(model, case.x, case.y, epsilon=eps)
    made = fgsm(case.net, case.x, case.y, eps=eps, norm=norm)
    assert torch.allclose(made, expected, atol=1e-6, rtol=0)
    assert accuracy(case.net, made, case.y) < accuracy(case.net, case.x, case.y) - 0.2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_from_x_equals_that_of_foolbox_step_by_step(norm, case, foolbox):
    """The last iterate after 1 to 3 steps. Later ones of a spiking network jump where a rounding moves a spike."""
    eps = {"linf": 0.1, "l2": 0.8}[norm]
    theirs = getattr(foolbox.attacks, {"linf": "LinfPGD", "l2": "L2PGD"}[norm])
    model = foolbox.PyTorchModel(case.net, bounds=(0, 1), device="cpu")
    for steps in (1, 2, 3):
        made = pgd(
            case.net,
            case.x,
            case.y,
            eps=eps,
            norm=norm,
            steps=steps,
            rel_stepsize=0.25,
            random_start=False,
            keep="last",
        )
        expected = theirs(steps=steps, rel_stepsize=0.25, random_start=False).run(model, case.x, case.y, epsilon=eps)
        # norms are summed in another order there
        assert torch.allclose(made, expected, atol={"linf": 1e-6, "l2": 1e-5}[norm], rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_with_a_random_start_is_as_strong_as_that_of_foolbox(norm, case, foolbox):
    """Accuracy of 256 images within two standard errors of a difference, at a strength where about half are left."""
    eps = {"linf": 0.1, "l2": 0.5}[norm]
    theirs = getattr(foolbox.attacks, {"linf": "LinfPGD", "l2": "L2PGD"}[norm])(steps=10, rel_stepsize=0.25)
    model = foolbox.PyTorchModel(case.net, bounds=(0, 1), device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = accuracy(case.net, theirs.run(model, case.x, case.y, epsilon=eps), case.y)
    options = {"norm": norm, "steps": 10, "rel_stepsize": 0.25, "keep": "last"}
    found = accuracy(case.net, pgd(case.net, case.x, case.y, eps=eps, **options), case.y)
    p = (found + expected) / 2
    assert abs(found - expected) <= 2 * math.sqrt(2 * p * (1 - p) / 256)
    best = accuracy(case.net, pgd(case.net, case.x, case.y, eps=eps, **options | {"keep": "best"}), case.y)
    assert best <= found + 1 / 256


def test_momentum_is_that_of_dong_et_al(ann):
    """Written out for a few images, one by one."""
    x, y, eps, a = ann.x[:4], ann.y[:4], 0.2, 0.3
    made = pgd(
        ann.net, x, y, eps=eps, steps=4, rel_stepsize=a, random_start=False, momentum=0.9, bounds=None, keep="last"
    )
    for i in range(4):
        here, g = x[i : i + 1], torch.zeros_like(x[:1])
        for _ in range(4):
            here = here.detach().requires_grad_()
            nn.functional.cross_entropy(ann.net(here), y[i : i + 1]).backward()
            g = 0.9 * g + here.grad / here.grad.abs().sum()
            here = x[i : i + 1] + (here.detach() + a * eps * g.sign() - x[i : i + 1]).clamp(-eps, eps)
        assert torch.allclose(made[i : i + 1], here, atol=1e-6)
    ann.net.zero_grad(set_to_none=True)


def test_the_papers_preset_is_20_steps_of_a_tenth_on_normalised_inputs_from_x(snn):
    net = pixel_model(snn.net.net)
    x = ((snn.x - snn.net.mean) / snn.net.std)[:32]
    made = pgd_paper(net, x, snn.y[:32], eps=0.1)
    here = x
    for _ in range(20):
        here = here.detach().requires_grad_()
        loss = nn.functional.cross_entropy(net(here), snn.y[:32])
        (g,) = torch.autograd.grad(loss, here)
        here = (here + 0.01 * g.sign()).clamp(x - 0.1, x + 0.1)
    assert torch.allclose(made, here, atol=1e-5)
    assert perturbation(x, made).linf.max() <= 0.1 + 1e-6
    assert made.max() > x.max()  # no bounds


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.floats(1e-4, 1.0),
    steps=st.integers(1, 4),
    restarts=st.integers(1, 2),
    momentum=st.sampled_from([0.0, 1.0]),
    loss=st.sampled_from(["cross_entropy", "margin"]),
    bounds=st.sampled_from([None, (0.0, 1.0), (-1.0, 2.0)]),
)
def test_pgd_never_leaves_its_ball_nor_the_bounds_and_no_loss_falls(
    seed, norm, eps, steps, restarts, momentum, loss, bounds
):
    net, x = small(seed), torch.rand(5, 6, generator=generator(seed))
    y = torch.randint(3, (5,), generator=generator(seed))
    made = pgd(
        net,
        x,
        y,
        eps=eps,
        generator=generator(seed),
        norm=norm,
        steps=steps,
        rel_stepsize=1.5,
        restarts=restarts,
        momentum=momentum,
        loss=loss,
        bounds=bounds,
    )
    moved = perturbation(x, made)
    # the sum x + delta is rounded: half a unit in the last place of a number up to 4
    assert float((moved.linf if norm == "linf" else moved.l2).max()) <= eps * (1 + 1e-6) + 1e-6
    if bounds is not None:
        assert bounds[0] <= float(made.min()) <= float(made.max()) <= bounds[1]
    assert (losses(net, made, y, loss=loss) >= losses(net, x, y, loss=loss)).all()


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_no_images_loss_falls_and_most_rise(random_start, loss, case):
    options = {"eps": 0.1, "steps": 5, "random_start": random_start, "loss": loss}
    made = pgd(case.net, case.x, case.y, **options)
    before, after = (losses(case.net, x, case.y, loss=loss) for x in (case.x, made))
    assert (after >= before).all()
    assert (after > before).double().mean() > 0.9
    last = losses(case.net, pgd(case.net, case.x, case.y, **options, keep="last"), case.y, loss=loss)
    assert (after >= last).all()


def test_more_restarts_never_make_a_loss_smaller(snn):
    x, y = snn.x[:64], snn.y[:64]
    one, three = (
        losses(snn.net, pgd(snn.net, x, y, eps=0.1, steps=3, restarts=restarts, generator=generator()), y)
        for restarts in (1, 3)
    )
    assert (three >= one).all()
    assert (three > one).any()


class Counted(nn.Module):
    """Forward and backward passes of a network."""

    def __init__(self, net):
        super().__init__()
        self.net, self.tell = net, [].append  # numbers of its own would be put back with all its state

    @property
    def forwards(self):
        return self.tell.__self__.count("forward")

    @property
    def backwards(self):
        return self.tell.__self__.count("backward")

    def forward(self, x):
        self.tell("forward")
        if x.requires_grad:
            x.register_hook(lambda _: self.tell("backward"))
        return self.net(x)


@pytest.mark.parametrize(
    ("options", "forwards", "backwards"),
    [
        ({"steps": 5}, 5 + 2, 5),
        ({"steps": 5, "random_start": False}, 5 + 1, 5),
        ({"steps": 5, "keep": "last"}, 5, 5),
        ({"steps": 5, "restarts": 3}, 3 * (5 + 1) + 1, 15),
    ],
)
def test_a_step_costs_one_forward_and_one_backward_pass(options, forwards, backwards, ann):
    net = Counted(ann.net).eval()
    pgd(net, ann.x[:8], ann.y[:8], eps=0.1, **options)
    assert (net.forwards, net.backwards) == (forwards, backwards)


def test_weights_get_no_gradient_while_it_runs(ann):
    flags = []
    hook = ann.net.register_forward_pre_hook(lambda m, _: flags.append([p.requires_grad for p in m.parameters()]))
    pgd(ann.net, ann.x[:8], ann.y[:8], eps=0.1, steps=2)
    hook.remove()
    assert flags
    assert not any(map(any, flags))
    assert all(p.requires_grad for p in ann.net.parameters())


def test_a_gradient_too_small_to_be_squared_is_followed_all_the_same():
    net = nn.Sequential(nn.Linear(4, 2, bias=False))
    net[0].weight.data = torch.tensor([[3.0, 0, 4.0, 0], [0, 0, 0, 0]]) * 1e-25
    x = torch.full((1, 4), 0.5)
    made = fgsm(net, x, torch.tensor([0]), eps=0.5, norm="l2")
    assert torch.allclose(made - x, torch.tensor([[-0.3, 0, -0.4, 0]]))


def test_one_gradient_of_exactly_zero_is_reported_and_the_others_go_on():
    net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False))
    net[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[-1.0, -0.5], [1.0, 0.5]])
    with pytest.warns(UserWarning, match="the gradient of 1 of 2 samples that are classified right is exactly zero"):
        made = pgd(net, x, torch.tensor([0, 0]), eps=0.3, random_start=False, bounds=None)
    assert torch.equal(made[0], x[0])
    assert not torch.equal(made[1], x[1])


def test_a_gradient_of_zero_of_what_is_wrong_anyway_is_nothing_to_report():
    net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False))
    net[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[-1.0, -0.5], [1.0, 0.5]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgd(net, x, torch.tensor([1, 0]), eps=0.3, random_start=False, bounds=None)


def test_a_gradient_that_is_zero_after_the_first_step_is_nothing_to_report():
    net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False))
    net[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[0.1, -0.5]])  # its first value falls below 0, where nothing is left to follow
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = pgd(net, x, torch.tensor([0]), eps=0.3, steps=4, rel_stepsize=1.0, random_start=False, bounds=None)
    assert torch.allclose(made, torch.tensor([[-0.2, -0.5]]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_are_uniform_in_the_ball(norm):
    """Of a ball in the plane a quarter lies within half the radius, in every direction alike."""
    start = Ball(0.2, norm, None).draw(torch.full((20_000, 2), 0.5), generator()) - 0.5
    size = start.abs().amax(1) if norm == "linf" else start.norm(dim=1)
    assert float(size.max()) <= 0.2 + 1e-6
    assert float((size < 0.1).double().mean()) == pytest.approx(0.25, abs=0.015)
    assert start.mean(0).abs().max() < 0.004
    clipped = Ball(0.2, norm, (0.4, 0.6)).draw(torch.full((100, 2), 0.5), generator())
    assert clipped.aminmax() == (pytest.approx(0.4), pytest.approx(0.6))


@pytest.mark.parametrize("size", [1e-42, 1.0, 3e38])
def test_gradients_of_any_finite_size_are_scaled(size):
    gradient = torch.tensor([[size, -size], [0.0, 0.0]])
    assert torch.equal(scaled(gradient), torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    assert torch.allclose(unit(gradient), torch.tensor([[1.0, -1.0], [0.0, 0.0]]) / 2**0.5)


class Step(nn.Module):
    """Without a derivative, and with one of zero."""

    def __init__(self, way):
        super().__init__()
        self.way, self.fc = way, nn.Linear(4, 3)

    def forward(self, x):
        y = self.fc(x)
        if self.way == "none":
            return (y > 0).float()
        if self.way == "zero":
            return y * 0 + 1
        return (y * 0).sqrt() + y


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("none", "expected a network with a gradient to its input, Step has none"),
        ("zero", "exactly zero for all 5 samples"),
        ("nan", "got NaN or infinity for 5 of 5 samples"),
    ],
)
def test_gradients_that_vanish_are_told_and_not_taken_for_robustness(way, message):
    with pytest.raises(NoGradient, match=message):
        pgd(Step(way), torch.rand(5, 4), torch.zeros(5, dtype=torch.long), eps=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, "expected norm 'linf' or 'l2', got 'l1'"),
        ({"loss": "dlr"}, "expected loss 'cross_entropy' or 'margin', got 'dlr'"),
        ({"keep": "first"}, "expected keep 'best' or 'last', got 'first'"),
        ({"steps": 0}, "expected steps, a whole number from 1, got 0"),
        ({"steps": 2.0}, "expected steps, a whole number from 1, got 2.0"),
        ({"restarts": 0}, "expected restarts, a whole number from 1"),
        ({"restarts": 2, "random_start": False}, "expected random_start=True and keep='best' for restarts=2"),
        ({"restarts": 2, "keep": "last"}, "expected random_start=True and keep='best' for restarts=2"),
        ({"momentum": -1.0}, "expected momentum, a finite number from 0, got -1.0"),
        ({"rel_stepsize": float("nan")}, "expected rel_stepsize, a finite number"),
        ({"bounds": (1, 0)}, r"expected bounds \(low, high\) with low < high"),
        ({"bounds": (0, 0.5)}, "expected x within bounds 0 to 0.5"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message, ann):
    with pytest.raises(ValueError, match=message):
        pgd(ann.net, ann.x[:4], ann.y[:4], eps=0.1, **options)


def test_away_from_the_cpu_gradients_that_are_not_finite_are_refused_at_the_end(monkeypatch):
    class Cube(nn.Module):
        """A network whose gradient is infinite at 0."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(x.flatten(1).sign() * x.flatten(1).abs().pow(1 / 3))

    from sj_cka.attacks import ascent, victim

    looks = []
    real = victim.check_finite
    monkeypatch.setattr(victim, "check_finite", lambda finite: None)  # as on another device
    monkeypatch.setattr(ascent, "check_finite", lambda finite: (looks.append(1), real(finite)))
    x = torch.zeros(5, 4)
    with pytest.raises(NoGradient, match="expected finite gradients, got NaN or infinity for 5 of 5 samples"):
        pgd(pixel_model(Cube()), x, torch.zeros(5, dtype=torch.int64), eps=0.1, steps=3, random_start=False)
    assert len(looks) == 1
