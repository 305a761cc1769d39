"""RN01: a system that draws at random, held still."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_cli.attacks.evasion import look
from ismn_cli.audit.case import Case, read
from ismn_cli.audit.tolerance import more_than, samples
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.engine.counting import cost_of
from ismn_cli.engine.rng import derive, isolated
from ismn_models.pipeline import Reading, Surrogate

SAME = 1e-4
"""Share of the range of its logits by which two answers to one image may differ and still be the same."""


class Still(Surrogate):
    """A model that draws the same for every image, always: images go through it one at a time, from one seed.

    What it answers for an image does not depend on the images beside it, nor on how often it was asked. The global
    generators are left alone, so an attack's own draws go on.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__(model, self._read, cost_of(model))
        self.seed = seed

    def _read(self, x: Tensor) -> Reading:
        logits, margins = zip(*(self._one(x[i : i + 1]) for i in range(len(x))), strict=True)
        return Reading(torch.cat(logits), None if margins[0] is None else torch.cat(margins))

    def _one(self, image: Tensor) -> Reading:
        with isolated(self.seed):
            return look(self.system, image)


def varies(model: nn.Module, x: Tensor, seed: int = 0) -> bool:
    """Whether ``model`` answers the same images x [N, C, H, W] otherwise when it draws anew."""
    first, second = (read(model, x, derive(seed, draw)).logits for draw in range(2))
    spread = (first.amax(1) - first.amin(1)).clamp_min(torch.finfo(first.dtype).tiny)
    return bool((((first - second).abs().amax(1) / spread) > SAME).any())


def fixed_randomness(case: Case, held: Case) -> Finding:
    """RN01: does the attack succeed once the system's randomness is held still?

    ``held`` is ``case`` with its model behind `Still`: attacked and judged with the same draws.
    """
    if held is case:
        says = "The system gives the same answers each time: there is no randomness to hold still."
        return case.finding("RN01", Verdict.PASS, says)
    pairs = _pairs(case, held)
    if not pairs:
        return case.not_run("RN01", "The attack ran on no sample that is right both with fixed and with fresh draws.")
    kept, kept_still = (sum(column) for column in zip(*pairs, strict=True))
    more = sum(still and not moving for moving, still in pairs)
    fewer = sum(moving and not still for moving, still in pairs)
    evidence = {"kept": kept, "kept_still": kept_still, "samples": len(pairs), "more": more, "fewer": fewer}
    figures = f"of {samples(len(pairs))} the attack leaves {kept_still:,} with fixed draws and {kept:,} with fresh ones"
    if more > fewer:
        verdict = Verdict.FAIL if more_than(more, more + fewer, 0.5) else Verdict.WARN
        says = f"Even without its randomness the system outlives the attack, which is too weak: {figures}."
        return case.finding("RN01", verdict, says, evidence)
    says = f"Holding the draws still makes the attack no weaker: {figures}."
    return case.finding("RN01", Verdict.PASS, says, evidence)


def _pairs(case: Case, held: Case) -> list[tuple[bool, bool]]:
    """Return (kept with fresh draws, kept with fixed draws) of the samples that both attacks ran on."""
    columns = []
    for each in (case, held):
        kept = (~each.base.fooled).tolist()
        columns.append({
            i: k for i, k, lost in zip(each.attacked.tolist(), kept, each.base.failed.tolist(), strict=True) if not lost
        })
    fresh, fixed = columns
    return [(fresh[i], fixed[i]) for i in fresh if i in fixed]
