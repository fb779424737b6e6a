"""What names of networks in a recipe must be: of a variant, of a kind, and of a moment that is kept."""

from __future__ import annotations

import re

from sj_cka.plugins import closest
from sj_cka.recipe.names import KINDS, NetworkName
from sj_cka.recipe.reading import Study
from sj_cka.recipe.source import KeyPath


def check_network(study: Study, key: KeyPath, name: NetworkName) -> None:
    """Raises RecipeError unless a study has a network of this name."""
    variant, kind, moment = name.variant, name.kind, name.moment
    study.refuse_if(
        not variant or kind not in KINDS,
        key,
        f"expected <variant>.snn, <variant>.ann or <variant>.converted, got {name!r}",
    )
    if variant not in study.conditions:
        hint = closest(variant, study.conditions)
        raise study.error(key, f"{name!r}: nobody trains a variant {variant!r}{hint}")
    study.refuse_if(
        name.endswith("@") or not re.fullmatch(r"|init|[0-9]{1,7}", moment),
        key,
        f"expected @init, @<epoch> or nothing after {variant}.{kind}, got {name!r}",
    )
    if moment.isdigit():
        _check_kept(study, key, name)


def _check_kept(study: Study, key: KeyPath, name: NetworkName) -> None:
    variant, kind, moment = name.variant, name.kind, name.moment
    train = study.conditions[variant].train
    study.refuse_if(
        kind == "converted", key, f"expected a trained network before @{moment}: a converted one has no epochs"
    )
    epochs = train.of(kind)["epochs"]
    study.refuse_if(
        int(moment) > epochs, key, f"expected an epoch up to {epochs}, the last of {variant}.{kind}, got {moment}"
    )
    if int(moment) not in train.keep:
        kept = f"keeps {', '.join(map(str, train.keep))}" if train.keep else "keeps none"
        raise study.error(key, f"expected an epoch of train.keep, which {kept}, got {moment}")
