"""How far a long reading is: a bar on a terminal or in a notebook, in a log one line now and then; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

SHOW = True  # False to be silent
AFTER_SECONDS, LOG_SECONDS = 2.0, 10.0


@contextmanager
def bar(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """Gives a function that counts so many more as done; shows nothing of what takes less than AFTER_SECONDS.

    Args:
        total: how many in all.
        title: what they are.
    """
    file = sys.stderr
    if not SHOW:
        yield lambda n: None
    elif file.isatty() or "ipykernel" in sys.modules:
        with tqdm(total=total, desc=title, file=file, delay=AFTER_SECONDS, leave=False, dynamic_ncols=True) as shown:
            yield shown.update
    else:
        began = said = time.monotonic()
        done = 0

        def count(n: int) -> None:
            nonlocal done, said
            done += n
            if (now := time.monotonic()) - said >= LOG_SECONDS:
                said = now
                print(f"{title}: {done:,}/{total:,}, {now - began:.0f} s", file=file, flush=True)

        yield count
