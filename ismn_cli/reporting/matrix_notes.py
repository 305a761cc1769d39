"""Notes on what only a matrix shows: worst cases, the order of knowledge levels, detectors, randomised systems."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from ismn_cli.reporting.figures import refuses
from ismn_cli.reporting.sections import IMAGES, KNOWLEDGE, values
from ismn_cli.reporting.table import Row
from ismn_cli.reporting.worst_rows import ALL

_SYSTEM = (*IMAGES, "defence", "defence_weights")
_WEAKER = {"white": ("gray", "black"), "adaptive": ("white", "gray", "black")}
"""Attackers who know less, and can do nothing that this one cannot."""
_ROBUST = {"robust_accuracy": " (strict)", "robust_rejected_success": " (rejected = success)"}


def order(worst: Sequence[Row]) -> Iterator[str]:
    """Flag every worst case that is above that of an attacker who knows less: adaptive <= white <= gray, black."""
    for levels in _grouped(worst, (*_SYSTEM, "norm", "eps")):
        by_level = {row["knowledge"]: row for row in levels}
        for strong, weaker in _WEAKER.items():
            for weak in weaker:
                if strong in by_level and weak in by_level:
                    yield from _above(by_level[strong], by_level[weak])


def _above(strong: Row, weak: Row) -> Iterator[str]:
    refusing = refuses(strong) or refuses(weak)
    for rate, accounting in _ROBUST.items() if refusing else [("robust_accuracy", "")]:
        more = strong[f"{rate}_hits"] - weak[f"{rate}_hits"]
        if more > 0:
            yield (
                f"Order: {_where(strong)}: the {KNOWLEDGE[strong['knowledge']]} worst case{accounting} is "
                f"{strong[rate]:.1f} %, above {weak[rate]:.1f} % {KNOWLEDGE[weak['knowledge']]}, by {_images(more)} of "
                f"{strong['n']:,}. The attack of the one who knows more is too weak there: the lower figure is the "
                "honest one."
            )


def broken_by(worst: Sequence[Row]) -> Iterator[str]:
    """Say for each defence which attacks broke its images first, over all levels if there is such a worst case."""
    whole = [row for row in worst if row["knowledge"] == ALL]
    for rows in _grouped(whole or [row for row in worst if row["attacks"] > 1], (*_SYSTEM, "norm", "knowledge")):
        sizes = [f"{row['level']}: {_counts(row)}" for row in rows if row["broken"]]
        if sizes:
            level = "" if whole else f", {KNOWLEDGE[rows[0]['knowledge']]}"
            norm = "" if rows[0]["norm"] == "linf" else f", {rows[0]['norm']}"
            yield f"Worst case of {rows[0]['defence']}{level}{norm}, images first broken by: {'; '.join(sizes)}."


def _counts(row: Row) -> str:
    """Name the attacks that broke images; the level is told where several took part."""
    counts = json.loads(row["broken_by"])
    names = counts if row["knowledge"] == ALL else {name.partition(" ")[2]: n for name, n in counts.items()}
    return ", ".join(f"{name} {count:,}" for name, count in names.items())


def survivors(rows: Sequence[Row]) -> Iterator[str]:
    """Say where an attack left out what others had broken."""
    if any(row["after"] for row in rows):
        yield (
            "Survivors: attacks with others in their column after left out what these had broken, at the same size or "
            "a smaller one, and what was wrong from the start; their figures are the worst case so far."
        )


def incomplete(worst: Sequence[Row]) -> Iterator[str]:
    """Say where a worst case rests on fewer attacks than were run, or on none."""
    gaps = [
        f"{_where(row)}, {KNOWLEDGE[row['knowledge']]} ({_images(row['failed'])}, on {row['unknown']:,} all failed)"
        for row in worst
        if row["failed"] and row["knowledge"] != ALL
    ]
    if gaps:
        yield (
            "Worst cases where an attack failed on images right without attack: the others decide, and where all "
            f"failed the image is unknown, not robust: {'; '.join(gaps)}."
        )


def draws(cells: Sequence[Row]) -> Iterator[str]:
    """Say how randomised systems were judged."""
    asked = {row["defence"]: row["draws"] for row in cells if row["draws"] > 1}
    if asked:
        named = ", ".join(f"{name} {k} times" for name, k in asked.items())
        yield (
            f"Randomised systems were asked several times about each image ({named}). mean: the average accuracy of "
            "the draws; worst: every draw right, for the attacker may ask again; majority: the most frequent answer "
            "right, ties wrong. All other figures, worst cases among them, are of the first draw."
        )


def detectors(cells: Sequence[Row]) -> Iterator[str]:
    """Give each detector's figures under the attack that it fares worst against, by knowledge level."""
    scored = [row for row in cells if row["auroc"] is not None]
    for rows in _grouped(scored, (*_SYSTEM, "knowledge")):
        first = rows[0]
        least = {"AUROC": "auroc", "TPR at 1 % FPR": "tpr_at_fpr_1", "TPR at 5 % FPR": "tpr_at_fpr_5"}
        figures = [f"{name} {_extreme(rows, column, min)}" for name, column in least.items()]
        yield (
            f"Detector of {first['defence']}, {KNOWLEDGE[first['knowledge']]}: {first['false_positive']:.1f} % "
            f"[{first['false_positive_low']:.1f}, {first['false_positive_high']:.1f}] false positives on the clean "
            "test images, at its threshold frozen on clean validation images. At its worst over the attacks, with "
            "thresholds taken from the clean test scores (a diagnosis; nobody could have chosen them): "
            f"{', '.join(figures)}, {_sr_at_5(rows)}."
        )


def _sr_at_5(rows: Sequence[Row]) -> str:
    if all(row["sr_at_5"] is None for row in rows):
        return "SR@5 undefined: the stored answers were routed at the frozen threshold"
    return f"SR@5 {_extreme(rows, 'sr_at_5', max)}"


def _extreme(rows: Sequence[Row], name: str, pick: Callable[..., Row]) -> str:
    row: Row = pick((row for row in rows if row[name] is not None), key=lambda row: row[name])
    figure = f"{row[name]:.3f}" if name == "auroc" else f"{row[name]:.1f} %"
    return f"{figure} ({row['attack']} {row['level']})"


def _grouped(rows: Sequence[Row], fields: Sequence[str]) -> list[list[Row]]:
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(values(row, fields), []).append(row)
    return list(groups.values())


def _where(row: Row) -> str:
    norm = "" if row["norm"] == "linf" else f"{row['norm']} "
    return f"{row['defence']} at {norm}{row['level']}"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
