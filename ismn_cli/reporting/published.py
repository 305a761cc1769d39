"""Figures quoted from papers (those of recipes/claims), and ceilings that no classifier passes at a large eps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ismn_cli.core.claim_files import claims_names, load_claims
from ismn_cli.core.claims import Claims
from ismn_cli.core.specs import Cell, Norm

CEILING_DATASETS = ("cifar10", "cifar10-mini")


@dataclass(frozen=True)
class Quoted:
    """An accuracy in [0, 1] as printed in a paper, with what a reader must know about it."""

    accuracy: float
    cite: str
    reading: str

    @property
    def source(self) -> str:
        """Where it is printed and how its level is read, in words."""
        return _source(self.cite, self.reading)


@dataclass(frozen=True)
class Ceiling:
    """No deterministic classifier that always answers passes ``accuracy`` on ``images`` test images."""

    eps: float
    accuracy: float
    images: int


@cache
def _published() -> dict[str, list[dict[str, Any]]]:
    text = (files("ismn_cli.reporting") / "published.yaml").read_text(encoding="utf-8")
    content: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)
    return content


@cache
def _quotations() -> tuple[Claims, ...]:
    """Return the claims that come with ismn and say how they are quoted."""
    return tuple(claims for name, _ in claims_names() if (claims := load_claims(name)).quoted)


def lookup(dataset: str, defence: str, attack: str, norm: str, eps: float, knowledge: str) -> Quoted | None:
    """Return the paper's accuracy where a measured cell corresponds to one of its cells, else None."""
    for claims in _quotations():
        if claims.quoted is None or (claims.dataset, claims.knowledge) != (dataset, knowledge):
            continue
        reading, labels = claims.quoted_reading(claims.quoted)
        named = labels.get(attack)
        if named is None or reading.norm != norm:
            continue
        for claim in claims.each():
            alike = claim.system == defence and claim.attack in (None, named)
            if alike and math.isclose(reading.eps_at(claim.level), eps, rel_tol=1e-6):
                return Quoted(claim.figure, claims.cite, claims.quoted.words)
    return None


def quoted(cell: Cell, stand_in_for: str | None = None) -> Quoted | None:
    """Return the paper's figure for ``cell``; None for a clean or targeted one, or not on the test split.

    ``stand_in_for``: the data set whose figures are wanted, though the cell's images are others.
    """
    if cell.attack is None or cell.attack.threat.targeted or cell.samples.split != "test":
        return None
    threat = cell.attack.threat
    dataset = stand_in_for or cell.samples.dataset.partition("/")[0]
    return lookup(dataset, cell.defence.name, cell.attack.method, threat.norm, threat.eps, cell.knowledge)


def caveat(source: str) -> str:
    """Return what a reader must know about figures from ``source``, as `Quoted.source` words it."""
    found = (c.caveat for c in _quotations() if c.quoted and source == _source(c.cite, c.quoted.words))
    return next(found, "")


def _source(cite: str, reading: str) -> str:
    return f"{cite}, read as {reading}"


def ceiling(dataset: str, norm: str, eps: float) -> Ceiling | None:
    """Return the tightest known ceiling at ``eps``: that of the largest tabulated eps not above it."""
    if dataset not in CEILING_DATASETS or norm != Norm.LINF:
        return None
    below = [entry for entry in _published()["ceilings"] if entry["eps"] <= eps * (1 + 1e-6)]
    if not below:
        return None
    nearest = max(below, key=lambda entry: float(entry["eps"]))
    return Ceiling(nearest["eps"], nearest["accuracy"], nearest["images"])
