"""Which rows may stand side by side (same images, classifier and knowledge), and what to call them there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ismn_cli.reporting.table import Row
from ismn_cli.reporting.worst_rows import ALL

KNOWLEDGE = {
    "clean": "no attack",
    "black": "black-box",
    "gray": "gray-box",
    "white": "white-box",
    "adaptive": "adaptive",
}
_SYSTEM = ("defence", "defence_weights")
_SHA256 = re.compile("[0-9a-f]{64}")
IMAGES = ("dataset", "split", "samples", "data", "classifier", "classifier_weights")


@dataclass(frozen=True)
class Section:
    """Rows that compare. ``clean`` has one row per defence, ``boxes`` one per (defence, attack, eps)."""

    title: str
    clean: dict[str, Row]
    boxes: dict[tuple[str, str, float], Row]

    def attacks(self) -> dict[str, list[float]]:
        """Return each attack's levels in ascending order, attacks in order of appearance."""
        found: dict[str, set[float]] = {}
        for _, attack, eps in self.boxes:
            found.setdefault(attack, set()).add(eps)
        return {attack: sorted(levels) for attack, levels in found.items()}


def sections(rows: Sequence[Row]) -> list[Section]:
    """Divide ``rows`` into sections, in order of appearance; clean cells join all on their images.

    Worst cases over all levels belong to none of them.
    """
    attacked: dict[tuple[object, ...], list[Row]] = {}
    unattacked: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row["knowledge"] == ALL:
            continue
        images = values(row, IMAGES)
        if row["attack"] is None:
            unattacked.setdefault(images, []).append(row)
        else:
            attacked.setdefault((*images, row["knowledge"]), []).append(row)
    alone: dict[tuple[object, ...], list[Row]] = {
        (*images, "clean"): [] for images in unattacked if all(images != key[:-1] for key in attacked)
    }
    return [_section(rows, unattacked.get(key[:-1], []), found) for key, found in (attacked | alone).items()]


def _section(everything: Sequence[Row], clean: list[Row], attacked: list[Row]) -> Section:
    here = clean + attacked
    names = defence_labels(here)
    first = dict(reversed(list(zip(names, here, strict=True))))
    labels = zip(names[len(clean) :], attack_labels(attacked), attacked, strict=True)
    return Section(
        title(here[0], KNOWLEDGE[attacked[0]["knowledge"] if attacked else "clean"], everything),
        {name: first[name] for name in names},
        {(name, attack, row["eps"]): row for name, attack, row in labels},
    )


def title(row: Row, subject: str, everything: Sequence[Row]) -> str:
    """Name the images of ``row`` and the ``subject``; what tells them from others in ``everything`` is added."""
    parts = [f"{row['dataset']} {row['split']}", images_text(row), subject]
    place = ("dataset", "split", "n")
    alike = [other for other in everything if values(other, place) == values(row, place)]
    for word, field, peers in (
        ("classifier", "classifier_weights", everything),
        ("images", "samples", alike),
        ("pixels", "data", alike),
    ):
        if len({other[field] for other in peers}) > 1:
            parts.append(f"{word} {short(row[field])}")
    return ", ".join(parts)


def images_text(row: Row) -> str:
    """Say how many images were evaluated, and of how many."""
    if row["n"] < row["split_size"]:
        return f"first {row['n']:,} of {row['split_size']:,} images"
    return f"all {row['n']:,} images"


def short(digest: str) -> str:
    """Return the first characters of a sha256, enough to tell weights apart."""
    return digest[:8] or "(none)"


def brief(value: object) -> object:
    """Return the setting of an attack as it is told: a sha256 in its first characters."""
    return short(value) if isinstance(value, str) and _SHA256.fullmatch(value) else value


def defence_labels(rows: Sequence[Row]) -> list[str]:
    """Name each row's defence; its weights are told where one name stands for several."""
    weights: dict[str, set[str]] = {}
    for row in rows:
        weights.setdefault(row["defence"], set()).add(row["defence_weights"])
    return [
        row["defence"] + (f" {short(row['defence_weights'])}" if len(weights[row["defence"]]) > 1 else "")
        for row in rows
    ]


def attack_labels(rows: Sequence[Row]) -> list[str]:
    """Name each row's attack without its eps; settings are told where attacks of one name and eps differ.

    The draws follow the defence, and are compared within it only.
    """
    names, settings, draws = map(_attack_name, rows), map(_settings, rows), map(_draws, rows)
    parts = list(zip(names, settings, draws, (values(row, _SYSTEM) for row in rows), strict=True))
    by_name: dict[str, list[dict[str, str]]] = {}
    by_system: dict[object, list[dict[str, str]]] = {}
    for name, setting, drawn, system in parts:
        by_name.setdefault(name, []).append(setting)
        by_system.setdefault((name, system), []).append(drawn)
    told = {name: sorted(_varying(same)) for name, same in by_name.items()}
    told_draws = {key: sorted(_varying(same)) for key, same in by_system.items()}
    return [
        ", ".join([
            name,
            *(f"{key}={setting.get(key, 'default')}" for key in told[name]),
            *(f"{key}={drawn[key]}" for key in told_draws[name, system]),
        ])
        for name, setting, drawn, system in parts
    ]  # fmt: skip


def _attack_name(row: Row) -> str:
    norm = "" if row["norm"] == "linf" else f" {row['norm']}"
    transferred = " transferred" if row["sources"] else ""
    return f"{row['attack']}{transferred}{norm}{' targeted' if row['targeted'] else ''}"


def _settings(row: Row) -> dict[str, str]:
    params = {key: json.dumps(brief(value)) for key, value in json.loads(row["params"] or "{}").items()}
    run = {"seed": row.get("seeds") or str(row["seed"]), "batch": str(row["batch_size"]), "eps": repr(row["eps"])}
    told = {"from": row["sources"], "after": row["after"]}
    return params | run | {name: text for name, text in told.items() if text}


def _draws(row: Row) -> dict[str, str]:
    return {"eot": str(row["eot"]), "draws": str(row["draws"]), "eps": repr(row["eps"])}


def _varying(settings: Iterable[dict[str, str]]) -> set[str]:
    """Return the settings that differ between attacks of equal eps (a step size may well follow eps)."""
    by_eps: dict[str, list[dict[str, str]]] = {}
    for setting in settings:
        by_eps.setdefault(setting["eps"], []).append(setting)
    return {
        key
        for group in by_eps.values()
        for key in set().union(*group)
        if len({setting.get(key) for setting in group}) > 1
    }


def values(row: Row, fields: Sequence[str]) -> tuple[object, ...]:
    """Return the figures of ``row`` in ``fields``."""
    return tuple(row[field] for field in fields)
