"""Figures for classes of unequal size: where they are few or uneven, accuracy alone misleads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence


def balanced_accuracy(labels: Sequence[int], right: Iterable[bool]) -> float:
    """Return the mean over the classes in ``labels`` of the share of their images that is right; NaN without images.

    That is the mean recall (Brodersen et al. 2010): whoever always gives one answer gets 1 / K.
    """
    totals = Counter(labels)
    hits = Counter(label for label, hit in zip(labels, right, strict=True) if hit)
    return sum(hits[label] / count for label, count in totals.items()) / len(totals) if totals else math.nan


def majority_rate(labels: Sequence[int]) -> float:
    """Return the share of the most frequent class, the accuracy of always answering it; NaN without images."""
    return max(Counter(labels).values()) / len(labels) if labels else math.nan


def uneven(classes: int, majority: float) -> bool:
    """Whether accuracy wants both beside it: two classes, or a largest one half as large again as even ones are."""
    return classes == 2 or majority > 1.5 / max(classes, 1)
