"""One sample's life as a figure: each picture on its way, what has changed in it, and what the system makes of it.

Matplotlib without its global state. Names are text, never markup of its own.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.lives import Life, Step
from ismn_cli.reporting.table import one_line

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Picture = NDArray[np.floating]
    """[C, H, W], pixels in [0, 1]."""

FORMS = ("png", "svg", "pdf")
SCALES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Factors that a change may be shown under."""
ROUNDING = 1e-5
"""A perturbation of size 0.1 may be a little more in single precision, and is shown under 10 all the same."""
MOST_CLASSES = 10
LARGEST = 1e100
"""Scores from here on, and NaN, are on no axis."""
RIGHT, WRONG, OTHER, LINE = "#0072b2", "#d55e00", "#bdbdbd", "#404040"
"""Okabe and Ito's blue and vermilion: told apart in any kind of colour vision, and in print."""
_FONT: dict[Any, Any] = {"font.size": 8, "font.family": "sans-serif", "svg.hashsalt": "ismn", "svg.fonttype": "path"}
_CELL = 1.35
"""Inches of a picture's side."""


def check_form(suffix: str) -> str:
    """Return the format of a file name's ``suffix``. Raises UsageError for one that cannot be written."""
    form = suffix.lower().lstrip(".")
    if form not in FORMS:
        raise UsageError(f"A figure cannot be written as '{suffix}'.", "Write -o life.png, life.svg or life.pdf.")
    return form


def life_figure(
    life: Life, pictures: Sequence[Picture], classes: Sequence[str], title: str, form: str, dpi: int = 200
) -> bytes:
    """Return the drawing of ``life`` as a file in one of `FORMS`; the same life gives the same bytes.

    A column for each of its ``pictures``: the picture, its difference from the clean image, the confidences in the
    classes, and below them the detector's scores against the threshold, where there is a detector.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("agg", force=False)
    stamp = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}[form]
    content = io.BytesIO()
    with matplotlib.rc_context(_FONT), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=_size(life), layout="constrained")
        _draw(figure, life, pictures, [one_line(name) for name in classes], one_line(title))
        figure.savefig(content, format=form, dpi=dpi, metadata={stamp: None})
    return content.getvalue()


def changes(pictures: Sequence[Picture]) -> list[tuple[str, Picture]]:
    """Return what sets each picture but the first, the clean one, apart from it: a name with its factor, a picture.

    Around mid-grey, in [0, 1]. The perturbation is shown under the largest of `SCALES` that cuts nothing off; so are
    all others, under one for all.
    """
    clean = pictures[0].astype("float32")
    differences = [picture.astype("float32") - clean for picture in pictures[1:]]
    own, common = _scale(differences[:1]), _scale(differences[1:])
    names = [f"perturbation ×{own}"] + [f"difference ×{common}"] * (len(differences) - 1)
    scales = [own] + [common] * (len(differences) - 1)
    shown = [(0.5 + 0.5 * s * d).clip(0, 1) for s, d in zip(scales, differences, strict=True)]
    return list(zip(names, shown, strict=True))


def _scale(differences: Sequence[Picture]) -> int:
    largest = max((float(abs(difference).max()) for difference in differences), default=0.0)
    return max((scale for scale in SCALES if scale * largest <= 1 + ROUNDING), default=1)


def shown_classes(life: Life, most: int = MOST_CLASSES) -> list[int]:
    """Return up to ``most`` classes, ascending: the true one, those answered, then the most confident of any step."""
    rows = [step.confidences() for step in life.steps]
    peak = [max((row[k] for row in rows if not math.isnan(row[k])), default=0.0) for k in range(len(rows[0]))]
    answered = {step.predicted for step in life.steps} | {life.predicted}
    order = sorted(range(len(peak)), key=lambda k: (k != life.label, k not in answered, -peak[k], k))
    return sorted(order[:most])


def _size(life: Life) -> tuple[float, float]:
    names = min(len(life.steps[0].logits), MOST_CLASSES)
    height = 2 * _CELL + 0.145 * names + 0.75 + (0.8 if _scores(life) else 0.0)
    return 1.0 + _CELL * max(len(life.steps), 2.5), height


def _draw(figure: Figure, life: Life, pictures: Sequence[Picture], classes: Sequence[str], title: str) -> None:
    columns, names, scored = len(life.steps), min(len(classes), MOST_CLASSES), bool(_scores(life))
    heights = [_CELL, _CELL, 0.145 * names, *([0.8] if scored else [])]
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    whole = textwrap.fill(_short(title, 200), int(14 * figure.get_figwidth()))
    figure.suptitle(whole, fontsize=8.5, fontweight="bold", parse_math=False)
    _facts(figure.add_subplot(grid[1, 0]), life, classes)
    for column, (name, changed) in enumerate(changes(pictures), 1):
        _picture(figure.add_subplot(grid[1, column]), changed, name, size=7)
    for column, (step, picture) in enumerate(zip(life.steps, pictures, strict=True)):
        _picture(figure.add_subplot(grid[0, column]), picture, step.name)
        _bars(figure.add_subplot(grid[2, column]), life, step, classes, named=column == 0)
    if scored:
        _detector(figure.add_subplot(grid[3, :]), life)


def _picture(axes: Axes, picture: Picture, name: str, size: float = 8) -> None:
    axes.set_axis_off()
    axes.set_title(one_line(name), fontsize=size, pad=size - 5, parse_math=False)
    pixels = picture.astype("float32").clip(0, 1)
    grey = pixels.shape[0] == 1
    options: dict[str, Any] = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0} if grey else {}
    axes.imshow(pixels[0] if grey else pixels.transpose(1, 2, 0), interpolation="nearest", **options)


def _facts(axes: Axes, life: Life, classes: Sequence[str]) -> None:
    """Write what the pictures do not say in the place under the clean one, which has no change."""
    axes.set_axis_off()
    answer = "no answer" if life.predicted < 0 else _short(classes[life.predicted])
    lines = [
        (f"true: {_short(classes[life.label])}", RIGHT),
        (f"answer: {answer}", RIGHT if life.predicted == life.label else WRONG),
        *([("refused", LINE)] if life.rejected else []),
        (f"L∞ {life.linf:.3g}", LINE),
        (f"L2 {life.l2:.3g}", LINE),
    ]
    for i, (text, colour) in enumerate(lines):
        height = 0.5 + 0.16 * ((len(lines) - 1) / 2 - i)
        axes.text(0.5, height, text, color=colour, ha="center", va="center", transform=axes.transAxes, parse_math=False)


def _bars(axes: Axes, life: Life, step: Step, classes: Sequence[str], named: bool) -> None:
    chosen, confidences = shown_classes(life), step.confidences()
    values = [0.0 if math.isnan(confidences[k]) else confidences[k] for k in chosen]
    colours = [RIGHT if k == life.label else WRONG if k == step.predicted else OTHER for k in chosen]
    axes.barh(range(len(chosen)), values, color=colours, height=0.75)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.set_xticks([0, 1], ["0", "1"], fontsize=6)
    axes.set_yticks(range(len(chosen)), [_short(classes[k]) if named else "" for k in chosen], fontsize=7)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(length=0, pad=2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    colour = RIGHT if step.predicted == life.label else WRONG
    axes.set_title(_said(step, classes), fontsize=7, pad=2, color=colour, parse_math=False)


def _said(step: Step, classes: Sequence[str]) -> str:
    if step.predicted < 0:
        return "no answer (NaN)"
    return f"{_short(classes[step.predicted])} {step.confidences()[step.predicted]:.0%}"


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _scores(life: Life) -> dict[int, float]:
    """Return the detector's score of each step that it looked at, by the step's column."""
    return {i: s.score for i, s in enumerate(life.steps) if s.score is not None and abs(s.score) < LARGEST}


def _detector(axes: Axes, life: Life) -> None:
    """Draw the scores against the threshold, each in the column of its picture."""
    scores, threshold = _scores(life), life.threshold
    colours = [WRONG if threshold is not None and score >= threshold else RIGHT for score in scores.values()]
    axes.plot(list(scores), list(scores.values()), color=OTHER, linewidth=1, zorder=1)
    axes.scatter(list(scores), list(scores.values()), c=colours, s=18, zorder=2)
    beside: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 6.5}
    backed = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    for column, score in scores.items():
        axes.annotate(f"{score:.3g}", (column, score), bbox=backed, zorder=3, **beside)
    if threshold is not None and abs(threshold) < LARGEST:
        axes.axhline(threshold, color=LINE, linewidth=0.8, linestyle="--", zorder=0)
        above: dict[str, Any] = {"xytext": (2, 2), "textcoords": "offset points", "va": "bottom", "fontsize": 6.5}
        axes.annotate(f"threshold {threshold:.3g}", (-0.5, threshold), **above)
    axes.set_xlim(-0.5, len(life.steps) - 0.5)
    axes.margins(y=0.25)
    axes.set_xticks([])
    axes.tick_params(axis="y", labelsize=6, length=2)
    axes.set_ylabel("detector\nscore", fontsize=7)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
