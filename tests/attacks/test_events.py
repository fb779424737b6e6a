"""Events that get lost and events that appear: whole counts, of the share that was asked for."""

import math

import pytest
import torch

from sj_cka.attacks import add_events, drop_events


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def counts(dtype=torch.float32):
    """Frames [T, N, 2, H, W] = [4, 10, 2, 12, 9]; the third sample has no event."""
    x = torch.randint(6, (4, 10, 2, 12, 9), generator=generator(1))
    x[:, 2] = 0
    return x.to(dtype)


class Frames:
    """A network's word on where its samples are."""

    sample_axis = 1


Y = torch.zeros(10, dtype=torch.long)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.float16])
@pytest.mark.parametrize("attack", [drop_events, add_events])
def test_counts_stay_whole_and_of_their_type(attack, dtype):
    x = counts(dtype)
    made = attack(Frames(), x, Y, eps=0.3, generator=generator())
    assert made.dtype == dtype
    assert made.shape == x.shape
    assert torch.equal(made, made.round())
    assert (made <= x if attack is drop_events else made >= x).all()
    assert not torch.equal(made, x)


def test_each_event_is_dropped_with_the_same_probability():
    x = counts()
    made = drop_events(Frames(), x, Y, eps=0.3, generator=generator())
    for n in range(1, 6):  # a pixel of n events keeps a binomial number
        kept = made[x == n].double()
        M = kept.numel()
        assert abs(float(kept.mean()) - 0.7 * n) < 4 * math.sqrt(n * 0.21 / M)
        assert abs(float(kept.var()) - 0.21 * n) < 0.21 * n * 8 / math.sqrt(M)
    assert torch.equal(drop_events(Frames(), x, Y, eps=1.0), torch.zeros_like(x))


def test_each_sample_gets_its_share_of_new_events_spread_over_all_places():
    x = counts()
    made = add_events(Frames(), x, Y, eps=0.5, generator=generator())
    there = x.sum((0, 2, 3, 4))
    assert torch.equal(made.sum((0, 2, 3, 4)) - there, (0.5 * there).round())
    assert torch.equal(made[:, 2], x[:, 2])  # a share of nothing
    added = (made - x)[:, [0, 1, *range(3, 10)]]
    for axes in [(1, 2, 3, 4), (0, 1, 3, 4), (0, 1, 2, 4), (0, 1, 2, 3)]:  # by step, polarity, row, column
        share = added.sum(axes) / added.sum()
        k = len(share)
        assert (share - 1 / k).abs().max() < 4 * math.sqrt((1 / k) * (1 - 1 / k) / float(added.sum()))


def test_samples_first_or_second_is_the_same_to_added_events():
    x = counts()
    second = add_events(Frames(), x, Y, eps=0.5, generator=generator())
    first = add_events(None, x.movedim(1, 0), Y, eps=0.5, generator=generator())
    assert torch.equal(second.movedim(1, 0), first)


@pytest.mark.parametrize("attack", [drop_events, add_events])
def test_what_is_no_count_is_refused(attack):
    with pytest.raises(ValueError, match=r"expected counts of events, .* got values from 0 to 2.5"):
        attack(Frames(), counts() / 2, Y, eps=0.3)
    with pytest.raises(ValueError, match=r"expected counts of events, .* got values from -5 to 0"):
        attack(Frames(), -counts(torch.int64), Y, eps=0.3)
    with pytest.raises(ValueError, match=r"whole or floating-point numbers, got torch.bool"):
        attack(Frames(), counts() > 2, Y, eps=0.3)


def test_a_probability_above_1_and_counts_beyond_the_type_are_refused():
    with pytest.raises(ValueError, match="expected eps, a finite number, from 0 to 1, got 2"):
        drop_events(Frames(), counts(), Y, eps=2)
    full = torch.full((1, 1, 2, 1, 1), 255, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"expected x of a dtype that holds counts up to .*, got torch.uint8"):
        add_events(Frames(), full, Y[:1], eps=1)
