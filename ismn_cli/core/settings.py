"""Settings checked once at the edge: every problem at once, each with the name that was probably meant."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ismn_cli.core.errors import UsageError

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_UNKNOWN_KEY = {"extra_forbidden", "unexpected_keyword_argument"}


def build_settings(cls: type[T], values: Mapping[str, JsonValue], where: str) -> T:
    """Return ``cls(**values)``, a frozen dataclass of settings, with every value checked against its type.

    ``where`` names the place the values come from. Raises UsageError listing every unknown key, wrong type
    and number that is not finite.
    """
    try:
        return _adapter(cls).validate_python((dict(values),))[0]
    except ValidationError as error:
        raise refusal(where, problems(error, cls, skip=1)) from None


def build_model(cls: type[M], values: Mapping[str, JsonValue], where: str, hint: str) -> M:
    """Return ``cls(**values)``, a pydantic model. Raises UsageError listing all that is wrong."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise refusal(where, problems(error, cls), hint) from None


def settings_problems(cls: type, values: Mapping[str, JsonValue]) -> list[str]:
    """Return one line for each thing that `build_settings` would refuse."""
    try:
        _adapter(cls).validate_python((dict(values),))
    except ValidationError as error:
        return problems(error, cls, skip=1)
    return []


def _adapter(cls: type[T]) -> TypeAdapter[tuple[T]]:
    # A dataclass brings its own config or takes the one around it: the tuple is there to be around it.
    around: Any = tuple[cls]  # type: ignore[valid-type]
    return TypeAdapter(around, config=_STRICT)


def refusal(where: str, found: Sequence[str], hint: str = "") -> UsageError:
    """Return one error for everything that is wrong with ``where``."""
    if len(found) == 1:
        end = "" if found[0].endswith("?") else "."
        return UsageError(f"{where}: {found[0]}{end}", hint)
    lines = "".join(f"\n  {problem}" for problem in found)
    return UsageError(f"{where} has {len(found)} problems:{lines}", hint)


def problems(error: ValidationError, cls: type, skip: int = 0) -> list[str]:
    """Return one line for each problem; ``skip`` leading parts of every location are not the user's."""
    return [_line(detail, cls, detail["loc"][skip:]) for detail in error.errors()]


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ", did you mean 'x'?" where one of ``known`` is near, else the list of them."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def _line(detail: ErrorDetails, cls: type, loc: tuple[int | str, ...]) -> str:
    place = ".".join(map(str, loc)) or "the whole"
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _UNKNOWN_KEY:
        return f"{place}: unknown key; {nearest(str(loc[-1]), _keys_at(cls, loc[:-1]))}"
    if kind == "missing":
        return f"{place}: missing"
    if kind == "value_error":
        # What is said of the whole names its settings itself.
        return f"{place}: {context['error']}" if loc else str(context["error"])
    message = detail["msg"].replace("Input should", "should")
    return f"{place}: {message}, not {_short(detail['input'])}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys_at(cls: type, loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys that exist at ``loc`` inside ``cls``."""
    found = {cls}
    for part in loc:
        found = {inner for outer in found for inner in _structures(_fields(outer).get(str(part)))}
    return sorted(key for structure in found for key in _fields(structure))


def _fields(cls: type) -> dict[str, Any]:
    """Return name -> annotation of a pydantic model or a dataclass."""
    if issubclass(cls, BaseModel):
        return {name: field.annotation for name, field in cls.model_fields.items()}
    if not dataclasses.is_dataclass(cls):
        return {}
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _structures(annotation: Any) -> Iterator[type]:
    """Yield the models and dataclasses that ``annotation`` allows."""
    if typing.get_origin(annotation) in (Union, UnionType, Annotated):
        for choice in typing.get_args(annotation):
            yield from _structures(choice)
    elif isinstance(annotation, type):
        yield annotation
