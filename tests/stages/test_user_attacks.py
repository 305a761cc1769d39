"""Attacks of the user's own in a matrix: misbehaviour is named, its samples are unknown, and nothing else feels it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.store import Store
from ismn_cli.stages.audit import audit_run
from ismn_cli.stages.matrix import Finished, run_matrix
from ismn_cli.stages.rerun import plan_rerun, recorded_of, rerun

MEASURED = {"craft_seconds", "judge_seconds"}
HEAD = """
import random, torch, numpy
from torch.nn.functional import cross_entropy

def slope(model, x, y):
    point = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(cross_entropy(model(point), y, reduction="sum"), point)
    return found.sign()

def step(model, x, y, eps, size: float = 1.0):
    return (x + size * eps * slope(model, x, y)).clamp(0, 1)

def blind(model, x, y, eps, norm="linf"):
    return (x + eps * torch.ones_like(x).sign() / (1 if norm == "linf" else x[0].numel() ** 0.5)).clamp(0, 1)

blind.gradient = False
"""
EVIL = {
    "leaves the ball": "return x + 2 * eps * torch.rand_like(x).sign()",
    "nan": "return x + float('nan')",
    "shape": "return x[:, :, 1:]",
    "weights": "torch.nn.init.zeros_(next(model.parameters()).data); return step(model, x, y, eps)",
    "buffers": "next(model.buffers()).fill_(7.0); return step(model, x, y, eps)",
    "train": "model.train(); return step(model, x, y, eps)",
    "requires_grad": "[p.requires_grad_(True) for p in model.parameters()]; model(x).sum().backward(); return x",
    "hooks": "[m.register_forward_hook(lambda m, i, o: 0 * o) for m in model.modules()]; return x",
    "writes": "x.add_(eps).clamp_(0, 1); y.zero_(); return x",
    "settings": "torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); return x",
    "raises": "raise ValueError('| <script>alert(1)</script> \\n & %s {}')",
    "exits": "import sys; sys.exit(0)",
}


@pytest.fixture(autouse=True)
def here(own_folder: Path) -> Path:
    (own_folder / "mine.py").write_text(HEAD)
    return own_folder


@pytest.fixture(autouse=True)
def classifier(trained) -> None:
    trained("classifier")


def run(store: Store, *methods: str, **changes: Any) -> Finished:
    grid = {"method": methods, "eps": 0.2, "params": {"pgd": {"steps": 3}} if "pgd" in methods else {}}
    mapping: dict[str, Any] = {"name": "own", "defence": ["none", "median"], "attack": grid, "draws": 2}
    recipe = MatrixRecipe.model_validate(mapping | {"dataset": {"name": "cifar10", "limit": 20}} | changes)
    return run_matrix(recipe, store, None, "cpu", "run", lambda _: None)


def of(results: tuple[CellResult, ...], method: str | None) -> list[CellResult]:
    return [r for r in results if (r.cell.attack.method if r.cell.attack else None) == method]


@pytest.mark.parametrize("body", EVIL.values(), ids=EVIL)
def test_the_run_goes_on_and_stays_truthful(store: Store, here: Path, tmp_path: Path, body: str) -> None:
    (here / "evil.py").write_text(f"{HEAD}\ndef attack(model, x, y, eps):\n    {body}\n")
    levels: dict[str, Any] = {"knowledge": ["gray", "white"], "defence": "median"}
    beside = run(store, "evil.py:attack", "pgd", **levels)
    for folder in ("cells", "examples", "calibrations"):  # what was stored would be found, not made
        if (store.root / folder).exists():
            (store.root / folder).rename(tmp_path / folder)
    alone = run(store, "pgd", **levels)
    for method in (None, "pgd"):
        for with_evil, without in zip(of(beside.results, method), of(alone.results, method), strict=True):
            assert with_evil.model_dump(exclude=MEASURED) == without.model_dump(exclude=MEASURED)
    for result in of(beside.results, "evil.py:attack"):
        assert all(result.failed)
        assert set(result.outcomes()) <= {Outcome.UNKNOWN, Outcome.WRONG_CLEAN}
        assert [note for note in result.notes if note.startswith("the attack ")]
    report = (beside.run.folder / "report.csv").read_text()
    assert "evil.py:attack" in report


def test_levels_norms_and_what_it_is_built_on(store: Store) -> None:
    found = run(store, "mine.py:step", "mine.py:blind", knowledge=["gray", "black", "adaptive"], transfer=["none"])
    cells = [result.cell for result in found.results if result.cell.attack]
    assert len(cells) == 2 * 2 * 3
    # At level black what needs gradients is made on another system, what needs none on the system itself.
    assert {(c.attack.method, bool(c.sources)) for c in cells if c.attack and c.knowledge == "black"} == {
        ("mine.py:step", True), ("mine.py:blind", False),
    }  # fmt: skip
    assert not any(any(result.failed) for result in found.results)
    assert any(Outcome.BROKEN in result.outcomes() for result in of(found.results, "mine.py:step"))
    grid = {"method": "mine.py:blind", "eps": 0.5, "norm": "l2"}
    (l2,) = of(run(store, "mine.py:blind", attack=grid, defence="none").results, "mine.py:blind")
    assert max(l2.l2) <= 0.5 + 1e-4 and not any(l2.failed)


def test_changed_code_and_parameters_are_other_cells(store: Store, here: Path) -> None:
    def grid(**params: float) -> dict[str, Any]:
        return {"attack": {"method": "mine.py:step", "eps": 0.2, "params": {"mine.py:step": params}}}

    first = run(store, "", **grid())
    assert run(store, "", **grid(size=1)).stored == len(first.results)
    assert run(store, "", **grid(size=0.5)).stored == 2
    (here / "mine.py").write_text(f"{HEAD}\n# another\n")
    assert run(store, "", **grid()).stored == 2


def test_it_is_audited_and_repeated(store: Store, here: Path, tmp_path: Path) -> None:
    found = run(store, "mine.py:step", "pgd", knowledge=["white", "adaptive"])
    audit = audit_run(found.run, store, None, "cpu", ["median"], 2, lambda _: None)
    assert audit.findings
    recorded = recorded_of(found.run.record, store)
    again = rerun(recorded, plan_rerun(recorded, store, None, "cpu"), Store.open(tmp_path / "scratch"), lambda _: None)
    assert all(one.recorded.attacked == one.again.attacked for one in again)
    (one,) = of(found.results[:2], "mine.py:step")
    alone = recorded_of(one, store)
    assert len(rerun(alone, plan_rerun(alone, store, None, "cpu"), Store.open(tmp_path / "other"), lambda _: None)) == 1
    (here / "mine.py").write_text(f"{HEAD}\n# another\n")
    with pytest.raises(UsageError, match=r"mine\.py:step has changed since"):
        rerun(recorded, plan_rerun(recorded, store, None, "cpu"), Store.open(tmp_path / "third"), lambda _: None)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("mine.py:stop", "Did you mean"),
        ("mine.py:blinds", "Did you mean 'blind'"),
        ("pdg", "Did you mean 'pgd'"),
        ("other.py:step", "current folder"),
    ],
)
def test_errors_come_before_any_work(store: Store, method: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        run(store, method)
    assert says in raised.value.hint
    assert not (store.root / "cells").exists()
