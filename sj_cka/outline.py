"""A plan in words: its jobs, its data, and what its networks cost to train."""

from __future__ import annotations

from sj_cka.data.imagined import IMAGINED
from sj_cka.engine import in_order, stand
from sj_cka.jobs import KINDS
from sj_cka.materials import Data
from sj_cka.plan import Plan
from sj_cka.store import Store


def counted(planned: Plan, store: Store) -> str:
    """The jobs of a plan, counted by kind, and how many of them are finished."""
    study, ordered = planned.study, in_order(planned.jobs)
    by_kind = {kind: sum(job.kind == kind for job in ordered) for kind in KINDS}
    counts = ", ".join(f"{count} {kind}" for kind, count in by_kind.items() if count)
    standing = stand(ordered, store)
    finished = len(ordered) - len(standing.open)
    damaged = f", {len(standing.damaged)} damaged" if standing.damaged else ""
    return (
        f"{study.name} ({study.profile}): {len(study.conditions)} variants, seeds {', '.join(map(str, study.seeds))}\n"
        f"{len(ordered)} jobs ({counts}), {finished} finished before{damaged}"
    )


def costs(planned: Plan) -> str:
    """Data and networks of a plan, with what training them takes."""
    trainings = {job.key: (name, job) for (name, _), job in planned.trained.items()}
    lines = []
    for data in planned.sets:
        x, missing = data.samples.x_train, ""
        if data.samples.fingerprint == IMAGINED:
            missing = " (not here, or not to be read: only its shape was used, and nothing is known to be finished)"
        held = x.numel() * x.element_size() / 1e6
        lines.append(
            f"data: {described(data)}, {data.samples.classes} classes; training split as stored: {held:.0f} MB{missing}"
        )
    lines += [
        "",
        f"{'network':24} {'parameters':>12} {'MMAC a sample':>14} {'trainings':>10} {'epochs':>7} {'PMAC':>10}",
    ]
    total = 0.0
    for network, size in planned.sizes.items():
        own = [job for name, job in trainings.values() if name == network and job.kind == "train"]
        epochs = planned.study.conditions[network.variant].train.of(network.kind)["epochs"]
        images = len(planned.data[network.variant].samples.x_train)
        work = 3 * size.macs * images * epochs * len(own) / 1e15
        total += work
        counted = f"{len(own):10d} {epochs if own else 0:7d} {work:10.4g}"
        lines.append(f"{network:24} {size.parameters:12,d} {size.macs / 1e6:14.1f} {counted}")
    lines.append(f"{'all trainings':71} {total:10.4g}  (10^15 multiply-accumulates; backward counts twice)")
    return "\n".join(lines)


def described(data: Data) -> str:
    """A data set with the numbers and the shape of its samples."""
    samples = data.samples
    counts = f"{len(samples.x_train)} training and {len(samples.x_test)} test {samples.called}"
    return f"{data.block.name['name']}: {counts} {list(samples.x_train.shape[1:])}"
