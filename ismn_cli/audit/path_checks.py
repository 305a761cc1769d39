"""AT02 and AT03: what the path of an attack tells (Pintor et al. 2022, arXiv 2106.09947, indicators I3 and I4)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ismn_cli.audit.case import Case, Run
from ismn_cli.audit.effort import once, one_step
from ismn_cli.audit.path import Steps, Watched
from ismn_cli.audit.tolerance import graded, more_than, samples
from ismn_cli.core.findings import Finding, Verdict

MISSED = 0.005
"""Share of silent successes above which an attack has failed; any at all is a warning."""
WINDOW = 10
"""Iterations at the end over which the loss must have come to rest; of a path under twice as long, its second half."""
MOVES = 0.05
"""By what share of its whole range a loss at rest may still rise."""
SHARE = 0.5
"""Share of the samples left on which the loss may still rise."""
_LEAST = 4
_NO_PATH = "The points that the attack shows the model cannot be told apart by image, so its path is not known"


def silent_success(case: Case) -> Finding:
    """AT02: does the attack return the best point that it passed?"""
    run = case.base
    if not run.shown:
        return case.not_run("AT02", "The attack asks the model nothing, so it has no path to look at.")
    silent = untold = 0
    for path, positions in _batches(run):
        returned = run.fooled if path.guarded else run.wrong
        for local, position in enumerate(positions):
            if returned[position] or run.failed[position]:
                continue
            points = path.steps.of(local)
            silent += bool(points.fooled.any())
            untold += not len(points.who)
    total = len(run.fooled)
    evidence = {"silent": silent, "samples": total}
    if silent:
        says = (
            f"On {samples(silent)} of {total:,} the attack passed an image that fools the model, and returned one "
            "that does not."
        )
        return case.finding("AT02", graded(silent, total, MISSED), says, evidence)
    if untold or any(path.ambiguous for path in run.paths):
        return case.not_run("AT02", f"{_NO_PATH} ({samples(untold)} without any).")
    says = f"Whenever the attack passed an image that fools the model, it returned one ({samples(total)})."
    return case.finding("AT02", Verdict.PASS, says, evidence)


def incomplete_optimisation(case: Case) -> Finding:
    """AT03: had the attack finished when it stopped?"""
    if one_step(case.spec) or case.entry.minimum_norm:
        kind = "looks for the smallest change" if case.entry.minimum_norm else "takes a single step"
        return case.not_run("AT03", f"The attack {kind}: there is no loss that it climbs from step to step.")
    if not len(case.left):
        return case.finding("AT03", Verdict.PASS, "The attack broke every sample: none was left to go on with.")
    single = once(case.spec)
    # Of several starts only the best counts, and where it came first, the rest would look like rest.
    run = case.base if single == case.spec else case.run(single, case.left)
    moves = [move for move in map(_movement, _left_paths(run)) if move is not None]
    if not moves:
        return case.not_run("AT03", f"{_NO_PATH}, or is too short.")
    moving, total = sum(move > MOVES for move in moves), len(moves)
    evidence = {"moving": moving, "samples": total, "mean_movement": round(sum(moves) / total, 4)}
    figures = f"its loss still rose at the end on {moving:,} of the {total:,} samples that it left"
    if moving > SHARE * total:
        verdict = Verdict.FAIL if more_than(moving, total, SHARE) else Verdict.WARN
        return case.finding("AT03", verdict, f"The attack was stopped on its way: {figures}.", evidence)
    return case.finding("AT03", Verdict.PASS, f"The attack had come to rest: {figures}.", evidence)


def _batches(run: Run) -> Iterator[tuple[Watched, range]]:
    """Yield each path of the run, and the positions of its images in the run's columns."""
    start = 0
    for path in run.paths:
        yield path, range(start, start + len(path.x))
        start += len(path.x)


def _left_paths(run: Run) -> Iterator[Steps]:
    for path, positions in _batches(run):
        for local, position in enumerate(positions):
            if not run.fooled[position] and not run.failed[position]:
                yield path.steps.of(local)


def _movement(points: Steps) -> float | None:
    """Return by what share of its range a loss still rose at the end; None for a path that is too short.

    The smaller one of cross-entropy and margin: one of them is near what the attack climbs.
    """
    if len(points.who) < _LEAST:
        return None
    return min(movement(points.ce), movement(points.margin))


def movement(loss: Tensor) -> float:
    """Return the rise in the last iterations of ``loss`` [m], rescaled to [0, 1] and made monotone: I4's figure.

    Pintor et al. look at the last 10 of m whatever m is; where that is more than half of them, the half.
    """
    finite = loss.nan_to_num(0.0)
    spread = finite.max() - finite.min()
    if not spread > 0:
        return 0.0
    risen = ((finite - finite.min()) / spread).cummax(0).values[-min(WINDOW, len(loss) // 2) :]
    return float(risen[-1] - risen[0])
