"""Published figures beside measured ones: every claim under every reading, and which reading comes nearest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ismn_cli.core.claim_verdicts import Accounting, Comparison, Fit, Verdict, fits
from ismn_cli.core.claims import AttackReading, Claims, Metric, Reading
from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.claims_notes import notes
from ismn_cli.reporting.columns import IDENTITY, Column
from ismn_cli.reporting.layout import MISSING, UNDEFINED, Lines, Sheet
from ismn_cli.reporting.layout import Column as Set
from ismn_cli.reporting.sections import KNOWLEDGE, images_text
from ismn_cli.reporting.table import Report, Row, Value, attack_columns, identity, percent, tidy

CAPTION = (
    "Published figures in %, and what was measured (difference in points) with its 95 % interval, one table for each "
    "metric; a column is one way to read the attack level. ceiling: what any classifier that always answers can at "
    "most reach on the same images against an attacker who may choose."
)
CLAIM, SUMMARY, ALL = "claim", "summary", "all"
_OF_CELL = ("knowledge", "attack", "norm", "eps", "params", "seed", "batch_size")
_NOT_OURS = (*_OF_CELL, "defence", "level", "targeted", "sources", "eot", "after", "draws", "attacks")
_SHORT = {Verdict.IMPOSSIBLE: "impossible"}
COLUMNS = (
    Column("row", "string", "claim: one figure under one reading; summary: all figures of a system under one reading"),
    Column("source", "string", "where the figures are printed"),
    Column("system", "string", "the system; of a summary: all, or one"),
    Column("printed", "string", "what the source calls it"),
    Column("printed_attack", "string", "the attack, where the source names it"),
    Column("attack_level", "Float64", "the attack level as printed"),
    Column("claimed", "Float64", "the published figure, percent"),
    Column("reading", "string", "what the level is read as"),
    Column("read_attack", "string", "which attack it is read as"),
    Column("metric", "string", "accuracy: right under attack; restoration: that over undefended clean accuracy"),
    Column("worst_case", "boolean", "whether the reading bounds an attacker who may choose; others have no ceiling"),
    Column("accounting", "string", "what a refused image counts as: strict: wrong; rejected = success: right"),
    *(column for column in IDENTITY if column.name not in _NOT_OURS),
    *(column for column in IDENTITY if column.name in _OF_CELL),
    Column("measured", "Float64", "the measured figure, percent"),
    Column("measured_low", "Float64", "lower end of its 95 % interval (Wilson; Bonett and Price 2006), percent"),
    Column("measured_high", "Float64", "upper end of its 95 % interval, percent"),
    Column("difference", "Float64", "measured less claimed, points; of a summary: mean absolute difference"),
    Column("ceiling", "Float64", "most that the figure can be on these images if it is robustness, percent"),
    Column("verdict", "string", "reproduced, not reproduced, impossible as stated, not tested"),
    Column("unreliable", "boolean", "whether a failed check of the audit makes the measurement unreliable"),
    Column("claims", "Int64", "summary: figures that the reading is about"),
    Column("tested", "Int64", "figures that were tested"),
    Column("reproduced", "Int64", "figures that the measurement gives, be they possible as robustness or not"),
    Column("impossible", "Int64", "figures above the ceiling"),
    Column("rank", "Int64", "summary: place of the reading over all systems, the nearest first"),
    Column("why", "string", "why it was not tested"),
    Column("cell", "string", "key of the cell in the store"),
)


def claims_report(claims: Claims, comparisons: Sequence[Comparison]) -> Report:
    """Return the verdict table of a published table, the nearest reading last."""
    ranked = fits(comparisons)
    rows = [_row(claims, found) for found in comparisons]
    rows += [_summary(claims, fit, rank) for rank, fit_of in enumerate(ranked, 1) for fit in fit_of.values()]
    told = notes(claims, comparisons, ranked)
    return Report(claims.summary, CAPTION, tidy(rows, COLUMNS), tuple(told), _layout, COLUMNS)


def _row(claims: Claims, found: Comparison) -> dict[str, Value]:
    trial, measured = found.trial, found.measured
    row: dict[str, Value] = {
        **_reading(trial.reading, trial.attack, trial.metric, trial.accounting),
        "row": CLAIM,
        "source": claims.cite,
        "system": trial.claim.system,
        "printed": trial.claim.printed or None,
        "printed_attack": trial.claim.attack,
        "attack_level": trial.claim.level,
        "claimed": round(100 * trial.claim.figure, 4),
        "dataset": claims.dataset,
        "knowledge": claims.knowledge.value,
        "verdict": found.verdict.value,
        "tested": int(measured is not None),
        "reproduced": int(bool(found.agrees)),
        "impossible": int(found.verdict is Verdict.IMPOSSIBLE),
        "why": found.why or None,
    }
    if found.cell is not None:
        row |= identity(found.cell.cell) | attack_columns(found.cell.cell) | {"cell": found.cell.cell.key()}
    if measured is not None and found.difference is not None:
        row |= {"measured": percent(measured.value), "difference": _points(found.difference)}
        row |= {"measured_low": percent(measured.low), "measured_high": percent(measured.high)}
        row["unreliable"] = found.unreliable
        row["ceiling"] = None if found.ceiling is None else percent(found.ceiling)
    return row


def _points(difference: float) -> float:
    return round(100 * difference, 1) + 0.0  # no -0.0


def _summary(claims: Claims, fit: Fit, rank: int) -> dict[str, Value]:
    return {
        **_reading(fit.reading, fit.attack, fit.metric, fit.accounting),
        "row": SUMMARY,
        "source": claims.cite,
        "system": fit.system or ALL,
        "difference": percent(fit.distance),
        "claims": fit.claims,
        "tested": fit.tested,
        "reproduced": fit.reproduced,
        "impossible": fit.impossible,
        "rank": rank,
    }


def _reading(reading: Reading, attack: AttackReading, metric: Metric, accounting: Accounting) -> dict[str, Value]:
    return {
        "reading": reading.name,
        "read_attack": attack.label,
        "metric": metric,
        "accounting": accounting.value,
        "worst_case": reading.worst_case,
        "norm": reading.norm.value,
    }


def _layout(rows: Sequence[Row]) -> list[Sheet]:
    claimed = [row for row in rows if row["row"] == CLAIM]
    by_metric = {m: [row for row in claimed if row["metric"] == m] for m in dict.fromkeys(r["metric"] for r in claimed)}
    if not any(row["tested"] for row in rows):  # the same in every metric, and nothing to sum up
        return [_sheet(found) for found in by_metric.values()][:1]
    return [*map(_sheet, by_metric.values()), _summary_sheet([row for row in rows if row["row"] == SUMMARY])]


def _sheet(rows: Sequence[Row]) -> Sheet:
    """Return the table of one metric: a line for each figure and accounting, a column for each reading."""
    first = {_line(row): row for row in reversed(rows)}
    lines = list(dict.fromkeys(map(_line, rows)))
    refusing = {row["system"] for row in rows if row["accounting"] != Accounting.STRICT}
    labels = tuple(_label(first[line], first[line]["system"] in refusing) for line in lines)
    groups = []
    for reading in dict.fromkeys(row["reading"] for row in rows):
        mine = [row for row in rows if row["reading"] == reading]
        columns = [
            Set((reading, attack), _cells(lines, [row for row in mine if row["read_attack"] == attack], _box))
            for attack in dict.fromkeys(row["read_attack"] for row in mine)
        ]
        if mine[0]["worst_case"]:
            columns.insert(0, Set((reading, "ceiling"), _cells(lines, mine, _ceiling)))
        groups.append(tuple(columns))
    lead = (Set(("claimed",), tuple((f"{first[line]['claimed']:g}",) for line in lines)),)
    return Sheet(_title(rows), "claim", labels, lead, tuple(groups))


Line = tuple[str, str | None, float, str]


def _line(row: Row) -> Line:
    return row["system"], row["printed_attack"], row["attack_level"], row["accounting"]


def _label(row: Row, refuses: bool) -> Lines:
    named = f"{row['printed_attack']} " if row["printed_attack"] else ""
    label = f"{row['system']} {named}{format_eps(row['attack_level'])}"
    return (label, str(row["accounting"])) if refuses else (label,)


def _cells(lines: Sequence[Line], rows: Sequence[Row], show: Callable[[Row], Lines]) -> tuple[Lines, ...]:
    by_line = {_line(row): row for row in rows}
    return tuple(show(by_line[line]) if line in by_line else MISSING for line in lines)


def _box(row: Row) -> Lines:
    if row["measured"] is None:
        return (row["verdict"],)
    interval = f"[{row['measured_low']:.1f}, {row['measured_high']:.1f}]"
    verdict = str(_SHORT.get(row["verdict"], row["verdict"]))
    return f"{row['measured']:.1f} ({row['difference']:+.1f})", interval, verdict


def _ceiling(row: Row) -> Lines:
    if row["measured"] is None:
        return ("unknown",)
    return MISSING if row["ceiling"] is None else (f"{row['ceiling']:.1f}",)


def _title(rows: Sequence[Row]) -> str:
    run = [row for row in rows if row["n"] is not None]
    images = f"{run[0]['split']}, {images_text(run[0])}" if run else "no images"
    return f"{rows[0]['metric']}, {(run or rows)[0]['dataset']} {images}, {KNOWLEDGE[rows[0]['knowledge']]}"


def _summary_sheet(rows: Sequence[Row]) -> Sheet:
    """Return how near each reading comes, the nearest first: over all systems, then for each."""
    ranks = sorted({row["rank"] for row in rows})
    boxes = {(row["rank"], row["system"]): row for row in rows}
    whole = [boxes[rank, ALL] for rank in ranks]
    several = len({row["accounting"] for row in rows}) > 1
    labels = tuple(
        (f"{row['reading']} {row['read_attack']}", ", ".join([row["metric"], *[row["accounting"]] * several]))
        for row in whole
    )
    systems = [name for name in dict.fromkeys(row["system"] for row in rows) if name != ALL]
    columns = (
        Set(("reproduced",), tuple((_of(row),) for row in whole)),
        Set(("mean", "difference"), tuple(map(_distance, whole))),
        Set(("impossible",), tuple((f"{row['impossible']}",) for row in whole)),
        *(Set((name,), tuple(_nearness(boxes.get((rank, name))) for rank in ranks)) for name in systems),
    )
    title = "How near each reading comes: figures reproduced, mean absolute difference in points; the nearest first"
    return Sheet(title, "reading", labels, (), (columns,))


def _of(row: Row) -> str:
    return f"{row['reproduced']} of {row['claims']}" if row["tested"] else "not tested"


def _distance(row: Row) -> Lines:
    return UNDEFINED if row["difference"] is None else (f"{row['difference']:.1f}",)


def _nearness(row: Row | None) -> Lines:
    return MISSING if row is None else (*_distance(row), _of(row))
