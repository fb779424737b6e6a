"""Spiking networks converted from artificial ones, with thresholds from the training split."""

from collections.abc import Iterator

from sj_cka.job import Context, Files, Inputs, Job
from sj_cka.jobs import init, train
from sj_cka.jobs.accuracies import ACCURACY, accuracies, read_accuracies
from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.weights import read_network, saved, spec_of, weights_of
from sj_cka.preflight import Preflight
from sj_cka.recipe import NetworkName
from sj_cka.twins import converted_snn

_CALIBRATED = 1 << 16  # pixels in a batch that a conversion looks at, 256 images at most


def job(graph: Graph, network: NetworkName, seed: int, trained: bool = True) -> Job:
    """The conversion of the artificial network of the same variant, trained or with its first weights."""
    ann = graph.once(train.job if trained else init.job, NetworkName(f"{network.variant}.ann"), seed)
    options = graph.study.recipe.converted.model_dump()
    label = f"{network}{'' if trained else ' untrained'}, seed {seed}"
    return Job("convert", options, {"network": ann}, graph.block(network), None, ann.threads, label)


def rows(graph: Graph) -> Iterator[Row]:
    """Every converted network that is named, with every seed."""
    return graph.of_networks(job, lambda network: network.kind == "converted")


def check(preflight: Preflight) -> None:
    """No network may be converted for recordings.

    Raises:
        RecipeError: one is.
    """

    def recorded(network: NetworkName) -> bool:
        return network.kind == "converted" and preflight.samples(network).T is not None

    for i, comparison in enumerate(preflight.study.recipe.compare):
        for sides in preflight.study.sides(comparison).values():
            for side, name in (("x", sides.x), ("y", sides.y)):
                if recorded(name):
                    message = f"expected a trained network: {name} would be converted, which is for images"
                    raise preflight.study.error(("compare", i, side), message)
    for name in filter(recorded, preflight.names):
        message = f"expected trained networks on recordings: {name} would be converted, which is for images"
        raise preflight.study.error((), message)


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """Weights; and accuracies, but of an untrained network, of which nobody asks for them."""
    data, weights = job.data.samples, inputs["network"](weights_of())
    images = data.x_train.to(context.device)
    size = min(256, max(4, _CALIBRATED // images[0, 0].numel()))  # torch.quantile bears 16 million activations
    batches = (data.as_input(images[i : i + size]) for i in range(0, len(images), size))
    ann = read_network(weights, device=context.device)
    network = converted_snn(ann, batches, job.args["T"], mode=job.args["mode"])
    files = {weights_of(): saved(network, spec_of(weights) | {"converted": {"T": job.args["T"]}})}
    return files | ({ACCURACY: accuracies(network, data)} if ACCURACY in _leaves(job) else {})


def _leaves(job: Job) -> tuple[str, ...]:
    return (weights_of(), *([ACCURACY] if job.inputs["network"].kind == "train" else []))


KIND = Kind(run, _leaves, rows, check, {"accuracy": read_accuracies})
