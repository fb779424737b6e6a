"""Grams that are filled layer after layer, and what of them is taken again."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sj_cka.cka.layer_grams import Grams


def empty(n: int, T: int) -> Grams:
    return Grams({"0": T, "1": T}, T, n, torch.device("cpu"))


def test_a_device_that_must_not_be_waited_for_marks_layers_and_takes_them_again_after_the_pass(
    launches: Callable[[bool], None],
) -> None:
    launches(True)
    held, expected = empty(n=6, T=1), empty(n=6, T=1)
    generator = torch.Generator().manual_seed(0)
    plain, shifted = torch.randn(1, 6, 5, generator=generator), torch.randn(1, 6, 5, generator=generator) + 1e5
    held.put("0", 0, plain)
    held.put("1", 0, shifted)
    assert held.waiting.marked() == {"1"}
    assert held.waiting.marked() == set()
    held.put("1", 0, shifted, again=True)
    launches(False)
    expected.put("0", 0, plain)
    expected.put("1", 0, shifted)
    assert torch.equal(held.rows, expected.rows)
