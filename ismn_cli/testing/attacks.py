"""What an attack owes the harness: asked on linear classifiers, of which it is known how far each image has to go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pydantic import JsonValue

from ismn_cli.core.findings import Finding
from ismn_cli.core.specs import Norm
from ismn_cli.testing import attack_rules
from ismn_cli.testing.attack_case import AttackCase, Make, making, norms_of
from ismn_cli.testing.pictures import CIFAR10
from ismn_cli.testing.verdicts import Rules, insist
from ismn_models.shape import Shape


def check_attack(
    attack: str | Callable[..., object],
    *,
    params: Mapping[str, JsonValue] | None = None,
    norms: Iterable[Norm | str] | None = None,
    shape: Shape = CIFAR10,
    control: bool = False,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Ask every rule of an attack: a function (model, x, y, eps, **params), a torchattacks class, or a known name.

    In each of ``norms``, else in those that the attack says it can do. ``shape`` is of the images; ``control``: it is
    noise, or known to find little, and no success is expected of it. Returns what every rule says; raises
    ConformanceError, an AssertionError that names all that are broken.

    >>> import torch
    >>> def fgsm(model, x, y, eps):
    ...     x = x.clone().requires_grad_()
    ...     loss = torch.nn.functional.cross_entropy(model(x), y, reduction="sum")
    ...     (gradient,) = torch.autograd.grad(loss, x)
    ...     return (x + eps * gradient.sign()).clamp(0, 1).detach()
    >>> [finding.code for finding in check_attack(fgsm) if finding.verdict == 'warn']
    []
    """
    chosen = [Norm(norm) for norm in norms] if norms else norms_of(attack)
    name = attack if isinstance(attack, str) else str(getattr(attack, "__name__", type(attack).__name__))
    found: list[Finding] = []
    for norm in chosen:
        subject = name if len(chosen) == 1 else f"{name}, {norm}"
        found += attack_findings(making(attack, params or {}), subject, norm, shape=shape, control=control, seed=seed)
    return insist(name, tuple(found))


def attack_findings(
    make: Make, subject: str, norm: Norm, *, shape: Shape = CIFAR10, control: bool = False, seed: int = 0
) -> tuple[Finding, ...]:
    """Return what every rule says of the attack that ``make`` gives for a threat and a number of classes.

    Raises UsageError for parameters that it does not have.
    """
    case = AttackCase(make, norm, shape, control, seed)
    case.made()  # parameters that it has not are told before anything is asked
    return tuple(_RULES.findings(case, subject, seed))


_RULES: Rules[AttackCase] = Rules(
    {
        "CA01": attack_rules.runs,
        "CA02": attack_rules.images,
        "CA03": attack_rules.finite,
        "CA04": attack_rules.ball,
        "CA05": attack_rules.box,
        "CA06": attack_rules.model_untouched,
        "CA07": attack_rules.inputs_untouched,
        "CA08": attack_rules.globals_untouched,
        "CA09": attack_rules.repeatable,
        "CA10": attack_rules.eps_zero,
        "CA11": attack_rules.one_image,
        "CA12": attack_rules.two_classes,
        "CA13": attack_rules.larger_eps,
        "CA14": attack_rules.optimum,
    },
    ("CA01", "CA02"),
)
