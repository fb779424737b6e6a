"""The figures: what is drawn where, in which colours, and what stands under the pointer."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sj_cka.figures import (
    FIGURES,
    GREY,
    PALETTE,
    TEMPLATE,
    accuracy,
    accuracy_by_steps,
    against_epochs,
    backdoors,
    curve,
    exchanges,
    fisher,
    heatmap,
    heatmaps,
    locality,
    robustness,
    steps_map,
    training,
    trend,
    variants,
)


def resnet_layers(blocks: int = 2, shortcuts: bool = True) -> list[str]:
    layers = ["conv1"]
    for stage in (1, 2, 3):
        for block in range(blocks):
            parts = ["bn1", "lif1", "conv1", "bn2", "lif2", "conv2"]
            if shortcuts and stage > 1 and block == 0:
                parts += ["downsample.pool", "downsample.conv", "downsample.bn"]
            layers += [f"layer{stage}.{block}.{part}" for part in parts]
            if shortcuts:
                layers.append(f"layer{stage}.{block}")
    return [*layers, "bn", "lif", "avgpool"]


def matrix(layers_x: list[str], layers_y: list[str], seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).uniform(-0.1, 1, (len(layers_x), len(layers_y)))
    return pd.DataFrame(values, index=layers_x, columns=layers_y)


def line(layers: list[str], mean: float = 0.8, half_width: float = 0.1) -> pd.DataFrame:
    columns = {"mean": mean, "low": mean - half_width, "high": mean + half_width}
    return pd.DataFrame(columns, index=layers)


def steps(T: int) -> pd.DataFrame:
    t = np.arange(1, T + 1)
    return pd.DataFrame(0.9 ** np.abs(t[:, None] - t), index=t, columns=t)


def accuracies() -> pd.DataFrame:
    rows = [
        {"network": f"none.{kind}", "split": split, "seed": seed, "accuracy": 0.9 + seed / 100}
        for kind in ("snn", "ann")
        for split in ("train", "test")
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def history() -> pd.DataFrame:
    rows = [
        {
            "network": f"{variant}.{kind}",
            "seed": seed,
            "epoch": epoch,
            "loss": 1 / epoch,
            "accuracy": 1 - 1 / (epoch + 1),
            "firing_rate": 0.1 if kind == "snn" else np.nan,
        }
        for variant in ("all", "none")
        for kind in ("ann", "snn")
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    ]
    return pd.DataFrame(rows)


def information() -> pd.DataFrame:
    rows = [
        {"network": network, "seed": seed, "layer": layer, "step": step, "fisher": 10.0 ** (seed - step)}
        for network, T in (("a.snn", 3), ("a.ann", 1))
        for layer in ("conv1", "fc")
        for step in range(1, T + 1)
        for seed in (0, 2)
    ]
    return pd.DataFrame(rows)


def between() -> pd.DataFrame:
    return pd.DataFrame([[0.9, 0.3], [0.3, 0.8]], index=["a", "b"], columns=["a", "b"])


def moves() -> pd.DataFrame:
    return pd.DataFrame({"network": ["le.snn"], "disturbed": ["fc"], "layer": ["layer1.fc"], "moves": [0.5]})


def at_steps(steps: list[int], mean: float = 0.9) -> pd.DataFrame:
    return pd.DataFrame({"mean": mean, "low": mean - 0.1, "high": mean + 0.02}, index=steps)


DRAWN = {
    "heatmap": lambda title: heatmap({"all steps": matrix(["a", "b"], ["a", "b"])}, title=title),
    "heatmaps": lambda title: heatmaps({"depth-8": matrix(["a", "b"], ["a", "b"])}, title=title),
    "curve": lambda title: curve({"none": line(["a", "b"])}, title=title),
    "relative_curve": lambda title: curve({"none": line(["a", "b"])}, title=title, relative=True),
    "trend": lambda title: trend({"trained": at_steps([8, 14])}, title=title),
    "steps": lambda title: steps_map({"lif": steps(4)}, title=title),
    "variants": lambda title: variants(between(), title=title),
    "dynamics": lambda title: curve({"T-4": line(["a", "b"])}, title=title, from_zero=False),
    "accuracy": lambda title: accuracy(accuracies(), title=title),
    "accuracy_by_steps": lambda title: accuracy_by_steps({"T-2.snn": at_steps([1, 2])}, title=title),
    "training": lambda title: training(history(), title=title),
    "robustness": lambda title: robustness({"pgd": {"base.snn": at_steps([0, 1])}}, title=title),
    "backdoors": lambda title: backdoors({"success": at_steps([0, 1])}, title=title),
    "exchange": lambda title: exchanges({"a.snn in a.ann": {"accuracy": line(["a", "b"])}}, title=title),
    "fisher": lambda title: fisher(information(), title=title),
    "learning": lambda title: against_epochs({"base.snn": {"lif": at_steps([0, 5])}}, title=title),
    "parting": lambda title: against_epochs({"le.snn": {"cosine": at_steps([0, 5])}}, title=title),
    "alignment": lambda title: against_epochs({"le.snn": {"fc": at_steps([1, 2])}}, title=title, x_title="step"),
    "locality": lambda title: locality(moves(), rows="disturbed", columns="layer", title=title),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_its_title_and_the_common_look(name: str) -> None:
    figure = DRAWN[name]("A title")
    assert isinstance(figure, go.Figure)
    assert figure.layout.title.text == "A title"
    assert figure.layout.template.layout == TEMPLATE.layout


def test_a_study_none_of_whose_networks_has_a_backdoor_is_told_so() -> None:
    results = SimpleNamespace(tables={"backdoors": pd.DataFrame()})
    section = FIGURES["backdoors"].function(SimpleNamespace(title=None), results)
    assert (section.title, section.panels) == ("Backdoors", ())
    assert section.note.startswith("Nothing to show")


# heatmap


def test_network_x_runs_along_the_horizontal_axis_and_y_upwards() -> None:
    table = matrix(["x0", "x1", "x2"], ["y0", "y1"])
    figure = heatmap({"all steps": table}, x_title="SNN", y_title="ANN")
    cells = figure.data[0]
    assert (list(cells.x), list(cells.y)) == (["x0", "x1", "x2"], ["y0", "y1"])
    assert cells.z[1][2] == pytest.approx(table.at["x2", "y1"], abs=5e-5)
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("SNN", "ANN")
    assert list(figure.layout.yaxis.range) == [-0.5, 1.5]  # not reversed: the first layer is at the bottom


def test_the_colours_span_0_to_1_in_every_figure_of_cka_whatever_the_values() -> None:
    low = heatmap({"all steps": matrix(["a"], ["a"]) * 0 + 0.2})
    for figure in (low, steps_map({"lif": steps(3)})):
        assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
        assert figure.layout.coloraxis.colorscale == low.layout.coloraxis.colorscale
        assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}


def test_an_undefined_cell_is_grey_and_says_so_and_no_other_cell_is() -> None:
    table = matrix(["a", "b"], ["a", "b"]).abs()
    table.at["a", "b"] = np.nan
    cells, grey = heatmap({"all steps": table}).data
    assert np.isnan(cells.z).tolist() == [[False, False], [True, False]]
    assert np.isnan(grey.z).tolist() == [[True, True], [False, True]]
    assert "undefined" in grey.hovertemplate
    assert "undefined" not in cells.hovertemplate
    assert grey.coloraxis is None
    assert len(heatmap({"all steps": table.fillna(0)}).data) == 1


def test_every_step_of_the_slider_shows_all_of_one_frame_and_nothing_else() -> None:
    holed = matrix(["a", "b"], ["a", "b"], seed=1)
    holed.iloc[0] = np.nan
    frames = {"all steps": matrix(["a", "b"], ["a", "b"]), "step 1": holed, "step 2": matrix(["a", "b"], ["a", "b"], 2)}
    figure = heatmap(frames)
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == list(frames)
    for label, step in zip(frames, slider.steps, strict=True):
        shown = [trace for trace, visible in zip(figure.data, step.args[0]["visible"], strict=True) if visible]
        assert {trace.name for trace in shown} == {label}
        assert len(shown) == (2 if label == "step 1" else 1)
        assert shown[0].z == pytest.approx(frames[label].to_numpy().T, abs=5e-5, nan_ok=True)
    assert [trace.visible for trace in figure.data] == [True, False, False, False]


def test_one_frame_needs_no_slider() -> None:
    assert heatmap({"all steps": matrix(["a"], ["a"])}).layout.sliders == ()


def test_the_interval_stands_under_the_pointer_at_its_own_cell() -> None:
    table = matrix(["x0", "x1"], ["y0", "y1"])
    spread = pd.DataFrame([[0.01, 0.02], [np.nan, 0.04]], index=table.index, columns=table.columns)
    (cells,) = heatmap({"all steps": table}, spread={"all steps": spread}).data
    assert [list(row) for row in cells.customdata] == [["0.010", "unknown"], ["0.020", "0.040"]]
    assert "%{z:.3f} ± %{customdata}" in cells.hovertemplate


def test_tables_that_do_not_fit_are_refused() -> None:
    table = matrix(["a", "b"], ["a", "b"])
    with pytest.raises(ValueError, match="at least one table"):
        heatmap({})
    with pytest.raises(ValueError, match="frame 'step 1' has others"):
        heatmap({"all steps": table, "step 1": table.iloc[::-1]})
    with pytest.raises(ValueError, match="spread 'all steps' has others"):
        heatmap({"all steps": table}, spread={"all steps": table.T.iloc[:1]})
    with pytest.raises(ValueError, match=r"\['a'\] more than once"):
        heatmap({"all steps": table.rename(index={"b": "a"})})


def test_few_layers_are_all_named_and_many_by_the_blocks_they_lie_in() -> None:
    few = heatmap({"all steps": matrix(resnet_layers()[:20], resnet_layers()[:20])})
    assert list(few.layout.xaxis.ticktext) == resnet_layers()[:20]

    layers = resnet_layers(blocks=3)
    axis = heatmap({"all steps": matrix(layers, layers)}).layout.xaxis
    assert 5 <= len(axis.ticktext) <= 24
    for place, name in zip(axis.tickvals, axis.ticktext, strict=True):
        assert layers[round(place)].startswith(name)
    assert min(b - a for a, b in pairwise(axis.tickvals)) > 1


def test_the_name_of_a_block_never_takes_the_place_of_a_layers_own_name_under_the_pointer() -> None:
    # Plotly shows the tick's text instead of the category wherever a tick lies on it.
    layers = resnet_layers(blocks=3)
    axis = heatmap({"all steps": matrix(layers, layers)}).layout.xaxis
    span = axis.range[1] - axis.range[0]
    assert all(abs(place - round(place)) > span / 10_000 for place in axis.tickvals)


def test_layers_without_blocks_are_thinned_out_by_their_full_names() -> None:
    layers = [f"features.{i}" for i in range(60)]
    axis = heatmap({"all steps": matrix(layers, layers)}).layout.xaxis
    assert 12 <= len(axis.ticktext) <= 24
    assert all(layers[int(place)] == name for place, name in zip(axis.tickvals, axis.ticktext, strict=True))


def test_five_frames_of_fifty_layers_with_intervals_stay_below_400_kilobytes() -> None:
    layers = resnet_layers()
    frames = {f"step {t}": matrix(layers, layers, t) for t in range(5)}
    assert 45 <= len(layers) <= 55
    assert len(heatmap(frames, spread=frames).to_json()) < 400_000


def test_drawing_leaves_the_tables_as_they_were() -> None:
    table = matrix(["a", "b"], ["a", "b"])
    before = table.copy()
    heatmap({"all steps": table}, spread={"all steps": table})
    pd.testing.assert_frame_equal(table, before)


# curve


def lines_of(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}


def test_variants_with_different_layers_share_one_axis_in_order_of_depth() -> None:
    full, short = resnet_layers(), resnet_layers(shortcuts=False)
    for lines in ({"all": line(full), "none": line(short)}, {"none": line(short), "all": line(full)}):
        figure = curve(lines)
        assert list(figure.layout.xaxis.categoryarray) == full
        assert list(lines_of(figure)["none"].x) == short  # a line of its own layers only runs past the others


def test_layers_that_only_one_variant_has_follow_the_layer_they_follow_there() -> None:
    figure = curve({"one": line(["a", "b", "d"]), "two": line(["a", "c", "d", "e"])})
    depth = list(figure.layout.xaxis.categoryarray)
    assert sorted(depth) == ["a", "b", "c", "d", "e"]
    for order in (["a", "b", "d"], ["a", "c", "d", "e"]):
        assert [layer for layer in depth if layer in order] == order


def test_an_undefined_layer_interrupts_its_line() -> None:
    table = line(["a", "b", "c"])
    table.loc["b"] = np.nan
    drawn = lines_of(curve({"all": table}))["all"]
    assert np.isnan(drawn.y).tolist() == [False, True, False]
    assert not drawn.connectgaps


def test_the_band_is_drawn_only_where_there_is_an_interval() -> None:
    table = line(["a", "b", "c", "d", "e"])
    table.loc["c", ["low", "high"]] = np.nan
    (band,) = (trace for trace in curve({"all": table}).data if trace.fill == "toself")
    assert list(band.x) == ["a", "b", "b", "a", None, "d", "e", "e", "d", None]
    assert list(band.y) == [0.7, 0.7, 0.9, 0.9, None] * 2
    table[["low", "high"]] = np.nan
    (band,) = (trace for trace in curve({"all": table}).data if trace.fill == "toself")
    assert list(band.x) == []


def test_references_are_broken_lines_in_their_variants_colour_and_hidden_with_it() -> None:
    layers = ["a", "b"]
    figure = curve(
        {"all": line(layers), "none": line(layers, 0.5)},
        reference={"all: floor": line(layers, 0.3), "none: floor": line(layers, 0.2), "none: ceiling": line(layers)},
    )
    references = [trace for trace in figure.data if trace.meta == "reference"]
    assert [(trace.legendgroup, trace.line.color) for trace in references] == [
        ("all", PALETTE[0]),
        ("none", PALETTE[1]),
        ("none", PALETTE[1]),
    ]
    assert references[0].line.dash == references[1].line.dash != references[2].line.dash
    assert all(trace.line.dash not in (None, "solid") for trace in references)
    assert [lines_of(figure)[name].line.color for name in ("all", "none")] == [PALETTE[0], PALETTE[1]]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["all", "none", "floor", "ceiling"]
    assert lines_of(figure)["none"].customdata[0] == " [0.400, 0.600], floor 0.200, ceiling 0.800"
    (menu,) = figure.layout.updatemenus
    assert all(figure.data[i] in references for i in menu.buttons[0].args[1])
    assert len(menu.buttons[0].args[1]) == len(references)


def test_a_reference_of_no_variant_is_grey() -> None:
    figure = curve({"all": line(["a"])}, reference={"chance": line(["a"], 0.1)})
    (reference,) = (trace for trace in figure.data if trace.meta == "reference")
    assert reference.line.color == GREY


def test_the_axis_reaches_as_far_down_as_a_negative_value() -> None:
    assert curve({"all": line(["a"])}).layout.yaxis.range == pytest.approx((-0.02, 1.02))
    assert curve({"all": line(["a"], mean=-0.3)}).layout.yaxis.range[0] == pytest.approx(-0.42)


def test_a_line_without_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line 'all'.*\['low'\] missing"):
        curve({"all": line(["a"]).drop(columns="low")})


# steps, accuracy, training


def test_values_are_printed_into_the_cells_up_to_eight_steps() -> None:
    assert "%{z:.2f}" in steps_map({"lif": steps(8)}).data[0].texttemplate
    assert steps_map({"lif": steps(9)}).data[0].texttemplate is None


def test_every_layer_gets_its_own_square_picture_with_its_heading() -> None:
    frames = {f"layer{i}, all": steps(4) for i in range(6)}
    figure = steps_map(frames)
    assert [note.text for note in figure.layout.annotations] == [label.replace(", ", ",<br>") for label in frames]
    assert len({trace.xaxis for trace in figure.data}) == 6
    for trace in figure.data:
        axis = figure.layout["yaxis" + trace.yaxis[1:]]
        assert axis.scaleanchor == trace.xaxis


def test_each_seed_is_a_dot_in_its_networks_row_in_per_cent() -> None:
    table = accuracies()
    table.loc[(table["network"] == "none.ann") & (table["split"] == "test") & (table["seed"] == 2), "accuracy"] = 0.5
    figure = accuracy(table)
    test, train = figure.data
    assert list(figure.layout.yaxis.ticktext) == ["none.snn", "none.ann"]
    assert test.x == pytest.approx([90, 91, 92, 90, 91, 50])
    assert [round(y) for y in test.y] == [0, 0, 0, 1, 1, 1] == [round(y) for y in train.y]
    assert list(figure.layout.yaxis.range) == [1.5, -0.5]  # the first network on top


def test_the_mean_and_its_interval_are_drawn_as_they_are_given() -> None:
    summary = pd.DataFrame(
        {"network": ["none.ann", "none.snn"], "split": "test", "mean": [0.5, 0.8], "low": [0.4, np.nan], "high": 0.7}
    )
    mean = accuracy(accuracies(), summary).data[1]
    assert mean.x == pytest.approx([50, 80])
    assert [round(y) for y in mean.y] == [1, 0]
    assert mean.error_x.array[0] == pytest.approx(20)
    assert mean.error_x.arrayminus[0] == pytest.approx(10)
    assert [row[1] for row in mean.customdata] == [" [40.0, 70.0]", ""]


def test_an_unknown_split_is_refused_with_its_name() -> None:
    with pytest.raises(ValueError, match="validation"):
        accuracy(accuracies().replace("test", "validation"))


def test_training_curves_have_a_colour_a_variant_and_a_dash_a_kind() -> None:
    figure = training(history())
    drawn = {trace.name: trace.line for trace in figure.data if trace.mode == "lines+markers"}
    assert drawn["all.snn"].color == drawn["all.ann"].color != drawn["none.snn"].color
    assert drawn["all.snn"].dash == drawn["none.snn"].dash == "solid" != drawn["all.ann"].dash
    entries = [trace.name for trace in figure.data if trace.mode == "lines"]
    assert entries == ["all", "none", "SNN", "ANN"]


def test_the_seeds_of_a_network_are_separate_lines() -> None:
    loss = next(trace for trace in training(history()).data if trace.name == "none.snn")
    assert list(loss.x) == [1, 2, 3, None, 1, 2, 3, None]
    assert list(loss.customdata) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_firing_rates_are_drawn_for_spiking_networks_only() -> None:
    figure = training(history())
    rates = {trace.name for trace in figure.data if trace.xaxis == "x3" and trace.mode == "lines+markers"}
    assert rates == {"all.snn", "none.snn"}
    artificial = history()[lambda table: table["network"].str.endswith("ann")]
    assert [note.text for note in training(artificial).layout.annotations] == ["training loss", "training accuracy"]


def test_a_figure_holds_no_address_of_any_server() -> None:
    for name, draw in DRAWN.items():
        assert "http" not in json.dumps(draw(name).to_plotly_json(), default=str)


# time and pairs of variants


def test_many_layers_are_small_pictures_five_in_a_row_in_one_colour_scale() -> None:
    figure = steps_map({f"layer{i}": steps(8) for i in range(13)})
    assert len({trace.xaxis for trace in figure.data}) == 13
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    columns = {round(figure.layout["xaxis" + trace.xaxis[1:]].domain[0], 3) for trace in figure.data}
    assert len(columns) == 5
    assert all(trace.texttemplate is None for trace in figure.data)  # eight numbers in a row cannot be read
    titled = [trace for trace in figure.data if figure.layout["xaxis" + trace.xaxis[1:]].title.text]
    assert len(titled) == 5  # under the lowest picture of each column


def test_a_pair_of_variants_is_printed_with_its_interval_and_floor() -> None:
    table = between()
    spread, floor = (table.mask(np.eye(2, dtype=bool), np.nan) * 0 + value for value in (0.05, 0.1))
    figure = variants(table, spread=spread, floor=floor)
    said = {(note.x, note.y): (note.text, note.font.color) for note in figure.layout.annotations}
    assert said[0, 1] == said[1, 0] == ("<b>0.30</b> ± 0.05<br>floor 0.10", "white")
    assert said[0, 0] == ("<b>0.90</b>", "black")
    table.loc["a", "b"] = np.nan
    assert (0, 1) not in {(note.x, note.y) for note in variants(table).layout.annotations}
    with pytest.raises(ValueError, match="the same variants as rows and columns"):
        variants(between().iloc[::-1])


def test_accuracy_is_drawn_against_the_steps_a_network_runs_with_and_a_ring_around_its_own() -> None:
    lines = {"T-1.snn": at_steps([4, 1, 2], 0.8), "T-2.snn": at_steps([1, 2, 4])}
    level = pd.Series({"mean": 0.98, "low": 0.97, "high": 0.99})
    figure = accuracy_by_steps(lines, own={"T-1.snn": 1, "T-2.snn": 2}, reference={"*.ann": level})
    drawn = {trace.name: trace for trace in figure.data}
    assert list(drawn) == ["T-1.snn", "T-2.snn", "*.ann", "run as trained"]
    first = drawn["T-1.snn"]
    assert [row[0] for row in first.customdata] == [1, 2, 4]
    assert list(first.x) == pytest.approx([1, 2, 4], rel=0.1)
    assert first.y == pytest.approx([80] * 3)
    assert (first.error_y.array[0], first.error_y.arrayminus[0]) == pytest.approx((2, 10))
    assert list(drawn["run as trained"].x) == [first.x[0], drawn["T-2.snn"].x[1]]
    assert drawn["*.ann"].y == pytest.approx([98, 98])
    assert list(figure.layout.xaxis.tickvals) == [1, 2, 4]
    assert figure.layout.xaxis.type == "log"


def test_lines_side_by_side_do_not_hide_each_other() -> None:
    figure = accuracy_by_steps({f"T-{T}.snn": at_steps([1, 2, 4, 8]) for T in (1, 2, 4, 8)})
    places = [x for trace in figure.data for x in trace.x]
    assert len(set(places)) == len(places) == 16


def test_an_axis_that_need_not_start_at_zero_starts_below_the_lowest_value() -> None:
    whole, part = (curve({"all": line(["a"], 0.9, 0.05)}, from_zero=own).layout.yaxis.range for own in (True, False))
    assert whole == pytest.approx((-0.02, 1.02))
    assert part == pytest.approx((0.83, 1.02))
