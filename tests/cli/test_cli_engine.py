"""--engine and --address: what is refused before anything starts."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from ismn_cli.cli import engine
from ismn_cli.core.store import Store

RUN = ("run", "quickstart", "--limit", "4")


@pytest.mark.parametrize("command", [RUN, ("attack", "--limit", "4")])
@pytest.mark.parametrize(
    ("options", "told", "hint"),
    [
        (("--engine", "rya"), "no engine called 'rya'", "Did you mean 'ray'"),
        (("--address", "auto"), "Ray is not asked for", "--engine ray"),
        (("--engine", "local", "--address", "auto"), "Ray is not asked for", "--engine ray"),
        (("--engine", "ray", "--address", "head"), "no address of a Ray cluster", "HOST:PORT"),
        (("--engine", "ray", "--address", "127.0.0.1:1"), "Nothing answers", "ray start --head"),
    ],
)
def test_what_is_refused(ismn, store: Store, command, options, told: str, hint: str) -> None:
    if "ray" in options:
        pytest.importorskip("ray")
    ended = ismn(*command, *options)
    assert ended.code == 2 and told in ended.err and hint in ended.err, ended.err
    assert not (store.root / "runs").exists()


def test_without_ray(ismn, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ended = ismn(*RUN, "--engine", "ray")
    assert ended.code == 2 and "pip install 'ismn-cli[ray]'" in ended.err


@pytest.mark.parametrize(("ending", "told"), [("os._exit(1)", True), ("pass", False), ("raise SystemExit(3)", False)])
def test_an_end_without_a_word_is_told(ending: str, told: bool) -> None:
    code = f"import os\nfrom ismn_cli.cli.engine import _watched\nwith _watched():\n    {ending}\n"
    command = [sys.executable, "-c", code, "run", "my recipe"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (shlex.join(["ismn", "run", "my recipe"]) in ended.stderr) is told


def test_the_engines_are_those_of_the_help(ismn) -> None:
    told = " ".join(ismn("run", "--help").out.split())
    assert all(name in told for name in engine.ENGINES)
