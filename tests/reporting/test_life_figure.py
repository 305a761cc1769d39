"""The figure of a life: it can be opened, is the same again, and takes any names and numbers."""

from __future__ import annotations

import io
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ismn_cli.core.errors import UsageError
from ismn_cli.core.lives import Life, Step
from ismn_cli.reporting.life_figure import (
    FORMS,
    MOST_CLASSES,
    ROUNDING,
    SCALES,
    changes,
    check_form,
    life_figure,
    shown_classes,
)

HOSTILE = ["a$\\frac{1}$b", "<script>", "x|y & z_%", "\N{PILE OF POO}\n\x1b[2J", "$", "w" * 500]


def a_life(steps: int = 3, classes: int = 3, scores: bool = True, **changes: object) -> Life:
    names = ["clean", "adversarial", *(f"regenerated {k}" for k in range(1, steps - 1))]
    made = tuple(
        Step(name=name, logits=[float((i + k) % 3) for k in range(classes)], score=float(i) if scores else None)
        for i, name in enumerate(names)
    )
    fields = {"cell": "c", "position": 0, "id": 7, "label": 0, "outcome": "broken", "predicted": 1, "rejected": False}
    return Life(**fields | {"threshold": 0.5 if scores else None, "linf": 0.1, "l2": 1.0, "steps": made} | changes)


def some_pictures(steps: int = 3, channels: int = 3, side: int = 6) -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((steps, channels, side, side)).astype(np.float32))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_life_gives_the_same_file(form: str) -> None:
    drawn = [life_figure(a_life(), some_pictures(), ["a", "b", "c"], "title", form, dpi=50) for _ in range(2)]
    assert drawn[0] == drawn[1]
    heads = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert drawn[0].startswith(heads[form])


@pytest.mark.parametrize(
    ("steps", "channels", "classes", "scores"), [(2, 1, 2, False), (9, 3, 40, True), (3, 3, 1, True)]
)
def test_lives_of_all_kinds_are_drawn(steps: int, channels: int, classes: int, scores: bool) -> None:
    life = a_life(steps, classes, scores, **({"predicted": 0} if classes == 1 else {}))
    names = [f"class {k}" for k in range(classes)]
    drawn = life_figure(life, some_pictures(steps, channels), names, "title", "png", dpi=50)
    image = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50


@pytest.mark.filterwarnings("error")
def test_names_are_text_and_nothing_else() -> None:
    life = a_life(2, len(HOSTILE), predicted=2)
    drawn = life_figure(life, some_pictures(2), HOSTILE, " ".join(HOSTILE), "svg")
    ElementTree.fromstring(drawn)
    assert b"<script" not in drawn


@pytest.mark.filterwarnings("error")
@settings(max_examples=5, deadline=None)
@given(
    logits=st.lists(st.floats(), min_size=3, max_size=3), score=st.floats(), threshold=st.none() | st.floats(),
    predicted=st.integers(-1, 2), size=st.floats(),
)  # fmt: skip
def test_no_number_breaks_it(
    logits: list[float], score: float, threshold: float | None, predicted: int, size: float
) -> None:
    steps = tuple(Step(name=name, logits=logits, score=score) for name in ("clean", "adversarial"))
    life = a_life(steps=2, threshold=threshold, predicted=predicted, linf=size, rejected=True)
    life = life.model_copy(update={"steps": steps})
    assert life_figure(life, some_pictures(2), ["a", "b", "c"], "title", "png", dpi=40)


@given(size=st.floats(0, 1), off=st.floats(0, 1))
def test_a_change_is_shown_as_large_as_it_can_be(size: float, off: float) -> None:
    clean = np.zeros((3, 2, 2), np.float32)
    attacked, first, second = clean.copy(), clean.copy(), clean.copy()
    attacked[0, 0, 0], first[1, 0, 0], second[2, 1, 1] = size, off, off / 2
    shown = changes([clean, attacked, first, second])
    names, scales = zip(*(name.split(" ×") for name, _ in shown), strict=True)
    assert names == ("perturbation", "difference", "difference") and scales[1] == scales[2]
    for scale, largest in ((int(scales[0]), np.float32(size)), (int(scales[1]), np.float32(off))):
        assert scale == 1 or scale * largest <= 1 + ROUNDING
        assert all(larger * largest > 1 for larger in SCALES if larger > scale)
    for (_, picture), scale, own in zip(shown, map(int, scales), (size, off, off / 2), strict=True):
        assert picture.min() == 0.5 and picture.max() == pytest.approx(0.5 + 0.5 * scale * own, abs=1e-4)


@given(classes=st.integers(1, 60), label=st.integers(0, 59), predicted=st.integers(-1, 59))
def test_the_true_class_and_the_answer_are_always_among_the_bars(classes: int, label: int, predicted: int) -> None:
    life = a_life(classes=classes, label=label % classes, predicted=min(predicted, classes - 1))
    chosen = shown_classes(life)
    assert len(chosen) == min(classes, MOST_CLASSES) and chosen == sorted(set(chosen))
    assert life.label in chosen and (life.predicted < 0 or life.predicted in chosen)


def test_a_figure_without_an_answer_is_drawn() -> None:
    steps = tuple(Step(name=name, logits=(math.nan, 1.0)) for name in ("clean", "adversarial"))
    life = a_life(steps=2, classes=2, scores=False, predicted=-1).model_copy(update={"steps": steps})
    assert life_figure(life, some_pictures(2), ["a", "b"], "t", "png", dpi=40)


def test_a_format_that_cannot_be_written_is_refused() -> None:
    assert check_form(".PNG") == "png"
    for suffix in ("", ".gif", ".png.exe"):
        with pytest.raises(UsageError, match="cannot be written"):
            check_form(suffix)
