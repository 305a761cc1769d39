"""The report as one page: a single file that opens offline, in a browser that is told to fetch nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ismn_cli.core.environment import ismn_version
from ismn_cli.core.findings import read_audit
from ismn_cli.core.runs import Run
from ismn_cli.reporting.commands import run_command
from ismn_cli.reporting.html.cells import CellFigures
from ismn_cli.reporting.html.classes import class_grids, confusions
from ismn_cli.reporting.html.curves import size_curves, step_curves
from ismn_cli.reporting.html.detectors import detector_curves, risk_curves
from ismn_cli.reporting.html.gallery import WORDS, gallery, read_albums
from ismn_cli.reporting.html.grid import Box, Grid, Head, sheet_grid
from ismn_cli.reporting.html.groups import groups
from ismn_cli.reporting.html.listing import cell_grid, commands, cost_grid, paper_grid, system_costs
from ismn_cli.reporting.html.matrix import heat_maps
from ismn_cli.reporting.html.spread import distance_plots, loop_grids
from ismn_cli.reporting.html.threat import card
from ismn_cli.reporting.html.verdict import MOST, audited, judgements
from ismn_cli.reporting.table import Report, Row, one_line

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_SHEETS = 60
MOST_COMMANDS = 600
_ROOM = "ismn_cli.reporting.html"
_BARRED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True)
class Evidence:
    """What a page shows beside the table: the runs, and their cells, reduced, by key."""

    runs: Sequence[Run]
    cells: Mapping[str, CellFigures]


def text(report: Report, evidence: Evidence | None = None) -> str:
    """Return the page of ``report``: its tables and notes, and with ``evidence`` all that belongs to them."""
    shown = _whole(report, evidence) if evidence is not None else _plain(report)
    style, script = (_asset(name) for name in ("style.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    template = _templates().get_template("report.html.j2" if evidence is not None else "plain.html.j2")
    told = {"report": report, "policy": policy, "style": style, "script": script, "version": ismn_version()}
    return template.render(told | shown) + "\n"


def _plain(report: Report) -> dict[str, Any]:
    sheets = [sheet_grid(sheet, f"sheet-{i}") for i, sheet in enumerate(report.sheets())]
    return {"sheets": sheets[:MOST_SHEETS], "sheets_left": max(len(sheets) - MOST_SHEETS, 0)}


def _whole(report: Report, evidence: Evidence) -> dict[str, Any]:
    rows = report.rows
    found, cells, runs = groups(rows), evidence.cells, evidence.runs
    carrying = [run for run in runs if run.record.cells]
    albums = read_albums(carrying)
    names = {run_dataset(run, cells): album.lives.classes for run, album in zip(carrying, albums, strict=True) if album}
    judged = judgements(found)
    confused, unconfused = confusions(found, cells, names)
    return _plain(report) | {
        "subtitle": _subtitle(rows, carrying),
        "judged": judged[:MOST],
        "judged_left": max(len(judged) - MOST, 0),
        "audited": audited(carrying, [read_audit(run.folder) for run in carrying]),
        "card": card(rows),
        "heat": heat_maps(found),
        "sizes": size_curves(found),
        "steps": step_curves(found),
        "paper": paper_grid(rows),
        "classes": class_grids(found, cells, names),
        "confusions": confused,
        "unconfused": unconfused,
        "rocs": detector_curves(found, cells),
        "risks": risk_curves(found, cells),
        "distances": distance_plots(found, cells),
        "loops": loop_grids(found, cells),
        "gallery": gallery(carrying, {row["cell"]: row for row in rows if row["cell"]}, albums),
        "outcomes": {outcome.value: words for outcome, words in WORDS.items()},
        "systems": system_costs(runs),
        "costs": cost_grid(rows),
        "listed": cell_grid(rows),
        **_records(carrying, cells),
    }


def _subtitle(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """Return in a line how much was measured, and until when."""
    cells = [row for row in rows if row["attacks"] is None]
    attacks = {(row["knowledge"], row["attack"]) for row in cells if row["attack"] is not None}
    counts = {
        "system": len({(row["defence"], row["defence_weights"]) for row in cells}),
        "attack": len(attacks),
        "cell": len(cells),
        "run": len(runs),
    }
    parts = [f"{count:,} {word}{'' if count == 1 else 's'}" for word, count in counts.items()]
    latest = max((run.latest() for run in runs), default="")[:10]
    return " · ".join([*parts, *([latest] if latest else [])])


def run_dataset(run: Run, cells: Mapping[str, CellFigures]) -> str:
    """Return the data set that the cells of ``run`` are on, as the table names it."""
    known = (cells[key].cell.samples.dataset for key in run.record.cells if key in cells)
    return one_line(next(known, ""))


def _records(runs: Sequence[Run], cells: Mapping[str, CellFigures]) -> dict[str, Any]:
    told, left = [], MOST_COMMANDS
    for record, mine in commands(runs, cells):
        shown = mine[:left]
        left -= len(shown)
        entry = {"record": record, "whole": run_command(record), "cells": shown, "left": len(mine) - len(shown)}
        told.append(entry | {"recipe": json.dumps(record.recipe, indent=1, ensure_ascii=False, sort_keys=True)})
    return {"runs": told, "hashes": _hashes(cells)}


def _hashes(cells: Mapping[str, CellFigures]) -> Grid:
    """Return the digests of the images and weights that the figures are of."""
    found: dict[tuple[str, str], str] = {}
    for figures in cells.values():
        cell = figures.cell
        images = f"{one_line(cell.samples.dataset)} {one_line(cell.samples.split)}, {cell.samples.count:,} images"
        found[f"{images}: which", cell.samples.ids] = "sample ids"
        found[f"{images}: pixels", cell.samples.data] = "pixels"
        subjects = {"classifier": [cell.classifier], "system": [cell.defence], "source of transfer": cell.sources}
        for kind, subject in ((kind, subject) for kind, several in subjects.items() for subject in several):
            found[one_line(subject.name), subject.weights] = kind
    entries = list(found.items())[:MOST_COMMANDS]
    rows = tuple((Box((kind,), kind), Box((digest or "without weights",), digest)) for (_, digest), kind in entries)
    heads = ((Head(("what",), numeric=False), Head(("sha256",), numeric=False)),)
    labels = tuple((name,) for (name, _), _ in entries)
    return Grid("hashes", "What the figures are of.", "name", heads, labels, rows, sortable=True)


@cache
def _asset(name: str) -> str:
    return (files(_ROOM) / "templates" / name).read_text(encoding="utf-8").strip()


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _printable(value: object) -> object:
    """Return a text without the characters that no document may have, whatever a record holds."""
    return _BARRED.sub(" ", value) if type(value) is str else value


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader(_ROOM, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["as_is"] = Markup  # of what ismn itself has made: style, script, figures
    made.filters["clean"] = one_line
    made.globals["zip"] = zip
    return made
