"""Two systems on the same images, cell by cell: the difference, its interval, and whether it could be chance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ismn_cli.core.paired import ALPHA, POWER, holm
from ismn_cli.core.rates import Rate
from ismn_cli.core.records import CellResult
from ismn_cli.reporting.columns import IDENTITY, Column, of_rate
from ismn_cli.reporting.figures import rate
from ismn_cli.reporting.layout import UNDEFINED, Lines, Sheet
from ismn_cli.reporting.layout import Column as Set
from ismn_cli.reporting.pairs import Pair, pairs
from ismn_cli.reporting.sections import IMAGES, KNOWLEDGE, attack_labels, images_text, short, title, values
from ismn_cli.reporting.table import Report, Row, Value, identity, percent, rate_figures, tidy
from ismn_cli.reporting.worst_rows import ALL

CAPTION = (
    "Images answered right and not refused, in %, with the 95 % Wilson interval; worst case: right without attack and "
    "under every attack that was run. difference: {first} less {second}, in points."
)
_OF_SYSTEM = ("defence", "defence_weights", "eot", "draws", "attacks")
COLUMNS = (
    *(column for column in IDENTITY if column.name not in _OF_SYSTEM),
    Column("first", "string", "the first system"),
    Column("first_weights", "string", "sha256 of its weights"),
    Column("second", "string", "the second system"),
    Column("second_weights", "string", "sha256 of its weights"),
    Column("second_classifier_weights", "string", "sha256 of its undefended classifier's weights"),
    *of_rate("first_right", "images that the first system answers right", "higher"),
    *of_rate("second_right", "images that the second system answers right", "higher"),
    Column("difference", "Float64", "accuracy of the first less that of the second, percentage points"),
    Column("difference_low", "Float64", "lower end of its 95 % interval (Bonett and Price 2012)"),
    Column("difference_high", "Float64", "upper end of its 95 % interval"),
    Column("both", "Int64", "images that both answer right"),
    Column("only_first", "Int64", "images that only the first answers right"),
    Column("only_second", "Int64", "images that only the second answers right"),
    Column("neither", "Int64", "images that none of them answers right"),
    Column("p", "Float64", "McNemar's exact test, two-sided"),
    Column("p_holm", "Float64", "the same, corrected over all rows of the table (Holm 1979)"),
    Column(
        "smallest_shown",
        "Float64",
        "smallest true difference, percentage points, that the test shows on so many images with 80 % power at "
        "p <= 0.05 before correction, at the observed share of images on which the systems differ",
    ),
)


def paired_report(results: Iterable[CellResult], first: str, second: str) -> Report:
    """Return the comparison of two systems over every cell that they have in common. Raises UsageError."""
    rows = tidy(paired_rows(pairs(results, first, second)), COLUMNS)
    caption = CAPTION.format(first=first, second=second)
    return Report(f"{first} against {second}", caption, rows, tuple(_notes(rows)), _layout, COLUMNS)


def paired_rows(found: Sequence[Pair]) -> list[dict[str, Value]]:
    """Return a row in `COLUMNS` for each pair, p-values corrected over all of them."""
    p_values = [pair.counts().p_value() for pair in found]
    return [_row(pair, p, corrected) for pair, p, corrected in zip(found, p_values, holm(p_values), strict=True)]


def _row(pair: Pair, p: float, corrected: float) -> dict[str, Value]:
    counts = pair.counts()
    low, high = counts.interval()
    mine, theirs = identity(pair.first.cell), identity(pair.second.cell)
    return {
        **mine,
        **pair.first.columns,
        "first": mine["defence"],
        "first_weights": mine["defence_weights"],
        "second": theirs["defence"],
        "second_weights": theirs["defence_weights"],
        "second_classifier_weights": theirs["classifier_weights"],
        **rate_figures("first_right", Rate(counts.both + counts.only_first, counts.total)),
        **rate_figures("second_right", Rate(counts.both + counts.only_second, counts.total)),
        "difference": percent(counts.difference),
        "difference_low": percent(low),
        "difference_high": percent(high),
        "both": counts.both,
        "only_first": counts.only_first,
        "only_second": counts.only_second,
        "neither": counts.neither,
        "p": _digits(p),
        "p_holm": _digits(corrected),
        "smallest_shown": percent(counts.smallest_shown()),
    }


def _digits(p: float) -> float:
    return float(f"{p:.4g}")


def _layout(rows: Sequence[Row]) -> list[Sheet]:
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(values(row, (*IMAGES, "second_classifier_weights")), []).append(row)
    return [
        paired_sheet(group, title(group[0], "paired", rows), ((group[0]["first"],), (group[0]["second"],)))
        for group in groups.values()
    ]


def paired_sheet(rows: Sequence[Row], named: str, sides: tuple[Lines, Lines]) -> Sheet:
    """Return ``rows`` of two systems as a table called ``named``; ``sides`` are the headings of the two."""
    columns = (
        Set(sides[0], tuple(rate(row, "first_right") for row in rows)),
        Set(sides[1], tuple(rate(row, "second_right") for row in rows)),
        Set(("difference",), tuple(map(_difference, rows))),
        Set(("only the", "first"), tuple((f"{row['only_first']:,}",) for row in rows)),
        Set(("only the", "second"), tuple((f"{row['only_second']:,}",) for row in rows)),
        Set(("p",), tuple((_chance(row["p"]),) for row in rows)),
        Set(("p, Holm",), tuple((_chance(row["p_holm"]),) for row in rows)),
        Set(("smallest", "shown"), tuple(map(_smallest, rows))),
    )
    return Sheet(named, "attack", tuple(trial_labels(rows)), (), (columns,))


def trial_labels(rows: Sequence[Row]) -> Iterator[Lines]:
    """Yield what each row was: an attack with its size and level, or none."""
    systems = [{**row, "defence": "", "defence_weights": "", "eot": None, "draws": None} for row in rows]
    attacked = [row for row in systems if row["attack"] is not None]
    names = iter(attack_labels(attacked))
    for row in rows:
        if row["attack"] is None:
            yield ("clean",)
        else:
            level = "all levels" if row["knowledge"] == ALL else KNOWLEDGE[row["knowledge"]]
            yield f"{next(names)} {row['level']}", level


def _difference(row: Row) -> Lines:
    if row["difference"] is None:
        return UNDEFINED
    return f"{row['difference']:+.1f}", f"[{row['difference_low']:+.1f}, {row['difference_high']:+.1f}]"


def _smallest(row: Row) -> Lines:
    return UNDEFINED if row["smallest_shown"] is None else (f"{row['smallest_shown']:.1f}",)


def _chance(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    for images in dict.fromkeys(f"{images_text(row)} of {row['dataset']} {row['split']}" for row in rows):
        yield f"Both systems on the same images: {images}."
    yield from method_notes(rows)
    if any(row["classifier_weights"] != row["second_classifier_weights"] for row in rows):
        yield "The two stand on different base classifiers: gray-box images are made on each one's own."
    sides = ("first", "second")
    weights = dict.fromkeys(f"{row[side]} {short(row[f'{side}_weights'])}" for row in rows for side in sides)
    yield f"Weights (sha256): {', '.join(weights)}."


def method_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what the tests and intervals of ``rows`` are."""
    yield (
        "p: McNemar's exact test, on the images that exactly one of the two answers right; Holm: corrected over "
        f"{len(rows)} rows. Intervals of differences: Bonett and Price 2012, not corrected."
    )
    yield (
        f"smallest shown: the smallest true difference in points that so many images show with {100 * POWER:.0f} % "
        f"power at p <= {ALPHA}, at the share of images on which the two differ here. A difference below it may exist "
        "and go unseen."
    )
    yield (
        "A refused image, and one on which the attack failed, is not answered right. Randomised systems: the first "
        "draw."
    )
