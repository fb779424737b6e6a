"""The Square attack against its definition, written out image by image."""

import pytest
import torch
from torch import nn

from sj_cka.attacks import accuracy, square
from sj_cka.attacks.black_box import side


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(shape=(3, 8, 6), classes=5, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        D = shape[0] * shape[1] * shape[2]
        return nn.Sequential(nn.Flatten(), nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, classes)).eval()


def images(net, N=12, shape=(3, 8, 6)):
    """Images whose labels are the network's classes, but for the second and the last."""
    x = torch.rand(N, *shape, generator=generator(1))
    with torch.no_grad():
        y = net(x).argmax(1)
    y[1], y[-1] = (y[1] + 1) % 5, (y[-1] + 1) % 5
    return x, y


class Asked(nn.Module):
    """Keeps what a network is asked."""

    def __init__(self, net):
        super().__init__()
        self.net, self.tell = net, [].append  # a list of its own would be put back with all its state

    @property
    def seen(self):
        return self.tell.__self__

    def forward(self, x):
        self.tell(x.clone())
        return self.net(x)


def one_by_one(net, x, y, eps, queries, p_init, random):
    """Algorithms 1 and 2 of the paper in plain loops, on the numbers that the attack draws."""
    N, C, H, W = x.shape

    def f(image, label):
        with torch.no_grad():
            logits = net(image.unsqueeze(0))[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        return float(logits[label] - others.max()), int(logits.argmax()) == label

    stripes = torch.randint(2, (N, C, 1, W), generator=random) * 2 - 1
    draws = []
    for i in range(queries - 2):
        s = side(i, queries, p_init, H, W)
        top = torch.randint(H - s + 1, (N, 1), generator=random)
        left = torch.randint(W - s + 1, (N, 1), generator=random)
        draws.append((s, top, left, torch.randint(2, (N, C, 1, 1), generator=random) * 2 - 1))

    found, counts = x.clone(), []
    for n in range(N):
        count, label = 1, int(y[n])
        right = f(x[n], label)[1]
        if right:
            delta = (stripes[n] * eps).float().expand(C, H, W).clone()
            found[n] = (x[n] + delta).clamp(0, 1)
            best, right = f(found[n], label)
            count += 1
        for s, top, left, signs in draws:
            if not right:
                break
            window = (slice(None), slice(int(top[n]), int(top[n]) + s), slice(int(left[n]), int(left[n]) + s))
            new = delta.clone()
            new[window] = signs[n] * eps
            if torch.equal((x[n] + new).clamp(0, 1), found[n]):
                new[window] = -signs[n] * eps
            value, still = f((x[n] + new).clamp(0, 1), label)
            count += 1
            if value < best:
                best, right, delta, found[n] = value, still, new, (x[n] + new).clamp(0, 1)
        counts.append(count)
    return found, counts


@pytest.mark.parametrize(("shape", "eps"), [((3, 8, 6), 0.1), ((1, 5, 9), 0.05)])
def test_it_equals_the_algorithm_image_by_image(shape, eps):
    net = network(shape)
    x, y = images(net, shape=shape)
    asked = Asked(net).eval()
    made = square(asked, x, y, eps=eps, queries=80, p_init=0.3, generator=generator(3))
    expected, counts = one_by_one(net, x, y, eps, 80, 0.3, generator(3))
    assert torch.equal(made, expected)
    assert sum(map(len, asked.seen)) == sum(counts)
    assert max(counts) == 80
    assert min(counts) == 1
    assert 0 < accuracy(net, made, y) < accuracy(net, x, y)


def test_no_image_is_asked_for_more_than_its_queries():
    net = network()
    x, y = images(net)
    asked = Asked(net).eval()
    square(asked, x, y, eps=1e-6, queries=30)
    assert len(asked.seen) == 30
    assert len(asked.seen[1]) == 10  # two were wrong from the start


def test_every_value_is_x_plus_or_minus_eps_before_clipping():
    net = network()
    x, y = images(net)
    made = square(net, x, y, eps=0.05, queries=40, bounds=None)
    assert torch.allclose((made - x)[[0, *range(2, 11)]].abs(), torch.tensor(0.05), atol=1e-6)
    assert torch.equal(made[[1, 11]], x[[1, 11]])
    clipped = square(net, x, y, eps=0.3, queries=40)
    changed = (clipped - x)[0].abs()
    assert ((changed - 0.3).abs().lt(1e-6) | clipped[0].eq(0) | clipped[0].eq(1)).all()


def test_it_starts_with_vertical_stripes_and_changes_windows_of_the_set_side():
    net = network()
    x, y = images(net)
    asked = Asked(net).eval()
    square(asked, x, y, eps=1e-3, queries=60, p_init=0.5, bounds=None)
    stripes = (asked.seen[1] - x[[0, *range(2, 11)]]).sign()
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert len(stripes.flatten(1).unique(dim=0)) > 1
    before, sides = stripes, []
    for i, seen in enumerate(asked.seen[2:3]):
        new = (seen - x[[0, *range(2, 11)]]).sign()
        s = side(i, 60, 0.5, 8, 6)
        rows = (new != before).any(1).any(2)
        columns = (new != before).any(1).any(1)
        sides.append(s)
        for changed in (rows, columns):
            for line in changed:
                where = line.nonzero().flatten()
                assert len(where) > 0
                assert int(where[-1] - where[0]) < s
    assert sides == [5]


def test_the_side_of_windows_follows_the_schedule():
    """Halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000; p = 1 is the whole image."""
    p = [(side(i, 10_000, 1.0, 1024, 1024) / 1024) ** 2 for i in (0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001)]
    assert p == pytest.approx([1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64], rel=2e-3)
    assert [side(i, 10_000, 1.0, 1024, 1024) for i in (4001, 6001, 8001)] == [91, 64, 45]
    assert [side(i, 100, 0.8, 8, 6) for i in (0, 1, 2, 3)] == [side(100 * i, 10_000, 0.8, 8, 6) for i in (0, 1, 2, 3)]
    assert side(99, 100, 0.05, 8, 8) == 1
    assert side(0, 100, 1.0, 8, 6) == 6


def test_what_changes_no_margin_is_not_kept():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    asked = Asked(Constant()).eval()
    x = torch.rand(4, 3, 8, 6)
    made = square(asked, x, torch.zeros(4, dtype=torch.long), eps=0.1, queries=20)
    assert torch.equal(made, asked.seen[1])
    assert len(asked.seen) == 20


def test_an_images_windows_do_not_depend_on_the_other_images():
    net = network()
    x, y = images(net)
    both = square(net, x, y, eps=0.05, queries=40)
    easy = x.clone()
    easy_y = y.clone()
    easy_y[5:] = (easy_y[5:] + 1) % 5  # now wrong from the start
    assert torch.equal(square(net, easy, easy_y, eps=0.05, queries=40)[:5], both[:5])


def test_more_queries_fool_more_images(case):
    rates = [
        accuracy(case.net, square(case.net, case.x, case.y, eps=0.12, queries=queries), case.y)
        for queries in (2, 20, 100)
    ]
    assert rates[0] > rates[1] > rates[2]


def test_no_candidate_is_kept_that_makes_the_margin_larger():
    """The margin of what would be returned, after every number of queries of one search."""
    net = network()
    x, y = images(net)
    asked = Asked(net).eval()
    square(asked, x[:1], y[:1], eps=1e-3, queries=60, p_init=0.5)

    def margin(image):
        with torch.no_grad():
            logits = net(image)[0]
        return float(logits[y[0]] - torch.cat([logits[: y[0]], logits[y[0] + 1 :]]).max())

    tried = [margin(image) for image in asked.seen[1:]]
    found = square(net, x[:1], y[:1], eps=1e-3, queries=60, p_init=0.5)
    assert margin(found) == min(tried)
    assert min(tried) < tried[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 1}, "expected queries, a whole number from 2, got 1"),
        ({"p_init": 0.0}, "expected p_init above 0, got 0"),
        ({"p_init": 1.5}, "expected p_init, a finite number from 0 to 1, got 1.5"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    net = network()
    x, y = images(net)
    with pytest.raises(ValueError, match=message):
        square(net, x, y, eps=0.1, **options)


def test_inputs_that_are_no_images_are_refused():
    net = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"expected images \[N, C, H, W\] or frames .* got shape \(3, 4\)"):
        square(net, torch.rand(3, 4), torch.tensor([0, 1, 0]), eps=0.1)
