"""What a recipe may say, how it is read, and that every fault is told with its file, line and key path."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from sj_cka.data import AUGMENTATIONS, DATASETS
from sj_cka.data.events import EVENT_SETS
from sj_cka.figures import FIGURES
from sj_cka.recipe import NetworkName, RecipeError, read, schema
from sj_cka.recipe.blocks import Train
from sj_cka.recipe.choices import NEURON, NameTable
from sj_cka.training import Settings
from sj_cka.typed import Float, Int

ROOT = Path(__file__).resolve().parents[1]
Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8e-3", 0.008),
        ("1e3", 1000.0),
        ("8/255", 8 / 255),
        ("8 / 255", 8 / 255),
        ("-1E-4", -1e-4),
        ("0.1", 0.1),
        ("3", 3.0),
    ],
)
def test_numbers_that_yaml_reads_as_text_are_numbers(text: str, value: float) -> None:
    assert TypeAdapter(Float).validate_python(yaml.safe_load(text)) == value


@pytest.mark.parametrize(("text", "value"), [("4", 4), ("1e3", 1000), ("4.0", 4), ("8/2", 4)])
def test_whole_numbers_may_be_written_in_any_way(text: str, value: int) -> None:
    found = TypeAdapter(Int).validate_python(yaml.safe_load(text))
    assert found == value
    assert type(found) is int


@pytest.mark.parametrize(
    "text", ["true", "yes", "'4 '", "''", ".nan", "nan", ".inf", "1e999", "1_0.x", "8/0", "[1]", "null", "{}"]
)
@pytest.mark.parametrize("kind", [Int, Float])
def test_what_is_no_number_is_refused(text: str, kind: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(yaml.safe_load(text))


@pytest.mark.parametrize("text", ["4.5", "9/2", "1e-3"])
def test_a_whole_number_is_not_rounded(text: str) -> None:
    with pytest.raises(ValidationError, match="integer"):
        TypeAdapter(Int).validate_python(yaml.safe_load(text))


# every fault: what is changed, with the mark <-- in the line that the message must name; the key path; the message
FAULTS: dict[str, tuple[tuple[str, str], str, str]] = {
    "unknown key": (("question:", "sedes: 3 # <--\nquestion:"), "sedes", "unknown key; did you mean 'seeds'"),
    "unknown key in a block": (("  lr: 0.1", "  lrr: 0.1 # <--"), "train.lrr", "unknown key; did you mean 'lr'"),
    "unknown key in a claim": (
        ("    source: nobody", "    sauce: nobody # <--"),
        "claims[0].sauce",
        "unknown key; did you mean 'source'",
    ),
    "unknown key in an arm": (
        ("a: {measure: paired_cka, comparison", "a: {measure: paired_cka, comparision: x, comparison"),
        "claims[0].a.comparision",
        "unknown key; did you mean 'comparison'",
    ),
    "unknown key in a profile": (
        ("  smoke:\n    train: {epochs: 1}", "  paper:\n    train: {epocs: 1} # <--"),
        "profiles.paper.train.epocs",
        "unknown key; did you mean 'epochs'",
    ),
    "profiles in a profile": (
        ("    train: {epochs: 1}", "    profiles: {} # <--"),
        "profiles.smoke.profiles",
        "unknown key: a profile holds no profiles",
    ),
    "unknown key in a variant": (
        ("    model: {residual: []}", "    modle: {residual: []} # <--"),
        "variants.none.modle",
        "unknown key; did you mean 'model'",
    ),
    "unknown option in a variant": (
        ("    model: {residual: []}", "    model: {residuals: []} # <--"),
        "variants.none.model.residuals",
        "unknown key; did you mean 'residual'",
    ),
    "unknown option of a model": (
        ("depth: 8}", "depht: 8} # <--"),
        "model.depht",
        "unknown key; did you mean 'depth'",
    ),
    "unknown option of a neuron": (
        ("tau: 2.0}", "taau: 2.0} # <--"),
        "snn.neuron.taau",
        "unknown key; did you mean 'tau'",
    ),
    "unknown option of data": (
        ("{name: npz, path: images.npz}", "{name: digits, path: x} # <--"),
        "data.path",
        "unknown key; known: size, train",
    ),
    "missing key": (("title: Tiny\n", ""), "title", "expected this key, it is missing"),
    "missing key in a claim": (
        ("  - test: greater\n    says: Shortcuts help.", "  - test: greater # <--"),
        "claims[0].says",
        "expected this key, it is missing",
    ),
    "claim without test": (
        ("  - test: greater\n    says", "  - says"),
        "claims[0].test",
        "expected this key, it is missing",
    ),
    "missing option": (("path: images.npz}", "} # <--"), "data.path", "expected this key, it is missing"),
    "missing name": (
        ("{name: resnet, depth: 8}", "{depth: 8} # <--"),
        "model.name",
        "expected this key, it is missing",
    ),
    "text for a block": (
        ("{name: npz, path: images.npz}", "digits # <--"),
        "data",
        "expected a map of keys, got 'digits'",
    ),
    "list for a block": (("cka:\n  batch_size: 16", "cka: [16] # <--"), "cka", r"expected a map of keys, got \[16\]"),
    "map for a list": (
        ("    layers: [layer1.0.lif2]", "    layers: {conv1: 1} # <--"),
        "figures[1].layers",
        "expected a list, got {'conv1': 1}",
    ),
    "nothing for a list": (("seeds: 2\n", "seeds: 2\nsource: # <--\n"), "source", "expected a text, got nothing"),
    "number for profiles": (
        ("profiles:\n  smoke:\n    train: {epochs: 1}\n", "profiles: 3 # <--\n"),
        "profiles",
        "expected a map of profiles, got 3",
    ),
    "text for a number": (("  lr: 0.1", "  lr: fast # <--"), "train.lr", "expected a number, got 'fast'"),
    "truth for a number": (("  T: 2", "  T: true # <--"), "snn.T", "expected a number, got true"),
    "truth for an option": (("depth: 8", "depth: yes"), "model.depth", "expected a number, got true"),
    "fraction for a count": (("  T: 2", "  T: 2.5 # <--"), "snn.T", "expected a whole number, got 2.5"),
    "NaN": (("  lr: 0.1", "  lr: .nan # <--"), "train.lr", "expected .*, got nan"),
    "number for a list": (
        ("residual: []}", "residual: 1} # <--"),
        "variants.none.model.residual",
        "expected a list, got 1",
    ),
    "number for a text": (("title: Tiny", "title: 5 # <--"), "title", "expected a text, got 5"),
    "other choice": (("  lr: 0.1", "  init: equal # <--"), "train.init", "expected 'fresh' or 'same', got 'equal'"),
    "T of 0": (("  T: 2", "  T: 0 # <--"), "snn.T", "expected at least 1, got 0"),
    "CKA batch under 4": (
        ("  batch_size: 16", "  batch_size: 3 # <--"),
        "cka.batch_size",
        "expected at least 4, got 3",
    ),
    "learning rate of 0": (("  lr: 0.1", "  lr: 0 # <--"), "train.lr", "expected more than 0, got 0"),
    "momentum of 1": (("  lr: 0.1", "  momentum: 1 # <--"), "train.momentum", "expected less than 1, got 1"),
    "no seeds": (
        ("seeds: 2", "seeds: 0 # <--"),
        "seeds",
        "expected a number of seeds from 1 to 1,000, or a list of seeds, got 0",
    ),
    "equal seeds": (
        ("seeds: 2", "seeds: [1, 1] # <--"),
        "seeds",
        r"expected at least one seed, each once and from 0, got \[1, 1\]",
    ),
    "seed that is none": (("seeds: 2", "seeds: [1, two] # <--"), r"seeds[1]", "expected a number, got 'two'"),
    "unknown data set": (
        ("{name: npz, path: images.npz}", "{name: digit} # <--"),
        "data.name",
        "unknown data set 'digit'; did you mean 'digits'",
    ),
    "unknown augmentation": (
        ("batch_size: 32", "augment: [crop, flop] # <--"),
        "train.augment[1]",
        "unknown augmentation 'flop'; did you mean 'flip'",
    ),
    "unknown learning rule": (
        ("batch_size: 32", "rule: bpt # <--"),
        "train.rule",
        "unknown learning rule 'bpt'; did you mean 'bptt'",
    ),
    "unknown option of a learning rule": (
        ("batch_size: 32", "ann: {rule: {name: bptt, depth: 4}} # <--"),
        "train.ann.rule.depth",
        "unknown key",
    ),
    "unknown option of an augmentation": (
        ("batch_size: 32", "augment: [{name: crop, pad: 4}] # <--"),
        "train.augment[0].pad",
        "unknown key; did you mean 'padding'",
    ),
    "fraction of an epoch": (("batch_size: 32", "warmup: 0.5 # <--"), "train.warmup", "expected a whole number"),
    "clip of nothing": (("batch_size: 32", "clip: 0 # <--"), "train.clip", "expected more than 0, got 0"),
    "unknown loss": (("batch_size: 32", "loss: mse # <--"), "train.loss", "expected 'mean' or 'tet', got 'mse'"),
    "unknown precision": (("batch_size: 32", "precision: fp8 # <--"), "train.precision", "expected 'float32', 'bf16'"),
    "epoch kept twice": (("batch_size: 32", "keep: [1, 1] # <--"), "train.keep", "expected epochs from 0, each once"),
    "never run what is not there": (
        ("profiles:", "never_run: [smok] # <--\nprofiles:"),
        "never_run",
        "no profile 'smok'; did you mean 'smoke'",
    ),
    "unknown model": (("name: resnet", "name: resnt"), "model.name", "unknown model 'resnt'; did you mean 'resnet'"),
    "unknown neuron": (("name: lif", "name: liff"), "snn.neuron.name", "unknown neuron 'liff'; did you mean 'lif'"),
    "unknown figure": (
        ("{name: curve,", "{name: curves,"),
        "figures[0].name",
        "unknown figure 'curves'; did you mean 'curve'",
    ),
    "figure without comparison": (
        ("{name: curve, comparison: twins}", "{name: heatmap} # <--"),
        "figures[0].comparison",
        "expected the comparison that the heatmap shows",
    ),
    "figure of no comparison": (
        ("{name: curve, comparison: twins}", "{name: curve, comparison: twin} # <--"),
        "figures[0].comparison",
        "no comparison 'twin'; did you mean 'twins'",
    ),
    "comparison for accuracy": (
        ("{name: curve, comparison: twins}", "{name: accuracy, comparison: twins} # <--"),
        "figures[0].comparison",
        "expected none: accuracy shows all networks",
    ),
    "the ceiling of two spiking networks": (
        ("{name: curve, comparison: twins}", "{name: heatmap, comparison: shortcuts, state: ceiling} # <--"),
        "figures[0].state",
        "expected a comparison of two kinds of network, of pairs of variants, or of a list of variants across seeds",
    ),
    "a trend without a sweep": (
        ("{name: curve, comparison: twins}", "{name: trend, comparison: twins} # <--"),
        "figures[0].name",
        "expected a sweep over at least 2 numbers above 0 for a trend",
    ),
    "a trend of one variant": (
        ("{name: curve, comparison: twins}", "{name: trend, comparison: shortcuts} # <--"),
        "figures[0].comparison",
        "expected a comparison over all variants",
    ),
    "a trend of a network's measure": (
        ("{name: curve, comparison: twins}", "{name: trend, comparison: twins, measure: accuracy} # <--"),
        "figures[0].measure",
        "expected a measure of a comparison; known: paired_cka, partial_cka, restoration",
    ),
    "measure for a curve": (
        ("{name: curve, comparison: twins}", "{name: curve, comparison: twins, measure: periodicity} # <--"),
        "figures[0].measure",
        "unknown key; known: name, comparison, state, title",
    ),
    "small multiples of a ceiling": (
        ("{name: curve, comparison: twins}", "{name: heatmaps, comparison: twins, state: ceiling} # <--"),
        "figures[0].state",
        "expected trained or untrained: heatmaps shows no ceiling",
    ),
    "a threshold that is no share": (
        ("seeds: 2", "converted: {mode: most} # <--\nseeds: 2"),
        "converted.mode",
        'expected "max" or a percentile like "99.9%", got \'most\'',
    ),
    "state for a curve": (
        ("{name: curve, comparison: twins}", "{name: curve, comparison: twins, state: untrained} # <--"),
        "figures[0].state",
        "expected none: curve has no state to choose",
    ),
    "layers for a curve": (
        ("{name: curve, comparison: twins}", "{name: curve, comparison: twins, layers: [conv1]} # <--"),
        "figures[0].layers",
        "unknown key; known: name, comparison, state, title",
    ),
    "unknown test": (
        ("test: greater", "test: greatr # <--"),
        "claims[0].test",
        "unknown test 'greatr'; did you mean 'greater'",
    ),
    "unknown measure": (
        ("b: {measure: paired_cka,", "b: {measure: paired_ckaa,"),
        "claims[0].b.measure",
        "unknown measure 'paired_ckaa'; did you mean 'paired_cka'",
    ),
    "unknown comparison in a claim": (
        ("b: {measure: paired_cka, comparison: twins,", "b: {measure: paired_cka, comparison: twin,"),
        "claims[0].b.comparison",
        "no comparison 'twin'; did you mean 'twins'",
    ),
    "unknown variant in a claim": (
        ("variant: none}", "variant: nonne} # <--"),
        "claims[0].b.variant",
        "expected a variant of the study, got 'nonne'; did you mean 'none'",
    ),
    "claim without variant": (
        (", variant: none}", "} # <--"),
        "claims[0].b.variant",
        "expected a variant of the study, it is missing; known: all, none",
    ),
    "variant nobody trains": (
        ("y: none.snn}", "y: non.snn} # <--"),
        "compare[1].y",
        "'non.snn': nobody trains a variant 'non'; did you mean 'none'",
    ),
    "network of no kind": (
        ("y: none.snn}", "y: none.mlp} # <--"),
        "compare[1].y",
        r"expected <variant>\.snn, <variant>\.ann or <variant>\.converted, got 'none\.mlp'",
    ),
    "unknown moment": (
        ("y: none.snn}", "y: none.snn@5} # <--"),
        "compare[1].y",
        r"expected an epoch up to 1, the last of none\.snn, got 5",
    ),
    "moment that is not kept": (
        ("y: none.snn}", "y: none.snn@1} # <--"),
        "compare[1].y",
        r"expected an epoch of train\.keep, which keeps none, got 1",
    ),
    "moment of a converted network": (
        ("y: none.snn}", "y: none.converted@1} # <--"),
        "compare[1].y",
        "expected a trained network before @1: a converted one has no epochs",
    ),
    "no moment": (
        ("y: none.snn}", "y: none.snn@last} # <--"),
        "compare[1].y",
        r"expected @init, @<epoch> or nothing after none\.snn, got 'none\.snn@last'",
    ),
    "star on one side": (("y: none.snn}", 'y: "*.snn"}'), r"compare[1]", "expected \\* in both x and y, or in none"),
    "comparison given twice": (
        ("{name: shortcuts, x: all.snn", "{name: twins, x: all.snn"),
        "compare[1].name",
        "expected a name of its own, 'twins' is given twice",
    ),
    "name of a comparison": (
        ("{name: shortcuts,", "{name: with/without,"),
        "compare[1].name",
        "expected a name of letters, digits, '_' and '-', got 'with/without'",
    ),
    "name of a variant": (("  none:\n", "  no ne: # <--\n"), "variants.no ne", "expected a name of letters"),
    "variants and sweep": (
        ("cka:\n", "sweep: {model.depth: [8, 14]} # <--\ncka:\n"),
        "sweep",
        "expected variants or a sweep, got both",
    ),
    "trained_at in a variant": (
        ("    model: {residual: []}", "    train: {trained_at: 0.5} # <--"),
        "variants.none.train.trained_at",
        "expected one value for the whole study",
    ),
    "key given twice": (
        ("  lr: 0.1", "  lr: 0.1\n  lr: 0.2 # <--"),
        "train.lr",
        "expected each key once, it is given twice",
    ),
    "truth value as a key": (
        ("  none:\n", "  no: # <--\n"),
        "variants",
        "expected a text as key, got no, which is a truth value in YAML: put it into quotes",
    ),
    "number as a key": (("  none:\n", "  8: # <--\n"), "variants", "expected a text as key, got 8, which is a number"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_told_with_its_line_and_key_path(fault: str, recipe_file: Write) -> None:
    (old, new), key, message = FAULTS[fault]
    path = recipe_file((old, new))
    marked = [i for i, line in enumerate(path.read_text().splitlines(), start=1) if "<--" in line or new in line]
    line = marked[0] if new and marked else 1
    with pytest.raises(RecipeError) as caught:
        read(path)
    told = str(caught.value)
    assert told.startswith(f"{path}:{line}: {key}: "), told
    with pytest.raises(RecipeError, match=message):
        read(path)
    assert not [word for word in ("Input should", "Value error", "function-", "tagged") if word in told]
    assert "\n" not in told


# the same of the keys on time steps
TIME_FAULTS: dict[str, tuple[tuple[str, str], str, str]] = {
    "steps of an ANN": (
        ('x: "*.snn", y: "*.ann"}', 'x: "*.snn", y: "*.ann", T_y: 2}'),
        "compare[0].T_y",
        r"expected none: T-1\.ann has no steps",
    ),
    "no steps": (
        ("T_x: [2, 3]}", "T_x: 0} # <--"),
        "compare[3].T_x",
        "expected at least one number of steps, each once",
    ),
    "equal steps": (("T_x: [2, 3]}", "T_x: [2, 2]} # <--"), "compare[3].T_x", r"each once and from 1, got \[2, 2\]"),
    "steps that are none": (("T_x: [2, 3]}", "T_x: [2, x]} # <--"), "compare[3].T_x[1]", "expected a number, got 'x'"),
    "several T_y": (("T_x: [2, 3]}", "T_y: [2, 3]} # <--"), "compare[3].T_y", r"expected .* number, got \[2, 3\]"),
    "pairs without a star": (
        ("T_x: [2, 3]}", "variants: pairs} # <--"),
        "compare[3].variants",
        r"expected the same x and y, with \*, for pairs of variants, got 'T-2\.snn' and 'T-2\.ann'",
    ),
    "pairs of two kinds": (
        ('x: "*.snn", y: "*.ann"}', 'x: "*.snn", y: "*.ann", variants: pairs}'),
        "compare[0].variants",
        "expected the same x and y",
    ),
    "pairs at other steps": (
        ("variants: pairs, layers", "variants: pairs, T_x: 2, layers"),
        "compare[1].T_x",
        "expected none: pairs of variants run with the steps of their training",
    ),
    "other choice of variants": (
        ("variants: pairs, layers", "variants: all, layers"),
        "compare[1].variants",
        "expected 'same' or 'pairs', got 'all'",
    ),
    "the timing null of an ANN": (
        ("x: T-2.snn, y: T-2.ann, T_x: [2, 3]}", "x: T-2.ann, y: T-2.snn, permutation_test: true}"),
        "compare[3].permutation_test",
        r"expected a spiking x: T-2\.ann has no steps",
    ),
    "no truth for a timing null": (
        ("permutation_test: true", "permutation_test: timing"),
        "compare[2].permutation_test",
        "expected true or false, got 'timing'",
    ),
    "null as a key": (("permutation_test: true", "null: timing"), "compare[2]", "got null, which is nothing in YAML"),
    "an ANN evaluated": (
        ('network: "*.snn", T: [1, 2]', 'network: "*.ann", T: [1, 2]'),
        "evaluate[0].network",
        r"expected a trained spiking network, <variant>\.<snn\|converted>, got 'T-1\.ann'",
    ),
    "an untrained network evaluated": (
        ('network: "*.snn", T: [1, 2]', "network: T-1.snn@init, T: [1, 2]"),
        "evaluate[0].network",
        "expected a trained spiking network",
    ),
    "an unknown network evaluated": (
        ('network: "*.snn", T: [1, 2]', "network: T-3.snn, T: [1, 2]"),
        "evaluate[0].network",
        "nobody trains a variant 'T-3'",
    ),
    "evaluated at no T": (
        ('network: "*.snn", T: [1, 2]', 'network: "*.snn"'),
        "evaluate[0].T",
        "expected this key, it is missing",
    ),
    "figure of evaluations that are none": (
        ('evaluate:\n  - {network: "*.snn", T: [1, 2]}\n', ""),
        "figures[4].name",
        "expected networks under evaluate for the accuracy at other T, got none",
    ),
    "variants of no pairs": (
        ("{name: variants, comparison: across}", "{name: variants, comparison: twins} # <--"),
        "figures[3].comparison",
        "expected a comparison of pairs of variants, 'twins' is none",
    ),
    "dynamics of two networks": (
        ("{name: dynamics, comparison: inside}", "{name: dynamics, comparison: twins} # <--"),
        "figures[2].comparison",
        "expected a comparison of a spiking network with itself, x and y alike, 'twins' is none",
    ),
    "the ceiling of dynamics": (
        ("{name: dynamics, comparison: inside}", "{name: dynamics, comparison: inside, state: ceiling} # <--"),
        "figures[2].state",
        "expected trained or untrained: dynamics shows no ceiling",
    ),
    "dynamics claimed of two networks": (
        ("b: {measure: dynamics, comparison: inside", "b: {measure: dynamics, comparison: twins"),
        "claims[0].b.comparison",
        "expected a comparison of a spiking network with itself, x and y alike for dynamics, 'twins' is none",
    ),
    "dynamics against CKA": (
        ("b: {measure: dynamics, comparison: inside", "b: {measure: paired_cka, comparison: inside"),
        "claims[0].b.measure",
        "expected two arms that can be compared, got paired_cka against dynamics",
    ),
    "dynamics near a ceiling": (
        (
            "{measure: paired_cka, comparison: across, variant: T-1 and T-2}",
            "{measure: dynamics, comparison: inside, variant: T-2}",
        ),
        "claims[1].a",
        "only that has a noise ceiling; got dynamics of 'inside'",
    ),
    "a pair that is none": (
        ("variant: T-1 and T-2}", "variant: T-2 and T-1} # <--"),
        "claims[1].a.variant",
        "expected a variant of the study, got 'T-2 and T-1'; did you mean 'T-2 and T-4'",
    ),
    "accuracy at a T nobody evaluates": (
        ("network: T-4.snn, T: 2}", "network: T-4.snn, T: 8} # <--"),
        "claims[2].a.T",
        r"expected a T that evaluate names for T-4\.snn \(1, 2\), got 8",
    ),
    "steps of a comparison in a claim": (
        ("variant: T-1 and T-2}", "variant: T-1 and T-2, T: 2} # <--"),
        "claims[1].a.T",
        "expected no T: paired_cka is that of a comparison",
    ),
    "layers of an accuracy": (
        ("network: T-4.snn, T: 2}", "network: T-4.snn, layers: [conv1]} # <--"),
        "claims[2].a.layers",
        "expected no layers: accuracy is that of a network",
    ),
    "margin below 0": (("margin: 0.01", "margin: -0.01 # <--"), "claims[2].margin", "expected at least 0, got -0.01"),
    "margin without a reason": (
        ("  - test: greater", "  - test: greater\n    margin: 0.1 # <--"),
        "claims[0].margin",
        "expected a reason beside it: differences within the margin are of no matter, and the reason says why",
    ),
    "reason without a margin": (
        ("  - test: greater", "  - test: greater\n    reason: none # <--"),
        "claims[0].reason",
        "expected a margin beside it",
    ),
    "margin of a ceiling": (
        ("  - test: near_ceiling", "  - test: near_ceiling\n    margin: 0.1 # <--\n    reason: none"),
        "claims[1].margin",
        "expected none: near_ceiling asks for 0.95 of the ceiling",
    ),
    "steps of pairs that are no seconds": (
        ("variants: pairs, layers: [conv1", "variants: pairs, seeds: others, layers: [conv1"),
        "compare[1].seeds",
        "expected 'same' or 'across', got 'others'",
    ),
}


@pytest.mark.parametrize("fault", TIME_FAULTS)
def test_every_fault_on_time_steps_is_told_with_its_line_and_key_path(fault: str, time_file: Write) -> None:
    (old, new), key, message = TIME_FAULTS[fault]
    path = time_file((old, new))
    lines = path.read_text().splitlines()
    marked = [i for i, line in enumerate(lines, start=1) if new and ("<--" in line or new in line)]
    line = marked[0] if marked else next(i for i, line in enumerate(lines, start=1) if "accuracy_by_steps" in line)
    with pytest.raises(RecipeError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:{line}: {key}: "), caught.value


def test_pairs_are_every_two_variants_and_several_steps_are_compared_in_turn(time_file: Write) -> None:
    study = read(time_file())
    twins, across, inside, rerun = (study.sides(comparison) for comparison in study.recipe.compare)
    assert list(twins) == list(inside) == ["T-1", "T-2", "T-4"]
    assert across == {
        "T-1 and T-2": ("T-1.snn", "T-2.snn", None, None, None),
        "T-1 and T-4": ("T-1.snn", "T-4.snn", None, None, None),
        "T-2 and T-4": ("T-2.snn", "T-4.snn", None, None, None),
    }
    assert rerun == {f"at T = {T}": ("T-2.snn", "T-2.ann", T, None, None) for T in (2, 3)}
    assert rerun["at T = 3"].titles == ("T-2.snn at T = 3", "T-2.ann")
    one = read(time_file(("T_x: [2, 3]", "T_x: 3")))
    assert one.sides(one.recipe.compare[3]) == {"": ("T-2.snn", "T-2.ann", 3, None, None)}


def test_a_missing_recipe_is_told_with_the_closest_file(recipe_file: Write) -> None:
    path = recipe_file()
    with pytest.raises(
        RecipeError, match=r"tinny\.yaml: expected a recipe, found no such file; did you mean 'tiny\.yaml'"
    ):
        read(path.with_name("tinny.yaml"))


def test_an_unknown_profile_is_told_with_the_closest_one(recipe_file: Write) -> None:
    with pytest.raises(RecipeError, match="no profile 'smok'; did you mean 'smoke'"):
        read(recipe_file(), "smok")


def test_a_profile_joins_maps_replaces_the_rest_and_takes_away_by_null(recipe_file: Write) -> None:
    change = ["train: {epochs: 3, lr: null}", "seeds: [5]", "figures: []", "variants: {none: null}", "compare: []"]
    path = recipe_file(("    train: {epochs: 1}", "\n".join(f"    {line}" for line in [*change, "claims: []"])))
    study = read(path, "smoke")
    assert (study.recipe.train.epochs, study.recipe.train.batch_size, study.recipe.train.lr) == (3, 32, 0.1)
    assert study.seeds == (5,)
    assert list(study.conditions) == ["all"]
    assert study.recipe.figures == []


def test_quick_may_be_missing_and_an_empty_profile_changes_nothing(recipe_file: Write) -> None:
    path = recipe_file(("  smoke:\n    train: {epochs: 1}", "  smoke:"))
    assert read(path).recipe == read(path, "smoke").recipe
    assert read(path).profile == "quick"


def test_a_fault_that_a_profile_brings_is_told_at_its_line_there(recipe_file: Write) -> None:
    path = recipe_file(("    train: {epochs: 1}", "    figures:\n      - {name: curve, comparison: twin}"))
    read(path)
    with pytest.raises(
        RecipeError, match=r"tiny\.yaml:\d+: profiles\.smoke\.figures\[0\]\.comparison: no comparison"
    ) as caught:
        read(path, "smoke")
    assert (
        "- {name: curve, comparison: twin}" in path.read_text().splitlines()[int(str(caught.value).split(":")[1]) - 1]
    )


def test_a_key_missing_in_a_list_that_a_profile_replaces_is_not_told_at_the_old_line(recipe_file: Write) -> None:
    path = recipe_file(("    train: {epochs: 1}", "    compare:\n      - {name: twins, x: all.snn}"))
    with pytest.raises(RecipeError, match=r"profiles\.smoke\.compare\[0\]\.y: expected this key") as caught:
        read(path, "smoke")
    assert "x: all.snn}" in path.read_text().splitlines()[int(str(caught.value).split(":")[1]) - 1]


def test_a_variant_changes_only_what_it_names_and_null_is_a_value_in_it(recipe_file: Write) -> None:
    change = "    snn: {T: 3, neuron: {v_reset: null}}\n    train: {ann: {momentum: 0.5}}"
    conditions = read(recipe_file(("    model: {residual: []}", change))).conditions
    assert conditions["all"].snn.T == 2
    assert conditions["none"].snn.T == 3
    assert conditions["none"].snn.neuron.options() == {"name": "lif", "tau": 2.0, "v_reset": None}
    assert conditions["none"].train.of("ann")["momentum"] == 0.5
    assert conditions["none"].train.of("snn")["momentum"] == 0.9
    assert conditions["none"].model == conditions["all"].model == {"name": "resnet", "depth": 8}


def sweep(where: str, values: str) -> list[tuple[str, str]]:
    return [
        ("variants:\n  all: {}\n  none:\n    model: {residual: []}\n", f"sweep:\n  {where}: {values}\n"),
        ("  - {name: shortcuts, x: all.snn, y: none.snn}\n", ""),
        ("  - test: greater\n", "  - test: trend\n    direction: up\n"),
        (", variant: all}", "}"),
        ("    b: {measure: paired_cka, comparison: twins, variant: none}\n", ""),
    ]


def test_a_sweep_makes_a_variant_of_each_value(recipe_file: Write) -> None:
    study = read(recipe_file(*sweep("snn.neuron.tau", "[2, 1e1, 5/2]")))
    assert {name: c.value for name, c in study.conditions.items()} == {"tau-2": 2.0, "tau-1e1": 10.0, "tau-5-2": 2.5}
    assert study.sides(study.recipe.compare[0])["tau-5-2"] == ("tau-5-2.snn", "tau-5-2.ann", None, None, None)
    name = NetworkName("tau-0.5.snn@init")
    assert (name.variant, name.kind, name.moment, name.trained) == ("tau-0.5", "snn", "init", "tau-0.5.snn")


@pytest.mark.parametrize(
    ("where", "values", "key", "message"),
    [
        (
            "cka.batches",
            "[1, 2]",
            "sweep.cka.batches",
            "expected a key path under data, model, snn or train, got 'cka.batches'",
        ),
        ("model.depth", "[]", "sweep.model.depth", "expected at least one value and at most 200, got none"),
        ("model.depth", "[8, 8]", "sweep.model.depth[1]", "expected each value once, 8 is given twice"),
        ("model.depht", "[8, 14]", "sweep.model.depht[0]", "unknown key; did you mean 'depth'"),
        ("snn.T", "[2, 0]", "sweep.snn.T[1]", "expected at least 1, got 0"),
        ("model.depth", "[8, x]", "sweep.model.depth[1]", "expected a number, got 'x'"),
        (
            "model.residual",
            "[[], [1]]",
            "claims[0].test",
            "expected a sweep over at least 2 numbers above 0 for a trend",
        ),
    ],
)
def test_every_fault_of_a_sweep_is_told_at_its_value(
    recipe_file: Write, where: str, values: str, key: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read(recipe_file(*sweep(where, values)))
    assert f": {key}: " in str(caught.value)


ARM_A = "    a: {measure: paired_cka, comparison: twins, variant: all}\n"
ARM_B = "    b: {measure: paired_cka, comparison: twins, variant: none}\n"


@pytest.mark.parametrize(
    ("test", "arms", "key", "message"),
    [
        (
            "greater",
            "    a: {measure: accuracy}\n    b: {measure: accuracy}",
            "a.network",
            "expected the network whose accuracy",
        ),
        (
            "above\n    value: 0",
            "    a: {measure: accuracy, network: non.snn}",
            "a.network",
            "nobody trains a variant 'non'",
        ),
        (
            "above\n    value: 0",
            "    a: {measure: accuracy, network: all.snn@init}",
            "a.network",
            "expected a trained network",
        ),
        (
            "above\n    value: 0",
            "    a: {measure: accuracy, network: all.snn, variant: all}",
            "a.variant",
            "expected no variant",
        ),
        (
            "above\n    value: 0",
            "    a: {measure: paired_cka, comparison: twins, variant: all, network: all.snn}",
            "a.network",
            "expected no network",
        ),
        (
            "above\n    value: 0",
            "    a: {measure: paired_cka}",
            "a.comparison",
            "expected the comparison whose paired_cka",
        ),
        (
            "above\n    value: 0",
            "    a: {measure: paired_cka, comparison: shortcuts, variant: all}",
            "a.variant",
            "'shortcuts' names its own",
        ),
        ("above\n    value: yes", ARM_A, "value", "expected a number, got true"),
        (
            "greater",
            ARM_A + "    b: {measure: accuracy, network: all.snn}",
            "b.measure",
            "expected two arms that can be compared",
        ),
        (
            "near_ceiling",
            "    a: {measure: accuracy, network: all.snn}",
            "a",
            "expected paired_cka of a comparison of two kinds of network",
        ),
        ("near_ceiling", "    a: {measure: paired_cka, comparison: shortcuts}", "a", "only that has a noise ceiling"),
        ("trend\n    direction: up", ARM_A, "a.variant", "expected no variant: a trend is over all of them"),
        ("trend\n    direction: up", "    a: {measure: paired_cka, comparison: twins}", "test", "expected a sweep"),
        (
            "trend\n    direction: up",
            "    a: {measure: paired_cka, comparison: shortcuts}",
            "a.comparison",
            "expected a comparison over all variants",
        ),
        (
            "trend\n    direction: up",
            "    a: {measure: accuracy, network: all.snn}",
            "a.network",
            "expected snn, ann or converted, of every variant",
        ),
        (
            "trend\n    direction: sideways",
            "    a: {measure: accuracy, network: snn}",
            "direction",
            "expected 'up' or 'down', got 'sideways'",
        ),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(
    recipe_file: Write, test: str, arms: str, key: str, message: str
) -> None:
    path = recipe_file(("test: greater", f"test: {test}"), (ARM_A + ARM_B, arms.rstrip("\n") + "\n"))
    with pytest.raises(RecipeError, match=message) as caught:
        read(path)
    assert f": claims[0].{key}: " in str(caught.value)


@pytest.mark.parametrize(
    ("test", "arms", "key", "message"),
    [
        (
            "greater",
            ARM_A + "    b: {measure: paired_cka, comparison: far, variant: all}\n",
            "b.comparison",
            "expected comparisons of one measure of similarity, got procrustes against cka",
        ),
        (
            "above\n    value: 0",
            ARM_A.replace("variant", "minus: far, variant"),
            "a.minus",
            "expected a comparison by cka as twins is, got one by procrustes",
        ),
        (
            "greater",
            ARM_A + ARM_B + ARM_A.replace("a:", "c:"),
            "",
            "expected c and d, or neither: got c alone",
        ),
        (
            "greater",
            "    a: {measure: accuracy, network: all.snn, minus: all.cnn}\n"
            "    b: {measure: accuracy, network: none.snn, minus: none.ann}\n",
            "a.minus",
            "all.cnn",
        ),
        (
            "near_ceiling",
            ARM_A.replace("twins", "far"),
            "a.comparison",
            "expected a measure of similarity for near_ceiling, procrustes is a distance",
        ),
    ],
)
def test_arms_that_do_not_go_together_are_refused(
    recipe_file: Write, test: str, arms: str, key: str, message: str
) -> None:
    far = '  - {name: far, x: "*.snn", y: "*.ann", measure: procrustes}\nfigures:\n'
    path = recipe_file(("test: greater", f"test: {test}"), (ARM_A + ARM_B, arms), ("figures:\n", far))
    with pytest.raises(RecipeError, match=message) as caught:
        read(path)
    assert f": claims[0].{key}".removesuffix(".") in str(caught.value)


def test_a_neuron_without_a_name_is_the_lif(recipe_file: Write) -> None:
    sweep = ("variants:\n  all: {}\n  none:\n    model: {residual: []}\n", "sweep: {snn.neuron.tau: [1.5, 2.0]}\n")
    path = recipe_file(
        ("  T: 2\n  neuron: {name: lif, tau: 2.0}\n", "  T: 2\n"),
        sweep,
        ("  - {name: shortcuts, x: all.snn, y: none.snn}\n", ""),
        name="swept.yaml",
    )
    text = path.read_text()
    path.write_text(text[: text.index("claims:")])
    conditions = read(path).conditions
    assert [c.snn.neuron.options() for c in conditions.values()] == [{"name": "lif", "tau": v} for v in (1.5, 2.0)]


def test_other_seeds_need_two(recipe_file: Write) -> None:
    changes = ("y: none.snn}", "y: none.snn, seeds: across}"), ("seeds: 2", "seeds: 1")
    with pytest.raises(
        RecipeError, match=r"compare\[1\]\.seeds: expected at least 2 seeds in the study for 'across', got 1"
    ):
        read(recipe_file(*changes))


def test_an_option_at_its_default_leaves_no_trace() -> None:
    assert NEURON.without_defaults({"name": "lif", "tau": 2, "v_reset": 0.0, "alpha": None}) == {"name": "lif"}
    assert NEURON.without_defaults({"name": "lif", "tau": "3/2"}) == {"name": "lif", "tau": 1.5}


def network(
    neuron: Any,
    *,
    T: int,
    path: Path = Path("x"),
    stages: tuple[int, ...] = (1, 2),
    rate: float | None = None,
    on: bool = False,
) -> None:
    """Stands for a function of a table."""


def test_options_are_checked_against_the_signature_without_what_the_study_hands_over() -> None:
    choice = NameTable("network", {"n": network}, ("neuron", "T"))
    model = choice.options_model("n")
    assert list(model.model_fields) == ["path", "stages", "rate", "on"]
    block = {"name": "n", "stages": [1, 2], "rate": "1e-1", "path": "a/b", "on": True}
    assert choice.typed(block) == {"name": "n", "stages": [1, 2], "rate": 0.1, "path": Path("a/b"), "on": True}
    assert choice.without_defaults(block) == {"name": "n", "rate": 0.1, "on": True}
    for bad in ({"T": 4}, {"stages": 1}, {"stages": [True]}, {"rate": "x"}, {"on": 1}):
        with pytest.raises(ValidationError):
            model.model_validate(bad)


def test_what_the_study_hands_to_one_table_may_be_an_option_in_another(
    recipe_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(*, eps: float = 0.1, samples: int = 100) -> None:
        """Stands for a data set of a plugin."""

    monkeypatch.setitem(DATASETS, "noisy", noisy)
    study = read(recipe_file(("{name: npz, path: images.npz}", "{name: noisy, eps: 0.2, samples: 50}")))
    assert study.conditions["all"].data == {"name": "noisy", "eps": 0.2, "samples": 50}
    with pytest.raises(RecipeError, match=r"data\.epsilon: unknown key; did you mean 'eps'\?"):
        read(recipe_file(("{name: npz, path: images.npz}", "{name: noisy, epsilon: 0.2}")))


def test_a_figure_of_a_plugin_that_is_a_function_alone_is_named(
    recipe_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIGURES, "alone", lambda block, results: None)
    with pytest.raises(TypeError, match=r"expected FIGURES\['alone'\] to be a sj_cka.figures.Figure, got <function"):
        read(recipe_file(("{name: curve, comparison: twins}", "{name: alone}")))


def test_the_schema_in_the_checkout_is_the_current_one() -> None:
    written = (ROOT / "recipes" / "schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == schema(), "make it anew: sj-cka schema > recipes/schema.json"
    assert written == json.dumps(schema(), indent=2) + "\n"


def test_the_schema_names_every_key_of_every_block() -> None:
    made = schema()

    def blocks(model: type[BaseModel]) -> set[str]:
        return set(model.model_fields)

    from sj_cka.recipe import Recipe

    assert set(made["properties"]) == blocks(Recipe)
    assert made["required"] == ["title", "question", "data", "model"]
    names = [entry["properties"]["name"]["const"] for entry in made["properties"]["data"]["oneOf"]]
    assert (
        names
        == list(DATASETS)
        == [
            "digits",
            "digits_dvs",
            "npz",
            "photos",
            "photos_dvs",
            "cifar10",
            "cifar100",
            "mnist",
            "fashion_mnist",
            *EVENT_SETS,
        ]
    )
    augmented = made["$defs"]["Train"]["properties"]["augment"]["items"]["oneOf"]
    assert augmented[0] == {"enum": list(AUGMENTATIONS)}
    assert augmented[1]["properties"]["padding"]["default"] == 4


@pytest.mark.parametrize("setting", dataclasses.fields(Settings), ids=lambda setting: setting.name)
def test_every_setting_of_a_training_is_a_key_of_train_and_of_both_kinds(setting: Any) -> None:
    others = {int: 7, float: 0.7, bool: not setting.default, type(None): 0.7}
    words = {"decay": "weights", "loss": "tet", "precision": "bf16", "layout": "contiguous", "rule": "bptt"}
    other = words.get(setting.name, others.get(type(setting.default)))
    assert Train().of("snn")[setting.name] == setting.default
    assert Train.model_validate({setting.name: other}).of("snn")[setting.name] == other
    train = Train.model_validate({"ann": {setting.name: other}})
    assert (train.of("ann")[setting.name], train.of("snn")) == (other, Train().of("snn"))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_checkout_can_be_read_and_holds_only_what_the_schema_knows(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert set(content) <= set(schema()["properties"])
    assert "smoke" in content["profiles"]
    for profile in ("quick", "smoke"):
        assert read(path, profile).conditions


UNFIT = {
    "../x": "'/' cannot stand in it",
    "/x": "'/' cannot stand in it",
    "a\\b": r"'\\' cannot stand in it",
    "": "it is empty",
    ".": "it means another folder",
    "..": "it means another folder",
    ".x": "it starts with '.'",
    "-x": "it starts with '-'",
    "x.": "it ends with '.'",
    "C:": "':' cannot stand in it",
    "nul": "Windows keeps it for a device",
    "Com1.txt": "Windows keeps it for a device",
    "x" * 101: "it is longer than 100 bytes",
    "ä" * 51: "it is longer than 100 bytes",
}


@pytest.mark.parametrize(("name", "wrong"), UNFIT.items(), ids=map(repr, UNFIT))
def test_the_name_of_a_profile_cannot_leave_the_folder_of_figures(recipe_file: Write, name: str, wrong: str) -> None:
    path = recipe_file(("  smoke:\n", f"  {json.dumps(name)}:\n"))
    line = path.read_text().splitlines().index(f"  {json.dumps(name)}:") + 1
    with pytest.raises(RecipeError) as told:
        read(path, name)
    assert str(told.value).startswith(f"{path}:{line}: profiles.")
    assert "expected a name that a folder can have, figures/tiny-<profile>, got " in str(told.value)
    assert str(told.value).endswith(wrong)


@pytest.mark.parametrize("name", ["paper", "Größe 2", "x.y", "a" * 100, "com", "_x", "0"])
def test_other_names_of_profiles_go(recipe_file: Write, name: str) -> None:
    assert read(recipe_file(("  smoke:\n", f"  {json.dumps(name)}:\n")), name).profile == name
