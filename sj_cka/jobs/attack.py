"""Attacks on trained networks: the samples under attack, and what it did to the network."""

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Generator, Tensor, nn

from sj_cka import attacks
from sj_cka.attacks import MaskedGradient, NoGradient, PixelModel, RateNotReached, attack_named, craft, pixels
from sj_cka.attacks.model import Target, target, unit
from sj_cka.attacks.table import inside
from sj_cka.data import Images, Samples
from sj_cka.job import Context, Files, Inputs, Job, Read
from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.moments import trained
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.preflight import Preflight
from sj_cka.ranges import check_fills, range_of
from sj_cka.recipe import NetworkName, Study
from sj_cka.recipe.attack_block import NOISE, Attacking
from sj_cka.recipe.choices import ATTACK
from sj_cka.recipe.faults import fault_of
from sj_cka.recipe.network_checks import check_strength
from sj_cka.recipe.source import KeyPath

INPUTS, REPORT = "inputs.safetensors", "attack.json"
_MEASURED = ["eps", "unit", "reached", "clean", "accuracy", "success"]
_MEASURED += ["loss_before", "loss", "linf", "l2", "changed", "masked"]


def job(graph: Graph, network: NetworkName, entry: Attacking, eps: float | None, seed: int) -> Job:
    """An attack of one strength on a trained network."""
    block, training = graph.study.recipe.attack, trained(graph, network, seed)
    assert block is not None  # else there are no entries
    args: dict[str, Any] = {"attack": _options(graph.study, entry)}
    args |= {"images": block.images, "batch_size": block.batch_size}
    args |= {"rate": entry.rate, "most": entry.eps_max} if entry.rate is not None else {"eps": eps}
    inputs = {"network": training}
    if (source := entry.source_of(network)) is not None:
        inputs["source"] = trained(graph, source, seed)
        if inputs["source"].key == training.key:
            message = f"expected another network than {network}: {source} is the same, what varies does not concern it"
            raise graph.study.error(("attack", "by", entry.name, "source"), message)
    if entry.like is not None:
        inputs["like"] = job(graph, network, graph.study.attacks[entry.like], eps, seed)
    label = f"{entry.label(eps)} on {network}, seed {seed}"
    return Job("attack", args, inputs, graph.block(network), seed, training.threads, label)


def _options(study: Study, entry: Attacking) -> dict[str, Any]:
    """Name and options of an attack as a job names it; of noise the attack whose norm it has."""
    if entry.like is not None:
        return {"name": NOISE, "like": _options(study, study.attacks[entry.like])}
    return ATTACK.without_defaults({"name": entry.attack, **entry.options})


def rows(graph: Graph) -> Iterator[Row]:
    """Every attacked network with every entry that concerns it, each of its strengths and every seed.

    Columns attack (the entry of attack.by), function, strength (in words), rate (wanted success, NaN where eps was
    given), linf_ball (whether eps is the radius of an L-inf ball in pixels), unit (of eps, linf and l2).
    """
    study = graph.study
    for network in study.attacked():
        for entry in study.attacks.values():
            if not entry.concerns(network):
                continue
            function, options = inside(entry.attack, entry.options)
            rate = (entry if entry.like is None else study.attacks[entry.like]).rate
            of_entry = {
                "attack": entry.name,
                "function": entry.attack,
                "rate": float("nan") if rate is None else rate,
                "linf_ball": entry.like is None and attack_named(function).ball(options) == "linf",
                "unit": unit(graph.samples(network), _options(study, entry)).name,
            }
            for eps in entry.eps:
                strength = f"eps {eps:g}" if eps is not None else f"success {rate:g}"
                if entry.like is not None:
                    strength = f"norm of {entry.like}" + (f", {strength}" if eps is not None else "")
                for seed in study.seeds:
                    at = {"network": network, **of_entry, "strength": strength, "eps": eps, "seed": seed}
                    yield Row(at, job(graph, network, entry, eps, seed))


def check(preflight: Preflight) -> None:
    """Tries every attack on two samples of every network's data, with few steps; untrained networks are enough.

    Raises:
        RecipeError: fewer test samples than are to be attacked, samples out of the bounds of an attack, one that is not
            for them, or an option out of range.
    """
    study = preflight.study
    block = study.recipe.attack
    if block is None:
        return
    for network in study.attacked():
        samples = preflight.samples(network)
        count = len(samples.x_test[: block.images])
        if count < block.images:
            message = f"expected at most {count}, so many test {samples.called} there are, got {block.images}"
            raise study.error(("attack", "images"), message)
        for name, entry in study.attacks.items():
            key: KeyPath = ("attack", "by", name)
            if entry.like is not None or not entry.concerns(network):
                continue
            _check_gradient(study, key, entry, network)
            if attack_named(entry.attack).unit == "counts" and samples.T is None:
                raise study.error(key, f"expected an attack on images for {network}, got {entry.attack}: on recordings")
            attack = _options(study, entry)
            _check_range(
                study, key, entry, samples, target(samples, block.images, attack, torch.device("cpu")), network
            )
            try:
                _try(attack, entry, samples, preflight.network(entry.source_of(network) or network))
            except (ValueError, TypeError, RuntimeError) as error:
                if not isinstance(error, NoGradient):  # of an untrained network
                    raise fault_of(error, study.source, key, about=f"{network}: ") from error


def _check_gradient(study: Study, key: KeyPath, entry: Attacking, network: NetworkName) -> None:
    """An attack with gradients is on a network that has one to its input: through spikes for an image there is none."""
    victim = entry.source_of(network) or network
    if victim.kind != "snn" or attack_named(inside(entry.attack, entry.options)[0]).needs != "gradient":
        return
    coding = study.conditions[victim.variant].snn.coding
    got = f"{victim} is given spikes for an image (snn.coding: {coding}); take square, or transfer from another network"
    study.refuse_if(coding != "direct", key, f"expected a network with a gradient to its input for {entry.name}, {got}")


def _check_range(study: Study, key: KeyPath, entry: Attacking, samples: Samples, aim: Target, network: str) -> None:
    """Samples lie in their bounds, on their scale, and no strength leads beyond these, or beyond images without any."""
    span, bounds = range_of(aim.x), aim.bounds
    if bounds is not None and not bounds.holds(span, aim.x.dtype):
        raise study.error(
            key,
            f"expected test samples from {bounds}, those of {network} go from {span}; give bounds, "
            f"e.g. bounds: [{span.low:g}, {span.high:g}], or bounds: null",
        )
    if isinstance(samples, Images) and bounds is not None:
        whole = range_of(samples.x_test)  # an attack may see a few dark ones
        stored = torch.tensor([whole.low, whole.high]).to(samples.x_test.dtype)
        try:
            check_fills(range_of(pixels(stored)), bounds)
        except ValueError as error:
            raise study.error(key, f"{network}: {error}") from error
    widest = span if isinstance(samples, Images) else None
    check_strength(study, key, entry, size=aim.x.numel() // aim.x.shape[aim.axis], within=bounds or widest)


def _try(attack: dict[str, Any], entry: Attacking, samples: Samples, net: nn.Module) -> None:
    """An attack of its largest strength on two samples, on the network that it is made on."""
    name, options = inside(entry.attack, {key: value for key, value in attack.items() if key != "name"})
    function = attack_named(name)
    if function.trial is None:
        return
    all_options = function.with_defaults(options)
    options |= {key: min(all_options[key], few) for key, few in function.trial.items()}
    aim = target(samples, 2, attack, torch.device("cpu"))
    eps = entry.eps_max if entry.eps_max is not None else entry.eps[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskedGradient)
        craft(name, aim.model(net), aim.x, samples.y_test[:2], eps=float(eps or 0), **options)


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """The first test samples under an attack on a trained network, and what it did."""
    data, args, on = job.data.samples, job.args, context.device
    aim = target(data, args["images"], args["attack"], on)
    source = read_network(inputs["source"](weights_of()), device=on) if "source" in inputs else None
    like = read_inputs(inputs["like"](INPUTS)).to(on) if "like" in inputs else None
    net = read_network(inputs["network"](weights_of()), device=on)
    files = attack_files(aim, data.y_test[: args["images"]].to(on), net, args, int(job.seed or 0), source, like)
    report = json.loads(files[REPORT])
    context.report(f"accuracy {report['clean']:.3f}, under attack {report['accuracy']:.3f}")
    return files


def attack_files(
    aim: Target,
    y: Tensor,
    net: nn.Module,
    args: Mapping[str, Any],
    seed: int,
    source: nn.Module | None = None,
    like: Tensor | None = None,
) -> dict[str, bytes]:
    """The files of an attack: the inputs that the network is shown, and `attack.json`.

    Args:
        aim: the samples.
        y: their labels.
        net: the network.
        args: `attack` (name and options), `batch_size`, and `eps` or `rate` and `most`.
        seed: of what is drawn.
        source: the network that a transfer attacks.
        like: inputs under the attack whose norm noise is to have.
    """
    model, options = aim.model(net), dict(args["attack"])
    name, generator = options.pop("name"), Generator().manual_seed(seed)
    told: dict[str, Any] = {"eps": args.get("eps"), "reached": True}
    if source is not None:
        options["source"] = aim.model(source)
    common = {"batch_size": args["batch_size"], "generator": generator, **options}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", MaskedGradient)
        if like is not None:
            near = aim.from_input(like)  # a rounding out of the bounds at most, which noise_like allows for
            x_adv = attacks.noise_like(aim.x, near, generator=generator, bounds=aim.bounds, sample_axis=aim.axis)
        elif "rate" in args:
            x_adv, told["eps"], told["reached"] = _at_rate(name, model, aim.x, y, args["rate"], args["most"], common)
        else:
            x_adv = attacks.craft(name, model, aim.x, y, eps=args["eps"], **common)
    masked = [str(warning.message) for warning in said if issubclass(warning.category, MaskedGradient)]
    for warning in said:
        if not issubclass(warning.category, MaskedGradient):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    size = attacks.perturbation(aim.x, x_adv, sample_axis=aim.axis)
    told |= {
        "clean": attacks.accuracy(model, aim.x, y),
        "accuracy": attacks.accuracy(model, x_adv, y),
        "success": attacks.success_rate(model, aim.x, x_adv, y),
        "loss_before": float(attacks.losses(model, aim.x, y).mean()),
        "loss": float(attacks.losses(model, x_adv, y).mean()),
        "linf": float(size.linf.mean()),
        "l2": float(size.l2.mean()),
        "changed": float(size.changed.mean()),
        "masked": masked[-1] if masked else "",
    }
    inputs = aim.as_input(x_adv).to("cpu", torch.float32).contiguous()
    return {INPUTS: save_tensors({"x": inputs}), REPORT: json.dumps(told).encode()}


def _at_rate(
    name: str, model: PixelModel, x: Tensor, y: Tensor, rate: float, eps_max: float, options: dict[str, Any]
) -> tuple[Tensor, float, bool]:
    """Inputs at a success rate, the eps of that, and whether it is reached; if not, those of the largest eps.

    Reached is a rate that is met to two samples, or to 2 %: where few samples are right, the rate jumps.
    """
    right = int(attacks.right(model, x, y).sum())
    try:
        if right == 0:
            raise RateNotReached("expected a sample that is classified right, got none", 0.0)
        matched = attacks.eps_for_success(name, model, x, y, rate=rate, eps_max=eps_max, **options)
    except RateNotReached:
        return attacks.craft(name, model, x, y, eps=eps_max, **options), eps_max, False
    return matched.x_adv, matched.eps, abs(matched.rate - rate) <= max(0.02, 2 / right)


def read_inputs(content: bytes) -> Tensor:
    """What a network is shown under an attack, `[N, ...]` or `[T, N, ...]`."""
    return load_tensors(content)["x"]


def _read(row: Row, read: Read) -> pd.DataFrame:
    """What an attack did; see `sj_cka.attacks` and `rows`.

    Columns eps, clean, accuracy, success, loss_before, loss, linf, l2, changed (means over the samples, measured),
    masked; reached: False where the wanted success was not, so that the attack is that of the largest eps.
    """
    report = json.loads(read(REPORT))
    report["eps"] = float("nan") if report["eps"] is None else report["eps"]
    columns = ["attack", "function", "strength", "rate", "linf_ball", "seed", *_MEASURED]
    return pd.DataFrame([dict(row.at) | report])[columns]


KIND = Kind(run, lambda job: (INPUTS, REPORT), rows, check, {"attacks": _read})
