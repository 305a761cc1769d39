"""The conformance kit asked of everything in the catalogues, in small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_images import write_folder
from small_systems import BUILDERS, CLASSES, SIZE, SmallNet, small_system
from test_attack_conformance import QUICK

from ismn_cli.core.catalogue import ATTACKS, DATASETS, SYSTEMS
from ismn_cli.core.findings import Verdict
from ismn_cli.core.recipes import DataChoice
from ismn_cli.data.loading import load_dataset
from ismn_cli.testing import check_attack, check_dataset, check_defence, check_model
from ismn_models.ismn import ablations
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape

SHAPE = Shape(CLASSES, 3, SIZE)
WEAK = {
    "jitter": "its loss divides the logits by their size, after which the softmax is nearly a step",
    "tifgsm": "its kernel of 15 pixels smooths the patterns of 8 pixels away",
}
"""Attacks that a linear classifier of small images is the wrong victim for, and why."""
EXTRA: dict[str, dict[str, float]] = {
    "eaden": {"initial_const": 0.1, "binary_search_steps": 3, "max_iterations": 20, "lr": 0.02},
    "pgd-ensemble": {"steps": 10},
}
"""Less effort than usual, which these images do not need."""


def test_every_system_is_asked() -> None:
    built = {name.partition(",")[0] for name in BUILDERS}
    assert built | {name for name, entry in SYSTEMS.items() if entry.alter} == set(SYSTEMS)


@pytest.mark.parametrize("name", BUILDERS)
def test_systems(name: str) -> None:
    findings = check_defence(small_system(name), shape=SHAPE)
    assert [f.code for f in findings if f.verdict is Verdict.WARN] == []


@pytest.mark.parametrize(
    "take_out", [ablations.no_detector, ablations.no_loop, ablations.no_mapping, ablations.no_target]
)
def test_ablations(take_out: Callable[[Pipeline], Pipeline]) -> None:
    findings = check_defence(take_out(small_system("ismn")), shape=SHAPE)
    always = ["CD06"] if take_out is ablations.no_detector else []
    assert [f.code for f in findings if f.verdict is Verdict.WARN] == always


def test_a_classifier() -> None:
    check_model(SmallNet, shape=SHAPE, classes=CLASSES)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(name: str) -> None:
    entry = ATTACKS[name]
    params = QUICK.get(name, {}) | EXTRA.get(name, {})
    norms = entry.norms[:1] if name == "autoattack" else entry.norms
    control = entry.expects is None or name in WEAK
    check_attack(name, params=params, norms=norms, shape=Shape(5, 3, 8), control=control)


def loaded(choice: DataChoice, data_dir: Path | None) -> Callable[[str], object]:
    def data(split: str) -> object:
        images = load_dataset(choice, split, data_dir)
        return images.pixels, images.labels

    return data


def folder(root: Path) -> Path:
    return write_folder(root, {f"{split}/{name}": 12 for split in ("train", "test") for name in ("cat", "dog")})


def npz(root: Path) -> Path:
    arrays = {}
    for number, split in enumerate(("train", "validation", "test")):
        draw = np.random.default_rng(number)
        arrays[f"{split}_images"] = draw.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(20) % 2
    np.savez(root / "set.npz", **arrays)
    return root / "set.npz"


def csv(root: Path) -> Path:
    folder(root)
    files = sorted(root.rglob("*.png"))
    rows = [f"{file.relative_to(root)},{file.parent.name},{file.parent.parent.name}" for file in files]
    (root / "table.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    return root / "table.csv"


OWN = {"folder": folder, "npz": npz, "csv": csv}


@pytest.mark.parametrize("name", OWN)
def test_datasets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISMN_HOME", str(tmp_path / "home"))
    (tmp_path / "images").mkdir()
    place = OWN[name](tmp_path / "images")
    size = 16 if DATASETS[name].options and name != "npz" else None
    check_dataset(loaded(DataChoice(name=name, image_size=size), place))


def test_the_images_that_come_with_ismn() -> None:
    findings = check_dataset(loaded(DataChoice(name="cifar10-mini"), None))
    assert [f.code for f in findings if f.verdict is Verdict.WARN] == []
