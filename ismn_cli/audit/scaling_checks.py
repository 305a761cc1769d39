"""Does the model get pixels as it learnt them? MD02 and MD07: would another usual scaling be right more often?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ismn_cli.audit.answer_checks import guessing, mismatch
from ismn_cli.audit.exam import Exam, TwoLogits, answered, batches
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.paired import ALPHA, Paired, paired
from ismn_cli.core.rates import Rate
from ismn_cli.engine.normalised import Normalised

Channels = tuple[float, ...]
TRIED = 100
"""Images on which every scaling is tried; the best, and what is as good, is measured on all."""


@dataclass(frozen=True)
class Scaling:
    """Pixels as (x - mean) / std, for x in [0, 1]."""

    name: str
    mean: Channels
    std: Channels
    code: str = "MD07"
    undoes: bool = False
    """Whether it takes out what the model does twice."""

    def module(self, model: nn.Module) -> nn.Module:
        """Return ``model`` behind this scaling."""
        return Normalised(model, self.mean, self.std)

    def undone(self) -> Scaling:
        """Return the scaling that takes this one out again: x * std + mean."""
        mean = tuple(-m / s for m, s in zip(self.mean, self.std, strict=True))
        return Scaling(self.name, mean, tuple(1 / s for s in self.std), self.code, undoes=True)

    def how(self) -> str:
        """Return what it is, after "with"."""
        if not self.name:
            return "no scaling before it"
        name = f"pixels of {self.name}" if self.code == "MD02" else self.name
        return f"{name} taken out again" if self.undoes else name

    def told(self) -> str:
        """Return how to ask for it."""
        if self.undoes:
            return "take one normalisation out of the model: it seems to be done twice"
        if not self.name:
            return "leave --mean and --std away: the model seems to scale its pixels by itself"
        mean, std = (",".join(f"{value:.5g}" for value in values) for values in (self.mean, self.std))
        return f"give --mean {mean} --std {std}"


IDENTITY = Scaling("", (0.0,), (1.0,))
RANGES = (Scaling("0 to 255", (0.0,), (1 / 255,), "MD02"), Scaling("-1 to 1", (0.5,), (0.5,), "MD02"))
COLOURED = (
    Scaling("ImageNet's normalisation", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Scaling("CIFAR-10's normalisation", (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    Scaling("CIFAR-10's normalisation as in older code", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),
)
GREY = (Scaling("MNIST's normalisation", (0.1307,), (0.3081,)),)


@dataclass(frozen=True)
class Trial:
    """What a scaling is worth: against the model as it was given, on the same images."""

    scaling: Scaling
    pairs: Paired
    """First the scaling, second the model as given."""

    @property
    def right(self) -> int:
        """How many images are answered right with it."""
        return self.pairs.both + self.pairs.only_first

    def better(self, trials: int) -> bool:
        """Whether it is right significantly more often, with as many ``trials`` made (Bonferroni)."""
        return self.pairs.difference > 0 and self.pairs.p_value() <= ALPHA / trials

    def beyond(self, guess: float) -> bool:
        """Whether it is right more often than guessing: anything is better than classes in the wrong order."""
        return Rate(self.right, self.pairs.total).interval()[0] > guess


def scalings(exam: Exam) -> list[Finding]:
    """MD02 and MD07: the best of some usual scalings, where it raises clean accuracy significantly."""
    if reason := mismatch(exam):
        return [exam.not_run(code, reason) for code in ("MD02", "MD07")]
    tried = _candidates(exam)
    quick = [_trial(exam, scaling, TRIED) for scaling in tried]
    best = _trial(exam, max(quick, key=lambda trial: trial.right).scaling, len(exam.x))
    if not (best.better(len(tried)) and best.beyond(guessing(exam))):
        return [_passed(exam, code, best, len(tried)) for code in ("MD02", "MD07")]
    other = "MD07" if best.scaling.code == "MD02" else "MD02"
    says = f"Another scaling would raise clean accuracy, but it is not of this kind: see {best.scaling.code}."
    return sorted(
        [_failed(exam, best, quick), exam.finding(other, Verdict.PASS, says)], key=lambda finding: finding.code
    )


def _candidates(exam: Exam) -> list[Scaling]:
    """Return scalings of the raw model's pixels, not that which it was given with."""
    usual = (*(COLOURED if exam.x.shape[1] == 3 else GREY if exam.x.shape[1] == 1 else ()), *RANGES)
    undone = [scaling.undone() for scaling in usual if scaling.name != "0 to 255"]
    declared = _declared(exam.model)
    if declared is None:
        return [*usual, *undone]
    given = (declared.mean.flatten().tolist(), declared.std.flatten().tolist())
    rest = [scaling for scaling in usual if not _same(scaling, given)]
    return [IDENTITY, *rest]


def _declared(model: nn.Module) -> Normalised | None:
    """Return the normalisation that the model was given with, also behind the wrapper of a single output."""
    inner = model.model if isinstance(model, TwoLogits) else model
    return inner if isinstance(inner, Normalised) else None


def _raw(model: nn.Module) -> nn.Module:
    """Return the model without the normalisation that it was given with."""
    declared = _declared(model)
    if declared is None:
        return model
    return TwoLogits(declared.model, model.probability) if isinstance(model, TwoLogits) else declared.model


def _same(scaling: Scaling, given: tuple[list[float], list[float]]) -> bool:
    pairs = zip((scaling.mean, scaling.std), given, strict=True)
    return all(torch.allclose(torch.tensor(a), torch.tensor(b), atol=1e-3) for a, b in pairs)


def _trial(exam: Exam, scaling: Scaling, count: int) -> Trial:
    model = scaling.module(_raw(exam.model)).to(exam.x.device)
    with torch.no_grad():
        answers = [answered(model(x)) for x in batches(exam.x[:count])]
    right: Tensor = torch.cat(answers) == exam.y[:count]
    return Trial(scaling, paired(right.tolist(), exam.right[:count].tolist()))


def _passed(exam: Exam, code: str, best: Trial, tried: int) -> Finding:
    given, total = int(exam.right.sum()), len(exam.x)
    says = (
        f"None of {tried} usual scalings is right significantly more often than the model as given, "
        f"{given / total:.1%}: the best of them {best.right / total:.1%}."
    )
    figures = {"tried": tried, "best": best.right, "as_given": given, "samples": total}
    return exam.finding(code, Verdict.PASS, says, **figures)


def _failed(exam: Exam, best: Trial, quick: list[Trial]) -> Finding:
    """Name the best scaling, and those that these images cannot tell from it."""
    total, scaling = len(exam.x), best.scaling
    share, given = best.right / total, int(exam.right.sum()) / total
    most = max(trial.right for trial in quick)
    near = [trial for trial in quick if trial.scaling is not scaling and most - trial.right <= 0.02 * trial.pairs.total]
    rivals = [f"{trial.scaling.name} ({trial.right / trial.pairs.total:.1%})" for trial in near]
    says = f"Clean accuracy is {given:.1%} as given and {share:.1%} with {scaling.how()}: {scaling.told()}."
    if rivals:
        says += f" Nearly as good: {', '.join(rivals)}; ask who trained it."
    figures = {"samples": total, "as_given": round(given, 4), "with_it": round(share, 4), "p": best.pairs.p_value()}
    return exam.finding(
        scaling.code, Verdict.FAIL, says, **figures, mean=list(scaling.mean), std=list(scaling.std)
    )
