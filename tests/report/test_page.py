"""The page of a study as text, in a browser, and its figures as PNG."""

import html
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from sj_cka.claims import Finding
from sj_cka.claims.arms import Levels
from sj_cka.claims.multiverse import Agreement
from sj_cka.figures import Panel, Section, curve, heatmap
from sj_cka.over_seeds import Interval
from sj_cka.report import Answer, Page, answer, page, write_page, write_pngs

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")

HOSTILE = "</script><script>alert(1)</script><!-- <b>&amp; \"quoted\" 'single' \\u003c"

LAYERS = ["conv1", *(f"layer{s}.{b}.{p}" for s in (1, 2, 3) for b in (0, 1) for p in ("bn1", "lif1", "conv1", "bn2"))]


def matrix(value: float) -> pd.DataFrame:
    table = pd.DataFrame(value, index=LAYERS, columns=LAYERS)
    table.loc["layer1.1.bn1"] = np.nan
    return table


def a_heatmap(value: float = 0.5) -> go.Figure:
    return heatmap({"all steps": matrix(value), "step 1": matrix(value / 2)}, x_title="SNN", y_title="ANN")


def a_curve() -> go.Figure:
    table = pd.DataFrame({"mean": 0.8, "low": 0.7, "high": 0.9}, index=LAYERS)
    return curve({"none": table}, reference={"none: floor": table - 0.4})


def a_page() -> Page:
    return Page(
        title="Shortcuts",
        question="What do shortcuts do?",
        answers=(
            Answer("Shortcuts raise CKA.", "holds", "primary", "0.31", ("a: 0.8, floor 0.5",), ("margin 0.02",), "Li"),
            Answer("Shortcuts raise accuracy.", "contradicted", "primary", "-0.02 [-0.03, -0.01]", (), (), "Li"),
            Answer("CKA falls with depth.", "not trained", "exploratory", "-0.1", (), (), "Li"),
        ),
        sections=(
            Section("Paired layers", "How to read it.", (Panel("curve", a_curve()),)),
            Section("Every pair", "Move the slider.", (Panel("all", a_heatmap(0.5)), Panel("none", a_heatmap(0.25)))),
            Section("Accuracy", "", table=pd.DataFrame({"network": ["a.snn"], "mean": [0.93512], "seeds": [3]})),
        ),
        provenance={"seeds": "0, 1, 2", "device": "cpu"},
        recipe_text="name: shortcuts\n",
        notes=("The last batch had 3 samples and was left out.",),
    )


def text_of(page: Page, folder: Path) -> str:
    """The page without plotly.js, which is not ours to judge."""
    text = write_page(page, folder / "report.html").read_text(encoding="utf-8")
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def figures_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', text)]


def test_the_answers_come_first_then_the_sections_in_order_then_where_it_came_from(tmp_path: Path) -> None:
    text = text_of(a_page(), tmp_path)
    order = [
        "What do shortcuts do?",
        "Shortcuts raise CKA.",
        "Shortcuts raise accuracy.",
        "CKA falls with depth.",
        "The last batch had 3 samples",
        "How to read it.",
        "Move the slider.",
        "a.snn",
        "0, 1, 2",
        "name: shortcuts",
    ]
    places = [text.index(piece) for piece in order]
    assert places == sorted(places)


def test_both_verdicts_of_a_claim_stand_beside_it(tmp_path: Path) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", text_of(a_page(), tmp_path), flags=re.DOTALL)
    badges = {
        re.search('class="sentence">(.*?)<', row)[1]: re.findall('class="badge ([a-z-]+)">([a-z ]+)<', row)
        for row in rows
        if "sentence" in row
    }
    assert badges == {
        "Shortcuts raise CKA.": [("holds", "holds")],
        "Shortcuts raise accuracy.": [("contradicted", "contradicted")],
        "CKA falls with depth.": [("not-trained", "not trained")],
    }


def test_what_stands_beside_a_claim_is_on_the_page(tmp_path: Path) -> None:
    text = text_of(a_page(), tmp_path)
    assert "primary; Li" in text
    assert "a: 0.8, floor 0.5" in text
    assert text.count("<summary>margin, p, controls") == 1  # of the one claim that has any
    assert "<li>margin 0.02</li>" in text


def test_a_finding_becomes_an_answer_with_all_that_is_known_of_it() -> None:
    finding = Finding(
        *("Shortcuts help.", "Li", "greater", "undecided", True, "CKA 0.8 against 0.7"),
        Interval(0.1, 0.05, 0.15, 8),
        Interval(0.1, 0.0, 0.2, 8),
        p=0.03,
        p_corrected=0.06,
        margin=0.02,
        reason="it is small",
        arms={"a": Levels(0.8, 0.5, 0.9), "b": Levels(0.7)},
        needed="about 11 seeds",
        note="over 3 layers",
        controls=("a: 0.4 with the pixels",),
        agreement=Agreement(5, 6, ("neurons, raw, rate",)),
    )
    found = answer(finding)
    assert found.value == (
        "CKA 0.8 against 0.7; difference +0.100 (95 % interval +0.050 to +0.150, 8 seeds); about 11 seeds would decide "
        "it, if effect and spread stay as they are"
    )
    assert found.levels == ("a: 0.800, floor 0.500, noise ceiling 0.900, change since first weights 0.300",)
    assert found.details == (
        "over 3 layers",
        "margin of practical equivalence 0.02: it is small",
        "p 0.03, 0.06 after Holm; interval of all primary claims +0.000 to +0.200",
        "a: 0.4 with the pixels",
        "5 of 6 specifications of layers, scale and time agree; not neurons, raw, rate",
    )
    assert answer(replace(finding, primary=False)).details[2] == "p 0.03, not corrected for the number of claims"


def test_a_page_without_claims_or_notes_has_no_empty_headings(tmp_path: Path) -> None:
    text = text_of(replace(a_page(), answers=(), notes=()), tmp_path)
    assert 'id="answers"' not in text
    assert 'href="#answers"' not in text
    assert 'id="notes"' not in text


def test_an_unknown_verdict_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'maybe'"):
        Answer("A claim.", "maybe", "primary", "", (), (), "")  # type: ignore[arg-type]


def test_no_text_is_taken_for_html_wherever_it_stands(tmp_path: Path) -> None:
    table = pd.DataFrame({HOSTILE: [HOSTILE]})
    figure = go.Figure(layout_title_text=HOSTILE)
    hostile = Page(
        HOSTILE,
        HOSTILE,
        (Answer(HOSTILE, "holds", HOSTILE, HOSTILE, (HOSTILE,), (HOSTILE,), HOSTILE),),
        (Section(HOSTILE, HOSTILE, (Panel(HOSTILE, figure), Panel(HOSTILE, figure)), table),),
        {HOSTILE: HOSTILE},
        HOSTILE,
        (HOSTILE,),
    )
    text = text_of(hostile, tmp_path)
    assert "alert(1)</script>" not in text
    assert "<!-- <b>" not in text
    assert html.unescape(text).count(HOSTILE) >= 16
    assert [figure["layout"]["title"]["text"] for figure in figures_of(text)] == [HOSTILE, HOSTILE]


def test_the_figures_on_the_page_are_the_figures_given(tmp_path: Path) -> None:
    given = [panel.figure for section in a_page().sections for panel in section.panels]
    assert figures_of(text_of(a_page(), tmp_path)) == [json.loads(figure.to_json()) for figure in given]


def test_the_page_names_no_address_outside_itself(tmp_path: Path) -> None:
    text = text_of(a_page(), tmp_path)
    assert not re.findall(r"https?:|url\(|@import", text)
    assert set(re.findall(r'(?:src|href)="([^"#]*)', text)) == {"data:,", ""}


def test_every_entry_of_the_contents_leads_somewhere(tmp_path: Path) -> None:
    text = text_of(a_page(), tmp_path)
    for target in re.findall(r'href="#([^"]*)"', text):
        assert text.count(f'id="{target}"') == 1


def test_the_same_page_is_the_same_file(tmp_path: Path) -> None:
    first = write_page(a_page(), tmp_path / "a" / "report.html")
    second = write_page(a_page(), tmp_path / "b" / "report.html")
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_writing_leaves_the_old_page_whole_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_page(a_page(), tmp_path / "report.html")
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_page(replace(a_page(), title="New"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_in_a_table_are_rounded_set_to_the_right_and_never_rounded_to_nothing(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"network": ["a.snn", "b.snn"], "mean": [0.93512, np.nan], "p": [0.00012, 0.0], "seeds": [3, 2]}
    )
    text = text_of(replace(a_page(), sections=(Section("Table", "", table=table),)), tmp_path)
    numbers = re.findall('<td class="?number"?>(.*?)</td>', text)
    assert numbers == ["0.935", "0.00012", "3", "–", "0.000", "2"]
    assert "<td>a.snn</td>" in text


def test_the_index_of_a_table_is_shown_if_it_has_a_name(tmp_path: Path) -> None:
    table = pd.DataFrame({"mean": [0.5]}, index=pd.Index(["none.snn"], name="network"))
    assert "none.snn" in text_of(replace(a_page(), sections=(Section("Table", "", table=table),)), tmp_path)
    table.index.name = None
    assert "none.snn" not in text_of(replace(a_page(), sections=(Section("Table", "", table=table),)), tmp_path)


# in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flags = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=[*flags.split(), "--disable-sync"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, soon: Callable[..., None], tmp_path: Path) -> Iterator[Any]:
    """The finished page in a tab; whatever it complains of or asks the network for fails the test."""
    path = write_page(a_page(), tmp_path / "report.html")
    tab = browser.new_page(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    soon(tab, "document.querySelectorAll('.panel:not([hidden]) .main-svg').length >= 2")
    yield tab
    tab.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]


def label_under_the_pointer(tab: Any, plot: str, layer_x: int, layer_y: int) -> str:
    """What Plotly shows over one cell, counted from the lower left corner."""
    place = tab.evaluate(
        """([selector, x, y]) => {
            const plot = document.querySelector(selector);
            plot.scrollIntoView({behavior: "instant", block: "center"});
            const box = plot.querySelector(".nsewdrag").getBoundingClientRect(), n = plot.data[0].x.length;
            return [box.left + (x + 0.5) / n * box.width, box.bottom - (y + 0.5) / n * box.height];
        }""",
        [plot, layer_x, layer_y],
    )
    tab.mouse.move(0, 0)
    tab.mouse.move(*place)
    label = tab.locator(f"{plot} .hoverlayer .hovertext")
    label.wait_for()
    return " ".join(label.locator("text").all_text_contents())


@needs_browser
def test_opening_the_page_draws_what_is_shown_without_complaint_or_request(opened: Any) -> None:
    drawn = opened.evaluate("[...document.querySelectorAll('.plot')].map((plot) => plot.data !== undefined)")
    assert drawn == [True, True, False]  # the second tab waits until it is shown


@needs_browser
def test_a_tab_draws_its_figure_when_first_shown_and_hides_the_other(opened: Any) -> None:
    opened.get_by_role("tab", name="none").click()
    opened.wait_for_selector("#panel-2-2 .main-svg")
    assert opened.locator("#panel-2-1").is_hidden()
    assert "0.250" in label_under_the_pointer(opened, "#panel-2-2 .plot", 0, 0)


@needs_browser
def test_the_tabs_follow_the_arrow_keys(opened: Any) -> None:
    opened.get_by_role("tab", name="all").focus()
    opened.keyboard.press("ArrowRight")
    assert opened.get_by_role("tab", name="none").get_attribute("aria-selected") == "true"
    assert opened.locator("#panel-2-2").is_visible()
    opened.keyboard.press("ArrowRight")  # round to the first
    assert opened.get_by_role("tab", name="all").get_attribute("aria-selected") == "true"
    assert opened.locator("#panel-2-2").is_hidden()


@needs_browser
def test_the_slider_shows_the_step_that_it_stands_on(opened: Any, soon: Callable[..., None]) -> None:
    shown = (
        "document.querySelector('#panel-2-1 .plot').data.filter((trace) => trace.visible).map((trace) => trace.name)"
    )
    assert set(opened.evaluate(shown)) == {"all steps"}
    opened.locator("#panel-2-1 .slider-rail-touch-rect").scroll_into_view_if_needed()
    rail = opened.locator("#panel-2-1 .slider-rail-touch-rect").bounding_box()
    opened.mouse.click(rail["x"] + rail["width"] - 2, rail["y"] + rail["height"] / 2)
    soon(opened, f"{shown}.every((name) => name === 'step 1')")
    assert "0.250" in label_under_the_pointer(opened, "#panel-2-1 .plot", 0, 0)


@needs_browser
def test_the_pointer_shows_layer_names_and_three_decimals_at_every_cell(opened: Any) -> None:
    for x, y in ((0, 0), (3, 1), (7, 24), (24, 12)):
        label = label_under_the_pointer(opened, "#panel-2-1 .plot", x, y)
        assert f"SNN: {LAYERS[x]}" in label
        assert f"ANN: {LAYERS[y]}" in label
        assert "0.500" in label


@needs_browser
def test_the_pointer_calls_an_undefined_cell_undefined(opened: Any) -> None:
    label = label_under_the_pointer(opened, "#panel-2-1 .plot", LAYERS.index("layer1.1.bn1"), 2)
    assert "undefined" in label
    assert "0.500" not in label


@needs_browser
def test_the_only_buttons_over_a_figure_work_on_this_machine(opened: Any) -> None:
    buttons = opened.locator("#section-1 .modebar-btn")
    names = [button.get_attribute("data-title") for button in buttons.all()]
    assert [name.lower() for name in names] == ["download plot as a png", "zoom", "pan", "reset axes"]
    opened.locator("#section-1 .plot").hover()
    with opened.expect_download() as download:
        buttons.first.click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


@needs_browser
@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_never_has_to_be_moved_sideways(opened: Any, soon: Callable[..., None], width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 900})
    soon(opened, f"window.innerWidth === {width}")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    panels = opened.locator(".panel:visible")
    for panel in panels.all():
        soon(opened, "(panel) => panel.scrollWidth <= panel.clientWidth", panel.element_handle())


@needs_browser
def test_printing_opens_what_is_folded_and_puts_everything_back(opened: Any, soon: Callable[..., None]) -> None:
    opened.evaluate(
        """addEventListener("beforeprint", () => {
            window.onPaper = document.querySelectorAll("details[open]").length;
            const plots = document.querySelectorAll(".panel:not([hidden]) .svg-container");
            window.widths = [...plots].map((plot) => plot.offsetWidth);
        })"""
    )
    opened.pdf()
    assert opened.evaluate("onPaper") == 3
    assert max(opened.evaluate("widths")) <= 690
    assert opened.evaluate("document.querySelectorAll('details[open]').length") == 0
    soon(opened, "document.querySelector('#section-1 .svg-container').offsetWidth > 800")


# figures as PNG


@pytest.fixture
def warnings_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="sj_cka.report.page")
    return caplog


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def size_of(png: Path) -> tuple[int, int]:
    header = png.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    return int.from_bytes(header[16:20]), int.from_bytes(header[20:24])


@needs_browser
def test_every_figure_becomes_a_png_twice_as_fine_without_its_slider(tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    figure = a_heatmap()
    written = write_pngs({"every pair": figure, "curve": a_curve()}, tmp_path / "figures")
    assert written == [tmp_path / "figures" / "every pair.png", tmp_path / "figures" / "curve.png"]
    assert sorted((tmp_path / "figures").iterdir()) == sorted(written)
    still_height = figure.layout.meta["still"]["height"]
    assert still_height < figure.layout.height
    assert size_of(written[0]) == (2 * figure.layout.width, 2 * still_height)
    assert size_of(written[1])[0] == 2000
    assert len(figure.layout.sliders) == 1  # the figure given keeps its own


def test_no_figures_need_no_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    assert write_pngs({}, tmp_path) == []


def test_without_kaleido_the_log_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    assert write_pngs({"curve": a_curve()}, tmp_path / "figures") == []
    assert "pip install 'sj-cka[png]'" in warnings_logged.text
    assert not (tmp_path / "figures").exists()


def test_a_browser_path_that_leads_nowhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    monkeypatch.setenv("BROWSER_PATH", "/no/such/browser")
    assert write_pngs({"curve": a_curve()}, tmp_path) == []
    assert "BROWSER_PATH names '/no/such/browser'" in warnings_logged.text


def test_without_any_browser_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: pytest.LogCaptureFixture
) -> None:
    chromium = pytest.importorskip("choreographer.browsers.chromium", reason="kaleido is not installed")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setattr(chromium.Chromium, "find_browser", lambda **options: None)
    assert write_pngs({"curve": a_curve()}, tmp_path) == []
    assert "no Chromium or Chrome found" in warnings_logged.text


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for a broken browser is a shell script")
@pytest.mark.parametrize(
    ("body", "reason"),
    [("exit 1", "BrowserFailedError"), ("exec cat <&3 >/dev/null", "did not answer within 4 s")],
    ids=["dies at once", "never answers"],
)
def test_a_broken_browser_is_given_up_with_a_reason(
    body: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: pytest.LogCaptureFixture
) -> None:
    chromium = pytest.importorskip("choreographer.browsers.chromium", reason="kaleido is not installed")
    broken = script(tmp_path / "browser", body)
    monkeypatch.setenv("BROWSER_PATH", broken)
    if chromium.Chromium.find_browser(skip_local=False) != broken:
        pytest.skip("kaleido prefers the browser that it once downloaded")
    start = time.monotonic()
    assert write_pngs({"curve": a_curve()}, tmp_path / "figures", timeout_s=4) == []
    assert time.monotonic() - start < 20
    assert reason in warnings_logged.text
    assert list((tmp_path / "figures").iterdir()) == []


@needs_browser
def test_a_figure_that_cannot_be_drawn_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    monkeypatch.setattr(page, "_still", lambda figure: {"data": 5, "layout": {}})
    with pytest.raises(RuntimeError, match=r"could not draw \['curve'\]"):
        write_pngs({"curve": a_curve()}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_a_folder_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got '\.\./curve'"):
        write_pngs({"../curve": a_curve()}, tmp_path)
