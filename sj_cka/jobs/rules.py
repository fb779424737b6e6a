"""What kinds of job on learning rules have in common: whose rule, on which samples, and whether it can be measured."""

from typing import Any

from sj_cka.preflight import Preflight
from sj_cka.recipe import NetworkName, Study
from sj_cka.training import alignment


def rule_of(study: Study, network: NetworkName) -> Any:
    """The learning rule that a network is trained by, a name or a mapping with `name` and options."""
    return study.conditions[network.variant].train.of(network.kind)["rule"]


def check_rules(preflight: Preflight, kind: str, networks: list[str], samples: int) -> None:
    """Puts the rule of every network beside BPTT on a few training samples, with first weights.

    Args:
        preflight: of the study.
        kind: of job.
        networks: names, as the recipe gives them.
        samples: how many training samples are asked for.

    Raises:
        RecipeError: a network that does not spike or is not trained, or whose rule has no definition or does not go
            with it; or fewer samples than are asked for.
    """
    for i, several in enumerate(networks):
        key = ("jobs", kind, "networks", i)
        for name in preflight.study.networks(several):
            if name.kind != "snn" or name.moment:
                raise preflight.study.error(key, f"expected trained spiking networks, <variant>.snn, got {name!r}")
            data = preflight.samples(name)
            if (count := len(data.x_train)) < samples:
                expected = f"expected at most {count}, so many training {data.called} there are of {name}"
                raise preflight.study.error(("jobs", kind, "samples"), f"{expected}, got {samples}")
            x, y = data.as_input(data.x_train[:8]), data.y_train[:8]
            try:
                alignment(rule_of(preflight.study, name), preflight.network(name), x, y)
            except ValueError as error:
                raise preflight.study.error(key, f"{name}: {error}") from error
