"""Training of one system: checked as a whole first, continued where it was cut, measured at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.core.environment import capture
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import TrainRecipe
from ismn_cli.core.records import Environment
from ismn_cli.core.runs import Run
from ismn_cli.core.storage import writing
from ismn_cli.core.store import Store
from ismn_cli.core.tracking import Openers
from ismn_cli.stages.curves import Curves
from ismn_cli.stages.doctor import before_attack
from ismn_cli.stages.measure import clean_figures
from ismn_cli.stages.resolve import WEIGHTS, finished
from ismn_cli.stages.tracking import NO_TRACKERS, Tracking
from ismn_cli.stages.training_plan import Plan, build_pipeline, plain, plan_training, training_stages
from ismn_cli.stages.weights import Header, save_weights, system_hash, tensor_hash
from ismn_models.refusal import RefusalError

if TYPE_CHECKING:
    from ismn_cli.engine.fit import OnProgress
    from ismn_cli.engine.parallel import Ranks
    from ismn_models.pipeline import Pipeline
    from ismn_models.training import Stage

_LOG = logging.getLogger("ismn")
CHECKPOINT = "checkpoint.pt"
_DISK_SIGNS = ("PytorchStreamWriter", "unexpected pos")
"""What torch.save says when a disk is full."""


@dataclass(frozen=True)
class Trained:
    """A finished training; ``already``: it was finished before it was asked for."""

    run: Run
    already: bool


def train(
    recipe: TrainRecipe,
    store: Store,
    data_dir: Path | None,
    device: str,
    on_progress: OnProgress,
    fresh: bool = False,
    track: Openers = NO_TRACKERS,
    ranks: Ranks | None = None,
) -> Trained:
    """Train a system, or continue, or return at once if this very training is done.

    ``fresh`` begins again from nothing; ``track`` is told of it on the way; ``ranks`` are the processes that share the
    work, of which this is the first, and the others call `assist`. Raises UsageError: bad input, a damaged checkpoint,
    a run that another process works on.
    """
    from ismn_cli.engine.parallel import ALONE

    ranks = ranks or ALONE
    plan = plan_training(recipe, store, data_dir, ranks.device(device))
    ranks.from_first(plan.identity())
    before_attack(plan.base, plan.test, store, plan.device)
    _check_shareable(plan, ranks)
    run = store.start_run("train", recipe.name, plan.resolved(), _environment(plan), plan.identity())
    with run.lock():
        if fresh:
            _forget(run)
        already = ranks.from_first(finished(run))
        if already:
            return Trained(run, already=True)
        with marking(run), saving(run.folder), telling():
            _fit_and_measure(plan, run, on_progress, track, ranks)
    return Trained(run, already=False)


def assist(recipe: TrainRecipe, store: Store, data_dir: Path | None, device: str, ranks: Ranks) -> None:
    """Take part in a `train` that the first of ``ranks`` carries out: it stores and tells, here is only computed.

    Raises UsageError where this process does not find what that one has.
    """
    # It plans first: what it downloads is there when the others look.
    identity = ranks.from_first("")
    plan = plan_training(recipe, store, data_dir, ranks.device(device))
    if plan.identity() != identity:
        raise UsageError(
            f"Process {ranks.rank} of this training finds another base classifier or other images than the first one.",
            "Give all machines the same store (ISMN_HOME) and the same --data-dir, and the base's run: --classifier ID",
        )
    _check_shareable(plan, ranks)
    if not ranks.from_first(False):
        pipeline = build_pipeline(plan)
        with telling():
            _fit(plan, pipeline, training_stages(plan, pipeline), Path(), lambda _: None, ranks)
        ranks.part()


def _check_shareable(plan: Plan, ranks: Ranks) -> None:
    from ismn_cli.engine.shareable import check_shareable

    if ranks.size > 1:
        pipeline = build_pipeline(plan)
        check_shareable(training_stages(plan, pipeline), pipeline, plan.train.kind.shape, ranks)


@contextmanager
def marking(run: Run) -> Iterator[None]:
    """Mark ``run`` as interrupted if the block does not end well; what it stored is kept."""
    if run.record.status != "running":
        run.update(status="running")
    try:
        yield
    except BaseException:
        with suppress(UsageError):
            run.update(status="interrupted")
        raise


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn a disk's refusal of a checkpoint or of weights into a UsageError, however torch words it."""
    try:
        with writing(folder):
            yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _DISK_SIGNS):
            raise
        raise UsageError(
            f"Cannot write to '{folder}': the disk refused.",
            "Free some space and type the same command: it continues after the last whole epoch.",
        ) from None


@contextmanager
def telling() -> Iterator[None]:
    """Turn what a system's training cannot do into a UsageError."""
    try:
        yield
    except RefusalError as refused:
        raise UsageError(refused.message, refused.hint) from refused


def _environment(plan: Plan) -> Environment:
    import torch

    return capture(str(plan.device), torch.get_num_threads())


def _forget(run: Run) -> None:
    for name in (CHECKPOINT, WEIGHTS):
        with writing(run.folder / name):
            (run.folder / name).unlink(missing_ok=True)


def _fit_and_measure(plan: Plan, run: Run, on_progress: OnProgress, track: Openers, ranks: Ranks) -> None:
    checkpoint = run.folder / CHECKPOINT
    pipeline = build_pipeline(plan)
    stages = training_stages(plan, pipeline)
    _check_checkpoint(checkpoint, pipeline, stages)
    continued, start = checkpoint.exists(), time.perf_counter()
    with Tracking(track, run) as tracking:
        curves = Curves(tracking, pipeline, stages, plan.validation)
        figures = _fit(plan, pipeline, stages, checkpoint, curves.beside(on_progress), ranks)
        ranks.part()
        seconds = None if continued else time.perf_counter() - start
        header = _header(plan, pipeline, stages)
        save_weights(run.folder / WEIGHTS, pipeline, header, base=header.model is None)
        figures["test"] = clean_figures(pipeline, plan.test, plan.device, on_progress)
        curves.end(figures)
    origin = plan.base.origin if plan.base else "trained in this run"
    shared = (f"trained by {ranks.size} processes on {plan.device.type}",) if ranks.size > 1 else ()
    notes = (f"base classifier: {origin}", *shared)
    told = {"weights": system_hash(pipeline), "figures": figures, "training_seconds": seconds, "notes": notes}
    run.update(status="done", **told)
    checkpoint.unlink(missing_ok=True)


def _fit(
    plan: Plan, pipeline: Pipeline, stages: list[Stage], checkpoint: Path, on_progress: OnProgress, ranks: Ranks
) -> dict[str, dict[str, float]]:
    from ismn_cli.engine.fit import fit

    return fit(
        pipeline,
        stages,
        plan.train.to(plan.device),
        plan.validation.to(plan.device),
        seed=plan.recipe.seed,
        checkpoint=checkpoint,
        precision=plan.precision,
        on_progress=on_progress,
        ranks=ranks,
    )


def _check_checkpoint(path: Path, pipeline: Pipeline, stages: list[Stage]) -> None:
    """Raise UsageError unless the checkpoint, if there is one, can be continued from."""
    import torch

    from ismn_cli.engine.fit import load_parts

    if not path.exists():
        return
    _LOG.info("Continuing from %s.", path)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        load_parts(pipeline, content["parts"])
        for stage in stages:
            if stage.name == content["stage"]:
                stage.load_state(content["state"])
    except Exception as error:  # a damaged file may raise anything at all
        raise UsageError(
            f"The checkpoint {path} cannot be continued from ({type(error).__name__}).",
            "Begin again with the same command and --fresh.",
        ) from None


def _header(plan: Plan, pipeline: Pipeline, stages: list[Stage]) -> Header:
    dataset, shape = plan.train.kind
    own = plan.base if plan.base and plan.base.model else None
    return Header(
        system=plan.recipe.system,
        config=plain(plan.settings),
        classes=shape.classes,
        channels=shape.channels,
        size=shape.size,
        dataset=dataset,
        data=plan.train.data_hash,
        images=len(plan.train),
        epochs={stage.name: stage.epochs for stage in stages},
        base=own.weights if own else tensor_hash(pipeline.base),
        base_config=plan.base_config(),
        model=own.model if own else None,
    )
