from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from ismn_cli.core.environment import capture, source_commit
from ismn_cli.core.records import Environment


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_what_is_captured() -> None:
    found = capture("cuda:0", 2)
    assert (found.device, found.threads, found.python) == ("cuda:0", 2, platform.python_version())
    assert found.packages["torch"] == metadata.version("torch")
    assert found.packages["torchattacks"] == metadata.version("torchattacks")
    assert Environment.model_validate_json(found.model_dump_json()) == found


def test_the_commit_and_whether_files_differ(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(tree, "rev-parse", "HEAD")
    git(tree, "tag", "-a", "v1", "-m", "v1")
    assert source_commit(tree) == commit
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert source_commit(tree) == commit
    monkeypatch.delenv("GIT_DIR")
    (tree / "file").write_text("two")
    assert source_commit(tree) == f"{commit}-dirty"


def test_an_installed_package_has_no_commit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "site-packages").mkdir()
    assert source_commit(tree / "site-packages") is None
    monkeypatch.setenv("PATH", "")
    assert source_commit(tree) is None
