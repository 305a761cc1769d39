"""GM05, GM07, GM12 and AT06: what other attacks find, of other kinds, with other losses or by chance."""

from __future__ import annotations

from pydantic import JsonValue
from torch import Tensor

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.audit.case import Case, Run, read
from ismn_cli.audit.effort import STEPS, one_step, parameter, resolved
from ismn_cli.audit.tolerance import graded, more_than, samples
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.paired import ALPHA, Paired, paired
from ismn_cli.core.specs import AttackSpec, Norm
from ismn_cli.engine.craft import craft_batch
from ismn_cli.engine.rng import derive

SQUARE = 0.002
"""Share of samples broken only without gradients above which gradients are of no use: AutoAttack's own flag."""
PAPER_DRAWS = 10_000
APART = 0.01
LEAKS = 0.02
LOSSES = ("ce", "scaled-ce", "margin")
_ASCENT_STEPS = 20
_LEFT_OUT = "It was left out: its budget is 0."
_NONE_LEFT = "The attack broke every sample: none was left for {} to break."


def gradient_free_wins(case: Case, queries: int) -> Finding:
    """GM05: do attacks with gradients find all that an attack without them finds?"""
    if not case.entry.gradient:
        return case.not_run("GM05", "The attack uses no gradients itself.")
    if not queries:
        return case.not_run("GM05", _LEFT_OUT)
    if not len(case.left):
        return case.finding("GM05", Verdict.PASS, _NONE_LEFT.format("an attack without gradients"))
    run, total = _rival(case, "square", {"n_queries": queries}), len(case.attacked)
    if run.failed.any():
        return case.not_run("GM05", _failed(run))
    found = int(run.fooled.sum())
    evidence: dict[str, JsonValue] = {"found": found, "left": len(case.left), "samples": total, "queries": queries}
    how = f"asking for answers only ({queries:,} times a sample)"
    if found:
        says = f"An attack that sees no gradients, {how}, breaks {samples(found)} that this one left, of {total:,}."
        return case.finding("GM05", graded(found, total, SQUARE), says, evidence)
    says = f"An attack that sees no gradients, {how}, breaks none of the {samples(len(case.left))} that this one left."
    return case.finding("GM05", Verdict.PASS, says, evidence)


def noise_wins(case: Case, draws: int) -> Finding:
    """GM07: is random noise of the same size harmless where the attack failed?"""
    if not draws:
        return case.not_run("GM07", _LEFT_OUT)
    if not len(case.left):
        return case.finding("GM07", Verdict.PASS, _NONE_LEFT.format("chance"))
    method = "uniform-noise" if case.threat.norm is Norm.LINF else "gaussian-noise"
    run = _rival(case, method, {"draws": draws})
    if run.failed.any():
        return case.not_run("GM07", _failed(run))
    found = int(run.fooled.sum())
    evidence: dict[str, JsonValue] = {"found": found, "left": len(case.left), "draws": draws}
    paper = f" (the paper asks for {PAPER_DRAWS:,})" if draws < PAPER_DRAWS else ""
    effort = f"{draws:,} draws a sample{paper}"
    if found:
        says = f"Plain noise of the same size breaks {samples(found)} that the attack left, in at most {effort}."
        return case.finding("GM07", Verdict.FAIL, says, evidence)
    left = samples(len(case.left))
    says = f"Plain noise of the same size breaks none of the {left} that the attack left, in {effort}."
    return case.finding("GM07", Verdict.PASS, says, evidence)


def _rival(case: Case, method: str, params: dict[str, JsonValue]) -> Run:
    """Return how another attack of the same size does on the samples left."""
    spec = resolved(AttackSpec(method=method, threat=case.threat, params=params))
    return case.run(spec, case.left)


def _failed(run: Run) -> str:
    return f"The other attack could not be run on {samples(int(run.failed.sum()))}: {'; '.join(run.notes)}."


def logit_scale(case: Case) -> Finding:
    """GM12: is the attack's success independent of the scale of the logits?"""
    if not case.entry.gradient:
        return case.not_run("GM12", "The attack uses no gradients, so no loss has to have one.")
    kept = _kept_by_loss(case)
    if not kept:
        return case.not_run("GM12", "No projected gradient descent could be run on the model.")
    counts = {loss: sum(column) for loss, column in kept.items()}
    total = len(case.attacked)
    evidence: dict[str, JsonValue] = {"kept": dict(counts), "samples": total}
    most, least = max(counts, key=lambda loss: counts[loss]), min(counts, key=lambda loss: counts[loss])
    pair = paired(kept[most], kept[least])
    figures = ", ".join(f"{_LOSS_NAMES[loss]} {count:,}" for loss, count in counts.items())
    if not more_than(pair.only_first, pair.only_first + pair.only_second, 0.5):
        says = f"Whatever loss it climbs, the attack leaves about the same of {samples(total)}: {figures}."
        return case.finding("GM12", Verdict.PASS, says, evidence)
    says = (
        f"How many of {samples(total)} the same attack leaves depends on the loss that it climbs: {figures}. "
        "The least is nearest to the truth."
    )
    verdict = Verdict.FAIL if _lowest(pair) > APART else Verdict.WARN
    return case.finding("GM12", verdict, says, evidence)


_LOSS_NAMES = {"ce": "cross-entropy", "scaled-ce": "cross-entropy on scaled answers", "margin": "margin"}


def _kept_by_loss(case: Case) -> dict[str, list[bool]]:
    """Return which samples the same ascent leaves by each loss; a loss whose ascent failed is left out."""
    name = parameter(case.spec, STEPS) if not one_step(case.spec) else None
    steps = resolved(case.spec).params[name] if name else _ASCENT_STEPS
    found = {}
    for loss in LOSSES:
        params: dict[str, JsonValue] = {"loss": loss, "steps": steps, "random_start": False}
        run = case.run(resolved(AttackSpec(method="pgd-ensemble", threat=case.threat, params=params)))
        if not run.failed.any():
            found[loss] = (~run.fooled).tolist()
    return found


def _lowest(pair: Paired) -> float:
    """Return what the difference is at least, at the 5 % level."""
    return pair.interval(1 - 2 * ALPHA)[0]


def label_leaking(case: Case) -> Finding:
    """AT06: does the attack smuggle the true label into the picture?"""
    if case.threat.norm is not Norm.LINF:
        return case.not_run("AT06", "The single signed step that this looks at is one in L-inf.")
    clean = read(case.model, case.x, case.seed).logits.argmax(1)
    right = (clean == case.y).tolist()
    true, predicted = _after_step(case, case.y), _after_step(case, clean)
    if true is None or predicted is None:
        return case.not_run("AT06", "No gradient step could be taken on the model.")
    total = len(right)
    shares = {"clean": sum(right) / total, "true_label": sum(true) / total, "predicted_label": sum(predicted) / total}
    evidence: dict[str, JsonValue] = {**shares, "samples": total}
    figures = (
        f"{shares['true_label']:.0%} right after a step away from the true label, "
        f"{shares['predicted_label']:.0%} after one away from the predicted label, "
        f"{shares['clean']:.0%} without any, on {samples(total)}"
    )
    verdict = max(_gain(true, right, 0.0), _gain(true, predicted, LEAKS), key=list(Verdict).index)
    if verdict is Verdict.PASS:
        return case.finding("AT06", verdict, f"The step does not give the answer away: {figures}.", evidence)
    return case.finding("AT06", verdict, f"The step gives the answer away: {figures}.", evidence)


def _after_step(case: Case, labels: Tensor) -> list[bool] | None:
    """Return which samples are right after an FGSM step away from ``labels``; None where it failed."""
    attack = make_attack(AttackSpec(method="fgsm", threat=case.threat), case.num_classes)
    seed = derive(case.seed, "label-leaking")
    crafted = craft_batch(case.model, attack, case.x, labels, case.threat, seed, together=True)
    if crafted.failed.any():
        return None
    answers = read(case.model, crafted.adversarial, case.seed).logits.argmax(1)
    return (answers == case.y).tolist()


def _gain(first: list[bool], second: list[bool], tolerance: float) -> Verdict:
    """Return whether the first column is right more often: significantly (fail), at all (warn), or not."""
    pair = paired(first, second)
    if not pair.difference > tolerance:
        return Verdict.PASS
    significant = more_than(pair.only_first, pair.only_first + pair.only_second, 0.5)
    return Verdict.FAIL if significant and _lowest(pair) > tolerance else Verdict.WARN
