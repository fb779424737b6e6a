"""Which job leaves the weights of a network, at whatever moment of its training."""

from sj_cka.figures import State
from sj_cka.job import Job
from sj_cka.jobs import convert, init, train
from sj_cka.jobs.graph import Graph
from sj_cka.recipe import NetworkName, Study

UNTRAINED = ("init", "0")  # moments of a network's training


def trained(graph: Graph, network: NetworkName, seed: int) -> Job:
    """The training of a network, or its conversion from a trained one."""
    return graph.once(convert.job if network.kind == "converted" else train.job, network, seed)


def network(graph: Graph, name: NetworkName, seed: int, state: State = "trained") -> Job:
    """What leaves the weights of a network at the moment that its name says, or, "untrained", its first weights."""
    base = name.trained
    if state != "untrained" and name.moment not in UNTRAINED:
        return trained(graph, base, seed)
    if base.kind == "converted":
        return graph.once(convert.job, base, seed, False)
    return graph.once(init.job, base, seed)


def epoch(study: Study, name: NetworkName) -> int | None:
    """The epoch in which a name means a network, None for the last, and for the first weights."""
    if name.moment in ("", *UNTRAINED):
        return None
    epoch = int(name.moment)
    return None if epoch == study.conditions[name.variant].train.of(name.kind)["epochs"] else epoch
