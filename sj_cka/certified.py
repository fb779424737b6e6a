"""What the learning rule of a network of a recipe computes, before anything is trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from sj_cka import recipe
from sj_cka.preflight import Preflight, read_data
from sj_cka.recipe import NetworkName
from sj_cka.recipe.network_checks import check_network
from sj_cka.training import Certificate, Locality, calibrate, certify, locality

_CALIBRATED = 256  # training samples that batch normalisation takes its statistics from


class Certified(NamedTuple):
    """What was found of a rule on a network."""

    certificate: Certificate
    locality: Locality


def certified(
    path: str | Path, network: str, *, profile: str = "quick", settings: Sequence[str] = (), samples: int = 16
) -> Certified:
    """Certifies the learning rule of a network of a recipe, with first weights, on its first training samples.

    Args:
        path, profile, settings: as of `sj_cka.run`.
        network: `<variant>.snn`.
        samples: how many.

    Raises:
        RecipeError: the recipe, or its data, cannot be used, or the network, its rule and the samples do not go
            together.
    """
    study = recipe.read(path, profile, settings)
    name = NetworkName(network)
    check_network(study, (), name)
    study.refuse_if(name.kind != "snn" or name.moment, (), f"expected <variant>.snn, got {network!r}")
    preflight = Preflight(study, read_data(study), {})
    data, rule = preflight.samples(name), study.conditions[name.variant].train.of("snn")["rule"]
    count = len(data.x_train)
    study.refuse_if(samples > count, (), f"expected at most {count} samples, so many there are to train, got {samples}")
    x, y = data.as_input(data.x_train[:samples]), data.y_train[:samples]
    built = preflight.network(name)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in built.modules()):
        calibrate(built, data.x_train[:_CALIBRATED], prepare=data.as_input)  # with first statistics hardly any spike
    try:
        return Certified(certify(rule, built, x, y), locality(rule, built, x, y))
    except ValueError as error:
        raise study.error((), f"{name}: {error}") from error
