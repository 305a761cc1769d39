"""Bad input: exit code 2, one clear line and a hint, never a traceback, and nothing stored is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ismn_cli.cli.app import as_usage_error, resuming
from ismn_cli.core.errors import UsageError
from ismn_cli.core.store import Store

BAD = [
    (["attack", "--method", "pdg"], "'pdg'", "did you mean 'pgd'"),
    (["attack", "--eps", "-0.1"], "-0.1", "[0, 1]"),
    (["attack", "--eps", "1.5"], "1.5", "[0, 1]"),
    (["attack", "--eps", "much"], "'much'", "8/255"),
    (["attack", "--eps", "8/0"], "8/0", "not a number"),
    (["attack", "--norm", "l7"], "norm", "linf"),
    (["attack", "--method", "fgsm", "--norm", "l2"], "fgsm", "pgdl2"),
    (["attack", "--param", "stebs=3"], "stebs", "steps"),
    (["attack", "--param", "steps"], "steps", "key=value"),
    (["attack", "--param", "steps=-1"], "steps", "-1"),
    (["attack", "--method", "fgsm,pgd", "--param", "steps=3"], "steps", "fgsm"),
    (["attack", "--defence", "magnit"], "'magnit'", "did you mean 'magnet'"),
    (["attack", "--dataset", "cifar"], "'cifar'", "did you mean 'cifar10'"),
    (["attack", "--knowledge", "black", "--method", "pgd"], "no weights for at", "ismn train"),
    (["attack", "--knowledge", "black", "--method", "pgd", "--transfer", "att"], "'att'", "did you mean 'at'"),
    (["attack", "--eot", "0"], "eot", "0"),
    (["attack", "--knowledge", "grey"], "knowledge", "gray"),
    (["attack", "--limit", "0"], "limit", "0"),
    (["attack", "--batch-size", "0"], "batch_size", "0"),
    (["attack", "--weights", "nothing"], "'nothing'", "Known"),
    (["attack", "--weights", "attack-pgd-00000000"], "attack-pgd-00000000", "Known"),
    (["attack", "--device", "cuda"], "cuda", "--device cpu"),
    (["attack", "--device", "gpu9"], "gpu9", "--device"),
    (["attack", "--defence", "magnet"], "magnet", "ismn train"),
    (["train", "--dataset", "cifar10-mini"], "cifar10-mini", "cifar10"),
    (["train", "--system", "jpeg"], "'jpeg'", "classifier"),
    (["train", "--system", "clasifier"], "'clasifier'", "did you mean 'classifier'"),
    (["train", "--system", "classifier", "--classifier", "released"], "--classifier", "Leave"),
    (["train", "--classifier", "released"], "released", "ismn train"),
    (["train", "--classifier", "nobody"], "'nobody'", "Known"),
    (["train", "--epochs", "0"], "epochs", "0"),
    (["train", "--precision", "fp8"], "precision", "bf16"),
    (["train", "config.lrr=1"], "lrr", "did you mean 'lr'"),
    (["train", "config.lr=fast"], "config.lr", "fast"),
    (["train", "lr"], "'lr'", "key=value"),
    (["train", "--data-dir", "/nowhere/at/all"], "/nowhere/at/all", "--data-dir"),
    (["train", "task=matrix"], "task", "ismn run"),
    (["defend", "--run", "latest"], "no stored examples", "ismn attack"),
    (["report", "--format", "xml"], "'xml'", "markdown"),
    (["report", "--run", "unknown-run"], "'unknown-run'", "Known"),
    (["run", "quikstart"], "'quikstart'", "quickstart"),
    (["run", "none.yaml"], "none.yaml", "ismn list recipes"),
    (["run", "quickstart", "attack.epss=1"], "epss", "did you mean 'eps'"),
    (["list", "system"], "'system'", "systems"),
]


@pytest.mark.parametrize(
    ("arguments", "says", "hints"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input(ismn, store: Store, arguments: list[str], says: str, hints: str) -> None:
    assert ismn("train", "--system", "classifier", "--limit", "9", "--epochs", "1").code == 0
    before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}
    ended = ismn(*arguments)
    assert ended.code == 2 and ended.out == ""
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in ended.err
    assert says in ended.err and hints in ended.err
    assert {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "hints"),
    [
        (["attck"], "attack"),
        (["attack", "--epss", "1"], "--eps"),
        (["train", "--epochs", "x"], "epochs"),
        (["run"], "RECIPE"),
    ],
)
def test_what_the_parser_refuses_ends_with_2_too(ismn, arguments: list[str], hints: str) -> None:
    ended = ismn(*arguments)
    assert ended.code == 2 and hints in ended.err


def test_every_mistake_is_told_at_once(ismn) -> None:
    ended = ismn("attack", "--method", "pdg", "--eps", "-1", "--defence", "ism")
    assert all(text in ended.err for text in ("3 problems", "'pdg'", "-1", "'ism'"))


def test_a_corrupt_checkpoint_is_an_error_with_a_way_out(ismn, store: Store) -> None:
    arguments = ("train", "--system", "classifier", "--limit", "9", "--epochs", "1")
    assert ismn(*arguments).code == 0
    folder = store.run("latest").folder
    for content in (b"", b"PK nothing", (folder / "weights.safetensors").read_bytes()):
        (folder / "weights.safetensors").rename(folder / "kept") if content == b"" else None
        (folder / "checkpoint.pt").write_bytes(content)
        ended = ismn(*arguments)
        assert ended.code == 2 and "checkpoint.pt" in ended.err and "--fresh" in ended.err
        if content == b"":
            (folder / "kept").rename(folder / "weights.safetensors")
            (folder / "record.json").write_text((folder / "record.json").read_text().replace('"done"', '"interrupted"'))
    assert ismn(*arguments, "--fresh").code == 0


def test_weights_of_another_architecture(ismn, store: Store) -> None:
    assert ismn("train", "--system", "classifier", "--limit", "9", "--epochs", "1").code == 0
    file = store.run("latest").folder / "weights.safetensors"
    file.write_bytes(file.read_bytes().replace(b'\\"width\\":6', b'\\"width\\":5'))
    ended = ismn("attack", "--eps", "8/255")
    assert ended.code == 2 and "another architecture" in ended.err and "hint:" in ended.err


def test_truncated_weights_are_passed_over_with_a_warning(ismn, store: Store) -> None:
    for seed in ("0", "1"):
        assert ismn("train", "--system", "classifier", "--limit", "9", "--epochs", "1", "--seed", seed).code == 0
    newest, older = (run.record.id for run in store.runs())
    file = store.run(newest).folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-200])
    ended = ismn("attack", "--eps", "8/255", "--limit", "6")
    assert ended.code == 0 and f"warning: Run {newest}" in ended.err and f"none: run {older}" in ended.err
    assert ismn("attack", "--eps", "8/255", "--limit", "6", "--weights", newest).code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_store(ismn, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    ended = ismn("report", "--store", str(closed / "home"))
    assert ended.code == 2 and "ISMN_HOME" in ended.err


def test_a_store_that_is_a_file(ismn, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = ismn("list", "runs", "--store", str(tmp_path / "file"))
    assert ended.code == 2 and str(tmp_path / "file") in ended.err and "hint:" in ended.err


def test_a_full_disk_during_training(ismn, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0")

    monkeypatch.setattr(torch, "save", full)
    ended = ismn("train", "--system", "classifier", "--limit", "9")
    assert ended.code == 2 and "Free some space" in ended.err
    assert store.run("latest").record.status == "interrupted"
    monkeypatch.undo()


def test_what_the_boundary_translates() -> None:
    full = as_usage_error(OSError(28, "No space left on device", "/x"))
    assert full and "/x" in full.message and full.hint
    assert as_usage_error(RuntimeError("CUDA out of memory. Tried to allocate")) is not None
    assert as_usage_error(MemoryError()) is not None
    assert as_usage_error(UsageError("a", "b")).hint == "b"
    assert as_usage_error(RuntimeError("a fault of ours")) is None
    assert as_usage_error(KeyError("x")) is None


def test_the_command_that_continues_does_not_begin_anew() -> None:
    assert resuming(["train", "--fresh", "config.eps=[0.1, 0.2]"]) == "ismn train 'config.eps=[0.1, 0.2]'"
