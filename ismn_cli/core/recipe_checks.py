"""Names in a recipe against the catalogue, in the raw mapping: a wrong type elsewhere hides no wrong name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ismn_cli.core.catalogue import ATTACKS, DATASETS, SYSTEMS, TRAINABLE, load
from ismn_cli.core.datasets import is_known, near
from ismn_cli.core.references import Kind, is_reference, plugins
from ismn_cli.core.settings import nearest, settings_problems

_LISTS = ("defence", "knowledge", "transfer", "attack.method", "attack.eps")


def catalogue_problems(mapping: Mapping[str, Any], training: bool) -> list[str]:
    """Return one line for each name that does not exist, with the nearest that does."""
    found = [
        f"dataset.name: there is no data set called '{name}'; {near(name)}"
        for name in _names(mapping, "dataset.name")
        if not is_known(name)
    ]
    return found + (_of_training(mapping) if training else _of_matrix(mapping))


def _of_matrix(mapping: Mapping[str, Any]) -> list[str]:
    return [
        *(f"{place}: the list is empty" for place in _LISTS if _at(mapping, place) in ([], ())),
        *_unknown(mapping, "defence", "system", SYSTEMS, "defence"),
        *(
            f"optional: '{name}' is not among the defences"
            for name in _names(mapping, "optional")
            if name not in _names(mapping, "defence")
        ),
        *_unknown(mapping, "defence_params", "system", SYSTEMS, "defence"),
        *_unknown(mapping, "attack.method", "attack", ATTACKS, "attack"),
        *(problem for level in _names(mapping, "attack.method_at") for problem in _of_level(mapping, level)),
        *_unknown(mapping, "attack.params", "attack", ATTACKS, "attack"),
        *_unknown_sources(mapping),
        *(problem for name in _names(mapping, "training") for problem in _of_step(mapping, name)),
    ]


def _of_level(mapping: Mapping[str, Any], level: str) -> list[str]:
    place = f"attack.method_at.{level}"
    empty = [f"{place}: the list is empty"] if _at(mapping, place) in ([], ()) else []
    return empty + _unknown(mapping, place, "attack", ATTACKS, "attack")


def _unknown_sources(mapping: Mapping[str, Any]) -> list[str]:
    systems = [name.partition("@")[0] for name in _names(mapping, "transfer") if not is_reference(name)]
    return _unknown({"transfer": systems}, "transfer", "system", SYSTEMS, "defence")


def _of_step(mapping: Mapping[str, Any], name: str) -> list[str]:
    """Return what is wrong with one training of a matrix, which is trained on the images of the matrix."""
    step = _at(mapping, f"training.{name}")
    if not isinstance(step, Mapping):
        return []
    return [f"training.{name}.{problem}" for problem in _of_training({**step, "dataset": mapping.get("dataset", {})})]


def _of_training(mapping: Mapping[str, Any]) -> list[str]:
    found = _unknown(mapping, "system", "system to train", TRAINABLE)
    for name in _names(mapping, "dataset.name"):
        if name in DATASETS and not DATASETS[name].trainable:
            found.append(f"dataset.name: '{name}' is for evaluation only; train on cifar10")
    system = mapping.get("system", "ismn")
    configs = {"classifier_config": SYSTEMS["none"].config}
    if isinstance(system, str) and system in TRAINABLE:
        configs["config"] = TRAINABLE[system].config
    return found + [line for place, reference in configs.items() for line in _of_config(mapping, place, reference)]


def _of_config(mapping: Mapping[str, Any], place: str, reference: str | None) -> list[str]:
    config = mapping.get(place, {})
    if reference is None or not isinstance(config, Mapping):
        return []
    return [f"{place}.{problem}" for problem in settings_problems(load(reference), config)]


def _unknown(
    mapping: Mapping[str, Any], place: str, kind: str, table: Collection[str], plugin: Kind | None = None
) -> list[str]:
    """Return a line for each name at ``place`` that is not in ``table``, nor, of a ``plugin`` kind, the user's own."""
    own = [name for name in _names(mapping, place) if name not in table and not (plugin and is_reference(name))]
    if not own:  # finding plug-ins reads a file of every installed package
        return []
    known = sorted({*table, *(plugins(plugin) if plugin else ())})
    return [f"{place}: there is no {kind} called '{name}'; {nearest(name, known)}" for name in own if name not in known]


def _names(mapping: Mapping[str, Any], place: str) -> list[str]:
    """Return the names at ``place``: one, a list of them, or the keys of a mapping."""
    value = _at(mapping, place)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple | Mapping):
        return []
    return [name for name in values if isinstance(name, str)]


def _at(mapping: Mapping[str, Any], place: str) -> Any:
    """Return what is at "a.b"; None where there is nothing."""
    value: Any = mapping
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
