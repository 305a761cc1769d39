"""What each system of a matrix costs, measured once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ismn_cli.core.records import CellResult, SystemCost
from ismn_cli.core.store import Store
from ismn_cli.stages.manifest import read_manifest, released_folder
from ismn_cli.stages.plan import Matrix
from ismn_cli.stages.weights import system_hash

if TYPE_CHECKING:
    from torch import nn

    from ismn_models.pipeline import Pipeline

_LOG = logging.getLogger("ismn")
MIB = 2**20


def costs_of(
    matrix: Matrix, results: Sequence[CellResult], store: Store, known: Mapping[str, SystemCost]
) -> tuple[dict[str, SystemCost], tuple[str, ...]]:
    """Return the cost of each system by its name, and a note for each that could not be measured.

    What is ``known`` of the same systems is not measured again.
    """
    clean = {result.cell.defence.name: result for result in results if result.attacked is None}
    found, notes = {}, []
    for system in matrix.systems:
        name = system.subject.name
        try:
            found[name] = known.get(name) or _cost(system.pipeline, clean[name], matrix, store)
        except Exception as error:  # a figure less is no reason to lose a run
            _LOG.debug("cost of %s", name, exc_info=True)
            notes.append(f"The cost of {name} could not be measured: {type(error).__name__}, {error}")
    return found, tuple(notes)


def _cost(pipeline: Pipeline, clean: CellResult, matrix: Matrix, store: Store) -> SystemCost:
    return SystemCost(
        parameters=_parameters(pipeline.classifier, pipeline.defence),
        added_parameters=_parameters(pipeline.defence),
        training_seconds=_training_seconds(pipeline, store),
        latency_ms=1000 * clean.judge_seconds / len(clean.ids) if clean.ids else None,
        peak_memory_mib=_peak(pipeline, matrix) / MIB,
    )


def _training_seconds(pipeline: Pipeline, store: Store) -> float | None:
    """Return the time of the training, here or before a release, that gave these very weights; None if not known."""
    tensors = system_hash(pipeline)
    here = (run.record.training_seconds for run in store.local().runs() if run.record.weights == tensors)
    before = (entry.training_seconds for entry in read_manifest(released_folder()).values() if entry.tensors == tensors)
    return next((seconds for seconds in (*here, *before) if seconds is not None), None)


def _parameters(*modules: nn.Module) -> int:
    """Return how many numbers the parameters of ``modules`` hold, those that are shared once."""
    own = {parameter for module in modules for parameter in module.parameters()}
    return sum(parameter.numel() for parameter in own)


def _peak(system: Pipeline, matrix: Matrix) -> int:
    """Return the most bytes that are alive at one time while a batch is judged, weights and images included."""
    import torch

    from ismn_cli.engine.judge import judge
    from ismn_cli.engine.memory import peak_bytes

    x, _ = next(matrix.images.batches(matrix.recipe.batch_size))
    x = x.to(matrix.device, memory_format=torch.channels_last)
    parts = (system.classifier, system.defence)  # not the attacker's stand-in
    weights = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    return peak_bytes(lambda: judge(system, [x]), contents=True, held=[x, *weights])
