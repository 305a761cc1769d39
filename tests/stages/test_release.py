"""Released weights: rounded, complete, measured, and consistent with one another."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_world
import torch

from ismn_cli.core.errors import UsageError
from ismn_cli.core.store import Store
from ismn_cli.stages import release as module
from ismn_cli.stages.manifest import MANIFEST, file_hash, read_manifest
from ismn_cli.stages.release import release
from ismn_cli.stages.resolve import resolve
from ismn_cli.stages.weights import FEW, parts_state, system_hash, tensor_hash


@pytest.fixture
def shipped(trained, store: Store, released: Path) -> dict[str, str]:
    """Train and release everything; return run ids by name."""
    runs = {"classifier": trained("classifier").run.record.id}
    for system in ("ismn", "magnet", "ddsa"):
        runs[system] = trained(system, classifier=runs["classifier"]).run.record.id
    release(runs, released, store, None)
    return runs


def _resolve(store: Store, name: str):
    return resolve(name, "released", store, small_world.KIND)


def test_the_manifest_tells_what_was_shipped(shipped, store: Store, released: Path) -> None:
    manifest = read_manifest(released)
    assert set(manifest) == {"classifier", "ismn", "magnet", "ddsa"}
    for name, entry in manifest.items():
        assert entry.sha256 == file_hash(released / entry.file)
        assert entry.base == (None if name == "classifier" else "classifier")
        assert entry.measured["images"] == 60 and entry.measured["clean accuracy"] > 0.5
        assert ("false-positive rate" in entry.measured) == (name in ("ismn", "magnet"))
        assert entry.images == 90 and set(entry.epochs) == ({"base"} if name == "classifier" else {"cleaning"})
        assert entry.recipe["system"] == name
        system = "none" if name == "classifier" else name
        assert system_hash(_resolve(store, system).pipeline) == entry.tensors


def test_all_stand_on_the_one_rounded_classifier(shipped, store: Store, released: Path) -> None:
    systems = {name: _resolve(store, name) for name in ("none", "ismn", "magnet", "ddsa")}
    assert len({system.base for system in systems.values()}) == 1
    original = resolve("none", shipped["classifier"], store, small_world.KIND)
    assert original.base != systems["none"].base
    for name, tensor in parts_state(systems["none"].pipeline).items():
        exact = parts_state(original.pipeline)[name]
        assert torch.equal(
            tensor, exact if exact.numel() <= FEW or not exact.is_floating_point() else exact.half().float()
        )
    magnet = (released / "magnet.safetensors").read_bytes()
    assert b"base.conv" not in magnet and b"defence.conv" in magnet


def test_what_is_trained_on_the_released_classifier_can_be_released(
    trained, shipped, store: Store, released: Path
) -> None:
    run = trained("ddsa", classifier="released", seed=4).run.record.id
    before = read_manifest(released)["ddsa"].tensors
    release({"ddsa": run}, released, store, None)
    after = read_manifest(released)
    assert after["ddsa"].tensors != before and set(after) == {"classifier", "ismn", "magnet", "ddsa"}
    assert _resolve(store, "ddsa").base == _resolve(store, "none").base


def test_the_classifier_may_come_out_of_any_run(trained, store: Store, released: Path) -> None:
    run = trained("ismn").run.record.id
    release({"ismn": run, "classifier": run}, released, store, None)
    own = resolve("none", run, store, small_world.KIND).pipeline.base
    assert torch.equal(_resolve(store, "none").pipeline.base.conv.weight, own.conv.weight.half().float())
    assert _resolve(store, "ismn").base.weights == tensor_hash(_resolve(store, "none").pipeline.base)


def test_another_base_is_refused(trained, shipped, store: Store, released: Path) -> None:
    other = trained("classifier", seed=7).run.record.id
    run = trained("ddsa", classifier=other).run.record.id
    before = (released / MANIFEST).read_bytes(), (released / "ddsa.safetensors").read_bytes()
    with pytest.raises(UsageError, match="another base"):
        release({"ddsa": run}, released, store, None)
    assert before == ((released / MANIFEST).read_bytes(), (released / "ddsa.safetensors").read_bytes())


def test_runs_of_other_systems_and_unknown_names(trained, store: Store, released: Path) -> None:
    run = trained("classifier").run.record.id
    with pytest.raises(UsageError, match="no system to release"):
        release({"jpeg": run}, released, store, None)
    with pytest.raises(UsageError, match="no released classifier"):
        release({"ddsa": run}, released, store, None)
    with pytest.raises(UsageError, match="trained classifier, not ddsa"):
        release({"classifier": run, "ddsa": run}, released, store, None)


@pytest.mark.parametrize("damage", ["remove", "truncate", "manifest"])
def test_damaged_releases_are_errors(shipped, store: Store, released: Path, damage: str) -> None:
    file = released / "classifier.safetensors"
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        (released / MANIFEST).write_text("{")
    with pytest.raises(UsageError) as error:
        _resolve(store, "magnet")
    assert error.value.hint


def test_from_the_command_line(trained, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("classifier").run.record.id
    arguments = ["--destination", str(tmp_path / "out"), "--store", str(store.root), "--device", "cpu"]
    assert module.main(["--run", f"classifier={run}", *arguments]) == 0
    assert "clean accuracy" in capsys.readouterr().out
    assert module.main(["--run", "classifier=nobody", *arguments]) == 2
    assert "error: There is no run" in capsys.readouterr().err
