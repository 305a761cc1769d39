"""What a reader must know to not be misled by a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ismn_cli.reporting.balance import majority
from ismn_cli.reporting.ceiling_notes import above, ceilings, claimed, elsewhere
from ismn_cli.reporting.figures import refuses
from ismn_cli.reporting.matrix_notes import broken_by, detectors, draws, incomplete, order, survivors
from ismn_cli.reporting.published import caveat
from ismn_cli.reporting.sections import KNOWLEDGE, images_text, short
from ismn_cli.reporting.table import Row

NOTHING = "Nothing is stored yet."
LEVELS = {
    "gray": "Gray-box: the attacker holds the undefended classifier and does not know the defence. "
    "This says nothing about robustness against an attacker who does.",
    "black": "Black-box: the attacker sees the answers of the whole system without gradients, or makes the examples on "
    "systems of their own and transfers them.",
    "white": "White-box: the attacker differentiates through the whole system as it is. A step without a useful "
    "gradient stops this attacker, not one who goes around it: read the adaptive figures.",
    "adaptive": "Adaptive: the attacker goes through every route that the defence names, around steps without "
    "gradients and past the detector, and keeps what serves best on each image.",
}
ACCOUNTING = (
    "strict counts a refused image as wrong; rejected = success (MagNet's accounting, Meng and Chen 2017) "
    "counts it as right; answered only leaves it out. Compare systems that always answer with the strict figures only."
)


def notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the notes on ``rows``, most important first, none of them twice."""
    if not rows:
        return (NOTHING,)
    cells = [row for row in rows if row["attacks"] is None]
    worst = [row for row in rows if row["attacks"] is not None]
    first = [*_limited(cells), *majority(cells), *_unreliable(cells), *order(worst), *_levels(cells)]
    found = [*first, *survivors(cells), *broken_by(worst), *incomplete(worst)]
    sources = (_accounting, draws, detectors, _unknown, _paper, ceilings, above, claimed, elsewhere, _weights, _own)
    return tuple(dict.fromkeys((*found, *(note for source in sources for note in source(cells)))))


def standing_in(rows: Sequence[Row], dataset: str | None) -> tuple[str, ...]:
    """Say that the images are not those of ``dataset``, whose figures stand beside them."""
    own = sorted({row["dataset"] for row in rows if row["dataset"].partition("/")[0] != dataset})
    if dataset is None or not own:
        return ()
    return (
        f"Stand-in: these are images of {', '.join(own)}, not of {dataset}, whose published figures stand beside them. "
        "No figure here is a reproduction of those.",
    )


def _limited(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["n"] < row["split_size"]:
            place = f"{images_text(row)} of {row['dataset']} {row['split']}"
            yield f"Limited: {place}, in a seeded, class-balanced order; not the whole split."


def _levels(rows: Sequence[Row]) -> Iterator[str]:
    run = {row["knowledge"] for row in rows}
    yield from (text for level, text in LEVELS.items() if level in run)


def _unreliable(rows: Sequence[Row]) -> Iterator[str]:
    codes: dict[str, list[str]] = {}
    for row in rows:
        if row["unreliable"]:
            codes.setdefault(row["unreliable"], []).append(_name(row))
    for failed, names in codes.items():
        yield f"Unreliable, for the audit failed them ({failed}; `ismn audit` says why): {'; '.join(names)}."


def _accounting(rows: Sequence[Row]) -> Iterator[str]:
    refusing = dict.fromkeys(row["defence"] for row in rows if row["attack"] is not None and refuses(row))
    if refusing:
        yield f"Refused images ({', '.join(refusing)}): {ACCOUNTING}"


def _unknown(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["failed"]:
            yield (
                f"Unknown: {_name(row)}: the attack failed on {row['failed']:,} of {row['n']:,} images "
                f"(crash, NaN or outside the threat model), {row['unknown']:,} of them right before it. "
                "They count as robust nowhere, and stay out of the success rate and the distances."
            )


def _paper(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["paper_source"]:
            yield f"paper: {row['paper_source']}. {caveat(row['paper_source'])}"


def _weights(rows: Sequence[Row]) -> Iterator[str]:
    pairs = [("base classifier", row["classifier_weights"]) for row in rows]
    pairs += [(row["defence"], row["defence_weights"]) for row in rows]
    named = dict.fromkeys(f"{name} {short(weights)}" for name, weights in pairs if weights)
    if named:
        yield f"Weights (sha256): {', '.join(named)}."


def _own(rows: Sequence[Row]) -> Iterator[str]:
    cells: dict[str, list[str]] = {}
    for row in rows:
        if row["notes"]:
            cells.setdefault(row["notes"], []).append(_name(row))
    for note, names in cells.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"Note on {', '.join(names[:3])}{more}: {note}"


def _name(row: Row) -> str:
    if row["attack"] is None:
        return f"{row['defence']}, clean"
    level = "" if row["knowledge"] == "gray" else f"{KNOWLEDGE[row['knowledge']]} "
    return f"{level}{row['attack']} {row['level']} on {row['defence']}"
