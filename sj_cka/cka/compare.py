"""CKA between every layer and time step of any two networks, over a loader."""

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Never

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sj_cka.cka.accumulator import CKA
from sj_cka.cka.arguments import by_side, expect_one_of, refuse_unknown
from sj_cka.cka.layer_grams import MIN_SAMPLES, Allocate
from sj_cka.cka.memory import Space, expect_held, forecast, in_file, in_words, size
from sj_cka.cka.minibatches import Minibatch, Minibatches, Reference, group_masks, labels_in, reference_grams
from sj_cka.cka.observables import OBSERVABLES, Observable
from sj_cka.cka.observed_network import (
    ObservedNetwork,
    expect_evaluation,
    expect_steps,
    name_of,
    observed_networks,
    views_of,
)
from sj_cka.cka.permutations import STEPS
from sj_cka.cka.result import CKAResult
from sj_cka.processes import gathered, in_group, together
from sj_cka.recording import LayerSpec, Layout, Select, as_written, check_network, preserved, to_evaluation
from sj_cka.recording.drive import Forward

Loader = Iterable[Any] | Tensor
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
    y: nn.Module | Reference | None = None,
    loader: Loader | Mapping[str, Loader] | None = None,
    *,
    layers: LayerSpec | Mapping[str, LayerSpec] = None,
    T: int | Mapping[str, int | None] | None = None,
    layout: Layout | None = None,
    forward: Forward | None = None,
    select: Select = None,
    observe: Observable | Sequence[Observable] = "output",
    given: Reference | None = None,
    groups: Groups | None = None,
    into: CKA | None = None,
    batches: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    allow_train: bool = False,
    space: Space = Space(),  # noqa: B008
    **unknown: Never,
) -> CKAResult:
    """CKA between every layer and every time step of two networks, in one pass over a loader.

    Grams are taken inside forward hooks, so that memory holds n^2 numbers for a layer and step and never the
    activations. (Of layers called once a step also what `CKAResult.dynamics` needs of some samples is held until the
    last step: at most their features, or 32 numbers for a sample and channel of maps.) Whatever the networks are, their
    weights, buffers, neuron states, training flags and the random state are the same afterwards, and so are the
    batches: each run is given a copy.

    Each network is given the batch `[N, ...]` as it is. If it makes no time steps of that, it is shown the batch T
    times (multi-step neurons: as `[T, N, ...]`; single-step neurons: in T calls). A network without neurons has one
    step. What differs between x and y is given as a mapping: `loader`, `layers` and `T` take `{"x": ..., "y": ...}`.

    Args:
        x: a network: SpikingJelly's or any other PyTorch module, in evaluation mode.
        y: the network to compare with; "labels" or "input" for the classes, or the batch itself, in place of one; None
            compares x with itself.
        loader: batches, each a tensor `[N, ...]` or a tuple that starts with one; or one such tensor. Iterated once.
            Two loaders give batches of the same samples, in the same order; where both bring labels, the first that
            differs is named in a warning.
        layers: dotted names, globs, module types or predicates `(name, module) -> bool`; None for every neuron, every
            other leaf that is called and every block output, without the last Linear; what turns out to have no samples
            is then left out with a warning.
        T: time steps; needed where a network does not make its own. One number is for those with time. What has no
            neurons of SpikingJelly's makes the steps that an integer attribute of it sets: one of value T, or one that
            is called after time (`T`, `num_steps`, ...), which is varied in the probes.
        layout: what the loader gives: "NCHW" (samples first; the default), or frames as "TNCHW" or "NTCHW". A network
            is given frames time first, or as the loader gives them if only so it keeps samples and steps apart.
        forward: `lambda net, batch: ...`, how to run a network on a batch of the loader, in place of all of this.
        select: for modules that put out a tuple or a dict: `{"lstm": 0, "encoder": "last_hidden_state"}`, names or
            globs; or one function `(layer, output) -> tensor`.
        observe: "output": what a layer puts out, spikes where it is a neuron; "rate": its mean over the steps;
            "membrane": potentials of neurons after the reset; "latency": steps before a neuron's first spike, T for
            one that never fires (these two: of the neurons alone; of a network without any, the output). Several are
            taken in one pass: the result is that of the first, `result.matrix("rate")` and `result.also` give the rest.
        given: also take what is needed for `CKAResult.partial`, the CKA given the "input" or the "labels".
        groups: samples whose CKA is also taken for themselves, `result.matrix(group=...)`: "labels"; ids of all
            samples; name -> mask over all samples; or a function of the batch that gives either for it.
        into: a `CKA` that says what is accumulated beside (measures, permutations, samples) and that holds the sums
            afterwards. It must be empty, or made with `resume=True` to add to what it holds.
        batches: use the first so many batches; None for all.
        device: where to run; None for where the network's parameters are.
        progress: show a progress bar.
        allow_train: run a network that is in training mode in evaluation mode, and put it back, without an error.
        space: a bound on memory, averages over space, a forecast of what it takes: see `Space`.

    Returns:
        A `CKAResult`; what is undefined is NaN and named in `result.undefined`. A batch of fewer than 4 samples cannot
        be used and is left out with a warning that names it. Neurons whose number of units is not the same in all
        batches have CKA, but are not in `result.activity`. Where a `torch.distributed` process group exists, all
        processes must call this, each with its share of the batches, and all get the result of them together;
        `batches_left_out` counts batches on from rank to rank.

    Raises:
        ValueError: no usable batch, networks in training mode, layers that are not there, a missing or wrong T.
        TypeError: an argument that is not there; of one of before, how it is said now; no CKA, no Space.
        ComparisonStopped: a later batch cannot be used; the result of those before is in its `so_far`.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
        >>> result = compare(net, loader=torch.randn(32, 3), progress=False)
        >>> [round(float(v), 6) for v in result.paired()]
        [1.0, 1.0]
    """
    refuse_unknown(compare, unknown)
    reference, other = (y, None) if isinstance(y, str) else (None, y)
    expect_one_of("y", reference, None, "input", "labels")
    expect_one_of("given", given, None, "input", "labels")
    if reference and any(isinstance(value, Mapping) and "y" in value for value in (loader, layers, T)):
        raise ValueError(f'expected no "y" in loader, layers or T beside y={y!r}: x is compared with the {y} alone')
    if batches is not None and batches < 1:
        raise ValueError(f"expected batches to be at least 1, got {batches}")
    for name, value, kinds in (("into", into, (CKA, type(None))), ("space", space, (Space,))):
        if not isinstance(value, kinds):
            raise TypeError(f"expected {name}= to be a {kinds[0].__name__}, got {value!r}")
    into = CKA() if into is None else into.ready()
    models = {"x": x} if reference else {"x": x, "y": x if other is None else other}
    for side, model in models.items():
        check_network(model, f"network {side}")
        if not allow_train:
            expect_evaluation(side, model)
    loaders = _loaders(loader)
    views = views_of(models, layers, T, select, one_loader=loaders[1] is None)
    names = [*_observables(observe), *([STEPS] if into.permutations["steps"] else [])]
    # in a group every process holds what was there before: each then adds its own share to nothing
    sums = into.empty() if in_group() and into.read else into
    attrs = {side: name_of(model) for side, model in models.items()} | ({"y": reference} if reference else {})
    run = _Pass(sums, reference, given, groups, space, attrs | {"observe": names[0]})
    with together(), as_written(), preserved(*models.values()):
        for model in models.values():
            to_evaluation(model)
        source = Minibatches(*loaders, layout, forward, batches)
        first = source.first(needed=not in_group())  # else other processes have the batches
        if first is not None:
            run.networks = observed_networks(views, first, names, space.spatial, device)
            expect_steps(run.networks, T, names)
            without = [side for side in models if run.networks.get(side, run.networks["x"]).plan.drive.T is None]
            run.attrs |= {"without_steps": " ".join(without)} if without else {}
            expect_held(run.networks.values(), first.n, space)
            if space.forecast:
                print(forecast(run.networks, first, source.count, space.limit))
        run.over(source, progress)
    sums.all_reduce()
    if sums is not into:
        into.merge(sums)
    run.grams = max(gathered(run.grams))
    result = run.result(into)
    if "group" in result.data and (result.data.group_n.values == 0).any():
        empty = result.data.group.values[result.data.group_n.values == 0]
        warnings.warn(
            f"groups {', '.join(map(str, empty[:10]))} have fewer than {MIN_SAMPLES} samples in every minibatch and so "
            "no CKA: take larger batches",
            stacklevel=2,
        )
    return result


@dataclass
class _Pass:
    """The way of every batch through the networks into the sums.

    Args:
        sums: what it is added to.
        reference, given, groups, space: as of `compare`.
        attrs: what the result says of the comparison.
        networks: by side; x alone where one pass serves both.
        grams: bytes of the centred Grams of the largest batch, and whether they lay in a temporary file.
    """

    sums: CKA
    reference: Reference | None
    given: Reference | None
    groups: Groups | None
    space: Space
    attrs: dict[str, Any]
    networks: Mapping[str, ObservedNetwork] = field(default_factory=dict)
    grams: tuple[int, bool] = (0, False)

    def over(self, source: Minibatches, progress: bool) -> None:
        """Takes all batches.

        Raises:
            ComparisonStopped: one cannot be taken, and there were others before.
        """
        before = self.sums.batches
        with tqdm(total=source.count, desc="comparing", unit="batch", disable=not progress, leave=False) as bar:
            try:
                for batch in source:
                    if batch.usable:
                        self.add(batch)
                    else:
                        self.leave_out(batch)
                    bar.update()
            except Exception as error:
                if self.sums.batches == before:
                    raise
                raise ComparisonStopped(
                    f"{error} (after {self.sums.batches} minibatches, whose result is in this exception's so_far)",
                    self.result(self.sums),
                ) from error

    def add(self, batch: Minibatch) -> None:
        """Runs the networks on a batch and adds its Grams; all sums or none of them change."""
        given = None if self.given is None else reference_grams(self.given, batch)
        masks = group_masks(self.groups, batch)
        labels = labels_in(batch) if self.sums.permutations["classes"] else None
        allocate = self.allocate(batch)
        grams = {
            side: network.grams(batch.inputs(side, network.device), batch.seed, allocate)
            for side, network in self.networks.items()
        }
        x = grams["x"]
        y = grams.get("y", x)
        if self.reference is not None:
            y = dict.fromkeys(x, reference_grams(self.reference, batch))
        main, *others = x
        also = {name: (x[name], y[name]) for name in others}
        self.sums.update_grams(x[main], y[main], given=given, groups=masks, labels=labels, seed=batch.seed, also=also)

    def leave_out(self, batch: Minibatch) -> None:
        """Counts a batch that is too small, and warns."""
        self.sums.leave_out(batch.n)
        warnings.warn(
            f"batch {batch.number} holds {batch.n} samples and is left out: the unbiased HSIC needs at least "
            f"{MIN_SAMPLES}",
            stacklevel=4,
        )

    def allocate(self, batch: Minibatch) -> Allocate | None:
        """What makes the space for a batch's Grams: a file where they are beyond the bound, else None."""
        stored = size(self.networks.values(), batch.n)[1]
        beyond = self.space.limit is not None and stored > self.space.limit
        if stored > self.grams[0]:
            if beyond and not self.grams[1]:
                message = "centred Grams take %s in a temporary file: more than memory=%r"
                _log.warning(message, in_words(stored), self.space.memory)
            self.grams = stored, beyond
        return in_file if beyond else None

    def result(self, sums: CKA) -> CKAResult:
        """The result of what was added up."""
        stored, in_a_file = self.grams
        attrs = self.attrs | {"batches_left_out": str(sums.left_out), "batches": sums.batches}
        if stored:
            attrs["grams"] = f"{in_words(stored)} in {'a temporary file' if in_a_file else 'memory'}"
        return sums.compute(attrs)


def _loaders(loader: Any) -> tuple[Any, Any]:
    """That of x, and that of y where it is another."""
    loaders = by_side("loader", loader)
    if any(side is None for side in loaders.values()):
        raise ValueError(
            "compare needs loader=: batches of images, e.g. a torch DataLoader or one tensor [N, ...], or two of the "
            'same samples, {"x": ..., "y": ...}'
        )
    return loaders["x"], loaders["y"] if isinstance(loader, Mapping) else None


def _observables(observe: Observable | Sequence[Observable]) -> list[Observable]:
    names: list[Observable] = [observe] if isinstance(observe, str) else list(observe)
    if not names or len(set(names)) != len(names) or any(name not in OBSERVABLES for name in names):
        raise ValueError(f"expected observe to be one or several of {', '.join(OBSERVABLES)}, got {observe!r}")
    return names
