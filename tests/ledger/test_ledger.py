"""The ledger: reports are believed as sealed, runs of one study are put together, and every claim has its line."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sj_cka
from sj_cka.claims import Finding, claims_table
from sj_cka.claims.arms import Levels
from sj_cka.claims.inference import Estimate
from sj_cka.cli import app
from sj_cka.integrity import MANIFEST, Damaged
from sj_cka.ledger import ledger
from sj_cka.ledger.reports import read_report, read_reports
from sj_cka.ledger.runs import differing, studies
from sj_cka.ledger.unrun import Unrun, unrun
from sj_cka.over_seeds import Interval
from sj_cka.provenance import STUDY, Provenance
from sj_cka.report import Edition, write_csv

Write = Callable[..., Path]


def finding(says: str = "Shortcuts help.", effect: float = 0.1, **changes: Any) -> Finding:
    found = Estimate(effect, 0.01, 3.0, 4)
    made = Finding(
        *(says, "Li", "greater", "holds", True, "CKA 0.8 against 0.7"),
        found.interval(),
        Interval(effect, np.nan, np.nan, 4),
        p=0.004,
        p_corrected=0.008,
        margin=0.02,
        found=found,
        direction="up",
    )
    return replace(made, **changes)


def known(**changes: Any) -> Provenance:
    """What a run was."""
    made = Provenance(
        **{"title": "Depth", "question": "Does it matter?", "recipe": "depth", "file": "recipes/depth.yaml"},
        **{"profile": "quick", "settings": (), "smaller": True, "seeds": (0, 1, 2, 3), "data": (("digits", "f1"),)},
        **{"jobs": 4, "done": 4, "seconds": 1.5, "threads": 1, "cpu_s": {"train": 3600.0, "compare": 900.0}},
        **{"unknown": 0, "environment": {"torch": "2.11.0"}, "backends": "lif: fused", "commit": "c0ffee"},
        **{"time": "2026-01-02 03:04 UTC", "fixed": "2026-01-01 00:00 UTC, before any", "changes": ()},
        **{"never_run": ("paper",), "kinds": {"train": 1}, "design": {"seeds": "s1", "networks": "n1"}},
        claims={"Shortcuts help.": "c1", "They harm.": "c2"},
    )
    return replace(made, **changes)


def report(folder: Path, *findings: Finding, study: Provenance | None = None) -> Path:
    """A sealed report."""
    with Edition(folder).made("all is safe") as made:
        write_csv(claims_table(findings or (finding(),)), made / "claims.csv")
        (made / "report.html").write_text("a page")
        (made / STUDY).write_bytes((study or known()).content())
    return folder


def again(**changes: Any) -> Provenance:
    return known(seeds=(4, 5, 6, 7), design={"seeds": "s2", "networks": "n1"}, **changes)


def rows(text: str, heading: str = "## Claims") -> list[list[str]]:
    """The rows of the table below a heading; of claims without what they are called."""
    lines = text.partition(f"{heading}\n")[2].partition("##")[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    return [row[1:] for row in cells] if heading == "## Claims" else cells


def names(text: str) -> list[str]:
    """What rows of claims are called; links lead there."""
    return [
        re.fullmatch(r'<a id="(.*)"></a>\1', line.split(" | ")[0][2:])[1] for line in text.splitlines() if "<a" in line
    ]


def call(*arguments: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["ledger", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_every_claim_has_a_line_in_the_recipe_s_order_whatever_became_of_it(tmp_path: Path) -> None:
    harm = finding("They harm | *a* lot.\n", -0.1234, verdict="contradicted", agreement=None, gates="held")
    nothing = finding("It is so.", verdict="undecided", primary=False, p=0.3, p_corrected=0.3, confidence=90)
    report(tmp_path / "figures" / "width", harm, study=known(recipe="width"))
    report(tmp_path / "figures" / "depth", harm, finding(), nothing)
    made = ledger([tmp_path / "figures"], tmp_path, tmp_path / "figures")
    first, second, third, fourth = rows(made.text)
    assert fourth[0] == "[width](width)"
    assert names(made.text) == ["depth-1", "depth-2", "depth-3", "width-1"]
    sha = read_report(tmp_path / "figures" / "depth").sha256[:12]
    assert first == [
        *("[depth](depth)", r"They harm \| \*a\* lot.", "greater", "contradicted", "primary", "-0.123", "0.02"),
        *("-0.155 to -0.092", "4", "0.008", "held", "–", "Li", "2026-01-02", sha),
    ]
    assert second[1:4] == ["Shortcuts help.", "greater", "holds"]
    assert third[3:10] == ["undecided", "exploratory", "+0.100", "0.02", "90 %: 0.068 to 0.132", "4", "0.3"]
    counts = rows(made.text.replace("quick", ""), "(#what-nobody-has-run).")
    assert [row[:6] for row in counts] == [
        ["primary", "3", "1", "2", "0", "0"],
        ["exploratory", "1", "0", "0", "0", "1"],
        ["all", "4", "1", "2", "0", "1"],
    ]
    assert made.counted == "4 claims of 2 studies: 1 holds, 2 contradicted, 1 undecided"
    assert rows(made.text, "## Studies")[0][3:5] == ["0, 1, 2, 3", "1.25"]


def test_what_does_not_hold_what_was_written_is_named_and_left_out(tmp_path: Path) -> None:
    good, bad = report(tmp_path / "good"), report(tmp_path / "bad")
    (bad / "claims.csv").write_text((bad / "claims.csv").read_text().replace("undecided", "holds") + "\n")
    lost = report(tmp_path / "lost")
    (lost / "claims.csv").unlink()
    (good / "report.html").unlink()  # as git keeps it
    code, out, told = call(tmp_path, "--recipes", tmp_path)
    assert code == 1
    assert f"error: left out: {bad / 'claims.csv'} is damaged: expected" in told
    assert f"error: left out: {lost / 'claims.csv'} is missing" in told
    assert "Left out, because they cannot be read or do not hold what was written into them" in out
    assert [row[0].partition("]")[0] for row in rows(out)] == ["[good"]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda folder: (folder / STUDY).write_text("{}"), "study.json is damaged"),
        (lambda folder: (folder / STUDY).unlink(), "study.json is missing"),
        (lambda folder: (folder / "report.html").write_text("another"), "report.html is damaged"),
    ],
)
def test_damage_anywhere_in_a_report_is_found(damage: Callable[[Path], Any], why: str, tmp_path: Path) -> None:
    folder = report(tmp_path / "depth")
    read_report(folder)
    damage(folder)
    with pytest.raises(Damaged, match=why):
        read_report(folder)


def test_a_report_that_says_something_else_under_its_seal_is_damaged_too(tmp_path: Path) -> None:
    with Edition(tmp_path / "odd").made("safe") as made:
        (made / "claims.csv").write_text("claim,test\n")
        (made / STUDY).write_text("{}")
    with pytest.raises(Damaged, match=r"study.json cannot be read: .* Field required"):
        read_report(tmp_path / "odd")
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "claims.csv").write_text("claim,test\n")
    with pytest.raises(Damaged, match=r"claims.csv cannot be read: expected a table of claims"):
        read_report(tmp_path / "older")


def test_a_report_of_an_earlier_version_is_listed_with_what_it_has(tmp_path: Path) -> None:
    table = claims_table([finding()]).drop(columns=["se", "df", "direction", "value", "gates", "missed"])
    (tmp_path / "depth").mkdir()
    write_csv(table, tmp_path / "depth" / "claims.csv")
    made = ledger([tmp_path], tmp_path, tmp_path)
    (row,) = rows(made.text)
    assert row == [
        *("[depth](depth)", "Shortcuts help.", "greater", "holds", "primary", "+0.100", "0.02", "0.068 to 0.132"),
        *("4", "0.008", "–", "–", "Li", "–", "–"),
    ]
    assert made.damaged == ()


def test_two_runs_are_shown_with_what_they_say_together(tmp_path: Path) -> None:
    weak = {"verdict": "undecided", "p_corrected": 0.06}
    claims = finding(effect=0.06, **weak), finding("They harm.", test="near_ceiling", direction="")
    report(tmp_path / "depth", *claims)
    report(tmp_path / "depth-again", *claims[:1], replace(claims[1], verdict="undecided"), study=again())
    made = ledger([tmp_path], tmp_path, tmp_path)
    first, second, both, *unpooled = rows(made.text)
    assert names(made.text) == ["depth-1", "depth-again-1", "depth-1-runs", "depth-2", "depth-again-2"]
    assert [row[0] for row in (first, second, both)] == [
        "[depth](depth)",
        "[depth-again](depth-again)",
        "depth, 2 runs",
    ]
    assert [row[3] for row in (first, second, both)] == ["undecided", "undecided", "holds"]
    # Holm over two primary claims, one of which is not pooled: se .01 / sqrt 2, 6 degrees of freedom
    assert both[5:11] == ["+0.060", "0.02", "0.043 to 0.077", "8", "0.0026", "runs differ: p 1"]
    assert [row[3] for row in unpooled] == ["holds", "undecided"]
    assert made.counted == "2 claims of 1 study: 1 holds, 1 undecided"
    assert "- depth, depth-again: 1 of 2 claims are pooled.\n" in made.text


def test_a_finding_that_does_not_come_again_is_called_so(tmp_path: Path) -> None:
    report(tmp_path / "depth", finding(effect=0.1))
    report(tmp_path / "depth-again", finding(effect=0.25), study=again())
    made = ledger([tmp_path], tmp_path, tmp_path)
    assert [row[3] for row in rows(made.text)] == ["holds", "holds", "not repeated"]
    assert made.counted.endswith("1 not repeated")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (known(), "both have seed 0, 1, 2, 3"),
        (again(data=(("digits", "f2"),)), "they differ in what their data hold"),
        (again(kinds={"train": 2}), "they differ in the version of train jobs"),
        (replace(again(), design={"networks": "n2"}), "they differ in networks"),
    ],
)
def test_runs_of_another_design_are_not_pooled_and_why_is_said(other: Provenance, why: str, tmp_path: Path) -> None:
    assert list(differing(known(), again())) == []
    assert list(differing(known(), other)) == [why]
    report(tmp_path / "depth")
    report(tmp_path / "depth-again", study=other)
    found = studies(read_reports([tmp_path])[0])
    assert [len(study.lines[0].runs) for study in found] == [1, 1]
    assert found[-1].notes == (f"depth, depth-again are not pooled: {why}.",)


def test_a_claim_that_was_changed_between_runs_is_not_pooled_and_others_are(tmp_path: Path) -> None:
    claims = finding(), finding("They harm.", -0.1, verdict="contradicted")
    report(tmp_path / "depth", *claims)
    changed = again(claims={"Shortcuts help.": "other", "They harm.": "c2"})
    report(tmp_path / "depth-again", *claims, study=changed)
    (study,) = studies(read_reports([tmp_path])[0])
    assert [line.pooled is None for line in study.lines] == [True, False]
    assert [line.verdict for line in study.lines] == ["holds", "contradicted"]
    assert study.notes == (
        "depth, depth-again: 1 of 2 claims are pooled.",
        "Not pooled, because the claim is not the same in all of depth, depth-again: Shortcuts help.",
    )


def test_what_nobody_has_run_and_what_has_no_report_is_told(recipe_file: Write, tmp_path: Path) -> None:
    more = ("profiles:", "never_run: [large]\nprofiles:\n  large: {seeds: 3}\n  small: {seeds: 1}")
    path = recipe_file(more)
    report(tmp_path / "figures" / "depth")
    reports = read_reports([tmp_path / "figures"])[0]
    gone = Unrun("depth", None, ("paper",), ())
    assert unrun(tmp_path, reports) == [gone, Unrun("tiny", path, ("large",), ("quick", "small"))]
    text = ledger([tmp_path / "figures"], tmp_path, tmp_path).text
    assert rows(text, "## What nobody has run") == [
        ["depth", "paper", "–"],
        ["[tiny](tiny.yaml)", "large", "quick, small"],
    ]
    assert f"sj-cka run {path} --profile large --dry-run" in text
    # once somebody has run it, its report says so; of another study than that of the profile it says nothing
    run = known(recipe="tiny", profile="large")
    for settings, never in ((("train.epochs=1", "seeds=[8]"), ("large",)), (("seeds=[8]", "data.root=/data"), ())):
        report(tmp_path / "figures" / "tiny-large", study=replace(run, settings=settings))
        reports = read_reports([tmp_path / "figures"])[0]
        assert unrun(tmp_path, reports)[1].never == never
        profile = "large" if never == () else "large with train.epochs=1"
        (row,) = (row for row in rows(ledger([tmp_path], tmp_path).text, "## Studies") if "tiny-large" in row[0])
        assert row[2] == f"{profile}, smaller than the paper's"


def test_without_recipes_nothing_is_said_of_them(tmp_path: Path) -> None:
    report(tmp_path / "depth", study=known(never_run=()))
    for recipes in (tmp_path, tmp_path / "nowhere"):
        assert "Not known: there was no recipe to look at." in ledger([tmp_path], recipes).text


def test_texts_that_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    report(tmp_path / "depth", finding("1.0", source="2304.13098"), finding("True", source="nan"))
    first, second = rows(ledger([tmp_path], tmp_path).text)
    assert (first[1], first[-3], second[1], second[-3]) == ("1.0", "2304.13098", "True", "nan")


def test_a_table_of_no_numbers_is_left_out_and_others_stay(tmp_path: Path) -> None:
    report(tmp_path / "good")
    (tmp_path / "folder" / "claims.csv").mkdir(parents=True)
    for name, seeds in (("endless", "inf"), ("none", "")):
        table = claims_table([finding()]).assign(seeds=seeds)
        (tmp_path / name).mkdir()
        table.to_csv(tmp_path / name / "claims.csv", index=False)
    made = ledger([tmp_path], tmp_path)
    assert [row[0].partition("]")[0] for row in rows(made.text)] == ["[good"]
    assert len(made.damaged) == 2
    assert "claims.csv cannot be read: expected numbers of seeds and confidence, got 'inf' and '95'" in made.damaged[0]


def test_a_folder_counts_once_and_rows_of_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    report(tmp_path / "a" / "depth")
    report(tmp_path / "b" / "depth", study=again())
    (tmp_path / "c").symlink_to(tmp_path / "a")
    made = ledger([tmp_path / "a", tmp_path / "c", tmp_path], tmp_path)
    assert len(rows(made.text)) == 3
    assert names(made.text) == ["depth-1", "depth-folder2-1", "depth-1-runs"]


def test_folders_of_odd_names_stay_in_their_cells(tmp_path: Path) -> None:
    report(tmp_path / "a|b (1)\nc")
    (row,) = rows(ledger([tmp_path], tmp_path, tmp_path).text)
    assert row[0] == r"[a\|b (1) c](a%7Cb%20%281%29%0Ac)"


def test_runs_over_other_layers_say_so(tmp_path: Path) -> None:
    on = [finding(arms={"a": Levels(0.8, layers=layers)}) for layers in (("lif1", "lif2"), ("lif1",))]
    report(tmp_path / "depth", on[0])
    for other, said in zip(on, ("runs differ: p 1", "runs differ: p 1; runs are over other layers"), strict=True):
        report(tmp_path / "depth-again", other, study=again())
        assert rows(ledger([tmp_path], tmp_path).text)[2][10] == said


def test_a_folder_without_reports_ends_with_code_1_and_one_message(tmp_path: Path) -> None:
    assert call(tmp_path)[::2] == (
        1,
        f"error: expected a folder with reports, found none in {tmp_path}: run a study first\n",
    )
    gone = tmp_path / "gone"
    assert call(gone)[::2] == (
        1,
        f"error: expected a folder with reports, got {gone}, which is none: run a study first\n",
    )


def test_two_runs_of_a_study_go_from_recipe_to_ledger(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    accuracy = "{measure: accuracy, network: all.%s}"
    path = recipe_file(
        ('compare:\n  - {name: twins, x: "*.snn", y: "*.ann"}\n  - {name: shortcuts, x: all.snn, y: none.snn}\n', ""),
        ("figures:\n  - {name: curve, comparison: twins}\n  - name: steps\n    comparison: twins\n", ""),
        ("    layers: [layer1.0.lif2]\n", ""),
        ("  none:\n    model: {residual: []}\n", ""),
        ("    a: {measure: paired_cka, comparison: twins, variant: all}\n", f"    a: {accuracy % 'snn'}\n"),
        ("    b: {measure: paired_cka, comparison: twins, variant: none}\n", f"    b: {accuracy % 'ann'}\n"),
    )
    for out, seeds, store in (("tiny", "[0,1]", "store"), ("tiny-again", "[2,3]", "again")):
        options: dict[str, Any] = {"settings": [f"seeds={seeds}"], "out": f"figures/{out}", "store": store}
        made = sj_cka.run(path, workers=1, progress=False, **options)
    told = Provenance.parse((made.folder / STUDY).read_bytes())
    assert (told.recipe, told.profile, told.seeds, told.settings) == ("tiny", "quick", (2, 3), ("seeds=[2,3]",))
    assert (told.jobs, told.done, told.smaller, told.never_run) == (8, 8, False, ())
    assert told.cpu_s.keys() == told.kinds.keys() == {"train", "cost"}
    page = html.unescape(made.report.read_text(encoding="utf-8"))
    assert [words for words in told.words().values() if words not in page] == []
    code, out_, told_ = call("--out", "figures/README.md", "--recipes", "nowhere")
    assert (code, told_) == (0, "")
    assert out_.splitlines()[1] == "ledger: figures/README.md"
    text = Path("figures/README.md").read_text(encoding="utf-8")
    assert [row[0] for row in rows(text)] == ["[tiny](tiny)", "[tiny-again](tiny-again)", "tiny, 2 runs"]
    assert [row[8] for row in rows(text)] == ["2", "2", "4"]
    assert call("--out", "figures/README.md", "--recipes", "nowhere")[0] == 0
    assert Path("figures/README.md").read_text(encoding="utf-8") == text  # nothing in it hangs on when it is written
