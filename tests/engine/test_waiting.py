"""Jobs that wait for others are given out in order, and each once."""

from __future__ import annotations

from sj_cka.engine.schedule import Waiting
from sj_cka.job import DataBlock, Job

DATA = DataBlock({}, {"name": "digits"}, "0")


def job(seed: int, **needs: Job) -> Job:
    return Job("train", {}, needs, DATA, seed)


def test_a_job_is_ready_when_all_that_it_needs_is_done() -> None:
    first, second = job(0), job(1)
    both = job(2, x=first, y=second)
    last = job(3, network=both)
    waiting = Waiting([first, second, both, last])
    assert [waiting.next().seed, waiting.next().seed] == [0, 1]
    waiting.done(second)
    assert not waiting.ready
    waiting.done(first)
    assert waiting.next() is both
    waiting.done(both)
    assert waiting.next() is last
    assert not waiting.ready


def test_what_is_no_longer_missing_keeps_nobody_waiting_and_a_need_named_twice_counts_once() -> None:
    before, twin = job(0), job(1)
    waiting = Waiting([twin, job(2, x=before), job(3, x=twin, y=twin)])
    assert [waiting.next().seed, waiting.next().seed] == [1, 2]
    assert not waiting.ready
    waiting.done(twin)
    assert waiting.next().seed == 3


def test_of_what_is_ready_the_first_in_the_given_order_goes_first() -> None:
    needed = job(9)
    early, late = job(1, x=needed), job(2)
    waiting = Waiting([needed, early, late])
    assert waiting.next() is needed
    waiting.done(needed)
    assert [waiting.next(), waiting.next()] == [early, late]
