"""Books of Grams, and the streams in which a CUDA device fills them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sj_cka.cka.observation import Book
from sj_cka.recording import plan


def book(n: int, T: int) -> Book:
    net = torch.nn.Sequential(torch.nn.Linear(3, 5))
    return Book(plan(net, torch.randn(n, 3), T=1, layers=["0"]).taps, "output", n, T, torch.device("cpu"))


def test_what_is_taken_again_is_taken_in_the_networks_own_stream_after_the_one_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[Any] = []

    class Stream:
        device = torch.device("cuda", 0)

        def wait_stream(self, other: Any) -> None:
            waited.append(other)

    def enter(stream: Any) -> None:
        raise AssertionError("a copy of what is taken again ran in another stream")

    beside, own = Stream(), Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: own)
    monkeypatch.setattr(torch.cuda, "stream", enter)
    held = book(n=6, T=1)
    held.stream = beside  # type: ignore[assignment]
    held.redo.append(("0", torch.tensor(True)))
    assert held.to_take_again() == {"0"}
    assert waited == [beside]
    X = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0))
    held.put("0", 0, X, again=True)
    held.scale("0", 0.5)
    expected = book(n=6, T=1)
    expected.put("0", 0, X)
    assert torch.equal(held.grams().rows, expected.grams().rows / 2)
