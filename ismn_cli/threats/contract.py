"""What a defence of the user's own must keep to, asked of it before any attack: a few images, every route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ismn_cli.core.references import running
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.rng import isolated
from ismn_models.pipeline import Decision, Defence, Pipeline, Reading, Waypoint
from ismn_models.shape import Shape

POLICIES = ("pass", "reform", "reject", "route")
ASKED = 6
"""Random images that it is asked about, besides a black and a white one."""
ROUNDING = 1e-5
ALIKE = 1e-3
"""Share of the logits' range by which two answers to the same images may differ where nothing is drawn at random."""


def contract_problems(pipeline: Pipeline, name: str, shape: Shape, device: torch.device) -> list[str]:
    """Return what is wrong with the defence of ``pipeline``, called ``name``; a wrong part hides what is built on it.

    Raises UsageError for what its code raises.
    """
    x = _images(shape).to(device)
    # Frozen: what takes a gradient then takes it from the images.
    with evaluating(pipeline, frozen=True), torch.no_grad():
        asked = _Asked(pipeline, name, x)
        return (
            list(asked.policy())
            or [*asked.reform(), *asked.score()]
            or list(asked.decision())
            or [*asked.trace(), *asked.surrogates()]
            or list(asked.draws())
            or list(asked.idle())
        )


def _images(shape: Shape) -> Tensor:
    size = (shape.channels, shape.size, shape.size)
    drawn = torch.rand(ASKED, *size, generator=torch.Generator().manual_seed(0))
    return torch.cat([drawn, torch.zeros(1, *size), torch.ones(1, *size)])


class _Asked:
    """A defence and the images x [N, C, H, W] that it is asked about."""

    def __init__(self, pipeline: Pipeline, name: str, x: Tensor) -> None:
        self.pipeline, self.defence, self.classify = pipeline, pipeline.defence, pipeline.classifier
        self.name, self.x = name, x

    def _of(self, part: str, call: Callable[[], object], seed: int = 0) -> object:
        def seeded() -> object:
            with isolated(seed):
                return call()

        return running(f"{self.name}, {part}", seeded)

    def policy(self) -> Iterator[str]:
        """Yield what is wrong with what it says of itself."""
        if self.defence.policy not in POLICIES:
            yield f"policy {self.defence.policy!r} is none of {', '.join(POLICIES)}"
        for flag in ("differentiable", "randomised"):
            if not isinstance(getattr(self.defence, flag), bool):
                yield f"{flag} is {getattr(self.defence, flag)!r}, neither True nor False"

    def idle(self) -> Iterator[str]:
        """Yield what it has that never takes part: its figures would be the undefended classifier's."""
        own = [part for part in ("reform", "score", "decide") if has_own(self.defence, part)]
        if not own:
            yield "it overrides none of reform(x), score(x, classify) and decide(x, classify): it does nothing"
        if own == ["score"] and self.defence.policy == "pass":
            yield 'it has a score and policy "pass", which refuses nothing: say policy = "reject" or "route"'

    def reform(self) -> Iterator[str]:
        """Yield what is wrong with the pictures it makes."""
        yield from _pictures("reform", self._of("reform", lambda: self.defence.reform(self.x.clone())), self.x)

    def score(self) -> Iterator[str]:
        """Yield what is wrong with its detector's scores."""
        yield from _column(
            "score", self._of("score", lambda: self.defence.score(self.x.clone(), self.classify)), len(self.x)
        )

    def decision(self) -> Iterator[str]:
        """Yield what is wrong with its answers."""
        n, found = len(self.x), self._decided()
        missing = [field for field in Decision._fields if not hasattr(found, field)]
        if missing:
            yield f"decide gives a {type(found).__name__} without {', '.join(missing)}; it should be a Decision"
            return
        yield from _logits("decide", getattr(found, "logits", None), self.classify(self.x))
        for field in ("flagged", "rejected"):
            yield from _column(f"decide: {field}", getattr(found, field), n, (torch.bool,))
        yield from _column("decide: score", getattr(found, "score", None), n)
        yield from _column("decide: loops", getattr(found, "loops", None), n, (torch.int64, torch.int32))

    def _decided(self, seed: int = 0) -> object:
        return self._of("decide", lambda: self.defence.decide(self.x.clone(), self.classify), seed)

    def trace(self) -> Iterator[str]:
        """Yield what is wrong with the pictures that reports show."""
        way = self._of("trace", lambda: self.defence.trace(self.x.clone(), self.classify))
        if not isinstance(way, list) or not all(isinstance(point, Waypoint) for point in way):
            yield f"trace gives a {type(way).__name__}; it should be a list of Waypoint"
            return
        for point in way:
            yield from _pictures(f"trace: {point.name}", point.images, self.x)
            yield from _column(f"trace: {point.name}: taken", point.taken, len(self.x), (torch.bool,))

    def surrogates(self) -> Iterator[str]:
        """Yield what is wrong with the routes that an adaptive attacker takes."""
        routes = self._of("surrogates", lambda: self.defence.surrogates(self.classify))
        if not isinstance(routes, dict) or not routes:
            yield f"surrogates gives a {type(routes).__name__}; it should be a dict of functions by name"
            return
        with torch.enable_grad():
            x = self.x.clone().requires_grad_()
            like = self.classify(x)
            found = {route: self._of(f"surrogate {route}", partial(read, x)) for route, read in routes.items()}
        for route, reading in found.items():
            if not isinstance(reading, Reading):
                yield f"surrogate {route} gives a {type(reading).__name__}; it should be a Reading"
                continue
            yield from _logits(f"surrogate {route}", reading.logits, like)
            if reading.margin is not None:
                yield from _column(f"surrogate {route}: margin", reading.margin, len(x))
        readings = [reading for reading in found.values() if isinstance(reading, Reading)]
        if like.requires_grad and readings and not any(reading.logits.requires_grad for reading in readings):
            yield (
                "no gradient comes through any of its surrogates, so that no adaptive attack can be made: set "
                "differentiable = False where reform has none (then the identity stands for it, BPDA)"
            )

    def draws(self) -> Iterator[str]:
        """Yield that it draws at random and does not say so."""
        if self.defence.randomised:
            return
        first, second = (getattr(self._decided(seed), "logits", self.x) for seed in (0, 1))
        apart, size = (first - second).abs().amax(), (first.amax() - first.amin()).clamp_min(ROUNDING)
        if bool(apart > ALIKE * size):
            yield "it answers the same images otherwise each time: set randomised = True, for attacks to average draws"


def _pictures(what: str, found: object, x: Tensor) -> Iterator[str]:
    if not isinstance(found, Tensor) or found.shape != x.shape or not found.is_floating_point():
        yield f"{what} gives {_kind(found)} for images {list(x.shape)}; it should keep the shape"
    elif not found.isfinite().all():
        yield f"{what} gives pixels that are not finite"
    elif bool((found < -ROUNDING).any() or (found > 1 + ROUNDING).any()):
        yield f"{what} gives pixels from {float(found.min()):.3g} to {float(found.max()):.3g}; they should be in [0, 1]"


def _column(what: str, found: object, n: int, types: tuple[torch.dtype, ...] = ()) -> Iterator[str]:
    """Yield what is wrong with a column of ``n`` numbers, floating unless ``types`` say otherwise."""
    wanted = " or ".join(str(each).removeprefix("torch.") for each in types) or "float"
    right = isinstance(found, Tensor) and (found.dtype in types if types else found.is_floating_point())
    if not isinstance(found, Tensor) or found.shape != (n,) or not right:
        yield f"{what} is {_kind(found)} for {n} images; it should be {wanted} [{n}]"
    elif bool(found.isnan().any()):
        yield f"{what} is NaN for some images"


def _logits(what: str, found: object, like: Tensor) -> Iterator[str]:
    if not isinstance(found, Tensor) or found.shape != like.shape:
        yield f"{what} gives logits {_kind(found)}; they should be {list(like.shape)}"
    elif not found.isfinite().all():
        yield f"{what} gives logits that are not finite"


def _kind(found: object) -> str:
    if not isinstance(found, Tensor):
        return f"a {type(found).__name__}"
    return f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"


def has_own(defence: Defence, method: str) -> bool:
    """Whether the defence's class overrides ``method`` of `Defence`."""
    return getattr(type(defence), method) is not getattr(Defence, method)


def blank(module: nn.Module) -> dict[str, object]:
    """Return what a module and its parts hold besides tensors that are registered, each in a form to compare."""
    own = vars(nn.Module()).keys() | {"training"}
    return {
        f"{name}.{key}".removeprefix("."): _comparable(value)
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if key not in own
    }


def _comparable(value: object) -> object:
    if isinstance(value, Tensor):
        return value.tolist()
    return repr(value) if isinstance(value, bool | int | float | str | list | tuple | dict | set) else id(value)
