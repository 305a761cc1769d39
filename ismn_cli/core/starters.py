"""`ismn init`: small working files of one's own to begin with, each with its test. No torch here."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.storage import write_text

FOLDER = Path(__file__).resolve().parents[1] / "templates"
_STEM = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
CHECK = "ismn check {0}"


@dataclass(frozen=True)
class Starter:
    """What `ismn init` writes of a kind, and what to type then."""

    default: str
    """The file, unless another is named."""
    next: tuple[str, ...]
    """Commands, of the reference."""
    classy: bool = False
    """Whether what it holds is a class, named in capitals, and not a function."""


STARTERS: Mapping[str, Starter] = {
    "model": Starter("net.py", (CHECK, "ismn doctor {0} --checkpoint weights.pt", "ismn attack --model {0}"), True),
    "defence": Starter(
        "blur.py", (CHECK, "ismn attack --defence none,{0} --knowledge white,adaptive --limit 100"), True
    ),
    "attack": Starter("margin_pgd.py", (CHECK, "ismn attack --method pgd,{0} --limit 100")),
    "dataset": Starter("shapes.py", (CHECK, "ismn train --dataset {0} --system classifier")),
    "recipe": Starter("mine.yaml", ("ismn recipes check {0}", "ismn run {0}")),
}


@dataclass(frozen=True)
class Started:
    """The files that were written."""

    file: Path
    test: Path
    reference: str

    def commands(self, kind: str) -> tuple[str, ...]:
        """Return what to type next."""
        from shlex import quote

        return tuple(command.format(quote(self.reference)) for command in STARTERS[kind].next)


def start(kind: str, place: str | None, force: bool) -> Started:
    """Write a template of ``kind`` and its test; ``place`` is a name, a file or a folder.

    Raises UsageError: no such kind, a name that Python cannot import, files that are there already (unless ``force``).
    """
    if kind not in STARTERS:
        raise unknown_name("template", kind, STARTERS)
    file = _file(kind, place)
    name = _named(kind, file)
    test = file.with_name(f"test_{file.stem}.py")
    if there := [path for path in (file, test) if path.exists() and not force]:
        raise UsageError(
            f"'{there[0]}' is there already.",
            f"Give another name: ismn init {kind} NAME. Or replace it: --force",
        )
    for path, template in ((file, f"{kind}{file.suffix}"), (test, f"test_{kind}.py")):
        write_text(path, _filled(template, file, name))
    return Started(file, test, str(file) if kind == "recipe" else f"{file}:{name}")


def _file(kind: str, place: str | None) -> Path:
    default = Path(STARTERS[kind].default)
    path = Path(place or ".").expanduser()
    if path.is_dir():
        return path / default
    if path.suffix == default.suffix or (kind == "recipe" and path.suffix == ".yml"):
        return path
    if path.suffix:
        raise UsageError(f"'{place}' is not the name of a {default.suffix} file.", f"Write, for example: {default}")
    return path.with_name(f"{path.name if kind == 'recipe' else _snake(path.name)}{default.suffix}")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()


def _named(kind: str, file: Path) -> str:
    """Return what the thing in ``file`` is called. Raises UsageError for a file that cannot be imported by name."""
    stem = file.stem
    if not _STEM.fullmatch(stem.replace("-", "_") if kind == "recipe" else stem) or keyword.iskeyword(stem):
        raise UsageError(f"'{stem}' is no name for a Python file.", "Use letters, digits and _, such as my_blur.")
    if kind == "recipe":
        return stem
    if importlib.util.find_spec(stem) is not None and not file.is_file():
        raise UsageError(
            f"There is a module called '{stem}' already: a file of that name would hide it.", "Give another name."
        )
    return "".join(part.capitalize() for part in stem.split("_")) if STARTERS[kind].classy else stem.lower()


def _filled(template: str, file: Path, name: str) -> str:
    from ismn_cli.core.recipe_texts import header

    text = Template((FOLDER / f"{template}.tmpl").read_text(encoding="utf-8"))
    return text.substitute(name=name, Name=name, stem=file.stem, file=file.name, header=header())
