"""Where the CPU seconds of a study go, from its recipe to its page.

    python benchmarks/study_cpu.py [RECIPE] [--profile quick] [--workers 2] [--tiny]

The study runs as `recipes/run.py` runs it, with a store and a folder of its own that are deleted afterwards. Rows are
parts of this process, and of the processes that it starts: jobs by kind, as each says of itself in `environment.json`;
what these processes take beside (their start, reading and writing); the browser that draws PNGs. Seconds are user and
system time of all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

HERE = "this process: "
PARTS = {  # function of sj_cka.study -> what it does
    "plan": "planning, networks tried",
    "stand": "looking at finished jobs",
    "execute": "handing out jobs",
    "read_results": "reading results",
    "judged": "claims",
    "provenance": "page",
    "remarks": "page",
    "write_csv": "page",
    "write_page": "page",
    "write_pngs": "PNGs",
}


def seconds(who: int = resource.RUSAGE_SELF) -> float:
    """CPU seconds of this process, or of those that it started and that have ended."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


class Parts:
    """CPU seconds by part; a part within another is not counted twice."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.children: Counter[str] = Counter()
        self.open: list[list[float]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began, within = (seconds(), seconds(resource.RUSAGE_CHILDREN)), [0.0, 0.0]
        self.open.append(within)
        try:
            yield
        finally:
            self.open.pop()
            own, children = (
                now - before for now, before in zip((seconds(), seconds(resource.RUSAGE_CHILDREN)), began, strict=True)
            )
            self.own[name] += own - within[0]
            self.children[name] += children - within[1]
            if self.open:
                self.open[-1][0] += own
                self.open[-1][1] += children

    def within(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, whose time is that of a part."""

        def timed(*args: Any, **options: Any) -> Any:
            with self(name):
                return function(*args, **options)

        return timed


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("recipe", nargs="?", type=Path, default=root / "recipes/residual_ablation.yaml")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--tiny", action="store_true", help="the smoke profile in this process alone")
    options = parser.parse_args()
    if options.tiny:
        options.profile, options.workers = "smoke", 1
    parts, began = Parts(), time.perf_counter()
    with parts("imports"):
        import sj_cka.preload  # noqa: F401  # as the command line does
        from sj_cka import study
    with ExitStack() as watched, tempfile.TemporaryDirectory() as folder:
        for name, part in PARTS.items():
            watched.enter_context(mock.patch.object(study, name, parts.within(getattr(study, name), part)))
        section = parts.within(study.Results.section, "figures")
        watched.enter_context(mock.patch.object(study.Results, "section", section))
        with parts("everything else"):
            study.run(
                options.recipe,
                profile=options.profile,
                out=f"{folder}/page",
                store=f"{folder}/store",
                workers=options.workers,
                progress=sys.stderr.isatty(),
            )
        if options.workers != 1:
            with parts("handing out jobs"):
                forkserver._forkserver._stop()  # type: ignore[attr-defined]  # only then is it known what it took
        jobs: Counter[str] = Counter()
        for file in Path(folder, "store").glob("*/*/environment.json"):
            kind = json.loads(file.with_name("spec.json").read_text())["kind"]
            jobs[kind] += json.loads(file.read_text())["cpu_s"]
    rows = {f"jobs: {kind}": took for kind, took in jobs.most_common()}
    started = parts.children.pop("handing out jobs")
    if started:
        rows["processes of jobs, beside these"] = started - sum(jobs.values())
    else:
        parts.own["handing out jobs"] -= sum(jobs.values())
    rows |= {f"{HERE}{name}": took for name, took in parts.own.most_common()}
    rows |= {f"started by it: {name}": took for name, took in parts.children.most_common() if took > 0.05}
    total = sum(rows.values())
    print(f"\n{options.recipe.name}, {options.profile}, {os.cpu_count()} cores: CPU seconds")
    for name, took in rows.items():
        print(f"  {name:52}{took:8.1f}{took / total:8.1%}")
    work = sum(jobs[kind] for kind in ("train", "compare"))
    print(f"  {'in all':52}{total:8.1f}, {time.perf_counter() - began:.0f} s by the clock")
    print(f"  {'neither training nor comparing':52}{total - work:8.1f}{1 - work / total:8.1%}")


if __name__ == "__main__":
    main()
