"""Numbers of a recipe: none is without bounds, and what a person reads otherwise than Python is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sj_cka.recipe import RecipeError, read, schema
from sj_cka.typed import Float, Int

Write = Callable[..., Path]


def numbers(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a JSON schema with its place."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(value, dict) and value.get("type") in ("integer", "number"):
            yield f"{where}/{key}", value
        yield from numbers(value, f"{where}/{key}")


def test_every_number_that_a_recipe_takes_has_a_bound_on_either_side() -> None:
    found = dict(numbers(schema()))
    assert len(found) > 90
    assert found["/$defs/Arm/properties/T/anyOf/0"] == {"type": "integer", "minimum": 1, "maximum": 10_000}
    for name, number in found.items():
        assert {"maximum", "exclusiveMaximum"} & number.keys(), name
        assert {"minimum", "exclusiveMinimum"} & number.keys(), name


# what is changed in the recipe of the tests -> key path and message
BEYOND = [
    ("seeds: 2", "seeds: [1700000000000000000]", "seeds[0]", "expected less than 140,737,488,355,328, got 17000"),
    ("seeds: 2", f"seeds: [0, {2**47}]", "seeds[1]", "expected less than 140,737,488,355,328"),
    ("seeds: 2", "seeds: [-1]", "seeds", "each once and from 0"),
    ("seeds: 2", "seeds: .inf", "seeds", "expected a number of seeds from 1 to 1,000, or a list of seeds, got inf"),
    ("seeds: 2", "seeds: .nan", "seeds", "expected a number of seeds from 1 to 1,000"),
    ("seeds: 2", "seeds: 2.5", "seeds", "expected a number of seeds from 1 to 1,000"),
    ("seeds: 2", f"seeds: {'9' * 30}", "seeds", "expected a number of seeds from 1 to 1,000"),
    ("seeds: 2", "seeds: [.inf]", "seeds[0]", "expected"),
    ("  T: 2", f"  T: {'9' * 30}", "snn.T", "expected at most 10,000"),
    ("  T: 2", "  T: 1e30", "snn.T", "expected"),
    ("  T: 2", "  T: 10001", "snn.T", "expected at most 10,000, got 10001"),
    ("  epochs: 1\n  batch", "  threads: 100000\n  batch", "train.threads", "expected at most 1,024, got 100000"),
    ("  epochs: 1\n  batch", "  epochs: 10000000\n  batch", "train.epochs", "expected at most 1,000,000"),
    ("  epochs: 1\n  batch", "  keep: [99999999]\n  batch", "train.keep[0]", "expected at most 1,000,000"),
    ("batch_size: 32", "batch_size: 4294967296", "train.batch_size", "expected at most 1,000,000"),
    ("  lr: 0.1", "  lr: 1e39", "train.lr", "expected at most 1e+38"),
    ("  lr: 0.1", f"  lr: {'9' * 90}", "train.lr", "expected at most 1e+38"),
    ("  lr: 0.1", f"  lr: {'9' * 90}/7", "train.lr", "expected at most 1e+38"),
    ("depth: 8}", "depth: 20000}", "model.depth", "expected at most 2,000"),
    ("depth: 8}", "depth: 8, width: 1000000000}", "model.width", "expected at most 1,000,000"),
    ("{name: resnet, depth: 8}", "{name: convnet, channels: [4, 1000000000]}", "model.channels[1]", "at most 1,000"),
    ("tau: 2.0}", "tau: 1e99}", "snn.neuron.tau", "expected at most 1e+38"),
    ("variants:\n  all: {}", f"variants:\n  {'a' * 101}: {{}}\n  all: {{}}", f"variants.{'a' * 71}", "at most 100"),
    ("{residual: []}", "{residual: [²]}", "variants.none.model.residual[0]", "expected a number, got '²'"),
    ("y: none.snn}", "y: none.snn@²}", "compare[1].y", "expected @init, @<epoch> or nothing"),
    ("y: none.snn}", f"y: none.snn@{'9' * 5000}}}", "compare[1].y", "expected @init, @<epoch> or nothing"),
    ("seeds: 2", "converted: {mode: ²%}\nseeds: 2", "converted.mode", "expected \"max\" or a percentile"),
    ("seeds: 2", "converted: {T: 100000}\nseeds: 2", "converted.T", "expected at most 10,000"),
    ("name: lif", "name: no", "snn.neuron.name", "got false, which is what yes, no, on and off are in YAML too"),
    ("layers: [layer1.0.lif2]", "layers: [on]", "figures[1].layers[0]", "got true, which is what yes, no, on and off"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "message"), BEYOND, ids=lambda text: text[:30])
def test_a_number_out_of_bounds_is_told_with_its_line_and_key(
    old: str, new: str, key: str, message: str, recipe_file: Write
) -> None:
    path = recipe_file((old, new))
    with pytest.raises(RecipeError) as caught:
        read(path)
    lines = [i for i, row in enumerate(path.read_text().splitlines(), start=1) if row in new or new in row]
    assert str(caught.value).startswith(tuple(f"{path}:{line}: {key}" for line in lines)), caught.value
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ["010", "1_000", "٣", "²", "1:30", "0x1f", "01/2", "1/02", "9" * 101, "9" * 101 + "/1", " 1", "1 ", "+"]
)  # fmt: skip
@pytest.mark.parametrize("kind", [Int, Float])
def test_a_text_that_people_read_otherwise_is_no_number(text: str, kind: Any) -> None:
    with pytest.raises(ValidationError, match="expected a number"):
        TypeAdapter(kind).validate_python(text)


def test_a_sweep_names_its_variants_in_file_names_of_bounded_length(recipe_file: Write) -> None:
    swept = "variants:\n  all: {}\n  none:\n    model: {residual: []}\n"
    with pytest.raises(RecipeError, match=r"sweep\.model\.depth\[0\]: expected a value that a variant can be named"):
        read(recipe_file((swept, f"sweep: {{model.depth: [{'x' * 200}]}}\n")))
    with pytest.raises(RecipeError, match=r"sweep\.model\.depth: expected at least one value and at most 200, got 201"):
        read(recipe_file((swept, f"sweep: {{model.depth: {list(range(201))}}}\n")))
