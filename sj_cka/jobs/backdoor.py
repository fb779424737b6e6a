"""How well the backdoors work that a training with poisoned samples leaves in a network."""

import json
from collections.abc import Iterator

from sj_cka.attacks import pixel_model, stamp
from sj_cka.attacks.poisoning import measured
from sj_cka.job import Context, Files, Inputs, Job
from sj_cka.jobs.graph import Graph, Kind, Row, one_row
from sj_cka.jobs.moments import trained
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.preflight import Preflight
from sj_cka.ranges import check_trigger
from sj_cka.recipe import NetworkName
from sj_cka.recipe.faults import fault_of

BACKDOOR = "backdoor.json"


def job(graph: Graph, network: NetworkName, seed: int) -> Job:
    """The measurement of the backdoor in a trained network."""
    training, poison = trained(graph, network, seed), graph.study.conditions[network.variant].train.poison
    assert poison is not None  # only poisoned networks are measured
    args = {"target": poison.target, **poison.trigger(graph.samples(network))}
    label = f"backdoor in {training.label}"
    return Job("backdoor", args, {"network": training}, graph.block(network), None, training.threads, label)


def rows(graph: Graph) -> Iterator[Row]:
    """Every network that is trained on poisoned samples, with every seed."""
    return graph.of_networks(job, lambda network: graph.study.conditions[network.variant].train.poison)


def check(preflight: Preflight) -> None:
    """A backdoor must go with the data.

    Raises:
        RecipeError: a class or trigger that the samples do not have, or a share of them that is none, or too many.
    """
    for name, condition in preflight.study.conditions.items():
        samples, poison = preflight.data[name].samples, condition.train.poison
        if poison is None:
            continue
        if poison.target >= samples.classes:
            message = f"expected a class, 0 to {samples.classes - 1}, got {poison.target}"
            raise condition.source.error(("train", "poison", "target"), message)
        others, n = int((samples.y_train != poison.target).sum()), round(poison.share * len(samples.y_train))
        if not 1 <= n <= others:
            message = f"expected 1 to {others} samples, those of other classes, got {n} ({poison.share:g} of all)"
            raise condition.source.error(("train", "poison", "share"), message)
        if samples.x_train.ndim < 4:
            shape = list(samples.x_train.shape)
            raise condition.source.error(
                ("train", "poison"), f"expected samples with pixels for a trigger, got {shape}"
            )
        trigger = poison.trigger(samples)
        value, counts = trigger.get("value", samples.brightest), samples.T is not None
        try:
            stamp(samples.x_train[:2], **trigger | {"value": None})
        except ValueError as error:
            raise fault_of(error, condition.source, ("train", "poison")) from error
        try:
            stamp(samples.x_train[:2], **trigger)
            check_trigger(value, samples.x_train, counts=counts)
            check_trigger(value, samples.x_test, counts=counts, part=True)
        except ValueError as error:
            raise condition.source.error(("train", "poison", "value"), str(error)) from error


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """What `sj_cka.attacks.backdoor` measures, on the test split."""
    data, on, args = job.data.samples, context.device, dict(job.args)
    net = read_network(inputs["network"](weights_of()), device=on)
    wanted, stored = args.pop("target"), data.x_test.to(on)
    model = pixel_model(net, sample_axis=0 if data.T is None else 1)
    # stamped as they are stored, as in training
    x, triggered = data.as_input(stored), data.as_input(stamp(stored, **args))
    rates = measured(model, x, triggered, data.y_test.to(on), target=wanted)
    return {BACKDOOR: json.dumps(rates._asdict()).encode()}


KIND = Kind(run, lambda job: (BACKDOOR,), rows, check, {"backdoors": one_row(BACKDOOR)})
