"""Attacks of the user's own, as the catalogue would have them: norms and parameters read from their signature.

No torch here, but for what the user's own file imports.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.attack_entry import BOTH, LINF, AttackEntry
from ismn_cli.core.errors import UsageError
from ismn_cli.core.references import code_hash, load_attribute, referred, running
from ismn_cli.core.specs import Norm

FORM = (
    "An attack is a function attack(model, x, y, eps, **parameters) that returns images, or a class derived from "
    "torchattacks.attack.Attack."
)
GIVEN = 4
"""What a function is given by position: model, x, y, eps."""
_SET = frozenset({"self", "model", "eps", "norm", "seed", "n_classes"})
"""What the harness sets of a torchattacks class."""

Parameters = Mapping[str, inspect.Parameter]


@dataclass(frozen=True)
class AttackPlugin:
    """An attack of the user's own."""

    found: Callable[..., Any]
    entry: AttackEntry
    code: str
    """sha256 over what it is called there and its source, see `references.code_hash`."""
    parameters: Parameters
    """All that its signature has."""

    @property
    def is_class(self) -> bool:
        """Whether it is made anew for each call, as torchattacks' are, and not a function."""
        return isinstance(self.found, type)


LIVE: dict[str, AttackPlugin] = {}
"""Attacks that a program has handed over, by what they are called in this process; see `ismn_cli.api`."""


def attack_plugin(method: str) -> AttackPlugin:
    """Return the attack that ``method`` refers to, or that is installed under that name.

    Raises UsageError: there is none, it fails when it is imported, it is not called as attacks are.
    """
    if method in LIVE:
        return LIVE[method]
    reference = referred("attack", method, ATTACKS)
    return described(method, reference, _loaded(reference), _code(reference))


def _loaded(reference: str) -> Any:
    from ismn_cli.engine.guard import settings_kept  # noqa: PLC0415 - torch

    # What the user's code prints is no result.
    with settings_kept(), redirect_stdout(sys.stderr):
        return load_attribute(reference, "attack")


def _code(reference: str) -> str:
    content = f"{reference.rpartition(':')[2]}\n{code_hash(reference, 'attack')}"
    return hashlib.sha256(content.encode()).hexdigest()


def described(method: str, reference: str, found: Any, code: str) -> AttackPlugin:
    """Return what ``found`` is as an attack called ``method``. Raises UsageError: it is not called as attacks are."""
    is_class = isinstance(found, type)
    if not callable(found) or (is_class and not _of_torchattacks(found)):
        what = f"a class ({found.__name__})" if is_class else f"a {type(found).__name__}"
        raise UsageError(f"{method} is {what}, not an attack.", FORM)
    signature = running(f"the signature of {method}", lambda: inspect.signature(found))
    parameters = signature.parameters
    settable = _of_class(parameters) if is_class else _of_function(method, signature)
    entry = AttackEntry(
        name=method,
        cls=reference,
        norms=_norms(method, found, parameters),
        summary=_summary(found),
        defaults=_defaults(method, settable),
        gradient=bool(getattr(found, "gradient", True)),
        eps_parameter="eps" if not is_class or "eps" in parameters else None,
        # What is not told eps cannot keep to it.
        minimum_norm=is_class and "eps" not in parameters,
        plugin=True,
    )
    return AttackPlugin(found, entry, code, parameters)


def _of_torchattacks(found: type) -> bool:
    """Whether ``found`` is derived from torchattacks' own base, which whoever derives from it has imported."""
    module = sys.modules.get("torchattacks.attack")
    return module is not None and issubclass(found, module.Attack)


def _of_class(parameters: Parameters) -> Parameters:
    return {name: each for name, each in parameters.items() if name not in _SET}


def _of_function(method: str, signature: inspect.Signature) -> Parameters:
    """Return the parameters that a user may set. Raises UsageError for a function that is not called as attacks are."""
    parameters = signature.parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    leading = list(parameters)[:GIVEN]
    if len(leading) < GIVEN or any(parameters[name].kind not in kinds for name in leading):
        raise UsageError(f"{method} takes {signature}.", FORM)
    return {name: each for name, each in parameters.items() if name not in {*leading, "norm"}}


def _norms(method: str, found: Any, parameters: Parameters) -> tuple[Norm, ...]:
    told = getattr(found, "norms", None)
    if told is None:
        return BOTH if "norm" in parameters else LINF
    names = [told] if isinstance(told, str) else told
    try:
        norms = tuple(Norm(name) for name in names)
    except (TypeError, ValueError):
        norms = ()
    if not norms:
        raise UsageError(f"{method} says norms = {told!r}.", 'Write norms = ("linf",), ("l2",) or both.')
    return norms


def _defaults(method: str, settable: Parameters) -> dict[str, JsonValue]:
    """Return the default of each parameter that can be written down; others keep theirs, and cannot be set.

    Raises UsageError for a parameter without one.
    """
    found = {}
    for name, parameter in settable.items():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if parameter.default is inspect.Parameter.empty:
            raise UsageError(f"{method}: its parameter {name} has no default.", f"Give it one. {FORM}")
        default = _written(parameter.default)
        if default is not None or parameter.default is None:
            whole = isinstance(default, int) and not isinstance(default, bool)
            found[name] = float(default) if whole and parameter.annotation in (float, "float") else default
    return found


def _written(value: Any) -> Any:
    """Return ``value`` as JSON has it; None for what JSON has not."""
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        parts = [_written(part) for part in value]
        return parts if None not in parts else None
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        inner = {key: _written(part) for key, part in value.items()}
        return inner if None not in inner.values() else None
    return None


def _summary(found: Any) -> str:
    lines = (inspect.getdoc(found) or "").strip().splitlines()
    return lines[0] if lines else ""
