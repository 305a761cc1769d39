"""The summary of `ismn attack`: what an attack did, how far it moved the images, what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ismn_cli.core.ceilings import Ceiling
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.figures import Measure, column, has, number, of_ceiling, of_numbers, of_rate, refuses
from ismn_cli.reporting.layout import MISSING, Column, Sheet
from ismn_cli.reporting.notes import notes
from ismn_cli.reporting.sections import Section, sections
from ismn_cli.reporting.table import Report, Row, comparison

CAPTION = (
    "Rates in % with their 95 % Wilson interval; ↑ higher, ↓ lower is better for the system. "
    "Distances in pixels of [0, 1]."
)
CORNER = "measure"
MEASURES = (
    of_rate("clean accuracy ↑", "clean_accuracy"),
    of_rate("accuracy under attack ↑", "accuracy"),
    of_rate("accuracy, rejected = success ↑", "accuracy_rejected_success", refuses),
    of_rate("accuracy, answered only ↑", "accuracy_answered", refuses),
    of_rate("accuracy, mean of the draws ↑", "accuracy_mean", has("accuracy_mean_total")),
    of_rate("accuracy, worst draw ↑", "accuracy_worst_draw", has("accuracy_mean_total")),
    of_rate("accuracy, majority of the draws ↑", "accuracy_majority", has("accuracy_mean_total")),
    of_numbers("draws per image", "draws", worth=has("accuracy_mean_total")),
    Measure("accuracy in the paper", lambda row: number(row, "paper") if row["paper"] else MISSING, has("paper")),
    of_ceiling("accuracy of any classifier, at most"),
    of_rate("attack success rate ↓", "success"),
    of_rate("SR@5 ↓", "sr_at_5", has("sr_at_5_total")),
    of_numbers("AUROC of the detector ↑", "auroc", worth=has("auroc")),
    of_numbers("survived, images", "survived"),
    of_numbers("broken", "broken"),
    of_numbers("detected and refused", "detected"),
    of_numbers("wrong from the start", "wrong_clean"),
    of_numbers("unknown (attack failed)", "unknown"),
    of_numbers("L-inf distance, mean / max", "linf_mean", "linf_max"),
    of_numbers("L2 distance, mean / max", "l2_mean", "l2_max"),
    of_numbers("forward / backward per image", "forwards_per_image", "backwards_per_image"),
    of_numbers("queries of the system per image", "queries_per_image", worth=has("queries_per_image")),
    of_numbers("attack time, ms per image", "attack_ms"),
)
def attack_report(results: Sequence[CellResult], title: str = "Attack", ceilings: Iterable[Ceiling] = ()) -> Report:
    """Return the report on attacked cells: a column per attack and level, a group per defence."""
    rows = comparison(results, ceilings)
    return Report(title, CAPTION, rows, notes(rows), layout)


def layout(rows: Sequence[Row]) -> list[Sheet]:
    """Return a sheet per section that was attacked; without one, headings only."""
    attacked = [row for row in rows if row["attack"] is not None]
    if not attacked:
        return [Sheet("", CORNER, (), (Column(("attack",), ()),), ())]
    measures = _measures(attacked)
    return [_sheet(section, measures) for section in sections(attacked)]


def _measures(rows: Sequence[Row]) -> list[Measure]:
    return [measure for measure in MEASURES if any(map(measure.worth, rows))]


def _sheet(section: Section, measures: Sequence[Measure]) -> Sheet:
    groups = tuple(_columns(section, defence, measures) for defence in section.clean)
    return Sheet(section.title, CORNER, tuple((measure.label,) for measure in measures), (), groups)


def _columns(section: Section, defence: str, measures: Sequence[Measure]) -> tuple[Column, ...]:
    return tuple(
        column((f"{attack} {format_eps(eps)}", f"on {defence}"), row, measures)
        for (name, attack, eps), row in section.boxes.items()
        if name == defence
    )
