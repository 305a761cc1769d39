"""The same attack with more effort or another size: which parameters say how much, and what goes with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import JsonValue

from ismn_cli.attacks.params import find_attack, resolve_params
from ismn_cli.core.attack_entry import AttackEntry
from ismn_cli.core.specs import AttackSpec

STEPS = ("steps", "nb_iter", "max_iterations", "num_iter_set", "n_queries")
RESTARTS = ("restarts", "n_restarts")


def resolved(spec: AttackSpec) -> AttackSpec:
    """Return ``spec`` with every parameter pinned. Raises UsageError as `resolve_params` does."""
    params = resolve_params(spec.method, spec.threat, spec.params).params
    return spec.model_copy(update={"params": params})


def parameter(spec: AttackSpec, names: Sequence[str]) -> str | None:
    """Return the one of ``names`` that is a parameter of the attack; None without."""
    return next((name for name in names if name in find_attack(spec.method).defaults), None)


def one_step(spec: AttackSpec) -> bool:
    """Whether the attack takes a single gradient step."""
    entry, name = find_attack(spec.method), parameter(spec, STEPS)
    if name is None:
        return entry.gradient and not entry.own
    return _number(resolved(spec).params[name]) == 1


def resized(spec: AttackSpec, eps: float) -> AttackSpec:
    """Return the attack at another ``eps`` > 0; step sizes and whatever else the catalogue ties to eps go with it."""
    full, entry = resolved(spec), find_attack(spec.method)
    factor = eps / spec.threat.eps
    scaled: dict[str, JsonValue] = {
        name: _number(value) * factor if _tied(entry, name, "eps") else value for name, value in full.params.items()
    }
    threat = spec.threat.model_copy(update={"eps": eps})
    return full.model_copy(update={"threat": threat, "params": scaled})


def twice(spec: AttackSpec, name: str) -> AttackSpec:
    """Return the attack with the whole number ``name`` doubled; a step size that follows it by default still does."""
    full, entry = resolved(spec), find_attack(spec.method)
    doubled = dict(full.params) | {name: 2 * int(_number(full.params[name]))}
    usual = resolve_params(spec.method, spec.threat, {name: full.params[name]}).params
    for other, value in full.params.items():
        if _tied(entry, other, f"/{name}") and math.isclose(_number(value), _number(usual[other])):
            doubled[other] = _number(value) / 2
    return full.model_copy(update={"params": doubled})


def once(spec: AttackSpec) -> AttackSpec:
    """Return the attack without restarts."""
    name = parameter(spec, RESTARTS)
    full = resolved(spec)
    return full if name is None else full.model_copy(update={"params": dict(full.params) | {name: 1}})


def _tied(entry: AttackEntry, name: str, to: str) -> bool:
    """Whether the default of parameter ``name`` is a formula with ``to`` in it."""
    default = entry.defaults[name]
    return isinstance(default, str) and name not in entry.choices and not entry.plugin and to in default


def _number(value: JsonValue) -> float:
    assert isinstance(value, int | float)
    return value
