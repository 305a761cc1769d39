"""The checks of a model: any module with logits for images in [0, 1], a bare classifier or a defended system.

Every check is asked once, of the same images; modes and random generators are as before afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ismn_cli.audit.answer_checks import classes, clean_accuracy, collapsed, probabilities
from ismn_cli.audit.behaviour_checks import (
    Given,
    as_given,
    batch_invariance,
    evaluation_mode,
    gradient_inside,
    randomised,
)
from ismn_cli.audit.exam import Exam, open_exam
from ismn_cli.audit.gradient_checks import finite, finite_logits, rounding, unavailable_gradient, zero_gradient
from ismn_cli.audit.loss_checks import logit_scale, unstable
from ismn_cli.audit.scaling_checks import scalings
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Finding
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.rng import isolated

Asked = Callable[[str], None]
"""Is told the code of each check before it is made."""

SYSTEM_CHECKS: Mapping[str, Callable[[Exam], Finding]] = {
    "EV05": collapsed,
    "GM03": zero_gradient,
    "GM08": probabilities,
    "GM09": gradient_inside,
    "GM10": unavailable_gradient,
    "GM11": unstable,
    "RN02": randomised,
    "MD05": batch_invariance,
    "MD06": finite,
    "MD08": rounding,
}
"""Those that make sense for a defended system too."""
MODEL_CHECKS = {**SYSTEM_CHECKS, "GM12": logit_scale, "MD03": clean_accuracy}
SCALED = ("MD02", "MD07")
QUICK_CHECKS: Mapping[str, Callable[[Exam], Finding]] = {
    "EV05": collapsed,
    "GM08": probabilities,
    "RN02": randomised,
    "MD05": batch_invariance,
    "MD06": finite_logits,
    "MD03": clean_accuracy,
}
"""Those that cost a few passes: where one of them fails, no figure of any attack means anything."""


def model_findings(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    subject: str,
    *,
    num_classes: int,
    expected: float | None = None,
    seed: int = 0,
    on_check: Asked | None = None,
) -> list[Finding]:
    """Return what every check of a model says: of ``model`` as it was given, with logits [N, K].

    x is float32 [N, C, H, W] in [0, 1], y int64 [N]. ``expected`` is the clean accuracy, a share, that the user
    believes in. Raises UsageError for a model that does not take the images, or whose answer is not a tensor.
    """
    tell = on_check or _silent
    tell("MD01")
    _check_images(x, y)
    with _examined(model, seed):
        exam = open_exam(model, x, y, subject, num_classes, seed, expected)
    given = as_given(model, x, seed)
    with _examined(model, seed):
        found = [evaluation_mode(exam, given), classes(exam)]
        tell("MD02")
        found += [exam.not_run(code, exam.unreadable) for code in SCALED] if exam.unreadable else scalings(exam)
        found += _asked(exam, MODEL_CHECKS, tell)
    return sorted(found, key=lambda finding: finding.code)


def quick_findings(model: nn.Module, x: Tensor, y: Tensor, subject: str, num_classes: int, seed: int) -> list[Finding]:
    """Return what is to be known of ``model`` before it is attacked; see `model_findings`. It takes no gradients."""
    _check_images(x, y)
    with _examined(model, seed):
        exam = open_exam(model, x, y, subject, num_classes, seed)
        acting = evaluation_mode(exam, Given((), differs=False))
        found = [acting, classes(exam), *_asked(exam, QUICK_CHECKS, _silent)]
        found += [] if exam.unreadable else scalings(exam)
    return sorted(found, key=lambda finding: finding.code)


def system_findings(
    model: nn.Module, x: Tensor, y: Tensor, subject: str, *, seed: int = 0, on_check: Asked | None = None
) -> list[Finding]:
    """Return what the checks that make sense for a defended system say of it; see `model_findings`."""
    _check_images(x, y)
    with _examined(model, seed):
        exam = open_exam(model, x, y, subject, seed=seed)
        return list(_asked(exam, SYSTEM_CHECKS, on_check or _silent))


@contextmanager
def _examined(model: nn.Module, seed: int) -> Iterator[None]:
    with isolated(seed), evaluating(model, frozen=True), torch.inference_mode(False):
        yield


def _asked(exam: Exam, checks: Mapping[str, Callable[[Exam], Finding]], tell: Asked) -> Iterator[Finding]:
    for code, check in checks.items():
        tell(code)
        # What a model calls can be watched whatever it answers; that no logit is finite is a finding of MD06.
        asked = not exam.unreadable or code == "GM09" or (code == "MD06" and exam.answers.shape[1] > 0)
        yield check(exam) if asked else exam.not_run(code, exam.unreadable)


def _check_images(x: Tensor, y: Tensor) -> None:
    if x.ndim != 4 or not len(x) or x.dtype != torch.float32 or y.shape != x.shape[:1]:
        raise UsageError(
            f"Nothing to examine a model with: images {list(x.shape)}, labels {list(y.shape)}.",
            "Give float32 images [N, C, H, W] with pixels in [0, 1] and int64 labels [N].",
        )


def _silent(code: str) -> None:
    """Tell nobody."""
