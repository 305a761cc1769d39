from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from ismn_cli.core import catalogue
from ismn_cli.core.catalogue import ATTACKS, DATASETS, SYSTEMS, TRAINABLE, find, load
from ismn_cli.core.errors import UsageError
from ismn_cli.core.settings import build_settings

HEAVY = ("torch", "torchvision", "torchattacks", "pandas", "scipy", "numpy", "safetensors", "typer", "rich")


def imported_by(statement: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has imported after ``statement``."""
    script = f"import json, sys; {statement}; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    return set(json.loads(answer.stdout))


def test_importing_core_imports_nothing_heavy() -> None:
    modules = "catalogue, settings, recipe_files, store, environment, rates"
    assert imported_by(f"from ismn_cli.core import {modules}") == set()


def test_listing_and_recording_import_no_torch() -> None:
    use = "environment.capture('cpu', 1); recipe_files.load_recipe('train-ismn-cifar10')"
    assert imported_by(f"from ismn_cli.core import environment, recipe_files; {use}") == set()


@pytest.mark.parametrize("table", [SYSTEMS, ATTACKS, DATASETS])
def test_entries_are_filed_under_their_names(table: dict[str, catalogue.SystemEntry]) -> None:
    assert table
    for name, entry in table.items():
        assert entry.name == name
        assert entry.summary


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_refer_to_what_exists(name: str) -> None:
    entry = SYSTEMS[name]
    assert entry.config is not None
    config = load(entry.config)
    assert dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen
    assert build_settings(config, {}, name) == config()
    assert callable(load(entry.build))
    assert (entry.stages is None) == (entry.trained_as is None or entry.alter is not None)
    if entry.stages:
        assert callable(load(entry.stages))
    assert "torch" not in imported_by(f"import {entry.config.split(':')[0]}")


@pytest.mark.parametrize("name", DATASETS)
def test_data_sets_refer_to_what_exists(name: str) -> None:
    assert callable(load(DATASETS[name].load))


def test_trainable_systems() -> None:
    defences = {"ismn", "magnet", "magnet-diverse", "ddsa", "at", "trades", "hgd", "prn", "lad", "distillation"}
    assert set(TRAINABLE) == {"classifier"} | defences
    assert TRAINABLE["classifier"] is SYSTEMS["none"]


def test_find_and_its_nearest_name() -> None:
    assert find(SYSTEMS, "system", "ismn") is SYSTEMS["ismn"]
    with pytest.raises(UsageError, match="no system called 'magnett'") as caught:
        find(SYSTEMS, "system", "magnett")
    assert "Did you mean 'magnet'?" in caught.value.hint


@pytest.mark.parametrize("reference", ["no_such_package.module:Name", "ismn_cli.core.specs:Nothing", "json"])
def test_references_that_lead_nowhere(reference: str) -> None:
    with pytest.raises(UsageError, match="Cannot import") as caught:
        load(reference)
    assert reference in caught.value.message and caught.value.hint
