"""The verdict: what the whole system answers, in full precision. An attack's own claim is never believed."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor

from ismn_cli.core.records import Answers
from ismn_cli.engine.groups import Groups, filled
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.rng import isolated
from ismn_models.pipeline import Decision, Pipeline

NO_ANSWER = -1
"""Predicted class where the logits are NaN: never right."""
_JUDGING = Groups("judging")


def judge(pipeline: Pipeline, batches: Iterable[Tensor], *, seed: int = 0) -> tuple[Answers, float]:
    """Return the system's answers on ``batches`` of images [n, C, H, W] in [0, 1], and the seconds it took.

    float32 (autocast is switched off), eval mode, no gradients; modes and the global random generators are as
    before afterwards. A system that draws at random draws from ``seed``, for every group anew, so a verdict can be
    repeated. Raises UsageError where memory runs out even for the smallest group.
    """
    columns: list[tuple[Tensor, ...]] = []
    seconds = 0.0
    with evaluating(pipeline), torch.no_grad():
        for x in batches:
            if len(x) == 0:
                continue
            start = time.perf_counter()
            columns += _grouped(pipeline, x.float(), seed)
            seconds += time.perf_counter() - start
    return _answers(columns), seconds


def _grouped(pipeline: Pipeline, x: Tensor, seed: int) -> list[tuple[Tensor, ...]]:
    """Return the columns of x, a group at a time; see `craft_batch`."""

    def judged(rows: Tensor) -> tuple[Tensor, ...]:
        with isolated(seed), torch.autocast(x.device.type, enabled=False):
            answers = _columns(pipeline.decide(filled(x[rows])))
        # Copied to the host at once: on a GPU the clock would otherwise stop before the work does.
        return tuple(column[: len(rows)].cpu() for column in answers)

    return _JUDGING.each(pipeline, x, judged)


def _columns(decision: Decision) -> tuple[Tensor, ...]:
    """Return predicted, flagged, rejected, score and loops, each [n]."""
    unanswered = decision.logits.isnan().any(1)
    predicted = decision.logits.argmax(1).masked_fill(unanswered, NO_ANSWER)
    # JSON knows neither NaN nor infinity.
    score = decision.score.float().nan_to_num()
    return predicted, decision.flagged, decision.rejected, score, decision.loops


def _answers(columns: list[tuple[Tensor, ...]]) -> Answers:
    if not columns:
        return Answers(predicted=(), flagged=(), rejected=(), score=(), loops=())
    whole = (torch.cat(parts).tolist() for parts in zip(*columns, strict=True))
    predicted, flagged, rejected, score, loops = whole
    return Answers(
        predicted=tuple(predicted),
        flagged=tuple(flagged),
        rejected=tuple(rejected),
        score=tuple(score),
        loops=tuple(loops),
    )
