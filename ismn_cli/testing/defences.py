"""What a defence owes the harness and its attacker: asked of a pipeline around a smooth classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ismn_cli.core.findings import Finding
from ismn_cli.engine.modes import evaluating
from ismn_cli.testing import defence_answers, defence_routes, defence_state
from ismn_cli.testing.defence_case import DefenceCase, open_case
from ismn_cli.testing.pictures import CIFAR10
from ismn_cli.testing.verdicts import Rules, Said, either, insist, wrong
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.shape import Shape

POLICIES = ("pass", "reform", "reject", "route")
Made = Defence | Pipeline


def check_defence(
    defence: Made | Callable[[], Made],
    images: Tensor | None = None,
    *,
    shape: Shape = CIFAR10,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Ask every rule of a defence, an instance or the class or function that makes one; or of a whole `Pipeline`.

    A class is best: then it is also asked whether a new one takes over what another has fitted. It stands before a
    small classifier of random weights, and is asked with ``images`` float32 [N, C, H, W] in [0, 1] (some of them
    calibrate it, on a copy), twenty or more, else with made ones of ``shape``, CIFAR-10's. Returns what every rule
    says; raises ConformanceError, an AssertionError that names all that are broken.

    >>> from ismn_models.pipeline import Defence
    >>> class Darker(Defence):
    ...     policy = "reform"
    ...     def reform(self, x):
    ...         return 0.9 * x
    >>> findings = check_defence(Darker)
    >>> class Loud(Darker):
    ...     def reform(self, x):
    ...         return 2 * x
    >>> check_defence(Loud)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ismn_cli.testing.verdicts.ConformanceError: Loud breaks 1 of 18 rules.
    CD02 reform: Does reform(x) return images?
      Reform gives pixels between 0 and 2.
      What to do: End reform with .clamp(0, 1), and keep the shape [N, C, H, W] and the type of x.
    """
    subject = name_of(defence)
    return insist(subject, defence_findings(defence, images, subject, shape=shape, seed=seed))


def name_of(thing: object) -> str:
    """Return what a class, a function or an instance is called."""
    if isinstance(thing, Pipeline):
        thing = thing.defence
    return str(getattr(thing, "__name__", type(thing).__name__))


def defence_findings(
    defence: Made | Callable[[], Made],
    images: Tensor | None,
    subject: str,
    *,
    shape: Shape = CIFAR10,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Return what every rule says of a defence; see `check_defence`."""
    made = defence if isinstance(defence, Defence | Pipeline) else defence()
    first = tuple(Rules({"CD01": _contract}, ("CD01",)).findings(made, subject, seed))
    if str(first[0].verdict) == "fail":
        return first
    again = None if isinstance(defence, Defence | Pipeline) else defence
    case = open_case(made, again, images, shape, seed)
    with evaluating(case.system):
        return (*first, *_RULES.findings(case, subject, seed))


def _contract(made: Any) -> Said:
    """CD01: a Defence whose constructor ran, with a policy and declarations."""
    defence = made.defence if isinstance(made, Pipeline) else made
    if not isinstance(defence, Defence):
        return wrong(f"A {type(made).__name__} is no Defence of ismn_models.pipeline.")
    if "_buffers" not in vars(defence) or "threshold" not in dict(defence.named_buffers()):
        return wrong("It has no buffer called threshold: super().__init__() was not called, or it was replaced.")
    problems = [
        "" if defence.policy in POLICIES else f"policy {defence.policy!r} is none of {', '.join(POLICIES)}",
        *(
            "" if isinstance(getattr(defence, name), bool) else f"{name} is {getattr(defence, name)!r}"
            for name in ("differentiable", "randomised")
        ),
    ]
    return either(problems, f"A Defence that declares the policy {defence.policy}.")


_RULES: Rules[DefenceCase] = Rules(
    {
        "CD02": defence_answers.reform,
        "CD03": defence_answers.score,
        "CD04": defence_answers.decide,
        "CD05": defence_answers.policy,
        "CD06": defence_state.calibrate,
        "CD07": defence_answers.trace,
        "CD08": defence_routes.surrogates,
        "CD09": defence_routes.differentiable,
        "CD10": defence_answers.randomised,
        "CD11": defence_answers.repeatable,
        "CD12": defence_routes.margin,
        "CD13": defence_answers.independent,
        "CD14": defence_state.state_dict,
        "CD15": defence_state.deep_copy,
        "CD16": defence_state.leaves_alone,
        "CD17": defence_state.devices,
        "CD18": defence_routes.agree,
    },
    ("CD04",),
)
