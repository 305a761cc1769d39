"""Every command and every snippet of the documentation does what it says: each page is read here from top to bottom.

A block with a title is a file, which is written; Python without one is typed; commands are run. It all happens in the
folder that the tutorial leaves behind, or a copy, on one store. What would take minutes gets the arguments in SHORTER.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from test_readme import ELSEWHERE, PAGES, ROOT

from ismn_cli.cli.app import app, exit_code
from ismn_cli.core.checks import CHECKS
from ismn_cli.core.conformance import RULES

DOCS = ROOT / "docs"
TUTORIAL = "docs/tutorial.md"
SHORTER = {
    "ismn run quickstart": ["--limit", "4", "defence=[none, magnet]", "attack.method=pgd"],
    "ismn audit --limit 20": ["--limit", "4"],
    "ismn run nightly.yaml attack.eps=4/255 dataset.limit=10": ["--limit", "2", "defence=none", "attack.method=fgsm"],
    "ismn attack --defence none,smooth.py:Smooth --defence-arg sigma=0.8 --knowledge white,adaptive --limit 100": [
        "--limit", "2",
    ],
    "ismn run quickstart --limit 64 --shard 1/2": ["--limit", "4", "batch_size=2", "defence=none"],
    "ismn run quickstart --limit 64 --shard 2/2": ["--limit", "4", "batch_size=2", "defence=none"],
    "ismn run quickstart --limit 64": ["--limit", "4", "batch_size=2", "defence=none"],
    "ismn plan quickstart --slurm --shards 3": ["--limit", "6", "batch_size=2", "defence=none", "attack.method=fgsm"],
    "ismn attack --method ascent.py:ascent --param steps=20 --limit 100": ["--limit", "4"],
    "ismn attack --method gentle.py:Gentle --param steps=3 --limit 100": ["--limit", "4"],
    "ismn run mine.yaml defence=noise.py:Noise attack.eot=5 draws=5 --limit 30": ["--limit", "6"],
    "ismn run mine.yaml defence=levels.py:Levels knowledge=adaptive --limit 60": ["--limit", "12"],
    "ismn run mine.yaml defence=unstable.py:Unstable --limit 60": ["--limit", "12"],
    "ismn train --dataset csv --data-dir faces.csv --system classifier config.arch=resnet18 --epochs 1": [
        "--limit", "16", "config.arch=table1", "--image-size", "32",
    ],
    "ismn attack --model net.onnx --mean 0.5 --std 0.5 --dataset shapes.py:shapes --knowledge black --limit 20": [
        "--limit", "4", "--param", "n_queries=20",
    ],
}
"""Command as printed -> what is added to it here. The last of two values for one setting counts."""
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ENDS = re.compile(r"exits with (\d)")
_CODE = re.compile(r"\b(?:EV|GM|RN|AT|DT|CL|BT|MD|CM|CD|CA|CS)\d\d\b")


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count("\n```") % 2 == 0, f"{page}: a block is not closed"
    return [Block(text[: at.start()].count("\n") + 1, at[1], at[2] or "", at[3]) for at in _BLOCK.finditer(text)]


def own_pages() -> list[str]:
    """The pages that are read here; the others are in `test_readme`."""
    found = sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md"))
    return [page for page in found if page not in PAGES and page != TUTORIAL]


class Reader:
    """Reads a page in a folder."""

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.commands = 0

    def read(self) -> None:
        for block in blocks(self.page):
            where = f"{self.page}, line {block.line}"
            if block.title:
                self.write(block, where)
            elif block.language == "python":
                self.type(block, where)
            elif block.language == "console":
                for line in block.text.splitlines():
                    assert line.startswith("$ "), f"{where}: output belongs into a block of text"
                    command, _, remark = line[2:].partition("  #")
                    self.run(command.strip(), where, int((_ENDS.findall(remark) or "0")[0]))
            else:
                assert block.language == "text", f"{where}: a block of {block.language} is neither a file nor run"

    def write(self, block: Block, where: str) -> None:
        place = self.folder / block.title
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(block.text, encoding="utf-8")
        if ".github/workflows" in block.title:
            (job,) = yaml.safe_load(block.text)["jobs"].values()
            for step in job["steps"]:
                self.run(step.get("run", "pip install"), where)
        elif place.suffix in (".yaml", ".yml"):
            assert yaml.safe_load(block.text), where

    def type(self, block: Block, where: str) -> None:
        # A file, as a notebook's cells have one: what is defined in it has a source.
        file = str(self.folder / f"typed_{block.line}.py")
        linecache.cache[file] = (len(block.text), None, block.text.splitlines(keepends=True), file)
        with told(where):
            exec(compile(block.text, file, "exec"), self.names)

    def run(self, command: str, where: str, end: int = 0) -> None:
        if command.startswith("pip install -e ."):
            self.install()
        if command.startswith(tuple(word for word in ELSEWHERE if word != "pytest")):
            return
        words = shlex.split(os.path.expandvars(command)) + SHORTER.get(command, [])
        words = [self.run_of(word) for word in words]
        with told(f"{where}: {shlex.join(words)}"):
            code = exit_code(words[1:]) if words[0] == "ismn" else python(words, self.folder)
        assert code == end, f"{where}: {shlex.join(words)} ends with {code}"

    def run_of(self, word: str) -> str:
        """A reader's own runs: the last but one, and the last."""
        if word not in ("RUN_A", "RUN_B"):
            return word
        records = sorted(Path(os.environ["ISMN_HOME"]).glob("runs/*/record.json"), key=lambda p: p.stat().st_mtime)
        return records[-2 if word == "RUN_A" else -1].parent.name

    def install(self) -> None:
        """Let the entry points of the page's package be found, as pip does."""
        file = self.folder / "pyproject.toml"
        if not file.is_file():
            return
        project = tomllib.loads(file.read_text())["project"]
        place = self.folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        place.mkdir(exist_ok=True)
        (place / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
        groups = [f"[{group}]\n" + "\n".join(f"{n} = {v}" for n, v in points.items())
                  for group, points in project["entry-points"].items()]  # fmt: skip
        (place / "entry_points.txt").write_text("\n\n".join(groups))


@contextlib.contextmanager
def told(where: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(where)
        raise


def python(words: list[str], folder: Path) -> int:
    starts = {"bash": ["bash"], "python": [sys.executable]}
    starts |= {"pytest": [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]}
    return subprocess.run([*starts[words[0]], *words[1:]], cwd=folder, check=False, timeout=300).returncode


@contextlib.contextmanager
def seated(folder: Path, home: Path) -> Iterator[None]:
    """In ``folder``, results in ``home``; the path and the modules are afterwards as before."""
    path, modules, where, environment = [*sys.path], {*sys.modules}, Path.cwd(), dict(os.environ)
    os.environ |= {"ISMN_HOME": str(home), "COLUMNS": "110", "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    os.environ.pop("ISMN_DATA_DIR", None)
    _offer_slurm(folder)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(where)
        sys.path[:] = path
        os.environ.clear()
        os.environ |= environment
        for name in {*sys.modules} - modules:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def _offer_slurm(folder: Path) -> None:
    """Put what stands for Slurm here, sbatch, on the path."""
    tools = folder / ".cluster"
    tools.mkdir(exist_ok=True)
    shutil.copy(ROOT / "tests/cli/fake_sbatch.py", tools / "sbatch")
    (tools / "sbatch").chmod(0o755)
    os.environ |= {"FAKE_SBATCH": str(tools), "PATH": f"{tools}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of who has done the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    with seated(folder, home):
        Reader(TUTORIAL, folder).read()
    return folder


def test_the_tutorial_does_as_it_says(finished: Path) -> None:
    assert "Squeeze" in (finished / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", own_pages())
def test_page_does_as_it_says(page: str, finished: Path, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(finished, folder)
    with seated(folder, home):
        Reader(page, folder).read()


def test_the_tutorial_shows_what_happens(finished: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The masked gradient that it tells of: robust to who follows it, broken by who goes around, and found out."""
    with seated(finished, home):
        assert exit_code(["report", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    own = [row for row in rows if row["defence"] == "squeeze.py:Squeeze" and row["attack"] not in ("", "worst case")]
    found = {row["knowledge"]: row for row in own if row["n"] == 60}
    assert found["white"]["robust_accuracy"] > 90 and "EV04" in found["white"]["unreliable"]
    assert found["adaptive"]["robust_accuracy"] < 10


def test_shorter_names_printed_commands() -> None:
    read = [block for page in [TUTORIAL, *own_pages()] for block in blocks(page) if block.language == "console"]
    assert set(SHORTER) <= {line[2:].split("  #")[0] for block in read for line in block.text.splitlines()}


def test_every_check_is_among_the_footguns_and_none_is_invented() -> None:
    text = (DOCS / "footguns.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"\[(\w{4}) ([\w-]+)\]\(reference/checks\.md#", text))
    assert named == {code: check.name for code, check in CHECKS.items()}


def test_every_code_in_the_docs_exists() -> None:
    for path in DOCS.rglob("*.md"):
        assert set(_CODE.findall(path.read_text(encoding="utf-8"))) <= {*CHECKS, *RULES}, path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    pytest.importorskip("mkdocstrings", reason='no mkdocs here: pip install "ismn-cli[docs]"')
    place = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(place)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_the_reference_names_every_command_and_option(site: Path) -> None:
    import typer

    page = (site / "reference/cli/index.html").read_text(encoding="utf-8")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) > 15
    for name, command in commands.items():
        assert f"ismn {name}" in page
        for option in command.params:
            assert all(word in page for word in option.opts if word.startswith("-"))


def test_the_examples_of_the_reference_can_be_typed() -> None:
    """They stand in `--help`, and so in the reference: each names options and arguments that there are."""
    import typer

    found = 0
    for path, command in leaves("ismn", typer.main.get_command(app)):
        for line in re.findall(rf"^{path}\b.*$", command.epilog or "", re.MULTILINE):
            command.make_context(path, shlex.split(line.strip())[len(path.split()) :], resilient_parsing=False)
            found += 1
    assert found > 40


def leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by what is typed."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(f"{path} {name}", inner)
    if not hasattr(command, "commands"):
        yield path, command


def test_the_reference_names_every_check_and_rule(site: Path) -> None:
    page = (site / "reference/checks/index.html").read_text(encoding="utf-8")
    assert all(f'id="{code.lower()}"' in page for code in (*CHECKS, *RULES))
    assert not (site / "hooks").exists()


def test_the_site_asks_nothing_of_the_network(site: Path) -> None:
    """No script, style, font or picture of another house; links may lead there."""
    asking = re.compile(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//|<link[^>]* href=\"?https?:")
    for page in site.rglob("*.html"):
        assert not asking.findall(page.read_text(encoding="utf-8")), page
