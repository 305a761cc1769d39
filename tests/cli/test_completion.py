"""What a shell is told on Tab, asked as its script asks: the right names, none that it would act on, without torch."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ismn_cli.cli import completion
from ismn_cli.core.catalogue import ATTACKS, DATASETS, SYSTEMS
from ismn_cli.core.recipe_files import packaged_names
from ismn_cli.core.torchvision_sets import SETS

Ask = Callable[..., list[str]]
SHELLS = ("bash", "zsh", "fish")
PROGRAM = "import sys; sys.argv[0] = 'ismn'; from ismn_cli.cli.app import main; main()"


def asked(shell: str, words: list[str]) -> dict[str, str]:
    """The variables that the scripts of Typer set."""
    if shell == "bash":
        return {"_ISMN_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    how = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
    return {"_ISMN_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": " ".join(words), **how}


def told(shell: str, out: str) -> list[str]:
    """The values in an answer."""
    if shell == "zsh":
        inside = out.partition("((")[2].rpartition("))")[0]
        return [line.split('":"')[0].strip('"').replace("\\\\", "") for line in inside.splitlines()]
    return [line.partition("\t")[0] for line in out.splitlines() if line]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ISMN_HOME", str(tmp_path / "home"))
    yield tmp_path


@pytest.fixture
def ask(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Ask, in this process, how the words go on; bash has them apart already."""
    from ismn_cli.cli.app import exit_code

    def answer(shell: str, *words: str) -> list[str]:
        with monkeypatch.context() as patch:
            for name, value in asked(shell, ["ismn", *words]).items():
                patch.setenv(name, value)
            capsys.readouterr()
            exit_code([])
        return told(shell, capsys.readouterr().out)

    return answer


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["attack", "--method", "pg"], [name for name in ATTACKS if name.startswith("pg")]),
        (["attack", "--method", "pgd,fg"], ["pgd,fgsm"]),
        (["attack", "--defence", "none,is"], [f"none,{name}" for name in SYSTEMS if name.startswith("is")]),
        (["attack", "--defence", "none,ismn,non"], []),
        (["attack", "--transfer", "at,pr"], ["at,prn"]),
        (["attack", "--knowledge", "gray,w"], ["gray,white"]),
        (["attack", "--dataset", "cif"], ["cifar10", "cifar10-mini"]),
        (["train", "--dataset", "celeba,"], []),
        (["train", "--system", "mag"], ["magnet", "magnet-diverse"]),
        (["run", "table"], ["table3-cifar10", "table4-celeba"]),
        (["recipes", "cat", "quick"], ["quickstart"]),
        (["recipes", "che"], ["check"]),
        (["data", "check", "fol"], ["folder"]),
        (["report", "--format", ""], ["rich", "markdown", "latex", "csv", "json", "html"]),
        (["audit", "--format", "j"], ["json"]),
        (["export", "latest", "--format", "n"], ["npz"]),
        (["attack", "--norm", "l"], ["linf", "l2"]),
        (["list", "at"], ["attacks"]),
        (["attack", "--dataset=cifar10-"], ["cifar10-mini"]),
    ],
)
def test_names(ask: Ask, shell: str, words: list[str], expected: list[str]) -> None:
    assert ask(shell, *words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["attack", "--dataset", "torchvision", ":", "CIFAR1"], ["CIFAR10", "CIFAR100"]),
        (["attack", "--dataset", "torchvision", ":"], list(SETS)),
        (["attack", "--dataset", "=", "cifar10-"], ["cifar10-mini"]),
        (["attack", "--dataset", "torchvision", ":", "SVHN", "--norm", "li"], ["linf"]),
        (["attack", "--dataset", "torchvision", ":", "--norm", "li"], ["linf"]),
        (["attack", "--model", "mine.py", ":", "N"], ["Net"]),
        (["attack", "--transfer", "at", "@", "run,pr"], ["run,prn"]),
    ],
)
def test_words_that_bash_takes_apart(ask: Ask, words: list[str], expected: list[str]) -> None:
    Path("mine.py").write_text("class Net: ...\ndef _hidden(): ...\n")
    assert ask("bash", *words) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_runs_are_those_of_the_store_the_latest_first(ask: Ask, home: Path, shell: str) -> None:
    for store, names in (("home", ("a-1", "b-2")), ("other", ("c-3",))):
        for age, name in enumerate(names):
            (home / store / "runs" / name).mkdir(parents=True, exist_ok=True)
            os.utime(home / store / "runs" / name, (1000 + age, 1000 + age))
    (home / "home" / "runs" / "$(touch gone)").mkdir()
    (home / "home" / "runs" / "a`id`'\"; x").mkdir()
    (home / "home" / "runs" / "a-file").touch()
    assert ask(shell, "show", "") == ["latest", "b-2", "a-1"]
    assert ask(shell, "attack", "--weights", "b") == ["b-2"]
    assert ask(shell, "export", "--store", str(home / "other"), "") == ["latest", "c-3"]
    assert ask(shell, "report", "--store", str(home / "none"), "--run", "") == ["latest"]


@pytest.mark.parametrize("shell", SHELLS)
def test_names_in_python_files_are_read_not_run(ask: Ask, home: Path, shell: str) -> None:
    code = "open('run', 'w')\nimport torch\nclass Net(torch.nn.Module): ...\ndef make(): ...\nname = 3\n"
    for name in ("nets.py", "sub/nets.py", "we ird.py", "n$(id).py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(code)
    Path("nono.py").write_text("def broken(")
    Path("null.py").write_bytes(b"\0")
    assert ask(shell, "doctor", "n") == ["nets.py:Net", "nets.py:make"]
    assert ask(shell, "attack", "--defence", "none,sub/n") == ["none,sub/nets.py:Net", "none,sub/nets.py:make"]
    assert ask(shell, "attack", "--method", "we") == [] and ask(shell, "attack", "--dataset", "nowhere/x") == []
    assert not Path("run").exists()


def test_every_parameter_of_the_tables_is_there() -> None:
    """A name in a table that no command has is a slip."""
    from typing import get_type_hints

    from ismn_cli.cli.app import app
    from ismn_cli.cli.completion_names import ONE, SOME

    there = {f"{path} {name}" for path, command in completion._commands(app) for name in get_type_hints(command)}
    wanted = {*ONE, *SOME}
    assert {name for name in wanted if not any(f" {known}".endswith(f" {name}") for known in there)} == set()


def test_only_while_a_shell_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(completion.ASKED, raising=False)
    monkeypatch.setattr(completion, "_complete", None)
    with completion.answering(None):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("words", [["attack", "--method", "pgd,fg"], ["attack", "--dataset", "cif"]])
def test_it_is_quick_and_imports_no_torch(home: Path, words: list[str]) -> None:
    """Beside an app with nothing in it: what Typer itself takes to answer is not ours, and changes with its version."""
    ours = "from ismn_cli.cli.app import exit_code\nexit_code([])\n"
    bare = "import typer\napp = typer.Typer()\n@app.command()\ndef attack(steps: int = 1, eps: float = 1): ...\n"
    bare += "app.command('other')(lambda: None)\napp(prog_name='ismn')\n"
    tries = [(_answered(ours, words), _answered(bare, ["attack", "--s"])) for _ in range(5)]
    assert all(heavy == set() for (_, heavy), _ in tries)
    assert min(seconds for (seconds, _), _ in tries) < 2.5 * min(seconds for _, (seconds, _) in tries)


def _answered(program: str, words: list[str]) -> tuple[float, set[str]]:
    """Return the seconds of processor time in which a process answers bash, and which heavy packages it imported."""
    told_at_exit = (
        "import atexit, resource, sys\n"
        "heavy = lambda: {'torch', 'torchvision', 'pandas', 'numpy', 'scipy'} & set(sys.modules)\n"
        "used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])\n"
        "atexit.register(lambda: print(used(), *heavy(), file=sys.stderr))\n"
    )
    environment = os.environ | asked("bash", ["ismn", *words])
    ended = subprocess.run(
        [sys.executable, "-c", told_at_exit + program], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout
    seconds, *heavy = ended.stderr.split()
    return float(seconds), set(heavy)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell(home: Path, shell: str) -> None:
    """The script of `ismn --show-completion` in an interactive shell, Tab pressed."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    bin_folder = home / "bin"
    bin_folder.mkdir()
    (bin_folder / "ismn").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{PROGRAM}" "$@"\n')
    (bin_folder / "ismn").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb", "COLUMNS": "200",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "XDG_CONFIG_HOME": str(home), "ZDOTDIR": str(home),
    }  # fmt: skip
    script = subprocess.run(
        ["ismn", "--show-completion", shell], env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    (home / "script").write_text(script.stdout)
    start = {"bash": [], "zsh": ["-f"], "fish": []}[shell]
    begin = "autoload -Uz compinit; compinit -u; " if shell == "zsh" else ""
    lines = [f"{begin}source {home}/script; echo rea''dy\n", "ismn attack --method pgd,fg\t"]
    shown = _typed([shell, *start, "-i"], environment, lines, ["ready", "pgd,fgsm"])
    assert "pgd,fgsm" in shown


def _typed(command: list[str], environment: dict[str, str], lines: list[str], wanted: list[str]) -> str:
    """Type each line into a terminal, and wait for what is wanted of it; return all that was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, environment)
    shown = ""
    try:
        for line, sign in zip(lines, wanted, strict=True):
            os.write(terminal, line.encode())
            end, before = time.monotonic() + 20, len(shown)
            while sign not in shown[before:] and time.monotonic() < end:
                if select.select([terminal], [], [], 0.1)[0]:
                    shown += os.read(terminal, 65536).decode(errors="replace")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
    return shown


def test_what_is_offered_is_what_there_is(ask: Ask) -> None:
    assert ask("bash", "attack", "--method", "") == list(ATTACKS)
    assert ask("bash", "attack", "--defence", "") == list(SYSTEMS)
    assert ask("bash", "recipes", "cp", "") == packaged_names()
    assert ask("bash", "attack", "--dataset", "")[: len(DATASETS)] == list(DATASETS)
