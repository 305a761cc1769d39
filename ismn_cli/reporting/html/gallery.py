"""Single samples on their way through a system, in pictures, from the albums that matrices keep."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from ismn_cli.core.lives import Album, Life, Step, read_album
from ismn_cli.core.records import Outcome
from ismn_cli.core.runs import Run
from ismn_cli.reporting.html.groups import method
from ismn_cli.reporting.sections import KNOWLEDGE, short
from ismn_cli.reporting.table import Row, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ismn_cli.core.lives import Picture

    Pixels = NDArray[Any]

MOST_ALBUMS = 8
MOST_LIVES = 36
BYTES = 2_500_000
"""Of pictures, as they stand in the page."""
WORDS = {
    Outcome.BROKEN: "broken",
    Outcome.DETECTED: "detected and refused",
    Outcome.SURVIVED: "survived",
    Outcome.WRONG_CLEAN: "wrong from the start",
    Outcome.UNKNOWN: "unknown",
}


@dataclass(frozen=True)
class Meter:
    """A detector's score on a scale of its own: twice the threshold is the full width, 0 to 100."""

    score: str
    threshold: str
    filled: float
    flagged: bool


@dataclass(frozen=True)
class Frame:
    """One picture: what it is, what the system makes of it, and the detector's score."""

    title: str
    source: str
    answer: str = ""
    right: bool = False
    meter: Meter | None = None


@dataclass(frozen=True)
class Story:
    """One sample under one attack on one system."""

    title: str
    system: str
    outcome: str
    label: str
    answer: str
    sizes: str
    note: str
    frames: tuple[Frame, ...]
    cell: str
    id: int


@dataclass(frozen=True)
class Gallery:
    """Stories, and what is to be said of those that are not told."""

    stories: tuple[Story, ...]
    remark: str


def gallery(runs: Sequence[Run], rows: Mapping[str, Row], albums: Sequence[Album | None]) -> Gallery:
    """Return what the albums of ``runs`` show, one run's after the other's in turn, as long as there is room."""
    kept = [(run, album) for run, album in zip(runs, albums, strict=True) if album is not None]
    told = [[(album, i) for i in range(len(album.lives.lives))] for _, album in kept]
    turn = [entry for entry in chain.from_iterable(zip_longest(*told)) if entry is not None]
    stories: list[Story] = []
    taken = 0
    for album, i in turn[:MOST_LIVES]:
        story = _story(album, i, rows)
        taken += sum(len(frame.source) for frame in story.frames)
        if taken > BYTES:
            break
        stories.append(story)
    return Gallery(tuple(stories), _remark(runs, albums, len(turn) - len(stories)))


def read_albums(runs: Iterable[Run]) -> list[Album | None]:
    """Return each run's album; those of the first `MOST_ALBUMS` that have one are read."""
    found: list[Album | None] = []
    for run in runs:
        full = sum(album is not None for album in found) >= MOST_ALBUMS
        found.append(None if full else read_album(run.folder))
    return found


def _remark(runs: Sequence[Run], albums: Sequence[Album | None], untold: int) -> str:
    without = [run.record.id for run, album in zip(runs, albums, strict=True) if album is None and run.record.cells]
    parts = [f"{untold} more samples are kept: ismn show RUN."] if untold else []
    if without:
        names = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
        parts.append(f"No pictures of {names} are shown here: see ismn show {without[0]}.")
    return " ".join(parts)


def _story(album: Album, position: int, rows: Mapping[str, Row]) -> Story:
    life, row = album.lives.lives[position], rows.get(album.lives.lives[position].cell)
    names = [one_line(name) for name in album.lives.classes]
    answer = f"{_name(names, life.predicted)}{', refused' if life.rejected else ''}"
    return Story(
        title=_attack(row) if row else f"cell {short(life.cell)}",
        system=row["defence"] if row else "",
        outcome=life.outcome.value,
        label=_name(names, life.label),
        answer=answer,
        sizes=f"L∞ {life.linf:.4f}, L2 {life.l2:.3f}",
        note=one_line(life.note),
        frames=tuple(_frames(life, album.pictures[position], names)),
        cell=life.cell,
        id=life.id,
    )


def _attack(row: Row) -> str:
    return f"{KNOWLEDGE.get(row['knowledge'], '')}, {method(row)} {row['level']}"


def _name(names: Sequence[str], k: int) -> str:
    return names[k] if 0 <= k < len(names) else "no answer"


def _frames(life: Life, pictures: Sequence[Picture], names: Sequence[str]) -> Iterator[Frame]:
    """Yield the pictures of the life in its order, with what was added and what remains of it."""
    for i, (step, picture) in enumerate(zip(life.steps, pictures, strict=True)):
        yield _frame(step, picture, life, names)
        if i == 1:
            yield _difference("perturbation", pictures[1], pictures[0])
    if len(pictures) > 2:
        yield _difference("what remains", pictures[-1], pictures[0])


def _frame(step: Step, picture: Picture, life: Life, names: Sequence[str]) -> Frame:
    k = step.predicted
    confidence = step.confidences()[k] if k >= 0 else math.nan
    sure = "" if math.isnan(confidence) else f" {100 * confidence:.1f}\N{NO-BREAK SPACE}%"
    return Frame(one_line(step.name), png(picture), f"{_name(names, k)}{sure}", k == life.label, _meter(step, life))


def _meter(step: Step, life: Life) -> Meter | None:
    score, threshold = step.score, life.threshold
    if score is None or threshold is None or not math.isfinite(score) or not math.isfinite(threshold):
        return None
    filled = 50.0 if threshold == 0 else min(max(50 * score / abs(threshold), 0.0), 100.0)
    return Meter(f"{score:.4g}", f"{threshold:.4g}", round(filled, 1), score >= threshold)


def _difference(name: str, picture: Picture, clean: Picture) -> Frame:
    """Return the difference of two pictures around grey, as strong as it can be shown."""
    import numpy as np

    apart = np.nan_to_num(picture.astype(np.float32) - clean.astype(np.float32))
    most = float(np.abs(apart).max(initial=0.0))
    scale = 0.5 / most if most else 1.0
    return Frame(f"{name} ×{scale:.3g}", png(0.5 + scale * apart))


def png(picture: Pixels) -> str:
    """Return [C, H, W] in [0, 1] as the data URI of a PNG."""
    import numpy as np
    from PIL import Image

    levels = np.rint(255 * np.nan_to_num(np.asarray(picture, dtype=np.float32)).clip(0, 1)).astype(np.uint8)
    pixels = levels[0] if levels.shape[0] == 1 else levels[:3].transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
