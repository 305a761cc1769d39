"""Files of claims: found by name or path, checked as a whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ismn_cli.core.catalogue import ATTACKS, DATASETS, SYSTEMS
from ismn_cli.core.claims import AttackReading, Claims, Figures, Quoted, Reading, SetAside
from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.recipe_files import parse_yaml, yaml_reason
from ismn_cli.core.settings import nearest, problems, refusal
from ismn_cli.core.specs import Frozen, Knowledge

_PACKAGE = Path(__file__).resolve().parents[1]
_SUFFIXES = {".yaml", ".yml"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_PARTS: dict[str | int, type[Frozen]] = {
    "claims": Figures,
    "readings": Reading,
    "attacks": AttackReading,
    "set_aside": SetAside,
    "quoted": Quoted,
}
_HINT = "Those of ismn show the form: recipes/claims/table3.yaml."


def find_claims(name_or_path: str) -> Path:
    """Return the file of claims that come with ismn, or of others by their path.

    Raises UsageError with the nearest name, or where there is no such file.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix in _SUFFIXES or len(path.parts) > 1:
        if not path.is_file():
            known = ", ".join(name for name, _ in claims_names())
            raise UsageError(f"There is no file of claims '{path}'.", f"Those of ismn: {known}.")
        return path
    known_files = {file.stem: file for file in _packaged()}
    if name_or_path not in known_files:
        raise unknown_name("file of claims", name_or_path, known_files)
    return known_files[name_or_path]


def claims_names() -> list[tuple[str, str]]:
    """Return (name, summary) of the claims that come with ismn."""
    return [(file.stem, str(_read(file).get("summary", ""))) for file in _packaged()]


def packaged_names() -> list[str]:
    """Return the names of the claims that come with ismn; no file is read."""
    return [file.stem for file in _packaged()]


def load_claims(name_or_path: str) -> Claims:
    """Return the claims in a file. Raises UsageError listing all that is wrong with it."""
    file = find_claims(name_or_path)
    mapping = _read(file)
    if "task" in mapping:
        raise UsageError(f"'{file}' is a recipe, not a file of claims.", f"Carry it out: ismn run {name_or_path}")
    where = f"claims '{name_or_path}'"
    try:
        claims = Claims.model_validate({"name": file.stem} | mapping)
    except ValidationError as error:
        raise refusal(where, list(_misshapen(error)), _HINT) from None
    found = list(_problems(claims))
    if found:
        raise refusal(where, found)
    return claims


def choose_readings(claims: Claims, names: Iterable[str] | None) -> tuple[Reading, ...]:
    """Return the readings called ``names``, or all. Raises UsageError with the nearest name."""
    known = {reading.name: reading for reading in claims.readings}
    chosen = list(known) if names is None else list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise unknown_name(f"reading of {claims.name}", name, known)
    if not chosen:
        raise UsageError("--reading names no reading.", f"Known: {', '.join(known)}.")
    return tuple(known[name] for name in chosen)


def _packaged() -> list[Path]:
    """Return the files of the installed package, or in a checkout those of the sibling folder."""
    installed = _PACKAGE / "recipes"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "recipes"
    return sorted((folder / "claims").glob("*.yaml"))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"Cannot read claims '{file}': {yaml_reason(error)}.", "It should be YAML text.") from None
    if not isinstance(content, dict):
        raise UsageError(f"Claims '{file}' are not a mapping of names to values.", _HINT)
    return content


def _misshapen(error: ValidationError) -> Iterator[str]:
    """Yield a line for each problem; an unknown key with the nearest of its part of the file."""
    for line, detail in zip(problems(error, Claims), error.errors(), strict=True):
        *above, key = detail["loc"] or ("",)
        if detail["type"] == "extra_forbidden":
            owner = next((_PARTS[name] for name in reversed(above) if name in _PARTS), Claims)
            place = ".".join(map(str, detail["loc"]))
            yield f"{place}: unknown key; {nearest(str(key), sorted(owner.model_fields))}"
        else:
            yield line


def _problems(claims: Claims) -> Iterator[str]:
    names = [("name", claims.name)]
    names += [(f"readings.{i}.name", reading.name) for i, reading in enumerate(claims.readings)]
    for place, name in names:
        if not _NAME.fullmatch(name):  # together they name runs
            yield f"{place}: '{name}' should be at most 40 letters, digits, '.', '_' and '-'"
    if claims.knowledge is Knowledge.CLEAN:
        yield "knowledge: clean has no attack; write gray, black, white or adaptive"
    yield from _repeated(claims)
    yield from _sizes(claims)
    yield from _references(claims)
    yield from _unknown(claims)


def _repeated(claims: Claims) -> Iterator[str]:
    yield from _twice("readings", (reading.name for reading in claims.readings))
    for i, reading in enumerate(claims.readings):
        yield from _twice(f"readings.{i}.attacks", (attack.label for attack in reading.attacks))
    figures = (f"{c.system}{f' {c.attack}' if c.attack else ''} at {c.level:g}" for c in claims.each())
    yield from _twice("claims", figures)


def _twice(place: str, names: Iterable[str]) -> Iterator[str]:
    yield from (f"{place}: {name} is given twice" for name, count in Counter(names).items() if count > 1)


def _sizes(claims: Claims) -> Iterator[str]:
    levels = dict.fromkeys(claim.level for claim in claims.each())
    for i, reading in enumerate(claims.readings):
        for level in levels:
            try:
                reading.eps_at(level)
            except ValueError as error:
                yield f"readings.{i}.eps: at level {level:g}: {error}"


def _references(claims: Claims) -> Iterator[str]:
    labels = {reading.name: [attack.label for attack in reading.attacks] for reading in claims.readings}
    known = sorted({label for of_reading in labels.values() for label in of_reading})
    for i, row in enumerate(claims.claims):
        if row.attack is not None and row.attack not in known:
            yield f"claims.{i}.attack: no reading has an attack called '{row.attack}'; {nearest(row.attack, known)}"
    quoted = claims.quoted
    if quoted is not None and quoted.reading not in labels:
        yield f"quoted.reading: there is no reading '{quoted.reading}'; {nearest(quoted.reading, sorted(labels))}"
    elif quoted is not None and quoted.attack is not None and quoted.attack not in labels[quoted.reading]:
        mine = labels[quoted.reading]
        yield f"quoted.attack: {quoted.reading} has no attack '{quoted.attack}'; {nearest(quoted.attack, mine)}"


def _unknown(claims: Claims) -> Iterator[str]:
    for i, reading in enumerate(claims.readings):
        for attack in reading.attacks:
            yield from _missing(f"readings.{i}.attacks", "attack", attack.method, ATTACKS)
            if attack.method in ATTACKS and reading.norm not in ATTACKS[attack.method].norms:
                norms = " and ".join(ATTACKS[attack.method].norms)
                yield f"readings.{i}.attacks: {attack.method} is an attack in {norms}, not in {reading.norm}"
    if claims.not_tested:
        return
    yield from _missing("dataset", "data set", claims.dataset, DATASETS)
    for i, row in enumerate(claims.claims):
        yield from _missing(f"claims.{i}.system", "system", row.system, SYSTEMS)


def _missing(place: str, kind: str, name: str, known: Iterable[str]) -> Iterator[str]:
    names = sorted(known)
    if name not in names:
        yield f"{place}: there is no {kind} called '{name}'; {nearest(name, names)}"
