"""CKA between every layer and time step of any two networks, over a loader."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sj_cka.cka.accumulator import CKA
from sj_cka.cka.forecast import forecast, size
from sj_cka.cka.labels import Reference, group_masks, reference_grams
from sj_cka.cka.layer_grams import MIN_SAMPLES, Allocate
from sj_cka.cka.memory import bytes_of, in_file, in_words
from sj_cka.cka.minibatches import Minibatch, Minibatches
from sj_cka.cka.observables import NULL, OBSERVABLES, Observable, Spatial
from sj_cka.cka.observed_network import ObservedNetwork
from sj_cka.cka.processes import in_group, together
from sj_cka.cka.result import CKAResult
from sj_cka.recording import (
    LayerSpec,
    Layout,
    ObservationPlan,
    Select,
    StateError,
    as_written,
    check_network,
    named,
    patterns_of,
    plan_observation,
    preserved,
    select_for,
    to_evaluation,
    unwrapped,
    without_wrappers,
)
from sj_cka.recording.drive import Forward

Groups = Literal["labels"] | Mapping[str, Any] | Sequence[Any] | Any
_log = logging.getLogger("sj_cka")


class ComparisonStopped(RuntimeError):
    """A comparison ended before its loader did.

    Args:
        message: why.
        so_far: the result of the minibatches before.
    """

    def __init__(self, message: str, so_far: CKAResult) -> None:
        super().__init__(message)
        self.so_far = so_far


def compare(
    x: nn.Module,
    y: nn.Module | None = None,
    loader: Iterable[Any] | Tensor | None = None,
    *,
    y_loader: Iterable[Any] | Tensor | None = None,
    to: Reference | None = None,
    given: Reference | None = None,
    layers: LayerSpec = None,
    layers_x: LayerSpec = None,
    layers_y: LayerSpec = None,
    select: Select = None,
    T: int | tuple[int | None, int | None] | None = None,
    layout: Layout | None = None,
    forward: Forward | None = None,
    observe: Observable | Sequence[Observable] = "output",
    spatial: Spatial = "flatten",
    null: Literal["timing"] | None = None,
    groups: Groups | None = None,
    measures: Sequence[str] = (),
    permutations: int = 0,
    samples: bool = True,
    memory: str | int | None = None,
    batches: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    allow_train: bool = False,
    plan: bool = False,
) -> CKAResult:
    """CKA between every layer and every time step of two networks, in one pass over a loader.

    Grams are taken inside forward hooks, so that memory holds n^2 numbers for a layer and step and never the
    activations, and a later in-place operation cannot change what was seen. Whatever the networks are, their weights,
    buffers, neuron states, training flags and the random state are the same afterwards, and so are the batches: each
    run is given a copy.

    Each network is given the batch `[N, ...]` as it is. If it makes no time steps of that, it is shown the batch T
    times (multi-step neurons: as `[T, N, ...]`; single-step neurons: in T calls). A network without neurons has one
    step.

    Args:
        x: a network: SpikingJelly's or any other PyTorch module, in evaluation mode.
        y: the network to compare with; None compares x with itself.
        loader: batches, each a tensor `[N, ...]` or a tuple that starts with one; or one such tensor. Iterated once.
        y_loader: what y sees in place of it: batches of the same samples, in the same order. Where both bring labels,
            the first that differs is named in a warning.
        to: compare x with the batch itself, "input", or with its classes, "labels", in place of a network.
        given: also take what is needed for `CKAResult.partial`, the CKA given the input or the labels.
        layers: dotted names, globs, module types or predicates `(name, module) -> bool` for both networks; None for
            every neuron, every other leaf that is called and every block output, without the last Linear; what turns
            out to have no samples is then left out with a warning.
        layers_x, layers_y: the same for one network.
        select: for modules that put out a tuple or a dict: `{"lstm": 0, "encoder": "last_hidden_state"}`, names or
            globs; or one function `(layer, output) -> tensor`.
        T: time steps; needed where a network does not make its own. A pair for x and y; one is for those with time.
            What has no neurons of SpikingJelly's makes the steps that an integer attribute of it sets: one of value T,
            or one that is called after time (`T`, `num_steps`, ...), which is varied in the probes.
        layout: what the loader gives: "NCHW" (samples first; the default), or frames as "TNCHW" or "NTCHW". A network
            is given frames time first, or as the loader gives them if only so it keeps samples and steps apart.
        forward: `lambda net, batch: ...`, how to run a network on a batch of the loader, in place of all of this.
        observe: "output": what a layer puts out, spikes where it is a neuron; "rate": its mean over the steps;
            "membrane": potentials of neurons after the reset; "latency": steps before a neuron's first spike, T for
            one that never fires (these two: of the neurons alone; of a network without any, the output). Several are
            taken in one pass: the result is that of the first, `result.matrix("rate")` and `result.also` give the rest.
        spatial: "mean" averages maps `[N, C, H, W]` over space first; "flatten" takes every pixel as a feature.
        null: "timing" also compares the outputs with the order of their steps permuted for every unit and sample:
            `result.null`, beside which `result.dynamics()` stands.
        groups: samples whose CKA is also taken for themselves, `result.matrix(group=...)`: "labels"; ids of all
            samples; name -> mask over all samples; or a function of the batch that gives either for it.
        measures: further names of `sj_cka.cka.MEASURES`, e.g. "rsa", "procrustes": `result.matrix(measure=...)`.
        permutations: so many baselines with the samples of y in another order, for `result.baseline()`.
        samples: keep what every sample contributes (4 bytes a pair of layers), for `interval`, `difference`,
            `against_n` and `influence`; without it an interval needs 8 minibatches.
        memory: bound on the centred Grams of a minibatch, e.g. "2GB"; beyond it they, and what is computed of them, lie
            in a temporary file. What every sample contributes (`samples`) is part of the result and not of the bound.
            The number of samples never changes. None: no bound.
        batches: use the first so many batches; None for all.
        device: where to run; None for where the network's parameters are.
        progress: show a progress bar.
        allow_train: run a network that is in training mode in evaluation mode, and put it back, without an error.
        plan: print layers, Grams, bytes and estimated seconds before running.

    Returns:
        A `CKAResult`; what is undefined is NaN and named in `result.undefined`. A batch of fewer than 4 samples cannot
        be used and is left out with a warning that names it. Neurons whose number of units is not the same in all
        batches (images of several sizes) have CKA, but are not in `result.activity`: shares of units mean nothing
        there. Where a `torch.distributed` process group exists, all processes must call this, each with its share of
        the batches, and all get the result of them together; `batches_left_out` counts batches on from rank to rank.

    Raises:
        ValueError: no usable batch, networks in training mode, layers that are not there, a missing or wrong T.
        ComparisonStopped: a later batch cannot be used; the result of those before is in its `so_far`.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
        >>> result = compare(net, loader=torch.randn(32, 3), progress=False)
        >>> [round(float(v), 6) for v in result.paired()]
        [1.0, 1.0]
    """
    if loader is None:
        raise ValueError("compare needs loader=: batches of images, e.g. a torch DataLoader or one tensor [N, ...]")
    if to is not None and (y is not None or y_loader is not None or layers_y is not None):
        raise ValueError(f"expected no y, y_loader or layers_y beside to={to!r}: x is compared with the {to} alone")
    if batches is not None and batches < 1:
        raise ValueError(f"expected batches to be at least 1, got {batches}")
    observables = _observables(observe)
    for name, value, known in (
        ("to", to, (None, "input", "labels")),
        ("given", given, (None, "input", "labels")),
        ("spatial", spatial, ("flatten", "mean")),
        ("null", null, (None, "timing")),
    ):
        if value not in known:
            raise ValueError(f"expected {name} to be one of {', '.join(map(repr, known))}, got {value!r}")
    limit = None if memory is None else bytes_of(memory)
    models = {"x": x} if to else {"x": x, "y": x if y is None else y}
    for side, model in models.items():
        check_network(model, f"network {side}")
        if not allow_train:
            _expect_evaluation(side, model)
    picked: dict[str, Any] = {side: select_for(model, select) for side, model in models.items()}
    for pattern in select if isinstance(select, Mapping) else ():
        if not any(without_wrappers(model, str(pattern)) in picked[side] for side, model in models.items()):
            raise ValueError(f"select: {pattern!r} matches no module of {' or '.join(models)}")
    both = patterns_of(layers)
    wanted = {
        "x": both if layers_x is None else patterns_of(layers_x),
        "y": both if layers_y is None else patterns_of(layers_y),
    }
    pair = tuple(T) if isinstance(T, tuple | list) else (T, T)
    if len(pair) != 2:
        raise ValueError(f"expected T as one number of steps or a pair for x and y, got {T!r}")
    steps = dict(zip("xy", pair, strict=True))
    # one pass serves both sides where they are the same layers of the same network
    same = not to and models["x"] is models["y"] and wanted["x"] is wanted["y"]
    same = same and steps["x"] == steps["y"] and y_loader is None
    main = CKA(samples=samples, permutations=permutations, measures=measures)
    sums: dict[str, CKA] = {observables[0]: main}
    sums |= {name: CKA(samples=False) for name in [*observables[1:], *([NULL] if null else [])]}
    kinds = {side: type(unwrapped(model)).__name__ for side, model in models.items()}
    attrs: dict[str, Any] = kinds | ({"y": to} if to else {})
    seen = _Seen()
    with together(), as_written(), preserved(*models.values()):
        for model in models.values():
            to_evaluation(model)
        source = Minibatches(loader, y_loader, layout, forward, batches)
        try:
            first = source.first()
        except ValueError:
            if not in_group():
                raise
            first = None  # the other processes have the batches
            for batch in source.head:
                seen.leave_out(batch)
        if first is not None:
            networks = {}
            for side in ("x",) if same or to else ("x", "y"):
                on = _device(side, models[side], device)
                try:
                    observed = plan_observation(
                        models[side],
                        first.inputs(side, on),
                        layers=wanted[side],
                        T=steps[side],
                        layout=layout,
                        forward=forward,
                        select=picked[side],
                    )
                except StateError as error:
                    raise StateError(f"network {side} ({kinds[side]}): {error}") from error
                except (ValueError, TypeError, RuntimeError) as error:
                    raise ValueError(f"network {side} ({kinds[side]}): {error}") from error
                if wanted[side] is None:
                    observed = _without_complex(observed)
                for note in observed.notes:
                    warnings.warn(f"network {side} ({kinds[side]}): {note}", stacklevel=2)
                networks[side] = ObservedNetwork(
                    side, models[side], observed, on, observables, null is not None, spatial
                )
            _expect_steps(networks, T, observables, null)
            without = [side for side in models if networks.get(side, networks["x"]).plan.drive.T is None]
            attrs |= {"without_steps": " ".join(without)} if without else {}
            held = size(list(networks.values()), first.n)[2]
            if limit is not None and held > limit:
                who = [f"observe={name!r}" for name in ("rate", "latency") if name in observables]
                who += ["the timing null"] if null else []
                raise ValueError(
                    f"memory={memory!r}: {' and '.join(who)} hold{'' if who[1:] else 's'} {in_words(held)} of "
                    "features, because the network is called once a step: take fewer layers=, smaller batches or more "
                    "memory"
                )
            if plan:
                inputs = {side: first.inputs(side, network.device) for side, network in networks.items()}
                print(forecast(list(networks.values()), inputs, source.count, limit))
            work = _Work(networks, sums, seen, to, given, groups, memory)
            with tqdm(total=source.count, desc="comparing", unit="batch", disable=not progress, leave=False) as bar:
                try:
                    for batch in source:
                        if batch.usable:
                            work.add(batch)
                        else:
                            seen.leave_out(batch)
                        bar.update()
                except Exception as error:
                    if not main.batches:
                        raise
                    raise ComparisonStopped(
                        f"{error} (after {main.batches} minibatches, whose result is in this exception's so_far)",
                        _result(sums, attrs, seen),
                    ) from error
    return _reduced(sums, attrs, seen)


@dataclass
class _Seen:
    """What is known of the batches besides their sums.

    Args:
        batches: read so far.
        left_out: numbers of those that could not be used.
        units: observable, side and layer -> the number of units whose spikes are counted; None where it varies.
        grams: bytes of the centred Grams of the largest batch, and whether they lay in a temporary file.
    """

    batches: int = 0
    left_out: list[int] = field(default_factory=list)
    units: dict[tuple[str, str, str], int | None] = field(default_factory=dict)
    grams: tuple[int, bool] = (0, False)

    @property
    def where(self) -> str:
        """Where the centred Grams of the largest batch were, in words."""
        return f"{in_words(self.grams[0])} in {'a temporary file' if self.grams[1] else 'memory'}"

    def leave_out(self, batch: Minibatch) -> None:
        """Notes a batch that is too small, and warns."""
        self.batches += 1
        self.left_out.append(batch.number)
        warnings.warn(
            f"batch {batch.number} holds {batch.n} samples and is left out: the unbiased HSIC needs at least "
            f"{MIN_SAMPLES}",
            stacklevel=3,
        )

    def count(self, name: str, side: str, layer: str, units: int | None) -> bool:
        """Whether a layer has had as many units in all batches, so that their spikes can be added up."""
        before = self.units.setdefault((name, side, layer), units)
        self.units[name, side, layer] = units if before == units else None
        return self.units[name, side, layer] is not None

    def gathered(self) -> _Seen:
        """What all processes of a group have seen, batches numbered on in the order of the ranks."""
        if not in_group():
            return self
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self)
        whole = _Seen()
        for part in parts:
            whole.left_out += [whole.batches + number for number in part.left_out]
            whole.batches += part.batches
            whole.grams = max(whole.grams, part.grams)
            for (name, side, layer), units in part.units.items():
                whole.count(name, side, layer, units)
        return whole


@dataclass
class _Work:
    """What is done with every batch."""

    networks: Mapping[str, ObservedNetwork]
    sums: Mapping[str, CKA]
    seen: _Seen
    to: Reference | None
    given: Reference | None
    groups: Groups | None
    memory: str | int | None

    @property
    def limit(self) -> int | None:
        """The bound in bytes."""
        return None if self.memory is None else bytes_of(self.memory)

    def add(self, batch: Minibatch) -> None:
        """Runs the networks on a batch and adds its Grams; all sums or none of them change."""
        z = None if self.given is None else reference_grams(self.given, batch)
        masks = group_masks(self.groups, batch)
        allocate = self.space(batch)
        seen = {
            side: network.grams(batch.inputs(side, network.device), batch.seed, allocate)
            for side, network in self.networks.items()
        }
        if self.to is not None:
            target = reference_grams(self.to, batch)
            seen["y"] = dict.fromkeys(self.sums, target)
        self.seen.batches += 1
        for name, sums in self.sums.items():
            x, y = seen["x"][name], seen.get("y", seen["x"])[name]
            x.counts, y.counts = (
                {
                    layer: counts
                    for layer, counts in own.counts.items()
                    if self.seen.count(name, side, layer, counts.shape[-1])
                }
                for side, own in (("x", x), ("y", y))
            )  # both first: x may be y
            first = sums is next(iter(self.sums.values()))
            sums.update_grams(
                x, y, given=z if first else None, groups=masks if first else None, place=batch.place, seed=batch.seed
            )

    def space(self, batch: Minibatch) -> Allocate | None:
        """What makes the space for a batch's Grams: a file where they are beyond the bound, else None."""
        stored = size(list(self.networks.values()), batch.n)[1]
        beyond = self.limit is not None and stored > self.limit
        if stored > self.seen.grams[0]:
            if beyond and not self.seen.grams[1]:
                message = "centred Grams take %s in a temporary file: more than memory=%r"
                _log.warning(message, in_words(stored), self.memory)
            self.seen.grams = stored, beyond
        return in_file if beyond else None


def _reduced(sums: Mapping[str, CKA], attrs: Mapping[str, Any], seen: _Seen) -> CKAResult:
    seen = seen.gathered()
    _drop_varying(sums, seen)
    for own in sums.values():
        own.all_reduce()
    found = _result(sums, attrs, seen)
    empty = (
        [str(name) for name in found.data.group.values[found.data.group_n.values == 0]] if "group" in found.data else []
    )
    if empty:
        warnings.warn(
            f"groups {', '.join(empty[:10])} have fewer than {MIN_SAMPLES} samples in every minibatch and so no CKA: "
            "take larger batches",
            stacklevel=3,
        )
    return found


def _drop_varying(sums: Mapping[str, CKA], seen: _Seen) -> None:
    """Forgets the spikes of layers whose number of units varies: shares of units have no meaning there."""
    for (name, side, layer), units in seen.units.items():
        if units is None:
            sums[name].sums.pop(f"counts {side} {layer}", None)


def _result(sums: Mapping[str, CKA], attrs: Mapping[str, Any], seen: _Seen) -> CKAResult:
    _drop_varying(sums, seen)
    common = dict(attrs) | {"batches_left_out": str(seen.left_out)} | ({"grams": seen.where} if seen.grams[0] else {})
    found = {name: own.compute({**common, "observe": name, "batches": own.batches}) for name, own in sums.items()}
    main = next(iter(found))
    return CKAResult(found[main].data, {name: result for name, result in found.items() if name != main})


def _observables(observe: Observable | Sequence[Observable]) -> list[Observable]:
    names: list[Observable] = [observe] if isinstance(observe, str) else list(observe)
    if not names or len(set(names)) != len(names) or any(name not in OBSERVABLES for name in names):
        raise ValueError(f"expected observe to be one or several of {', '.join(OBSERVABLES)}, got {observe!r}")
    return names


def _expect_steps(
    networks: Mapping[str, ObservedNetwork], T: Any, observables: Sequence[str], null: str | None
) -> None:
    """Raises ValueError where time is asked for of networks that show no time steps.

    One T is for whichever network makes steps, one of a pair for its own.
    """
    none = {side: network for side, network in networks.items() if network.plan.drive.T is None}
    asked = [f"T = {T}"] if T is not None and not isinstance(T, tuple | list) else []
    asked += ['observe="rate"'] if "rate" in observables else []
    asked += [f"null={null!r}"] if null is not None else []
    pairs = dict(zip("xy", T, strict=True)) if isinstance(T, tuple | list) else {}
    for side in none:
        own = [f"T = {pairs[side]}"] if pairs.get(side) is not None else []
        if own or (asked and len(none) == len(networks)):
            raise ValueError(
                f"network {side} ({type(unwrapped(networks[side].model)).__name__}) shows no time steps, which "
                f"{' and '.join(own or asked)} {'need' if (own or asked)[1:] else 'needs'}: no integer attribute of it "
                "sets how often its modules are called or how long an axis of their outputs is. Let it read its number "
                "of steps from one (self.T), and pass that as T=; or, if the loader gives frames, say how, "
                'layout="NTCHW" or "TNCHW"; or call it once a step, forward=lambda net, batch: [net(x) for x in ...]'
            )


def _without_complex(observed: ObservationPlan) -> ObservationPlan:
    """A plan without the layers of complex numbers, which nobody asked for; unless there are no others."""
    real = tuple(tap for tap in observed.taps if tap.real)
    if not real or len(real) == len(observed.taps):
        return observed
    left_out = ", ".join(repr(tap.layer) for tap in observed.taps if not tap.real)
    note = f"layers of complex numbers are left out: {left_out}; select= can take their modulus, or real and imaginary"
    return replace(observed, taps=real, notes=(*observed.notes, f"{note} parts"))


def _expect_evaluation(side: str, model: nn.Module) -> None:
    """Raises ValueError where any module of a network is in training mode."""
    modules = named(model)
    name = next((name for name, module in modules.items() if module.training), None)
    if name is not None:
        where = f"module {name!r} ({type(modules[name]).__name__}) of network {side}" if name else ""
        raise ValueError(
            f"{where or f'network {side}'} is in training mode: batch normalisation would use, and change, the "
            f"statistics of each batch. Call {side}.eval() first, or pass allow_train=True to run it in evaluation mode"
        )


def _device(side: str, network: nn.Module, wish: torch.device | str | None) -> torch.device:
    """Where a network runs: where its parameters are."""
    there = {p.device for p in network.parameters()}
    if len(there) > 1:
        raise ValueError(
            f"network {side} has parameters on several devices ({', '.join(sorted(map(str, there)))}): move it to one"
        )
    if wish is None:
        return next(iter(there), torch.device("cpu"))
    on = torch.device(wish)
    if there and next(iter(there)).type != on.type:
        raise ValueError(
            f"network {side} is on {next(iter(there))}, device={str(wish)!r} was asked for: move it there first, "
            f"{side}.to({str(wish)!r})"
        )
    return on
