"""Parameters of an attack: defaults filled in, values read as people write them, all mistakes at once.

No torch here: bad options are refused before it is imported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from pydantic import JsonValue

from ismn_cli.attacks.plugins import attack_plugin
from ismn_cli.core.attack_catalogue import ATTACKS, AttackEntry
from ismn_cli.core.errors import UsageError
from ismn_cli.core.settings import nearest, refusal
from ismn_cli.core.specs import AttackSpec, ThreatModel

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RELATIVE = re.compile(rf"(?:({_NUMBER})\s*\*\s*)?eps(?:\s*/\s*({_NUMBER}|[A-Za-z_]\w*))?")
_BOOLEANS: dict[JsonValue, bool] = {"true": True, "false": False, "yes": True, "no": False}
_STEP_SIZES = ("alpha", "lr")


def find_attack(method: str) -> AttackEntry:
    """Return the attack of that name, or of the user's own. Raises UsageError naming the nearest one."""
    return ATTACKS[method] if method in ATTACKS else attack_plugin(method).entry


def resolve_params(method: str, threat: ThreatModel, given: Mapping[str, JsonValue]) -> AttackSpec:
    """Return the attack with every parameter pinned: what is not ``given`` takes the catalogue's default.

    Numbers may be written "2/255" or relative to the threat's eps, "eps/4" or "2.5*eps/steps"; the spec holds
    what they come to. Resolving a resolved spec's own parameters changes nothing. Raises UsageError for an
    attack that does not exist or does not know the threat's norm, and one for all bad parameters together.
    """
    entry = find_attack(method)
    code = attack_plugin(method).code if entry.plugin else ""
    _check_threat(entry, threat)
    wrong: list[str] = []
    unknown = sorted(set(given) - set(entry.defaults))
    wrong += [f"there is no parameter {name}; {_known(name, entry)}" for name in unknown]
    params: dict[str, JsonValue] = {}
    # Formulas divide by whole numbers such as steps: those first.
    for name in sorted(entry.defaults, key=lambda key: not _is_whole(entry.defaults[key])):
        try:
            params[name] = _read(entry, name, given, threat.eps, params)
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    wrong += _misplaced(entry, params)
    if wrong:
        hint = f"`ismn list attacks` shows every parameter of {method} with its default."
        raise refusal(f"attack {method}", wrong, _defaults(entry) if entry.plugin else hint)
    return AttackSpec(method=method, threat=threat, params={name: params[name] for name in entry.defaults}, code=code)


def _defaults(entry: AttackEntry) -> str:
    told = ", ".join(f"{name}={_shown(value)}" for name, value in entry.defaults.items())
    return f"Its parameters, by its signature: {told or 'none besides eps'}."


def _misplaced(entry: AttackEntry, params: Mapping[str, JsonValue]) -> list[str]:
    """Return what is wrong with parameters that go with a certain value of another, and with no other."""
    wrong = []
    for name, (other, value) in entry.only_with.items():
        if name not in params or other not in params:
            continue  # said already
        given = params[name] != entry.defaults[name]
        if given and params[other] != value:
            wrong.append(f"{name}: it goes with {other}={value} only")
        if params[other] == value and not given:
            known = ", ".join(c for c in entry.choices[name] if c != entry.defaults[name])
            wrong.append(f"{name}: {other}={value} needs some of {known}, joined by '+'")
    return wrong


def _known(name: str, entry: AttackEntry) -> str:
    return nearest(name, sorted(entry.defaults)) if entry.defaults else "it has none besides eps"


def _check_threat(entry: AttackEntry, threat: ThreatModel) -> None:
    if threat.targeted:
        raise UsageError("Targeted attacks are not offered.", "Leave 'targeted' out: a wrong answer counts.")
    if threat.norm not in entry.norms:
        others = ", ".join(sorted(name for name, other in ATTACKS.items() if threat.norm in other.norms))
        raise UsageError(
            f"{entry.name} is an attack in {' and '.join(entry.norms)}, not in {threat.norm}.",
            f"In {threat.norm} there are: {others}.",
        )


def _is_whole(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read(
    entry: AttackEntry,
    name: str,
    given: Mapping[str, JsonValue],
    eps: float,
    resolved: Mapping[str, JsonValue],
) -> JsonValue:
    """Return one parameter in the type of its default. Raises ValueError."""
    default = entry.defaults[name]
    value = given.get(name, default)
    if entry.plugin and (default is None or isinstance(default, str | list | dict)):
        return _alike(value, default)
    if name in entry.several:
        return _joined(value, entry.choices[name], default)
    if name in entry.choices:
        return _choice(value, entry.choices[name])
    if isinstance(default, bool):
        return _boolean(value)
    number = _evaluate(value, eps, resolved)
    least = -math.inf if entry.plugin else float(_is_whole(default))
    limits = entry.limits.get(name, (least, math.inf))
    if _is_whole(default):
        return _whole(number, value, limits)
    _check_range(number, value, limits)
    if number == 0 and name in _STEP_SIZES and eps > 0 and not entry.plugin:
        raise ValueError("a step size of 0 leaves every image as it is")
    return number


def _alike(value: JsonValue, default: JsonValue) -> JsonValue:
    """Return the value of a plug-in's parameter whose default is no number: of the default's type, where it has one."""
    if default is None or isinstance(value, type(default)):
        return value
    wanted = "a text" if isinstance(default, str) else "a list" if isinstance(default, list) else "a mapping"
    raise ValueError(f"{_shown(value)} is not {wanted}, as its default {_shown(default)} is")


def _choice(value: JsonValue, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(f"{_shown(value)} is not one of {', '.join(choices)}")


def _joined(value: JsonValue, choices: tuple[str, ...], none: JsonValue) -> str:
    names = value.split("+") if isinstance(value, str) else [value]
    chosen = [_choice(name, choices) for name in names]
    if len(chosen) > 1 and (none in chosen or len(set(chosen)) < len(chosen)):
        raise ValueError(f"{_shown(value)} names one twice, or {none} beside others")
    return "+".join(chosen)


def _boolean(value: JsonValue) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise ValueError(f"{_shown(value)} is not true or false")


def _whole(number: float, value: JsonValue, limits: tuple[float, float]) -> int:
    if not number.is_integer():
        raise ValueError(f"{_shown(value)} is not a whole number")
    _check_range(number, value, limits)
    return int(number)


def _check_range(number: float, value: JsonValue, limits: tuple[float, float]) -> None:
    low, high = limits
    if not low <= number <= high:
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise ValueError(f"{_shown(value)} is out of range; it must be at least {low:g}{upper}")


def _evaluate(value: JsonValue, eps: float, resolved: Mapping[str, JsonValue]) -> float:
    """Read 0.1, "2/255", "eps/4" or "2.5*eps/steps". Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    relative = _RELATIVE.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        if relative:
            return _relative(relative.group(1), relative.group(2), eps, resolved)
        if isinstance(value, str) and math.isfinite(number := _fraction(value)):
            return number
    except (ValueError, ZeroDivisionError):
        pass
    raise ValueError(f"{_shown(value)} is not a number; write 0.01, 2/255 or eps/4")


def _fraction(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    return float(numerator) / float(denominator) if denominator else float(numerator)


def _relative(
    factor: str | None, divisor: str | None, eps: float, resolved: Mapping[str, JsonValue]
) -> float:
    if divisor is not None and divisor in resolved:
        divisor = str(resolved[divisor])
    return float(factor or 1) * eps / float(divisor or 1)


def _shown(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
