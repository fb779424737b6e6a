"""CKA of two networks on the test split: trained, untrained (the floor), and seed against seed (the noise ceiling)."""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from itertools import combinations, product
from typing import Any

from torch import Tensor

from sj_cka import recording
from sj_cka.cka import CKA, CKAResult, compare
from sj_cka.claims import path_of, selected
from sj_cka.claims.arms import CONTROLS
from sj_cka.data import Samples
from sj_cka.figures import State
from sj_cka.job import Context, Files, Inputs, Job
from sj_cka.jobs import attack
from sj_cka.jobs.evaluate import OF_RECORDINGS
from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.moments import epoch, network
from sj_cka.jobs.weights import origins, read_network, weights_of
from sj_cka.plugins import closest
from sj_cka.preflight import Preflight
from sj_cka.recipe import Comparison, NetworkName, Sides, Study
from sj_cka.recipe.source import KeyPath
from sj_cka.recording import neurons

RESULT = "cka.nc"
VERSION = 3


def job(graph: Graph, comparison: Comparison, sides: Sides, seeds: tuple[int, int], state: State, label: str) -> Job:
    """A comparison of two networks on the test split."""
    study = graph.study
    args: dict[str, Any] = {"batch_size": study.recipe.cka.batch_size}
    options: dict[str, Any] = {
        "batches": study.recipe.cka.batches,
        "layers": comparison.layers or study.recipe.cka.layers,
    }
    if comparison.measure != "cka":
        options["measure"] = comparison.measure
    if state != "ceiling":  # the steps inside a layer are no matter of two networks
        options["null"] = "timing" if comparison.permutation_test else None
        options["given"] = "input" if comparison.measure == "cka" else None
    if state == "trained" and comparison.measure == "cka":
        options["controls"] = True
    for side, name, T in (("x", sides.x, sides.T_x), ("y", sides.y, sides.T_y)):
        options[f"T_{side}"] = T if T is not None and T != study.steps_of(name) else None
        options[f"epoch_{side}"] = epoch(study, name) if state != "untrained" else None
    args |= {key: value for key, value in options.items() if value is not None}
    x, y = (network(graph, name, seed, state) for name, seed in zip(sides[:2], seeds, strict=True))
    inputs = {"x": x, "y": y}
    if sides.under is not None:
        entry, eps = sides.under
        inputs["under"] = attack.job(graph, sides.y, study.attacks[entry], eps, seeds[1])
        args.pop("batches", None)
        del args["batch_size"]  # all samples under attack are one minibatch
    threads = study.recipe.train.threads
    return Job("compare", args, inputs, graph.block(sides.x), None, threads, label, version=VERSION)


def rows(graph: Graph) -> Iterator[Row]:
    """Every comparison of every variant: trained, its floor and, where it has one, its noise ceiling.

    Columns comparison, measure, variant, state, seed, seed_y, kind: which of the two parts of a noise ceiling it is,
    see `Comparison.ceiling_of`; else "".
    """
    study = graph.study
    for comparison in study.recipe.compare:
        # an attack on a network that knows nothing has nothing to overcome
        states: tuple[State, ...] = ("trained", "untrained") if comparison.attack_y is None else ("trained",)
        for variant, sides in study.sides(comparison).items():
            title = f"{comparison.name} {variant}".strip()
            for state in states:
                for i, j in seeds_of(graph, comparison, sides, state):
                    of_seeds = f"seed {i}" if i == j else f"seed {i} against {j}"
                    compared = job(graph, comparison, sides, (i, j), state, f"{title}, {state}, {of_seeds}")
                    yield _row(comparison, variant, state, (i, j), "", compared)
            if study.has_ceiling(comparison):
                for name, T in ((sides.x, sides.T_x), (sides.y, sides.T_y)):
                    kind, itself = comparison.ceiling_of(name), Sides(name, name, T, T)
                    for i, j in combinations(study.seeds, 2):
                        label = f"{itself.titles[0]}, seed {i} against {j}"
                        compared = job(graph, comparison, itself, (i, j), "ceiling", label)
                        yield _row(comparison, variant, "ceiling", (i, j), kind, compared)


def seeds_of(graph: Graph, comparison: Comparison, sides: Sides, state: State) -> list[tuple[int, int]]:
    """Which seeds of x are compared with which of y; not a seed with itself where the two networks share weights."""
    seeds = graph.study.seeds
    if comparison.seeds == "same":
        return [(seed, seed) for seed in seeds]
    x, y = (origins(network(graph, name, seeds[0], state)) for name in sides[:2])
    return [(i, j) for i, j in product(seeds, repeat=2) if i != j or not x & y]


def _row(comparison: Comparison, variant: str, state: State, seeds: tuple[int, int], kind: str, job: Job) -> Row:
    at = {"comparison": comparison.name, "measure": comparison.measure, "variant": variant, "state": state}
    return Row(at | {"seed": seeds[0], "seed_y": seeds[1], "kind": kind}, job)


def check(preflight: Preflight) -> None:
    """Steps that are given go with the data, and the layers that are named are there.

    Raises:
        RecipeError: the first that does not.
    """
    study = preflight.study
    for i, comparison in enumerate(study.recipe.compare):
        for sides in study.sides(comparison).values():
            for side, name, T in (("x", sides.x, sides.T_x), ("y", sides.y, sides.T_y)):
                if preflight.samples(name).T is not None and T is not None:
                    raise study.error(("compare", i, f"T_{side}"), f"expected none for {name}: {OF_RECORDINGS}")
    _check_layers(preflight)


def _check_layers(preflight: Preflight) -> None:
    """The layers that comparisons, figures and claims name must be in the networks that they are about.

    Where none are named, one network of each model and kind is looked at, the smallest: that its layers can be told.
    """
    study = preflight.study
    looked_at = preflight.names if _names_layers(study) else _smallest(preflight)
    layers_of: dict[tuple[NetworkName, tuple[str, ...]], tuple[str, ...]] = {}
    there: dict[str, dict[str, tuple[str, ...]]] = {}  # comparison -> variant -> layers of x
    for i, comparison in enumerate(study.recipe.compare):
        wanted = tuple(comparison.layers or study.recipe.cka.layers or ())
        there[comparison.name] = {}
        for variant, sides in study.sides(comparison).items():
            for name in (sides.x.trained, sides.y.trained):
                if name in looked_at and (name, wanted) not in layers_of:
                    key: KeyPath = ("compare", i, "layers") if comparison.layers else ("cka", "layers")
                    layers_of[name, wanted] = _layers(preflight, name, wanted, key)
            there[comparison.name][variant] = layers_of.get((sides.x.trained, wanted), ())
    for i, figure in enumerate(study.recipe.figures):
        _check_named(study, ("figures", i, "layers"), figure.options().get("layers"), figure.comparison, None, there)
    for i, claim in enumerate(study.recipe.claims):
        for key_of_arm, arm in claim.arms().items():
            which = None if claim.test == "trend" else arm.variant or ""
            _check_named(study, ("claims", i, *path_of(key_of_arm), "layers"), arm.layers, arm.comparison, which, there)


def _layers(preflight: Preflight, name: NetworkName, wanted: tuple[str, ...], key: KeyPath) -> tuple[str, ...]:
    samples, network = preflight.samples(name), preflight.network(name)
    try:
        x = samples.as_input(samples.x_test[:4])
        return recording.plan_observation(network, x, layers=wanted or None, layout=samples.layout).layers
    except ValueError as error:
        raise preflight.study.error(key, f"{name}: {str(error).removeprefix('layers: ')}") from error


def _smallest(preflight: Preflight) -> set[NetworkName]:
    """The network with the fewest parameters of each model and kind."""
    smallest: dict[tuple[str, str], NetworkName] = {}
    for name in sorted(preflight.names, key=lambda name: preflight.size(name).parameters):
        smallest.setdefault((preflight.study.conditions[name.variant].model["name"], name.kind), name)
    return set(smallest.values())


def _names_layers(study: Study) -> bool:
    """Whether anything in the recipe names layers."""
    recipe = study.recipe
    asked = [recipe.cka.layers, *(c.layers for c in recipe.compare)]
    asked += [figure.options().get("layers") for figure in recipe.figures]
    return any([*asked, *(m.layers for c in recipe.claims for m in c.arms().values())])


def _check_named(
    study: Study,
    key: KeyPath,
    patterns: list[str] | None,
    comparison: str | None,
    variant: str | None,
    there: dict[str, dict[str, tuple[str, ...]]],
) -> None:
    """Each name or glob must match a layer of x in a comparison: of one of its variants, or of any."""
    for j, pattern in enumerate(patterns or []):
        by_variant = there[str(comparison)]
        of_variants = [by_variant[variant]] if variant is not None else by_variant.values()
        layers = dict.fromkeys(layer for layers in of_variants for layer in layers)
        if not selected(layers, [pattern]):
            of = study.comparison(comparison)
            assert of is not None  # it is one of `there`
            raise study.error((*key, j), f"{pattern!r} is no layer of {of.x}{closest(pattern, layers)}")


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """CKA of two networks on the test split; of one network with itself in one pass."""
    data, args = job.data.samples, job.args
    T = {side: args.get(f"T_{side}") for side in "xy"}
    moment = {side: args.get(f"epoch_{side}") for side in "xy"}
    x = read_network(inputs["x"](weights_of(moment["x"])), T["x"], context.device)
    itself = job.inputs["x"].key == job.inputs["y"].key and (T["x"], moment["x"]) == (T["y"], moment["y"])
    y = x if itself else read_network(inputs["y"](weights_of(moment["y"])), T["y"], context.device)
    # two networks without time have no timing to permute
    steps = "null" in args and (data.T is not None or bool(neurons(x) or neurons(y)))
    loader: Any
    if "under" in inputs:
        attacked, axis = attack.read_inputs(inputs["under"](attack.INPUTS)), 0 if data.T is None else 1
        loader = {"x": [data.as_input(data.x_test[: attacked.shape[axis]])], "y": [attacked]}
    else:
        loader = _minibatches(data, args["batch_size"], args.get("batches"), context)
    controls = "controls" in args
    # intervals of a study are over seeds
    permuted = {"steps": int(steps), "samples": int(controls)}
    into = CKA(samples=False, measures=args.get("measure", ()), permutations=permuted)
    result = compare(
        x,
        y,
        loader,
        layers=args.get("layers"),
        layout=data.layout,
        given=args.get("given"),
        groups=partial(_halves, axis=int(data.T is not None)) if controls else None,
        into=into,
        progress=False,
    )
    context.report(f"{len(result.layers_x)} x {len(result.layers_y)} layers")
    return {RESULT: result.to_bytes()}


def _halves(batch: Tensor, axis: int) -> list[str]:
    """Which of the two halves of the samples each sample of a minibatch belongs to: every other one."""
    return [CONTROLS[1:][i % 2] for i in range(batch.shape[axis])]


def _minibatches(data: Samples, size: int, count: int | None, context: Context) -> list[Tensor]:
    """The share of this process in the first so many minibatches of the test split."""
    starts = list(range(0, len(data.x_test), size))
    if len(data.x_test) - starts[-1] < 4:  # the plan has told so
        starts.pop()
    return [data.as_input(data.x_test[i : i + size]) for i in starts[:count][context.rank :: context.processes]]


def read_result(content: bytes, trusted: bool = False) -> CKAResult:
    """The result that a job left in `cka.nc`; see `CKAResult.load`."""
    return CKAResult.load(BytesIO(content), trusted=trusted)


KIND = Kind(run, lambda job: (RESULT,), rows, check, together=True)
