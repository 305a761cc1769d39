"""What was measured: per-sample answers, cells and runs, as stored. Every record carries its schema version."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import JsonValue

from ismn_cli.core.specs import Cell, Frozen

SCHEMA_VERSION = 1
CLOCKS = frozenset({"craft_seconds", "judge_seconds"})
"""Fields of a cell's result that a clock decides, and nothing else."""


class Outcome(StrEnum):
    """What became of one sample under attack."""

    WRONG_CLEAN = "wrong-clean"
    """The system was wrong, or refused to answer, before any attack."""
    SURVIVED = "survived"
    BROKEN = "broken"
    DETECTED = "detected"
    """Rejected under attack, right before it. Whether that is a success is a matter of accounting."""
    UNKNOWN = "unknown"
    """The attack crashed or left the threat model. Never counted as robust."""


class Answers(Frozen):
    """One system's answers on N samples, a column each (see `ismn_models.pipeline.Decision`)."""

    predicted: tuple[int, ...]
    flagged: tuple[bool, ...]
    rejected: tuple[bool, ...]
    score: tuple[float, ...]
    loops: tuple[int, ...]


class Draws(Frozen):
    """How often a randomised system was right (and did not refuse) when asked ``k`` times, a column of N samples."""

    k: int
    right: tuple[int, ...]
    """How many of the k answers were right; mean accuracy = mean(right) / k, worst of k = share with right == k."""
    majority_right: tuple[bool, ...]
    """Whether the most frequent answer was the right one; refusals count as an answer of their own, ties as wrong."""


class CellResult(Frozen):
    """The result of one cell: per-sample columns, and what it cost."""

    schema_version: Literal[1] = 1
    cell: Cell
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    clean: Answers
    attacked: Answers | None = None
    """None for a clean cell."""
    failed: tuple[bool, ...] = ()
    """Samples on which the attack crashed, gave NaN or left the threat model."""
    linf: tuple[float, ...] = ()
    l2: tuple[float, ...] = ()
    forwards: int = 0
    """Images sent forward through the attacked module while crafting."""
    backwards: int = 0
    queries: int = 0
    """Images that the attacker showed to the whole system while crafting, to see its answer."""
    carried: int = 0
    """Images that an attack before had broken: they were not attacked again, see `Cell.after`."""
    via: tuple[str, ...] = ()
    """Through what the attacker went on each sample: see `ismn_cli.threats.views`."""
    craft_seconds: float = 0.0
    draws_clean: Draws | None = None
    """Randomised systems only. ``clean`` and ``attacked`` hold the first of the k answers."""
    draws_attacked: Draws | None = None
    judge_seconds: float = 0.0
    """Time of the whole system's decision over all N samples, once."""
    notes: tuple[str, ...] = ()

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return what became of each sample (empty for a clean cell)."""
        if self.attacked is None:
            return ()
        return tuple(self._outcome(i, self.attacked) for i in range(len(self.ids)))

    def column_problem(self) -> str:
        """Return what is wrong with the columns' lengths, if anything."""
        n = len(self.ids)
        answers = [self.clean] if self.attacked is None else [self.clean, self.attacked]
        columns = [len(column) for answer in answers for _, column in answer]
        columns += [len(self.labels)] + ([] if self.attacked is None else [len(self.failed)])
        optional = [len(self.failed), len(self.linf), len(self.l2)]
        if any(length != n for length in columns) or any(length not in (0, n) for length in optional):
            return f"its columns are not of one length ({n} samples)"
        return ""

    def _outcome(self, i: int, attacked: Answers) -> Outcome:
        if self.clean.rejected[i] or self.clean.predicted[i] != self.labels[i]:
            return Outcome.WRONG_CLEAN
        if self.failed[i]:
            return Outcome.UNKNOWN
        if attacked.rejected[i]:
            return Outcome.DETECTED
        return Outcome.SURVIVED if attacked.predicted[i] == self.labels[i] else Outcome.BROKEN


class Environment(Frozen):
    """Where a run took place."""

    ismn: str
    commit: str | None
    python: str
    platform: str
    packages: dict[str, str]
    device: str
    threads: int


class SystemCost(Frozen):
    """What one system costs, where a run was made. Attacks and the attacker's own stand-in classifier do not count."""

    parameters: int
    """Numbers in the parameters of the classifier that answers and of its defence."""
    added_parameters: int
    """Those of the defence alone."""
    training_seconds: float | None = None
    """Wall time of the training that gave these weights, without its evaluation; a base classifier is included only
    where it was trained with it. None where it is not known: not recorded, cut and continued, or a part of a system.
    """
    latency_ms: float | None = None
    """Time of a decision on an image without attack, in the batches of the run. None without images."""
    peak_memory_mib: float | None = None
    """Most memory of tensors alive at one time while one batch of the run is judged, the weights and the images
    included, counted as torch makes and frees them. What a library takes inside one operation is not seen. 1 MiB =
    2**20 bytes."""


RunKind = Literal["train", "attack", "defend", "run", "score"]
Status = Literal["running", "interrupted", "done"]


class RunRecord(Frozen):
    """One run: what was asked, where, and what came of it."""

    schema_version: Literal[1] = 1
    id: str
    kind: RunKind
    name: str
    status: Status
    recipe: dict[str, JsonValue]
    environment: Environment
    started: str
    finished: str | None = None
    cells: tuple[str, ...] = ()
    """Keys of the cells, in the order of the table."""
    weights: str | None = None
    """Training runs: sha256 over the tensors of the trained system."""
    figures: dict[str, dict[str, float]] = {}
    """Training runs: each stage's closing figures."""
    training_seconds: float | None = None
    """Training runs: wall time of the stages. None where the training was cut and continued."""
    costs: dict[str, SystemCost] = {}
    """Matrices: what each system costs, by its name."""
    notes: tuple[str, ...] = ()
