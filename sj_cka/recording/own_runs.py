"""Runs that this package makes of a network itself, which are not the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_depth: ContextVar[int] = ContextVar("sj_cka own runs", default=0)


@contextmanager
def own_run() -> Iterator[None]:
    """While it lasts, what was watching the network before looks away: probes feed no record around them."""
    token = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.reset(token)


def depth() -> int:
    """Number of own runs under way, one inside the other. Hooks made at one depth see the calls at that depth alone."""
    return _depth.get()
