"""How long a study is planned, for one seed and for many.

    python benchmarks/planning.py [--recipe recipes/residual_ablation.yaml] [--seeds 1 25 50] [--tiny]

CPU seconds of this process on one thread, from the recipe to the keys of all jobs. Networks of different kinds have a
ceiling, seed against seed, so jobs grow with the square of the seeds. The exponent is that of CPU seconds
over jobs between the last two lines: 1 for a plan that is linear, less where building the networks weighs more.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch

from sj_cka import recipe
from sj_cka.engine import in_order
from sj_cka.plan import plan

ROOT = Path(__file__).resolve().parents[1]


def planned(path: Path, profile: str, seeds: int) -> tuple[int, float]:
    """Jobs of a study of so many seeds, and CPU seconds until all their keys are known."""
    began = time.process_time()
    jobs = in_order(plan(recipe.read(path, profile, [f"seeds={seeds}"]), imagined=True).jobs)
    return len({job.key for job in jobs}), time.process_time() - began


def main() -> None:
    """Prints a line for each number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "residual_ablation.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 25, 50])
    parser.add_argument("--tiny", action="store_true", help="the smoke profile with 1, 2 and 4 seeds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts, profile = ([1, 2, 4], "smoke") if given.tiny else (given.seeds, "quick")
    planned(given.recipe, profile, 1)  # what is loaded and made once in a process is not counted
    found = []
    for seeds in counts:
        found.append(planned(given.recipe, profile, seeds))
        print(f"{seeds:4d} seeds: {found[-1][0]:6d} jobs, {found[-1][1]:6.2f} CPU s")
    (few, short), (many, long) = found[-2:]
    print(f"exponent: {math.log(long / short) / math.log(many / few):.2f}")


if __name__ == "__main__":
    main()
