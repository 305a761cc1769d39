"""The verdict: what of each system is left in the worst case, and whether the figures can be believed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ismn_cli.core.findings import Audit, Verdict, worst
from ismn_cli.core.runs import Run
from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.figures import rate, refuses
from ismn_cli.reporting.findings_table import Group as Checked
from ismn_cli.reporting.findings_table import grouped, summary
from ismn_cli.reporting.html.grid import Box, Grid, Head, leading, nothing
from ismn_cli.reporting.html.groups import NORMS, Group, figure
from ismn_cli.reporting.layout import Lines
from ismn_cli.reporting.sections import KNOWLEDGE
from ismn_cli.reporting.seeds import spread
from ismn_cli.reporting.table import Row
from ismn_cli.reporting.worst_rows import ALL

MOST = 6
"""Sets of images (and norms) that are judged at the top; the others stand in their tables."""
MOST_SIZES = 5


class Part(NamedTuple):
    """A part of a sentence, and how it is set: "strong", as a "name", or as it is."""

    text: str
    look: str = ""


@dataclass(frozen=True)
class Bar:
    """What is drawn of a system, in percent: its worst case with its interval, clean accuracy, the ceiling."""

    value: float | None
    low: float | None
    high: float | None
    clean: float | None
    ceiling: float | None
    tone: int


@dataclass(frozen=True)
class Judgement:
    """The verdict on the systems of one group in one norm."""

    title: str
    sentence: tuple[Part, ...]
    grid: Grid
    bars: tuple[Bar, ...]
    remark: str


@dataclass(frozen=True)
class Audited:
    """The audits of the runs as one: the worst verdict, in words, what failed, and who was not audited."""

    verdict: Verdict
    words: str
    checks: tuple[Checked, ...]
    missing: tuple[str, ...]


def judgements(found: Sequence[Group]) -> list[Judgement]:
    """Return the verdicts on all groups that were attacked."""
    return [_judged(group, norm, f"{g}-{n}") for g, group in enumerate(found) for n, norm in enumerate(group.norms())]


def audited(runs: Sequence[Run], audits: Sequence[Audit | None]) -> Audited:
    """Return what the audits of ``runs`` come to."""
    findings = [finding for audit in audits if audit for finding in audit.findings]
    loud = [group for group in grouped(findings) if group.verdict in (Verdict.FAIL, Verdict.WARN)]
    pairs = zip(runs, audits, strict=True)
    missing = [run.record.id for run, audit in pairs if audit is None and run.record.cells]
    return Audited(worst(findings), summary(findings), tuple(loud), tuple(missing))


def _judged(group: Group, norm: str, name: str) -> Judgement:
    found, sizes = group.worst(norm), group.sizes(norm)
    clean, first = group.clean(), sizes[0]
    names = [label for label in group.systems.values() if any((label, eps) in found for eps in sizes)]
    names.sort(key=lambda label: -(_robust(found.get((label, first))) or 0.0))
    shown = sizes[:MOST_SIZES]
    places = {label: place for place, label in enumerate(group.systems.values())}
    return Judgement(
        f"{group.title}, {NORMS.get(norm, norm)}",
        tuple(_sentence(group, norm, names, found, first)),
        _grid(f"verdict-{name}", names, found, clean, shown),
        tuple(_bar(found.get((label, first)), clean[label], places[label]) for label in names),
        _remark(found, sizes[MOST_SIZES:]),
    )


def _robust(row: Row | None) -> float | None:
    return None if row is None else figure(row, "robust_accuracy")


def _sentence(
    group: Group, norm: str, names: Sequence[str], found: dict[tuple[str, float], Row], eps: float
) -> Iterator[Part]:
    best = found.get((names[0], eps))
    size = f"{NORMS.get(norm, norm)} {format_eps(eps)}"
    if best is None or _robust(best) is None:
        yield Part(f"Nothing is known of the worst case at {size}.")
        return
    fallen = [label for label in names if (row := found.get((label, eps))) is not None and _fallen(row)]
    ends = _shown(best)
    if len(fallen) == len(names):
        yield Part(f"At {size} no image survives on ", "strong")
        yield Part(f"any of {len(names)} systems", "strong") if len(names) > 1 else Part(names[0], "name")
        yield Part(".")
        return
    yield Part(names[0], "name")
    yield Part(f" keeps {f'the most of {len(names)} systems' if len(names) > 1 else 'its answers'} at {size}: ")
    yield Part(f"{ends[0]} %", "strong")
    yield Part(f" {' '.join(ends[1:])} of the images are right without attack and under {_tried(best)}.")
    if fallen:
        yield Part(" No image survives on ")
        yield from _listed(fallen)
        yield Part(".")


def _tried(row: Row) -> str:
    if row["attacks"] is None:
        return "the one attack that was run"
    level = "" if row["knowledge"] == ALL else f"{KNOWLEDGE[row['knowledge']]} "
    return f"every {level}attack that was run"


def _fallen(row: Row) -> bool:
    return row["robust_accuracy_hits"] == 0 and row["robust_accuracy_total"] > 0 and not row["unknown"]


def _listed(names: Sequence[str]) -> Iterator[Part]:
    shown = [Part(name, "name") for name in names[:6]] + ([Part(f"{len(names) - 6} more")] if len(names) > 6 else [])
    for i, part in enumerate(shown):
        yield part
        if i < len(shown) - 1:
            yield Part(" and " if i == len(shown) - 2 else ", ")


def _shown(row: Row) -> Lines:
    """Return the worst case in the words of every other table."""
    unknown = (f"{row['unknown']:,} unknown",) if row["unknown"] else ()
    name = "robust_accuracy"
    return (spread(row["members"], name) if "members" in row else rate(row, name)) + unknown


def _grid(
    name: str, names: Sequence[str], found: dict[tuple[str, float], Row], clean: dict[str, Row], sizes: Sequence[float]
) -> Grid:
    rows = []
    for label in names:
        boxes = [Box(rate(clean[label], "clean_accuracy"), figure(clean[label], "clean_accuracy"))]
        boxes += [_box(found.get((label, eps))) for eps in sizes]
        rows.append((*boxes, _breaker(found.get((label, sizes[0])))))
    heads = (Head(("clean",)), *(Head(("worst case", format_eps(eps))) for eps in sizes))
    broke = Head(("broken first by", format_eps(sizes[0])), numeric=False)
    caption = "Worst case, image by image, best first. Accuracy in % with its 95 % Wilson interval."
    return Grid(name, caption, "system", ((*heads, broke),), tuple((label,) for label in names), tuple(rows))


def _box(row: Row | None) -> Box:
    if row is None:
        return nothing()
    text = _shown(row)
    if refuses(row) and row["robust_rejected_success"] is not None:
        text += (f"rejected = success: {row['robust_rejected_success']:.1f}",)
    return Box(text, leading(text))


def _breaker(row: Row | None) -> Box:
    """Return the attack that was the first to break the most images."""
    counts = json.loads(row["broken_by"] or "{}") if row is not None and row["attacks"] is not None else {}
    if not counts:
        return nothing()
    attack = max(counts, key=lambda name: int(counts[name]))
    return Box((attack, f"{counts[attack]:,} of {sum(counts.values()):,} broken"), str(attack))


def _bar(row: Row | None, clean: Row, tone: int) -> Bar:
    values = (None, None, None) if row is None else (figure(row, "robust_accuracy"), *_ends(row))
    return Bar(*values, figure(clean, "clean_accuracy"), None if row is None else row["ceiling"], tone)


def _ends(row: Row) -> tuple[float | None, float | None]:
    if "members" in row:
        found = [member["robust_accuracy"] for member in row["members"] if member["robust_accuracy"] is not None]
        return min(found, default=None), max(found, default=None)
    return row["robust_accuracy_low"], row["robust_accuracy_high"]


def _remark(found: dict[tuple[str, float], Row], left_out: Sequence[float]) -> str:
    parts = []
    if any(row["attacks"] is None for row in found.values()):
        parts.append("Where a single attack was run, that is the worst case: more attacks can only lower it.")
    if left_out:
        parts.append(f"Not shown here: {', '.join(map(format_eps, left_out))}; see the matrix.")
    return " ".join(parts)
