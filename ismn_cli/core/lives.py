"""Lives: single samples on their way through a system under attack, with every picture, kept in a run's folder.

A matrix keeps a few of them as it ends, so that a report can show pictures without a model.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from annotated_types import MinLen
from pydantic import NonNegativeInt, model_validator

from ismn_cli.core.errors import UsageError
from ismn_cli.core.records import Outcome
from ismn_cli.core.specs import Frozen
from ismn_cli.core.storage import read_bytes, write_bytes
from ismn_cli.core.tensors import unpack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ismn_cli.core.tensors import Arrays

    Picture = NDArray[np.float16]
    """[C, H, W], pixels in [0, 1]."""

LIVES = "lives.safetensors"
CLEAN, ADVERSARIAL = "clean", "adversarial"
NO_ANSWER = -1
"""The class that logits with a NaN among them stand for."""


class Step(Frozen):
    """One picture of a life, and what the system makes of it."""

    name: str
    """"clean", "adversarial", then what the defence made of the adversarial image: "regenerated 1", "reformed"."""
    logits: tuple[float, ...]
    """[K], of the classifier that answers, on this very picture."""
    score: float | None = None
    """The detector's score of this picture, higher is more suspicious; None where no detector looks at it."""

    @property
    def predicted(self) -> int:
        """The class with the largest logit; `NO_ANSWER` where one is NaN."""
        if any(map(math.isnan, self.logits)):
            return NO_ANSWER
        return max(range(len(self.logits)), key=self.logits.__getitem__)

    def confidences(self) -> tuple[float, ...]:
        """Return the softmax of the logits, [K]; NaN where one of them is."""
        if self.predicted == NO_ANSWER or math.isinf(max(self.logits)):
            return (math.nan,) * len(self.logits)
        powers = [math.exp(logit - max(self.logits)) for logit in self.logits]
        return tuple(power / sum(powers) for power in powers)


class Life(Frozen):
    """One sample under one attack on one system."""

    cell: str
    """Key of the attacked cell."""
    position: NonNegativeInt
    """Position of the sample in the cell's columns."""
    id: int
    label: NonNegativeInt
    outcome: Outcome
    predicted: int
    """The system's answer on the adversarial image, even where it refuses to give it."""
    rejected: bool
    threshold: float | None
    """The detector flags scores at or above it; None without a detector."""
    linf: float
    l2: float
    steps: Annotated[tuple[Step, ...], MinLen(2)]
    """The clean image, the adversarial one, then each stage of the route that the system took."""
    note: str = ""
    """Where the system, asked again for the pictures, did not do what is stored."""


class Lives(Frozen):
    """The lives kept of one run."""

    schema_version: Literal[1] = 1
    classes: Annotated[tuple[str, ...], MinLen(1)]
    lives: tuple[Life, ...]

    @model_validator(mode="after")
    def _of_these_classes(self) -> Self:
        known = len(self.classes)
        for life in self.lives:
            if max(life.label, life.predicted) >= known or life.predicted < NO_ANSWER:
                raise ValueError("a label names no class")
            if any(len(step.logits) != known for step in life.steps):
                raise ValueError("logits are not of these classes")
        return self


@dataclass(frozen=True)
class Album:
    """Lives and their pictures: ``pictures[i][j]`` belongs to ``lives.lives[i].steps[j]``."""

    lives: Lives
    pictures: tuple[tuple[Picture, ...], ...]


def write_album(folder: Path, album: Album) -> None:
    """Store ``album`` in a run's ``folder``. Raises UsageError where the disk refuses."""
    import numpy as np
    from safetensors.numpy import save

    arrays = {
        _name(i, j): np.ascontiguousarray(picture, dtype=np.float16)
        for i, pictures in enumerate(album.pictures)
        for j, picture in enumerate(pictures)
    }
    # json, not pydantic, because the latter writes NaN as null
    content = save(arrays, {"lives": json.dumps(album.lives.model_dump(mode="json"))})
    write_bytes(folder / LIVES, content)


def read_album(folder: Path) -> Album | None:
    """Return what is kept in a run's ``folder``; None where there is nothing that can be read and drawn."""
    try:
        arrays, notes = unpack(read_bytes(folder / LIVES) or b"")
        lives = Lives.model_validate_json(notes.get("lives", ""))
        pictures = tuple(_pictures(arrays, i, len(life.steps)) for i, life in enumerate(lives.lives))
    except (UsageError, ValueError, KeyError):
        return None
    return Album(lives, pictures) if all(map(_drawable, pictures)) else None


def _pictures(arrays: Arrays, life: int, steps: int) -> tuple[Picture, ...]:
    found = [arrays[_name(life, step)] for step in range(steps)]
    if any(picture.dtype != "float16" for picture in found):
        raise ValueError("the pictures are not in half precision")
    return tuple(found)


def _drawable(pictures: tuple[Picture, ...]) -> bool:
    """Whether the pictures of a life are of one shape, grey or in colour, with finite pixels."""
    import numpy as np

    first = pictures[0].shape
    return len(first) == 3 and first[0] in (1, 3) and min(first) > 0 and all(
        picture.shape == first and bool(np.isfinite(picture).all()) for picture in pictures
    )


def _name(life: int, step: int) -> str:
    return f"{life}/{step}"
