"""`ismn score` and `ismn export`: examples by Foolbox and ART get the accuracy that these report themselves."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_world
import torch
from torch import nn

from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import Knowledge
from ismn_cli.core.store import Store
from ismn_cli.stages.resolve import resolve

pytestmark = pytest.mark.usefixtures("small")
EPS = 0.1


@pytest.fixture
def net(ismn, store: Store) -> nn.Module:
    """Return a trained classifier of the small world, as any torch user has one."""
    assert ismn("train", "--system", "classifier", "--epochs", "3").code == 0
    return resolve("none", "auto", store, small_world.KIND).pipeline.base.eval()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    images = small_world.load("test")
    return images.floats(), images.labels


def scored(ismn, store: Store, *arguments: str) -> list[CellResult]:
    ended = ismn("score", "--dataset", "cifar10", *arguments)
    assert ended.code == 0, ended.err
    results = [store.cell(key) for key in store.run("latest").record.cells]
    return [result for result in results if result is not None and result.attacked is not None]


def accuracy(ismn, *columns: str) -> list[str]:
    """Return columns of the attacked row of the newest run's report."""
    reported = ismn("report", "--run", "latest", "--format", "csv")
    row = next(row for row in csv.DictReader(io.StringIO(reported.out)) if row["attack"])
    return [row[column] for column in columns]


def foolbox_examples(net: nn.Module, attack: str, size: float) -> tuple[np.ndarray, float]:
    """Return Foolbox's examples, and the robust accuracy that it reports for them."""
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed: pip install -e .[dev]")
    x, y = data()
    made = getattr(foolbox.attacks, attack)()
    torch.manual_seed(0)
    _, clipped, success = made(foolbox.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=size)
    return clipped.numpy(), 1 - success.float().mean().item()


@pytest.mark.parametrize(
    ("attack", "norm", "size"),
    [
        ("LinfFastGradientAttack", "linf", EPS),
        ("LinfProjectedGradientDescentAttack", "linf", EPS),
        ("L2ProjectedGradientDescentAttack", "l2", 1.0),
    ],
)
def test_foolbox_gets_its_own_robust_accuracy(
    ismn, store: Store, net: nn.Module, tmp_path: Path, attack: str, norm: str, size: float
) -> None:
    adversarial, own = foolbox_examples(net, attack, size)
    np.savez(tmp_path / "adv.npz", x_adv=adversarial, y=data()[1].numpy())
    given = ["--examples", str(tmp_path / "adv.npz"), "--eps", str(size), "--norm", norm]
    (result,) = scored(ismn, store, *given, "--defence", "none", "--knowledge", "white")
    assert 0 < own < 1, "the attack leaves nothing to compare"
    hits, total = accuracy(ismn, "accuracy_hits", "accuracy_total")
    assert int(hits) / int(total) == pytest.approx(own, abs=1e-6)
    assert not any(result.failed) and result.cell.attack is not None
    assert (result.cell.attack.method, result.cell.knowledge) == ("examples", Knowledge.WHITE)


@pytest.mark.parametrize(("attack", "norm", "size"), [("FastGradientMethod", np.inf, EPS),
                                                      ("ProjectedGradientDescent", np.inf, EPS),
                                                      ("ProjectedGradientDescent", 2, 1.0)])  # fmt: skip
def test_art_gets_its_own_robust_accuracy(
    ismn, store: Store, net: nn.Module, tmp_path: Path, attack: str, norm: float, size: float
) -> None:
    evasion = pytest.importorskip("art.attacks.evasion", reason="ART is not installed: pip install -e .[dev]")
    from art.estimators.classification import PyTorchClassifier
    from art.utils import compute_accuracy

    x, y = (tensor.numpy() for tensor in data())
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), x.shape[1:], small_world.CLASSES, clip_values=(0, 1))
    options: dict[str, Any] = {"norm": norm, "eps": size, "eps_step": size / 4, "batch_size": 64}
    options |= {"max_iter": 10, "verbose": False} if attack.startswith("Projected") else {}
    adversarial = getattr(evasion, attack)(classifier, **options).generate(x, y)
    own, _ = compute_accuracy(classifier.predict(adversarial), np.eye(small_world.CLASSES)[y])
    # As many write them: channels last, double precision, one-hot labels.
    place = tmp_path / "adv.npz"
    np.savez(place, adv=adversarial.transpose(0, 2, 3, 1).astype(np.float64), y=np.eye(small_world.CLASSES)[y])
    name = "linf" if norm == np.inf else "l2"
    given = ["--examples", str(place), "--eps", str(size), "--norm", name]
    scored(ismn, store, *given, "--defence", "none", "--knowledge", "white")
    assert 0 < own < 1, "the attack leaves nothing to compare"
    hits, total = accuracy(ismn, "accuracy_hits", "accuracy_total")
    assert int(hits) / int(total) == pytest.approx(float(own), abs=1e-6)


def test_examples_that_leave_the_ball_are_rejected_by_name(
    ismn, store: Store, net: nn.Module, tmp_path: Path
) -> None:
    adversarial, _ = foolbox_examples(net, "LinfFastGradientAttack", EPS)
    strayed = [4, 17, 33]
    adversarial[strayed] = np.clip(data()[0].numpy()[strayed] + 3 * EPS, 0, 1)
    np.savez(tmp_path / "adv.npz", x_adv=adversarial)
    before = len(store.runs())
    ended = ismn("score", "--examples", str(tmp_path / "adv.npz"), "--eps", str(EPS), "--dataset", "cifar10")
    assert ended.code == 2 and not ended.out and len(store.runs()) == before
    assert f"3 of 60 samples leave the linf ball of {EPS}: ids 4, 17, 33, by up to 0.2" in ended.err
    assert "--drop-violations" in ended.err and "Traceback" not in ended.err
    assert not list((store.root / "examples").rglob("*.safetensors"))


def test_dropped_violations_are_unknown_and_never_robust_or_broken(
    ismn, store: Store, net: nn.Module, tmp_path: Path
) -> None:
    x, _ = data()
    adversarial = x.numpy().copy()
    adversarial[0], adversarial[1], adversarial[2] = np.nan, 2.0, np.clip(adversarial[2] + 0.5, 0, 1)
    np.savez(tmp_path / "adv.npz", x_adv=adversarial)
    given = ["--examples", str(tmp_path / "adv.npz"), "--eps", str(EPS), "--drop-violations"]
    (result,) = scored(ismn, store, *given)
    right = [i for i in range(60) if result.clean.predicted[i] == result.labels[i]]
    outcomes = result.outcomes()
    assert [i for i in range(60) if result.failed[i]] == [0, 1, 2]
    assert [i for i in right if outcomes[i] is Outcome.UNKNOWN] == [i for i in (0, 1, 2) if i in right] != []
    assert all(outcomes[i] is Outcome.SURVIVED for i in right if i > 2)
    assert any("counted as unknown" in note for note in result.notes)
    assert float(accuracy(ismn, "linf_max")[0]) == 0


def test_examples_are_shared_by_defences_and_stand_in_reports(ismn, store: Store, net, tmp_path: Path) -> None:
    assert ismn("train", "--system", "magnet").code == 0
    adversarial, _ = foolbox_examples(net, "LinfFastGradientAttack", EPS)
    np.savez(tmp_path / "adv.npz", x_adv=adversarial)
    given = ["--examples", str(tmp_path / "adv.npz"), "--eps", str(EPS), "--defence", "none,magnet,median"]
    results = scored(ismn, store, *given)
    assert [r.cell.defence.name for r in results] == ["none", "magnet", "median"]
    assert len({r.cell.examples_key() for r in results}) == 1 and results[2].draws_attacked is not None
    assert {r.cell.knowledge for r in results} == {Knowledge.BLACK}
    assert "examples transferred" in ismn("report").out and "made elsewhere" in ismn("report", "--format", "csv").out
    files = {path: path.stat().st_mtime_ns for path in store.root.glob("cells/*/*.json")}
    again = ismn("score", "--dataset", "cifar10", *given)
    assert again.code == 0 and "6 of 6 cells were stored already" in again.err
    assert files == {path: path.stat().st_mtime_ns for path in store.root.glob("cells/*/*.json")}
    for command in (["audit", "--records"], ["audit"], ["list", "runs"]):
        ended = ismn(*command)
        assert ended.code in (0, 1) and "Traceback" not in ended.err and "error:" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--eps", "8"], "outside [0, 1]"),
        (["--eps", "0.1", "--norm", "l7"], "norm"),
        (["--eps", "0.1", "--defence", "nome"], "no system called 'nome'"),
        (["--eps", "0.1", "--knowledge", "clean"], "one attacker"),
        (["--eps", "0.1", "--knowledge", "grey"], "knowledge"),
        (["--eps", "0.1", "--knowledge", "white", "--defence", "none,ismn"], "made on one system, not on 2"),
        (["--eps", "0.1", "--dataset", "cifar11"], "no data set called 'cifar11'"),
        (["--eps", "0.1", "--limit", "7"], "60 examples for 7 images"),
    ],
)
def test_options_that_make_no_sense(ismn, tmp_path: Path, arguments: list[str], told: str) -> None:
    np.savez(tmp_path / "adv.npz", x_adv=data()[0].numpy())
    ended = ismn("score", "--examples", str(tmp_path / "adv.npz"), "--dataset", "cifar10", *arguments)
    assert ended.code == 2 and told in ended.err and "hint" in ended.err and "Traceback" not in ended.err


def test_what_is_exported_scores_the_same_sample_by_sample(ismn, store: Store, net, tmp_path: Path) -> None:
    attack = ["attack", "--dataset", "cifar10", "--limit", "20", "--eps", str(EPS), "--method", "pgd,fgsm"]
    assert ismn(*attack, "--knowledge", "white").code == 0
    run = store.run("latest").record
    made = next(c for c in map(store.cell, run.cells) if c and c.cell.attack and c.cell.attack.method == "pgd")
    several = ismn("export", run.id, "-o", str(tmp_path / "x.npz"))
    assert several.code == 2 and "2 cells" in several.err and "--method (pgd, fgsm)" in several.err
    for form, name in (("npz", "x.npz"), ("safetensors", "x.safetensors"), ("png", "x")):
        place = str(tmp_path / name)
        ended = ismn("export", run.id, "--method", "pgd", "--format", form, "-o", place)
        assert ended.code == 0, ended.err
        assert ("towards the clean image" in ended.err) is (form == "png")
        again = ismn("score", "--examples", place, "--eps", str(EPS), "--knowledge", "white")
        assert again.code == 0, again.err
        (result,) = (c for c in map(store.cell, store.run("latest").record.cells) if c and c.attacked)
        assert result.cell.samples == made.cell.samples and result.ids == made.ids
        if form != "png":
            assert result.attacked == made.attacked and result.outcomes() == made.outcomes()
            assert result.linf == made.linf


def test_export_refuses_what_it_cannot_give(ismn, store: Store, net, tmp_path: Path) -> None:
    assert "has no stored adversarial examples" in ismn("export", "latest", "-o", "x.npz").err
    assert ismn("attack", "--dataset", "cifar10", "--limit", "10", "--eps", str(EPS)).code == 0
    assert "It has: pgd." in ismn("export", "latest", "--method", "pgdd", "-o", "x.npz").err
    assert "Did you mean 'npz'" in ismn("export", "latest", "--format", "nzp", "-o", "x.npz").err
    for path in (store.root / "examples").rglob("*.safetensors"):
        path.unlink()
    ended = ismn("export", "latest", "-o", str(tmp_path / "x.npz"))
    assert ended.code == 2 and "are not whole in the store" in ended.err and not (tmp_path / "x.npz").exists()
