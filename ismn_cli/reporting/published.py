"""Figures quoted from papers (the seed's Table 3), and ceilings that no classifier passes at a large eps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ismn_cli.core.specs import Cell, Norm

CEILING_DATASETS = ("cifar10", "cifar10-mini")


@dataclass(frozen=True)
class Quoted:
    """An accuracy in [0, 1] as printed in a paper, with what a reader must know about it."""

    accuracy: float
    cite: str
    reading: str
    caveat: str


@dataclass(frozen=True)
class Ceiling:
    """No deterministic classifier that always answers passes ``accuracy`` on ``images`` random images."""

    eps: float
    accuracy: float
    images: int


@cache
def _published() -> dict[str, list[dict[str, Any]]]:
    text = (files("ismn_cli.reporting") / "published.yaml").read_text(encoding="utf-8")
    content: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)
    return content


def lookup(dataset: str, defence: str, attack: str, norm: str, eps: float, knowledge: str) -> Quoted | None:
    """Return the paper's accuracy where a measured cell corresponds to one of its cells, else None."""
    asked = {"dataset": dataset, "attack": attack, "norm": norm, "knowledge": knowledge}
    for paper in _published()["papers"]:
        if any(paper[field] != value for field, value in asked.items()) or defence not in paper["accuracy"]:
            continue
        for level, accuracy in zip(paper["levels"], paper["accuracy"][defence], strict=True):
            if math.isclose(level, eps, rel_tol=1e-6):
                return Quoted(accuracy, paper["cite"], paper["reading"], paper["caveat"])
    return None


def quoted(cell: Cell) -> Quoted | None:
    """Return the paper's figure for ``cell``; None for a clean or targeted one, or not on the test split."""
    if cell.attack is None or cell.attack.threat.targeted or cell.samples.split != "test":
        return None
    threat = cell.attack.threat
    return lookup(cell.samples.dataset, cell.defence.name, cell.attack.method, threat.norm, threat.eps, cell.knowledge)


def ceiling(dataset: str, norm: str, eps: float) -> Ceiling | None:
    """Return the tightest known ceiling at ``eps``: that of the largest tabulated eps not above it."""
    if dataset not in CEILING_DATASETS or norm != Norm.LINF:
        return None
    below = [entry for entry in _published()["ceilings"] if entry["eps"] <= eps * (1 + 1e-6)]
    if not below:
        return None
    nearest = max(below, key=lambda entry: float(entry["eps"]))
    return Ceiling(nearest["eps"], nearest["accuracy"], nearest["images"])
