"""The page: one faultless file that fetches nothing, shows the figures of the table, and lets no name act."""

from __future__ import annotations

import base64
import hashlib
import re
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pages import SVG, album, life, made, parsed, run_of, with_album, words
from report_cells import FEW, TRICKY, answers, ceilings, cell, digest, levels, matrix, result, results, samples

from ismn_cli.core.findings import Audit, Finding, Verdict, write_audit
from ismn_cli.core.recipe_files import load_recipe
from ismn_cli.core.records import CellResult, Outcome, SystemCost
from ismn_cli.core.specs import Knowledge, Subject
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.figures import rate
from ismn_cli.reporting.html.gallery import MOST_LIVES
from ismn_cli.reporting.html.page import text
from ismn_cli.reporting.table import one_line

SECTIONS = (
    "verdict", "threat", "matrix", "curves", "paper-part", "by-class", "detectors", "distances", "gallery", "cost",
    "all", "again", "where", "notes",
)  # fmt: skip


def furnished(tmp_path: Path) -> tuple[str, list[CellResult]]:
    """Return the page of a matrix with everything: audit, ceilings, costs, pictures."""
    found = levels()
    costs = {"none": SystemCost(parameters=1234, added_parameters=0, latency_ms=1.5, peak_memory_mib=12.25)}
    recipe = load_recipe("quickstart").model_dump(mode="json")
    run = run_of(found, tmp_path / "a", costs=costs, notes=["none: the released weights"], recipe=recipe)
    attacked = [r for r in found if r.attacked is not None]
    outcomes = (Outcome.BROKEN, Outcome.DETECTED, Outcome.SURVIVED)
    with_album(run, album([life(attacked[i], i, outcome) for i, outcome in enumerate(outcomes)]))
    finding = Finding(code="GM01", verdict=Verdict.FAIL, subject="none", says="It is masked.", cells=())
    write_audit(run.folder, Audit(run="a-run", cells=(), findings=(finding,)))
    return made(found, [run], ceilings=ceilings(200))[0], found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    return furnished(tmp_path_factory.mktemp("runs"))[0]


@pytest.fixture(scope="module")
def page(whole: str) -> Element:
    return parsed(whole)


def test_every_part_is_there_under_headings_in_order(page: Element) -> None:
    assert tuple(section.get("id") for section in page.iter("section")) == SECTIONS
    levels = [int(e.tag[1]) for e in page.iter() if isinstance(e.tag, str) and re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    linked = {a.get("href", "")[1:] for nav in page.iter("nav") for a in nav.iter("a")}
    assert linked == set(SECTIONS)
    assert [len(list(page.iter(tag))) for tag in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]


def test_what_refers_to_a_part_of_the_page_finds_it_once(page: Element) -> None:
    ids = [e.get("id") for e in page.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    wanted = {e.get("href", "")[1:] for e in page.iter() if e.get("href", "").startswith("#")}
    for name in ("aria-labelledby", "aria-describedby", "for"):
        wanted |= {word for e in page.iter() for word in e.get(name, "").split()}
    values = [value for e in page.iter() for value in e.attrib.values()]
    wanted |= {found for value in values for found in re.findall(r"url\(#([^)]+)\)", value)}
    assert wanted <= set(ids)


def test_tables_pictures_and_figures_have_words(page: Element) -> None:
    for table in page.iter("table"):
        assert words(next(table.iter("caption")))
        assert all(th.get("scope") in ("col", "row", "colgroup") for th in table.iter("th"))
    boxes = [e for e in page.iter("div") if "box" in e.get("class", "").split()]
    assert len(boxes) == len(list(page.iter("table")))
    assert all(box.get("tabindex") == "0" and box.get("aria-label") for box in boxes)
    images = list(page.iter("img"))
    assert len(images) == 3 * 5 and all(image.get("alt") for image in images)
    plots = [e for e in page.iter(f"{SVG}svg") if e.get("role") == "img"]
    assert len(plots) > 10
    for plot in plots:
        assert [len(words(next(plot.iter(f"{SVG}{tag}")))) > 10 for tag in ("title", "desc")] == [True, True]


def test_nothing_is_fetched_and_no_style_or_script_but_the_pages_own_may_act(whole: str, page: Element) -> None:
    for element in page.iter():
        assert "style" not in element.attrib
        assert not [name for name in element.attrib if name.startswith("on")]
        assert element.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert element.get("href", "#").startswith("#")
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", whole)
    policy = next(m.get("content") for m in page.iter("meta") if m.get("http-equiv") == "Content-Security-Policy")
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inline,) = page.iter(tag)
        own = base64.b64encode(hashlib.sha256((inline.text or "").encode()).digest()).decode()
        assert f"{rule} 'sha256-{own}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_figures_are_those_of_the_table(whole: str, page: Element) -> None:
    report = comparison_report(levels(), ceilings=ceilings(200))
    rows = report.rows
    table = next(e for e in page.iter("table") if e.get("id") == "cells")
    heads = [words(th) for th in table.find("thead").iter("th")]
    for row, line in zip(rows, table.find("tbody").iter("tr"), strict=True):
        shown = dict(zip(heads, map(words, line), strict=True))
        assert shown["system"] == row["defence"]
        for head, name in (
            ("clean", "clean_accuracy"), ("accuracy", "accuracy"), ("attack success", "success"),
            ("right before and under attack", "robust_accuracy"), ("detected", "detection"),
        ):  # fmt: skip
            assert shown[head] == ("–" if row[name] is None else " ".join(rate(row, name)))
        assert shown["AUROC"] == ("–" if row["auroc"] is None else f"{row['auroc']:,}")
    sheets = [e for e in page.iter("table") if e.get("id", "").startswith("sheet-")]
    for sheet, drawn in zip(report.sheets(), sheets, strict=True):
        columns = [*sheet.lead, *(column for group in sheet.groups for column in group)]
        for i, line in enumerate(drawn.find("tbody").iter("tr")):
            assert [words(box) for box in line] == [
                " ".join(sheet.labels[i]), *(" ".join(" ".join(column.cells[i]).split()) for column in columns)
            ]  # fmt: skip


def test_the_verdict_is_the_worst_case_best_first(page: Element) -> None:
    rows = comparison_report(levels()).rows
    worst = {r["defence"]: r for r in rows if r["knowledge"] == "all" and r["level"] == "8/255"}
    table = next(e for e in page.iter("table") if e.get("id", "").startswith("verdict-"))
    lines = [[words(box) for box in line] for line in table.find("tbody").iter("tr")]
    best_first = sorted((r["robust_accuracy"] for r in worst.values()), reverse=True)
    assert [float(line[3].split()[0]) for line in lines] == best_first
    for line in lines:
        assert line[3].startswith(" ".join(rate(worst[line[0]], "robust_accuracy")))
    verdict = words(next(e for e in page.iter("section") if e.get("id") == "verdict"))
    assert f"{lines[0][0]} keeps the most of 3 systems at L∞ 8/255" in verdict
    assert "GM01" in verdict and "It is masked." in verdict


def test_costs_pictures_and_commands_are_shown(page: Element) -> None:
    section = {e.get("id"): words(e) for e in page.iter("section")}
    assert "1,234" in section["cost"] and "12.25" in section["cost"]
    assert all(word in section["gallery"] for word in ("broken", "detected and refused", "survived", "cat", "flagged"))
    assert "perturbation ×" in section["gallery"]
    assert "ismn run quickstart --device cpu" in section["again"]
    assert "Each of its" in section["again"]


NAMED = [
    *TRICKY, "<script>alert(1)</script>", "</style><img src=x onerror=alert(1)>", "'\"><svg onload=x>", "$x^2$",
    "{{ 7*7 }}",
]  # fmt: skip


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    """Every name that a stored file can bring, on a page with everything."""
    found = []
    for i, name in enumerate(NAMED):
        where = {"defence": Subject(name=name, weights=digest(name)), "samples": samples(NAMED[i // 8], n=20)}
        clean = answers(20, 18)
        found.append(result(cell("", None, **where), clean))
        scored = answers(20, 9, 4).model_copy(update={"score": tuple(i / 20 for i in range(20)), "loops": (0, 1) * 10})
        for knowledge in (Knowledge.GRAY, Knowledge.WHITE):
            attack = cell("", name, 0.1, knowledge=knowledge, params={name: name}, **where)
            found.append(result(attack, clean, scored, notes=(name,)))
    costs = {name: SystemCost(parameters=1, added_parameters=0) for name in NAMED}
    run = run_of(found, tmp_path / "x", NAMED[11], costs=costs, notes=NAMED, recipe={name: name for name in NAMED})
    with_album(run, album([life(found[1], 0, Outcome.BROKEN, name=NAMED[11])], names=NAMED[11:14]))
    doubted = (found[1].cell.key(),)
    findings = tuple(Finding(code=n, verdict=Verdict.FAIL, subject=n, says=n, cells=doubted) for n in NAMED)
    audit = Audit(run="x", cells=(), findings=findings)
    write_audit(run.folder, audit)
    page, _ = made(found, [run], title=NAMED[11], unreliable=audit.unreliable())
    document = parsed(page)
    assert len(list(document.iter("script"))) == 1 and len(list(document.iter("style"))) == 1
    assert all(image.get("src", "").startswith("data:") for image in document.iter("img"))
    assert not [e for e in document.iter() if "onload" in e.attrib or "onerror" in e.attrib]
    shown = words(document)
    assert all(one_line(name) in shown for name in NAMED)


@settings(FEW, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(results(), max_size=3), st.text(max_size=20))
def test_a_page_of_any_records_is_faultless_and_shows_them(found: list[CellResult], title: str) -> None:
    document = parsed(text(comparison_report(found, title=title)))
    assert words(next(document.iter("h1"))) == " ".join(one_line(title).split())
    shown = words(document)
    assert all(one_line(r.cell.defence.name) in shown for r in found)
    assert len(list(document.iter("script"))) == 1 and not list(document.iter("img"))


@settings(FEW, max_examples=6, phases=(Phase.reuse, Phase.generate), suppress_health_check=list(HealthCheck))
@given(found=st.lists(results(), max_size=3))
def test_a_whole_page_of_any_records_is_faultless(tmp_path: Path, found: list[CellResult]) -> None:
    document = parsed(made(found, [run_of(found, tmp_path)])[0])
    assert tuple(section.get("id") for section in document.iter("section")) == SECTIONS


def test_many_runs_make_a_page_of_bounded_size_that_says_what_it_leaves_out(tmp_path: Path) -> None:
    found = []
    for i in range(40):
        where = samples(f"set-{i}", n=20)
        clean = answers(20, 18)
        found.append(result(cell("magnet", None, samples=where), clean))
        for method in ("pgd", "fgsm", "apgd"):
            hit = answers(20, 5, 3).model_copy(update={"score": tuple(k / 20 for k in range(20))})
            found.append(result(cell("magnet", method, 0.1, samples=where), clean, hit))
    runs = [run_of(found[4 * i : 4 * i + 4], tmp_path / str(i), f"run-{i}") for i in range(40)]
    for i, run in enumerate(runs[:10]):
        lives = [life(found[4 * i + 1], k, Outcome.BROKEN) for k in range(5)]
        with_album(run, album(lives, side=128))
    page, _ = made(found, runs)
    document = parsed(page)
    assert len(page.encode()) < 5_000_000
    assert len([e for e in document.iter(f"{SVG}svg") if e.get("role") == "img"]) <= 40
    assert 0 < len(list(document.iter("article"))) <= MOST_LIVES
    section = {e.get("id"): words(e) for e in document.iter("section")}
    assert "34 more sets of images" in section["verdict"]
    assert "more samples are kept: ismn show RUN" in section["gallery"]
    assert "No pictures of" in section["gallery"] and "more systems are not shown" in section["by-class"]
    assert "more runs are left out" in section["where"]


def test_an_empty_store_has_a_page_that_says_so() -> None:
    page, _ = made([], [])
    assert "Nothing was attacked in these runs" in words(parsed(page))


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    found = matrix()[:6]
    run = run_of(found, tmp_path)
    assert made(found, [run])[0] == made(found, [run])[0]
