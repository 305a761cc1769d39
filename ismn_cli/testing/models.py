"""What a model owes the harness: the doctor's questions that need no labels, and some of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ismn_cli.audit.answer_checks import probabilities
from ismn_cli.audit.behaviour_checks import as_given, batch_invariance, evaluation_mode, gradient_inside, randomised
from ismn_cli.audit.exam import Exam, open_exam
from ismn_cli.audit.gradient_checks import finite, unavailable_gradient
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.rng import isolated
from ismn_cli.testing.devices import moved
from ismn_cli.testing.pictures import CIFAR10, corners, pictures
from ismn_cli.testing.surroundings import disturbed, reseeded, same
from ismn_cli.testing.verdicts import Rules, Said, either, insist, wrong
from ismn_models.shape import Shape

IMAGES = 12
DOCTORS: dict[str, Callable[[Exam], Finding]] = {
    "GM08": probabilities,
    "GM09": gradient_inside,
    "GM10": unavailable_gradient,
    "MD05": batch_invariance,
    "MD06": finite,
    "RN02": randomised,
}


@dataclass(frozen=True)
class Examined:
    """A model, images for it, and the number of classes where it is known."""

    model: nn.Module
    x: Tensor
    classes: int | None


def check_model(
    model: nn.Module | Callable[[], nn.Module],
    images: Tensor | None = None,
    *,
    shape: Shape = CIFAR10,
    classes: int | None = None,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Ask every rule of a model; ``model`` may also be a class or a function that makes one.

    It is asked with ``images`` float32 [N, C, H, W] in [0, 1], four or more, else with made ones of ``shape``
    (CIFAR-10's), whose number of classes counts only where ``classes`` says so. Returns what every rule says; raises
    ConformanceError, an AssertionError that names all that are broken.

    >>> from torch import nn
    >>> findings = check_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), classes=10)
    >>> [finding.code for finding in findings]
    ['CM01', 'CM02', 'CM03', 'GM08', 'GM09', 'GM10', 'MD01', 'MD05', 'MD06', 'RN02']
    """
    module = model if isinstance(model, nn.Module) else model()
    subject = type(module).__name__
    return insist(subject, model_findings(module, images, subject, shape=shape, classes=classes, seed=seed))


def model_findings(
    model: nn.Module,
    images: Tensor | None,
    subject: str,
    *,
    shape: Shape = CIFAR10,
    classes: int | None = None,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Return what every rule says of a model; see `check_model`."""
    x = torch.cat([pictures(shape, IMAGES, seed), corners(shape, seed)]) if images is None else images
    found = list(_RULES.findings(Examined(model, x, classes), subject, seed))
    if found[0].verdict is not Verdict.FAIL:
        found += _doctors(model, x, subject, classes, seed)
    return tuple(found)


def _doctors(model: nn.Module, x: Tensor, subject: str, classes: int | None, seed: int) -> list[Finding]:
    given = as_given(model, x, seed)
    labels = torch.zeros(len(x), dtype=torch.int64)
    with evaluating(model, frozen=True), isolated(seed):
        exam = open_exam(model, x, labels, subject, classes, seed)
        checks = DOCTORS | {"MD01": lambda exam: evaluation_mode(exam, given)}
        rules = Rules({code: _as_rule(check) for code, check in checks.items()}, ())
        return sorted(rules.findings(exam, subject, seed), key=lambda finding: finding.code)


def _as_rule(check: Callable[[Exam], Finding]) -> Callable[[Exam], Said]:
    def ask(exam: Exam) -> Said:
        found = check(exam)
        return Said(found.verdict, found.says)

    return ask


def _logits(case: Examined) -> Said:
    """CM01: float32 [N, K] of two classes or more."""
    if not isinstance(case.model, nn.Module):
        return wrong(f"A {type(case.model).__name__} is no torch module.")
    with evaluating(case.model), torch.no_grad():
        answer = case.model(case.x.clone())
    if not isinstance(answer, Tensor):
        return wrong(f"It returns a {type(answer).__name__}, not a tensor of logits.")
    n, wanted = len(case.x), case.classes
    kind, shape = str(answer.dtype).removeprefix("torch."), list(answer.shape)
    fits = answer.ndim == 2 and len(answer) == n and answer.shape[1] >= 2
    problems = [
        "" if fits else f"for {n} images it returns {shape}, not [{n}, K] with two classes or more",
        f"it has {shape[1]} logits for {wanted} classes" if fits and wanted not in (None, shape[1]) else "",
        "" if answer.dtype is torch.float32 else f"for float32 images its logits are {kind}",
    ]
    return either(problems, f"{n} images get float32 logits {shape}.")


def _leaves_alone(case: Examined) -> Said:
    """CM02: nothing but the answer comes of a pass."""
    x = case.x.clone()


    def run() -> None:
        with torch.no_grad():
            case.model(x)

    with evaluating(case.model):
        changed = disturbed(case.model, run)
        problems = [*changed.settings, *changed.module, *reseeded(run)]
    problems += [] if same(x, case.x) else ["it changes the images that it is given"]
    return either(problems, "Images, weights, modes, settings and generators are as before.")


def _devices(case: Examined) -> Said:
    """CM03: it runs where it is moved."""
    with evaluating(case.model):
        return moved(case.model, case.x[:2], lambda model, x: model(x))


_RULES: Rules[Examined] = Rules({"CM01": _logits, "CM02": _leaves_alone, "CM03": _devices}, ("CM01",))
