"""Defences of the user's own in a matrix: checked before any work, calibrated once, pinned, attacked at every level."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import small_world
import torch

from ismn_cli.core import catalogue
from ismn_cli.core.catalogue import SystemEntry
from ismn_cli.core.errors import UsageError
from ismn_cli.core.lives import read_album
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Knowledge
from ismn_cli.core.store import Store
from ismn_cli.stages.matrix import Finished, run_matrix
from ismn_cli.stages.rerun import plan_rerun, recorded_of, rerun
from ismn_cli.stages.show import life_of

pytestmark = pytest.mark.usefixtures("trained_once")

SCORE = "def score(self, x, classify): return x.mean((1, 2, 3))"
HEAD = """
import torch
from torch.nn import functional as F
from ismn_models.pipeline import Decision, Defence, Waypoint
"""
CODE = f"""{HEAD}
class Bits(Defence):
    '''Fewer grey levels (Xu et al. 2018).'''

    policy = "reform"
    differentiable = False

    def __init__(self, bits: int = 2) -> None:
        super().__init__()
        self.levels = 2**bits - 1

    def reform(self, x):
        return (x * self.levels).round() / self.levels


class Watch(Defence):
    '''Refuses what lies far from its own blur.'''

    policy = "reject"

    def __init__(self, rate: float = 0.2) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("looked", torch.zeros(()), persistent=False)
        self.lens = torch.nn.Parameter(torch.rand(3, 1, 3, 3))

    def score(self, x, classify):
        return (F.conv2d(x, self.lens / self.lens.sum(), padding=1, groups=3) - x).flatten(1).square().mean(1)

    def calibrate(self, batches, classify):
        assert sum(len(x) for x in batches) == sum(len(x) for x in batches)
        scores = torch.cat([self.score(x, classify) for x in batches])
        self.looked.fill_(len(scores))
        self.threshold.copy_(scores.quantile(1 - self.rate))


class Noisy(Defence):
    randomised = True

    def reform(self, x):
        return (x + 0.2 * torch.randn_like(x)).clamp(0, 1)


class Median(Defence):
    policy = "reform"

    def reform(self, x):
        windows = F.pad(x, (1, 1, 1, 1), mode="reflect").unfold(2, 3, 1).unfold(3, 3, 1)
        return windows.flatten(4).median(4).values

    def surrogates(self, classify):
        from ismn_models.pipeline import Reading, straight_through
        identity = straight_through(self.reform)
        return super().surrogates(classify) | {{"bpda": lambda x: Reading(classify(identity(x)))}}


def make(bits=1):
    return Bits(bits)


ready = Bits(3)
"""


@pytest.fixture
def trained_once(trained) -> None:
    trained("classifier")


@pytest.fixture(autouse=True)
def here(own_folder: Path) -> Path:
    (own_folder / "mine.py").write_text(CODE)
    return own_folder


def run(store: Store, *defences: str, **changes: Any) -> Finished:
    mapping: dict[str, Any] = {"name": "own", "defence": defences, "attack": {"method": "fgsm", "eps": 0.2}}
    recipe = MatrixRecipe.model_validate(mapping | {"dataset": {"name": "cifar10", "limit": 20}} | changes)
    return run_matrix(recipe, store, None, "cpu", "run", lambda _: None)


def weights(finished: Finished) -> str:
    return finished.systems[-1].subject.weights


LEVELS = ["gray", "black", "white", "adaptive"]


def test_a_defence_written_again_gives_what_the_built_in_gives(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = "ismn_models.controls"
    real = SystemEntry("median", "", "reform", f"{room}_config:MedianConfig", f"{room}:build_median", None, None)
    monkeypatch.setitem(catalogue.SYSTEMS, "median", real)
    attack = {"method": "pgd", "method_at": {"black": ["fgsm", "square"]}, "eps": 0.2, "params": {"pgd": {"steps": 3}}}
    attack["params"] |= {"square": {"n_queries": 20}}
    found = run(store, "median", "mine.py:Median", knowledge=LEVELS, attack=attack, transfer=["none"])
    assert len(found.results) == 2 * (1 + 5)
    half = len(found.results) // 2
    for theirs, own in zip(found.results[:half], found.results[half:], strict=True):
        assert (own.cell.defence.name, theirs.cell.defence.name) == ("mine.py:Median", "median")
        measured = {"cell", "craft_seconds", "judge_seconds"}
        assert own.model_dump(exclude=measured) == theirs.model_dump(exclude=measured)


def test_every_level_and_every_kind_of_defence(store: Store) -> None:
    names = ["none", "mine.py:Bits", "mine.py:make", "mine.py:ready", "mine.py:Watch", "mine.py:Noisy"]
    grid = {"method": ["pgd"], "eps": 0.2, "params": {"pgd": {"steps": 2}}, "eot": 3}
    recipe: dict[str, Any] = {"knowledge": LEVELS, "attack": grid, "transfer": ["mine.py:Bits"], "draws": 3}
    found = run(store, *names, **recipe)
    by = {(r.cell.defence.name, r.cell.knowledge): r for r in found.results}
    assert len(by) == len(names) * 5
    assert not any(any(result.failed) for result in found.results)
    assert "BPDA" in " ".join(by["mine.py:Bits", Knowledge.ADAPTIVE].notes)
    assert "EOT" in " ".join(by["mine.py:Noisy", Knowledge.WHITE].notes)
    assert by["mine.py:Noisy", Knowledge.WHITE].draws_attacked
    assert any(by["mine.py:Watch", Knowledge.GRAY].clean.rejected)
    assert {source.name for r in found.results for source in r.cell.sources} == {"mine.py:Bits"}
    assert len({system.subject.weights for system in found.systems}) == len(names)
    assert [system.policy for system in found.systems] == ["none", "reform", "reform", "reform", "reject", "reform"]
    assert run(store, *names, **recipe).stored == len(found.results)
    album = read_album(found.run.folder)
    assert album and "reformed" in {step.name for life in album.lives.lives for step in life.steps}


def test_a_detector_is_calibrated_once_on_all_validation_images(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (watch,) = run(store, "mine.py:Watch").systems
    defence = watch.pipeline.defence
    validation = small_world.load("validation")
    with torch.no_grad():
        scores = defence.score(validation.floats(), watch.pipeline.classifier)
    assert float(defence.threshold) == float(scores.quantile(0.8))
    assert int(defence.looked) == len(validation) == 30
    assert "calibrated on 30 validation images of cifar10, threshold" in watch.origin
    head = "def calibrate(self, batches, classify):"
    code = CODE.replace(head, f"{head}\n        1 / 0")
    (again,) = run(store, "mine.py:Watch").systems
    assert again.subject == watch.subject
    kept = again.pipeline.defence
    assert torch.equal(kept.threshold, defence.threshold) and int(kept.looked) == 30
    assert set(kept.state_dict()) == set(defence.state_dict())
    Path("mine.py").write_text(code)
    with pytest.raises(UsageError, match="calibrate fails: ZeroDivisionError"):
        run(store, "mine.py:Watch")


def test_what_is_kept_and_damaged_is_made_again(store: Store) -> None:
    first = run(store, "mine.py:Watch")
    (file,) = (store.root / "calibrations").iterdir()
    file.write_bytes(b"no tensors")
    assert weights(run(store, "mine.py:Watch")) == weights(first)
    assert list((store.root / "corrupt").iterdir())


def test_what_decides_its_answers_decides_its_identity(store: Store, here: Path) -> None:
    (here / "helper.py").write_text("")
    found = [run(store, "mine.py:Bits")]
    found.append(run(store, "mine.py:Bits", defence_params={"mine.py:Bits": {"bits": 3}}))
    (here / "mine.py").write_text(f"import helper\n{CODE}")
    found.append(run(store, "mine.py:Bits"))
    (here / "helper.py").write_text("LEVELS = 3\n")
    found.append(run(store, "mine.py:Bits"))
    assert len(set(map(weights, found))) == 4
    assert len({f.run.record.id for f in found}) == 4
    gray: list[CellResult] = [f.results[1] for f in found]
    assert len({result.cell.examples_key() for result in gray}) == 1


def test_two_places_with_one_file_are_two_names_of_the_same(store: Store, here: Path) -> None:
    first, second = run(store, "mine.py:Bits"), run(store, "./mine.py:Bits")
    assert weights(first) == weights(second) and second.stored == 0


def test_arguments_and_seeds_make_it(store: Store) -> None:
    defence = run(store, "mine.py:Bits", defence_params={"mine.py:Bits": {"bits": 5}}).systems[0].pipeline.defence
    assert defence.levels == 31
    torch.manual_seed(1)
    first = weights(run(store, "mine.py:Watch"))
    torch.manual_seed(2)
    assert weights(run(store, "mine.py:Watch")) == first


def test_what_is_ready_made_is_copied(store: Store) -> None:
    sys.path.insert(0, "")
    found = run(store, "mine.py:ready")
    from ismn_cli.core.references import load_attribute

    assert found.systems[0].pipeline.defence is not load_attribute("mine.py:ready")


def test_an_installed_defence_goes_by_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("bit-depth", "mine:Bits", "ismn.defences")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == "ismn.defences" else [])
    (system,) = run(store, "bit-depth", defence_params={"bit-depth": {"bits": 4}}).systems
    assert system.pipeline.defence.levels == 15
    with pytest.raises(UsageError) as raised:
        run(store, "bit-dept")
    assert "bit-depth" in raised.value.hint


WRONG: dict[str, tuple[str, str]] = {
    "shape": ("def reform(self, x): return x[:, :, ::2]", r"reform gives float32 \[8, 3, 4, 8\]"),
    "batch": ("def reform(self, x): return x[:1]", "should keep the shape"),
    "range": ("def reform(self, x): return 255 * x", r"from 0 to 255; they should be in \[0, 1\]"),
    "nan": ("def reform(self, x): return x / x.sum((1, 2, 3), keepdim=True)", "not finite"),
    "nothing": ("def reform(self, x): pass", "reform gives a NoneType"),
    "raises": ("def reform(self, x): return x + self.bias", "reform fails: AttributeError"),
    "score shape": ("def score(self, x, classify): return x.mean((2, 3))", r"score is float32 \[8, 3\] for 8 images"),
    "score nan": ("def score(self, x, classify): return (x.sum((1, 2, 3)) - 1).sqrt()", "score is NaN"),
    "score type": ("def score(self, x, classify): return classify(x).argmax(1)", r"score is int64 \[8\]"),
    "decide": ("def decide(self, x, classify): return classify(x)", "Tensor without logits, flagged, rejected"),
    "flags": (
        "def decide(self, x, classify): return super().decide(x, classify)._replace(flagged=torch.zeros(len(x)))",
        r"decide: flagged is float32 \[8\] for 8 images; it should be bool",
    ),
    "logits": (
        "def decide(self, x, classify): return super().decide(x, classify)._replace(logits=x.mean((1, 2, 3)))",
        r"decide gives logits float32 \[8\]",
    ),
    "policy": ("policy = 'rejekt'", "policy 'rejekt' is none of pass, reform, reject, route"),
    "flag": ("randomised = 'yes'", "randomised is 'yes'"),
    "no threshold": (f"policy = 'reject'\n    {SCORE}", "policy = 'reject' and threshold inf"),
    "nan threshold": (
        f"policy = 'route'\n    {SCORE}\n    def calibrate(self, batches, classify): self.threshold.fill_(torch.nan)",
        "threshold nan",
    ),
    "not kept": (
        f"policy = 'reject'\n    {SCORE}\n    def calibrate(self, batches, _): self.threshold.fill_(1); self.cut = 3",
        "calibrate sets cut",
    ),
    "no gradient": ("@torch.no_grad()\n    def reform(self, x): return x * 0.5", "differentiable = False"),
    "random": ("def reform(self, x): return (x + 0.3 * torch.randn_like(x)).clamp(0, 1)", "randomised = True"),
    "idle": ("def forward(self, x): return x * 0.5", "it does nothing"),
    "no policy": (SCORE, 'say policy = "reject" or "route"'),
    "trace": ("def trace(self, x, classify): return [x]", "a list of Waypoint"),
    "routes": ("def surrogates(self, classify): return {}", "a dict of functions"),
    "route": ("def surrogates(self, classify): return {'a': classify}", "should be a Reading"),
    "init": ("def __init__(self): self.bits = 3; self.lens = torch.nn.Conv2d(3, 3, 1)", "AttributeError"),
}


@pytest.mark.parametrize(("body", "says"), WRONG.values(), ids=WRONG)
def test_a_broken_contract_is_told_before_any_work(store: Store, body: str, says: str) -> None:
    Path("wrong.py").write_text(f"{HEAD}\nclass Wrong(Defence):\n    {body}\n")
    with pytest.raises(UsageError, match=says) as raised:
        run(store, "none", "wrong.py:Wrong")
    assert raised.value.hint
    assert not (store.root / "cells").exists() and not (store.root / "calibrations").exists()
    assert all(run.record.kind == "train" for run in store.runs())


@pytest.mark.parametrize(
    ("defence", "changes", "says", "hint"),
    [
        ("mine.py:Bats", {}, "no 'Bats'", "Did you mean 'Bits'"),
        ("mine.py", {}, "does not say which defence", "Bits"),
        ("nothing.py:Bits", {}, "no file nothing.py", "current folder"),
        ("jpg", {}, "no system called 'jpg'", "jpeg"),
        ("mine.py:HEAD", {}, "no 'HEAD'", "Bits"),
        ("torch.nn:ReLU", {}, "gives a ReLU, not a defence", "ismn_models.pipeline.Defence"),
        ("mine.py:Bits", {"defence_params": {"mine.py:Bits": {"bit": 3}}}, "unexpected keyword", "--defence-arg"),
        ("mine.py:ready", {"defence_params": {"mine.py:ready": {"bits": 3}}}, "would change nothing", "class"),
        ("mine.py:Bits", {"defence_params": {"mine.py:Watch": {}}}, "not among the defences", "mine.py:Bits"),
        ("jpeg", {"defence_params": {"jpeg": {"quality": 3}}}, "no arguments here", "ismn train"),
        ("mine.py:Watch", {"dataset": {"name": "cifar10-mini"}}, "cifar10-mini gives none", "--dataset cifar10"),
    ],
)
def test_errors_say_what_to_type(store: Store, defence: str, changes: Any, says: str, hint: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        run(store, defence, **changes)
    assert hint in raised.value.hint


@pytest.mark.parametrize("knowledge", ["gray", "adaptive"])
def test_what_it_raises_on_real_images_is_no_fault_of_ismns(store: Store, knowledge: str) -> None:
    # The images of the contract end with a white one.
    body = "def decide(self, x, classify): assert x[-1].min() == 1, 'more'; return super().decide(x, classify)"
    Path("late.py").write_text(f"{HEAD}\nclass Late(Defence):\n    {body}\n")
    with pytest.raises(UsageError, match=r"late\.py:Late, asked about images, fails: AssertionError: more") as raised:
        run(store, "late.py:Late", knowledge=knowledge)
    assert "late.py, line" in raised.value.hint


def test_a_run_is_repeated_and_shown_while_the_code_is_the_same(store: Store, tmp_path: Path) -> None:
    grid = {"method": "pgd", "eps": 0.3, "params": {"pgd": {"steps": 2}}}
    given = {"mine.py:Watch": {"rate": 0.1}}
    found = run(store, "mine.py:Watch", knowledge=["gray", "adaptive"], attack=grid, defence_params=given)
    recorded = recorded_of(found.run.record, store)
    again = rerun(recorded, plan_rerun(recorded, store, None, "cpu"), Store.open(tmp_path / "scratch"), lambda _: None)
    assert all(one.recorded.attacked == one.again.attacked for one in again)
    attacked = found.results[-1]
    shown = life_of(found.run, store, attacked, 0, None, "cpu")
    assert shown.life.threshold == float(found.systems[0].pipeline.defence.threshold)
    Path("mine.py").write_text(f"{CODE}\n# changed\n")
    with pytest.raises(UsageError, match=r"mine\.py:Watch") as raised:
        plan_rerun(recorded, store, None, "cpu")
    assert "as it was" in raised.value.hint
    with pytest.raises(UsageError, match="No system here"):
        life_of(found.run, store, attacked, 0, None, "cpu")
    Path("mine.py").unlink()
    with pytest.raises(UsageError, match=r"no file mine\.py"):
        plan_rerun(recorded, store, None, "cpu")
