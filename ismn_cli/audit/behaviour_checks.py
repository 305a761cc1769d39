"""How does the model answer? GM09, RN02, MD01 and MD05: modes, draws, neighbours, and what it calls on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ismn_cli.audit.compare import images
from ismn_cli.audit.exam import MOVED, RUNS, Exam
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.rng import isolated

ALONE = 8
"""Images that are also asked about alone, and in other company."""
LEAK = 1e-3
"""Share of the logits' spread by which company may change an answer: rounding is far below."""
DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
# Where `training` stands: `F.dropout(input, p, training)`, `F.batch_norm(input, mean, var, weight, bias, training)`.
_TRAINING_AT: Mapping[str, int] = dict.fromkeys(DROPOUTS, 2) | {"batch_norm": 5}
_ACTING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


@dataclass
class Seen:
    """What a forward pass called."""

    training: set[str] = field(default_factory=set)
    """Functions that acted as in training."""
    autograd: set[str] = field(default_factory=set)
    enabled: bool = False
    """Gradients were switched on, inside a pass without."""


class Watch(TorchFunctionMode):
    """Listens to torch's functions while a model answers."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note what is called and call it."""
        name, named = getattr(func, "__name__", ""), kwargs or {}
        at = _TRAINING_AT.get(name)
        if at is not None and _acts(func, name, args, named, at):
            self.seen.training.add(name)
        if func is torch.autograd.grad or func is Tensor.backward:
            self.seen.autograd.add(name)
        if name == "_set_grad_enabled" and args and args[0]:
            self.seen.enabled = True
        return func(*args, **named)


def _acts(func: Callable[..., Any], name: str, args: tuple[Any, ...], named: Mapping[str, Any], at: int) -> bool:
    """Return whether dropout drops, or batch norm takes the batch's own statistics."""
    if getattr(F, name, None) is not func:
        return False
    default = name.startswith("dropout")  # in the others it is False unless given
    training = named.get("training", args[at] if len(args) > at else default)
    rate = named.get("p", args[1] if len(args) > 1 else 0.5) if name in DROPOUTS else 1
    return bool(training) and rate > 0


def watched(exam: Exam) -> Seen:
    """Return what the model calls while it answers one batch without gradients."""
    seen = Seen()
    with isolated(exam.seed), torch.no_grad(), _backward_noted(seen), Watch(seen):
        exam.model(exam.x[:ALONE])
    return seen


@contextmanager
def _backward_noted(seen: Seen) -> Iterator[None]:
    """Note calls of torch.autograd.backward, which asks no function mode."""
    original = torch.autograd.backward

    def noted(*args: Any, **named: Any) -> Any:
        seen.autograd.add("backward")
        return original(*args, **named)

    torch.autograd.backward = noted
    try:
        yield
    finally:
        torch.autograd.backward = original


def _compiled(model: nn.Module) -> bool:
    return any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())


def gradient_inside(exam: Exam) -> Finding:
    """GM09: automatic differentiation is called in the forward pass (AutoAttack's check)."""
    if _compiled(exam.model):
        return exam.not_run("GM09", "a TorchScript model cannot be watched from outside")
    seen = watched(exam)
    if seen.autograd:
        says = (
            f"The model calls {', '.join(sorted(seen.autograd))} while it answers: it optimises something for each "
            "image, and the gradient that an attack gets may not be that of the whole."
        )
        return exam.finding("GM09", Verdict.FAIL, says, calls=sorted(seen.autograd))
    if seen.enabled:
        says = "The model switches gradients on while it answers, but takes none: look at why."
        return exam.finding("GM09", Verdict.WARN, says, calls=[])
    return exam.finding("GM09", Verdict.PASS, "The model takes no gradients while it answers.", calls=[])


def randomised(exam: Exam) -> Finding:
    """RN02: five passes differ in normalised logits, or in the number right (AutoAttack's check).

    A system that says that it draws at random gets a warning only: the harness then averages over draws.
    """
    count, moved = len(exam.moved), int((exam.moved > MOVED).sum())
    right = [int((logits.argmax(1) == exam.y[:count]).sum()) for logits in exam.passes]
    most = round(float(exam.moved.max()), 6)
    figures: dict[str, Any] = {"samples": count, "runs": RUNS, "most": most, "moved": moved, "right": right}
    if not exam.draws and len(set(right)) == 1:
        says = f"{RUNS} passes over {images(count)} give the same answers."
        return exam.finding("RN02", Verdict.PASS, says, **figures)
    counts = f"{min(right):,} to {max(right):,} right" if min(right) < max(right) else f"{right[0]:,} right each time"
    says = f"{RUNS} passes over {images(count)} give other logits on {moved:,} of them ({counts})"
    if declares_randomness(exam.model):
        says += "; the system says so, and attacks on it are averaged over draws by themselves."
        return exam.finding("RN02", Verdict.WARN, says, **figures)
    says += ": the model draws at random, and an attack on a single draw says little about the next."
    return exam.finding("RN02", Verdict.FAIL, says, **figures)


def declares_randomness(model: nn.Module) -> bool:
    """Return whether a defended system says that its defence draws at random."""
    return bool(getattr(getattr(model, "defence", None), "randomised", False))


@dataclass(frozen=True)
class Given:
    """The model as it came, before anybody called eval()."""

    training: tuple[str, ...]
    """Layers that were in training mode."""
    differs: bool
    """Whether that changes answers."""


def evaluation_mode(exam: Exam, given: Given) -> Finding:
    """MD01: dropout or batch normalisation acts as in training, as the model was given or in evaluation mode."""
    acting = set() if _compiled(exam.model) else watched(exam).training
    if acting:
        says = (
            f"In evaluation mode {' and '.join(_WORDS[name] for name in sorted(acting))} as in training: the answers "
            "are not those of the finished model."
        )
        return exam.finding("MD01", Verdict.FAIL, says, acting=sorted(acting), training=list(given.training))
    if given.differs:
        says = (
            f"The model came in training mode ({_first(given.training)}), where it answers otherwise. ismn switches "
            "to evaluation mode by itself; figures measured elsewhere without that are not comparable."
        )
        return exam.finding("MD01", Verdict.WARN, says, acting=[], training=list(given.training))
    if _compiled(exam.model):
        return exam.not_run("MD01", "a TorchScript model cannot be watched from outside")
    says = "Dropout and batch normalisation, if any, act as in evaluation."
    return exam.finding("MD01", Verdict.PASS, says, acting=[], training=list(given.training))


_WORDS = dict.fromkeys(DROPOUTS, "dropout still drops") | {
    "batch_norm": "batch normalisation takes the statistics of the batch"
}


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def as_given(model: nn.Module, x: Tensor, seed: int = 0) -> Given:
    """Compare the model as it came with itself in evaluation mode, on a few images; it is left as it was."""
    training = [(name or type(model).__name__, module) for name, module in model.named_modules() if module.training]
    if not training:
        return Given((), differs=False)
    acting = [name for name, module in training if isinstance(module, _ACTING)]
    names = tuple(acting or [name for name, _ in training])
    with _kept(model):
        try:
            there = _logits(model, x[:ALONE], seed)
        except (RuntimeError, ValueError):  # such as batch normalisation of a single image
            return Given(names, differs=True)
    with evaluating(model):
        here = _logits(model, x[:ALONE], seed)
    near = (there - here).abs() <= LEAK * float(here.std().nan_to_num(1.0))
    return Given(names, differs=not bool((near | here.isnan()).all()))


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Put back what a pass in training mode changes, such as running means."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)


def _logits(model: nn.Module, x: Tensor, seed: int) -> Tensor:
    with isolated(seed), torch.no_grad():
        logits: Tensor = model(x)
        return logits


def batch_invariance(exam: Exam) -> Finding:
    """MD05: the logits of an image depend on what else is in the batch.

    Each image keeps its row, so that what is drawn at random for a row is drawn alike; alone it is asked about only
    where nothing is drawn.
    """
    index = exam.finite.nonzero().squeeze(1)[: 2 * ALONE]
    x = exam.x[index]
    if len(x) < 4:
        return exam.not_run("MD05", f"it takes 4 images or more, and there are {len(x)}")
    half = len(x) // 2
    first, strangers = x[:half], x[half : 2 * half]
    ours = exam.forward(torch.cat([first, strangers]))
    theirs = exam.forward(torch.cat([first, strangers.flip(0) * 0.5]))
    changed = _changed(exam, ours[:half], theirs[:half])
    figures: dict[str, Any] = {"samples": half, "changed_in_other_company": int(changed.sum())}
    if bool(changed.any()) and exam.draws:
        return exam.not_run("MD05", "the model draws at random (see RN02), in an order that depends on the batch")
    alone = torch.zeros_like(changed)
    if not bool(changed.any()) and not exam.draws:
        alone = _changed(exam, ours[:half], _one_by_one(exam, first))
        figures["changed_alone"] = int(alone.sum())
    count = int((changed | alone).sum())
    if not count:
        says = f"{images(half).capitalize()} get the same logits whatever else is in the batch."
        return exam.finding("MD05", Verdict.PASS, says, **figures)
    says = f"The logits of {count} of {images(half)} change with what else is in the batch: images are not independent."
    return exam.finding("MD05", Verdict.FAIL, says, **figures)


def _changed(exam: Exam, ours: Tensor, theirs: Tensor) -> Tensor:
    """Return bool [n]: logits differ by more than rounding; NaN differs."""
    return ~((ours - theirs).abs() <= LEAK * exam.scale).all(1)


def _one_by_one(exam: Exam, x: Tensor) -> Tensor:
    try:
        return torch.cat([exam.forward(image[None]) for image in x])
    except (RuntimeError, ValueError):  # such as batch normalisation of a single image
        return torch.full((len(x), exam.answers.shape[1]), torch.nan).to(x)
