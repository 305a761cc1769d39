"""Published figures, and the ways in which they can be read: what a file of claims holds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from ismn_cli.core.recipes import OneOrMore
from ismn_cli.core.specs import Frozen, Knowledge, Norm, parse_eps

_LEVEL = re.compile(r"(?:(\d*\.?\d+)\s*\*\s*)?level(?:\s*/\s*(\d*\.?\d+))?")
Some = TypeVar("Some", bound=Sized)
Metric = Literal["accuracy", "restoration"]
"""accuracy: share answered right under attack. restoration: that over the clean accuracy of the undefended
classifier on the same images, for papers whose "success rate" is of what the attack had taken away."""


def at_level(value: JsonValue, level: float) -> JsonValue:
    """Return "level", "level/2" or "0.5*level" as a number; anything else as it is."""
    found = _LEVEL.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or float(found.group(2) or 1) == 0:
        return value
    return float(found.group(1) or 1) * level / float(found.group(2) or 1)


def _size(value: Any) -> Any:
    """Check what an eps may be: a number in [0, 1], or in terms of the level."""
    return parse_eps(value) if at_level(value, 1.0) == value else value


def _share(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"'{value}' is not a number; write 0.936")
    if not 0 <= value <= 1:
        hint = f"; write {value / 100:g}" if 1 < value <= 100 else ""
        raise ValueError(f"{value} is outside [0, 1]{hint}")
    return float(value)


def _attack(value: Any) -> Any:
    """Let a method's name stand for the attack with its usual parameters."""
    return {"method": value} if isinstance(value, str) else value


def _some(value: Some) -> Some:
    if not len(value):
        raise ValueError("it is empty")
    return value


NotEmpty = AfterValidator(_some)
Size = Annotated[float | str, BeforeValidator(_size)]
Share = Annotated[float, BeforeValidator(_share)]
Level = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AttackReading(Frozen):
    """How a figure may have been attacked. Parameters may be given in terms of the level."""

    method: str
    name: str = ""
    """How it is called here and in `Figures.attack`; the method's name unless given."""
    params: dict[str, JsonValue] = {}

    @property
    def label(self) -> str:
        """The name."""
        return self.name or self.method

    def params_at(self, level: float) -> dict[str, JsonValue]:
        """Return the parameters at ``level``."""
        return {name: at_level(value, level) for name, value in self.params.items()}


class Reading(Frozen):
    """What an attack level may mean."""

    name: str
    means: str
    evidence_for: str = ""
    evidence_against: str = ""
    norm: Norm = Norm.LINF
    eps: Size = "level"
    """Size of the ball, pixels in [0, 1]: a number, or in terms of the level: "level/2"."""
    worst_case: bool = True
    """Whether it bounds an attacker who chooses the perturbation: only then is there a ceiling. Not for noise."""
    attacks: Annotated[tuple[Annotated[AttackReading, BeforeValidator(_attack)], ...], OneOrMore, NotEmpty]

    def eps_at(self, level: float) -> float:
        """Return the size of the ball at ``level``. Raises ValueError outside [0, 1]."""
        return parse_eps(at_level(self.eps, level))


class SetAside(Frozen):
    """A reading that is not tried, and why."""

    name: str
    why: str


class Figures(Frozen):
    """A system's figures in a table, by attack level."""

    system: str
    printed: str = ""
    """What the table calls it."""
    attack: str | None = None
    """The attack where the table names it: the name that readings have for it."""
    figures: Annotated[dict[Level, Share], NotEmpty]


class Quoted(Frozen):
    """The reading under which reports set a figure beside what was measured."""

    reading: str
    attack: str | None = None
    """The attack that figures are quoted for which name none; None: each figure names its own."""
    words: str
    """The reading, for a caption."""


@dataclass(frozen=True)
class Claim:
    """One published figure, a share in [0, 1]."""

    system: str
    printed: str
    attack: str | None
    level: float
    figure: float


class Claims(Frozen):
    """A published table, and how it may be read."""

    name: str
    summary: str
    cite: str
    states: str
    """What exactly is claimed, as far as it is said."""
    caveat: str = ""
    """What a reader of a quoted figure must know."""
    dataset: str
    knowledge: Knowledge = Knowledge.GRAY
    images: Annotated[int, Field(ge=1)] | None = None
    """How many images the published figures are over, where that is said."""
    decimals: Annotated[int, Field(ge=1, le=6)] = 3
    """Decimals of a figure as printed."""
    metrics: Annotated[tuple[Metric, ...], OneOrMore, NotEmpty] = ("accuracy",)
    claims: Annotated[tuple[Figures, ...], NotEmpty]
    readings: Annotated[tuple[Reading, ...], NotEmpty]
    set_aside: tuple[SetAside, ...] = ()
    quoted: Quoted | None = None
    not_tested: str = ""
    """Why nothing of it can be tested here and what would; names of systems and data are not looked up then."""

    def each(self) -> Iterator[Claim]:
        """Yield every figure, in the order of the file."""
        for row in self.claims:
            for level, figure in row.figures.items():
                yield Claim(row.system, row.printed, row.attack, level, figure)

    def quoted_reading(self, quoted: Quoted) -> tuple[Reading, dict[str, str]]:
        """Return the reading that ``quoted`` names, and method -> label of the attacks that it is quoted for.

        Raises KeyError where there is no such reading.
        """
        reading = {reading.name: reading for reading in self.readings}[quoted.reading]
        wanted = (attack for attack in reading.attacks if quoted.attack in (None, attack.label))
        return reading, {attack.method: attack.label for attack in wanted}
