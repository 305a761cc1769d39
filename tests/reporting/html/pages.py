"""Pages to look at as a browser's parser sees them, and the stores that they are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import numpy as np

from ismn_cli.core.lives import Album, Life, Lives, Step, write_album
from ismn_cli.core.records import CellResult, Environment, Outcome, RunRecord
from ismn_cli.core.runs import Run
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.html.cells import Reduced
from ismn_cli.reporting.html.page import Evidence, text
from ismn_cli.reporting.table import Report

ENVIRONMENT = Environment(ismn="0", commit=None, python="3", platform="test", packages={}, device="cpu", threads=1)
SVG = "{http://www.w3.org/2000/svg}"


def run_of(results: Sequence[CellResult], folder: Path, name: str = "a-run", **changes: object) -> Run:
    """Return a finished run of ``results`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "id": name, "kind": "run", "name": name, "status": "done", "recipe": {"task": "matrix", "name": "quickstart"},
        "environment": ENVIRONMENT, "started": "2026-01-02T03:04:05", "cells": [r.cell.key() for r in results],
    }  # fmt: skip
    return Run(folder, RunRecord.model_validate(fields | changes))


def made(results: Sequence[CellResult], runs: Iterable[Run], **options: object) -> tuple[str, Report]:
    """Return the page over ``results``, and the report that it shows."""
    reduced = Reduced(results)
    report = comparison_report(reduced, **options)
    return text(report, Evidence(list(runs), reduced.cells)), report


def parsed(page: str) -> Element:
    """Return the document, which must be without a fault by the HTML standard."""
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    document: Element = parser.parse(page)
    assert parser.errors == []
    return document


def words(element: Element) -> str:
    """Return the text of an element."""
    return " ".join("".join(element.itertext()).split())


def life(result: CellResult, i: int, outcome: Outcome, classes: int = 3, name: str = "regenerated 1") -> Life:
    """Return a life of three pictures."""
    steps = tuple(
        Step(name=step, logits=tuple(float(k == j) for k in range(classes)), score=0.4 * j)
        for j, step in enumerate(("clean", "adversarial", name))
    )
    return Life(
        cell=result.cell.key(), position=i, id=100 + i, label=0, outcome=outcome, predicted=1,
        rejected=outcome is Outcome.DETECTED, threshold=0.5, linf=0.03, l2=1.5, steps=steps,
    )  # fmt: skip


def album(lives: Sequence[Life], side: int = 8, names: Sequence[str] = ("cat", "dog", "owl")) -> Album:
    """Return an album of noise, which no PNG makes small."""
    random = np.random.default_rng(0)
    pictures = tuple(tuple(random.random((3, side, side)).astype(np.float16) for _ in one.steps) for one in lives)
    return Album(Lives(classes=tuple(names), lives=tuple(lives)), pictures)


def with_album(run: Run, kept: Album) -> Run:
    """Return ``run`` with an album in its folder."""
    write_album(run.folder, kept)
    return run
