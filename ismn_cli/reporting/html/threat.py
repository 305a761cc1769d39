"""The threat model that was run, as a card: what the attacker may do, and knows, and did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ismn_cli.core.catalogue import ATTACKS
from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.html.groups import NORMS, method
from ismn_cli.reporting.notes import LEVELS
from ismn_cli.reporting.sections import KNOWLEDGE, images_text
from ismn_cli.reporting.table import Row

MOST = 12
"""Entries of a list; settings and images may be many."""


@dataclass(frozen=True)
class Attack:
    """An attack at a level, its settings, and what it is."""

    level: str
    name: str
    settings: str
    summary: str


@dataclass(frozen=True)
class Level:
    """A knowledge level, and what it means."""

    name: str
    says: str


@dataclass(frozen=True)
class Card:
    """What was run; each entry is in words."""

    sizes: tuple[tuple[str, str], ...]
    levels: tuple[Level, ...]
    attacks: tuple[Attack, ...]
    facts: tuple[tuple[str, str], ...]
    left_out: str


def card(rows: Sequence[Row]) -> Card:
    """Return the threat model over all attacked cells."""
    cells = [row for row in rows if row["attack"] is not None and row["attacks"] is None]
    attacks = list(_attacks(cells))
    norms = dict.fromkeys(row["norm"] for row in cells)
    more = len(attacks) - 2 * MOST
    return Card(
        sizes=tuple((NORMS.get(norm, norm), _sizes(cells, norm)) for norm in norms),
        levels=tuple(_levels(cells)),
        attacks=tuple(attacks[: 2 * MOST]),
        facts=tuple(_facts(rows, cells)),
        left_out=f"{more} more settings are in the table of all cells." if more > 0 else "",
    )


def _sizes(cells: Sequence[Row], norm: str) -> str:
    found = sorted({row["eps"] for row in cells if row["norm"] == norm})
    shown = [format_eps(eps) for eps in found[:MOST]]
    return ", ".join([*shown, *([f"{len(found) - MOST} more"] if len(found) > MOST else [])])


def _levels(cells: Sequence[Row]) -> Iterator[Level]:
    run = {row["knowledge"] for row in cells}
    for level, name in KNOWLEDGE.items():
        if level in run and level in LEVELS:
            yield Level(name, LEVELS[level].partition(": ")[2])


def _attacks(cells: Sequence[Row]) -> Iterator[Attack]:
    """Yield the attacks, settings that follow the size of the perturbation as a range."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in cells:
        found.setdefault((row["knowledge"], row["attack"], row["sources"] or ""), []).append(row)
    order = list(KNOWLEDGE)
    for (level, name, sources), same in sorted(found.items(), key=lambda entry: order.index(entry[0][0])):
        entry = ATTACKS.get(name)
        on = f", made on {sources}" if sources else ""
        yield Attack(KNOWLEDGE[level], method(same[0]), _settings(same) + on, entry.summary if entry else "")


def _settings(rows: Sequence[Row]) -> str:
    seen: dict[str, list[str]] = {}
    for row in rows:
        for key, value in json.loads(row["params"] or "{}").items():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            seen.setdefault(key, [])
            if text not in seen[key]:
                seen[key].append(text)
    averaged = sorted({row["eot"] for row in rows if row["eot"] and row["eot"] > 1})
    told = [f"{key}={_range(values)}" for key, values in seen.items()]
    told += [f"EOT over {', '.join(map(str, averaged))} draws where the system is random"] if averaged else []
    return ", ".join(told) or "no settings but eps"


def _range(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}" if len(values) > 3 else " | ".join(values)


def _facts(rows: Sequence[Row], cells: Sequence[Row]) -> Iterator[tuple[str, str]]:
    images = dict.fromkeys(f"{row['dataset']} {row['split']}, {images_text(row)}" for row in rows)
    yield "Images", _some(list(images))
    yield "Systems", _some(list(dict.fromkeys(row["defence"] for row in rows)), 20)
    yield "Goal", "any wrong answer (untargeted)" if not any(row["targeted"] for row in cells) else "targeted, in part"
    draws = sorted({row["draws"] for row in cells if row["draws"] and row["draws"] > 1})
    if draws:
        yield "Random systems", f"asked {', '.join(map(str, draws))} times about each image"
    if any(row["after"] for row in cells):
        yield "Survivors", "what an attack broke, later ones of its level leave out: a cell is the worst case so far"
    yield "Seeds", ", ".join(map(str, sorted({row["seed"] for row in cells})[:MOST]))
    yield "Batch size", ", ".join(map(str, sorted({row["batch_size"] for row in cells})[:MOST]))


def _some(names: Sequence[str], most: int = MOST) -> str:
    return "; ".join([*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])])
