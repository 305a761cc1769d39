"""A model and some images, examined: from names to findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Finding
from ismn_cli.core.recipes import DataChoice
from ismn_cli.core.references import is_reference
from ismn_cli.core.specs import DataKind
from ismn_cli.core.store import Store
from ismn_cli.stages.user_models import UserModel, load_user_model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Patient:
    """Which model is examined, and on which images."""

    model: UserModel
    """``reference`` may also be the name of a built-in system."""
    dataset: DataChoice
    seed: int = 0
    expected: float | None = None
    weights: str = "auto"
    """Of a built-in system; see `ismn_cli.stages.resolve.resolve`."""
    data_dir: Path | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and of what."""

    subject: str
    origin: str
    """Where the weights come from, in words."""
    images: int
    findings: tuple[Finding, ...]


def examine(patient: Patient, store: Store, on_check: Callable[[str], None] | None = None) -> Diagnosis:
    """Load the model and the images, and ask every check of a model. ``on_check`` is told the code of each.

    Raises UsageError for anything that is not there or does not fit.
    """
    from ismn_cli.audit.model_checks import model_findings
    from ismn_cli.data.loading import load_dataset
    from ismn_cli.engine.device import pick_device

    device = pick_device(patient.device)
    chosen = load_dataset(patient.dataset, "test", patient.data_dir, patient.seed).to(device)
    model, origin = _model(patient, store, chosen.kind)
    findings = model_findings(
        model.to(device),
        chosen.floats(),
        chosen.labels,
        patient.model.reference,
        num_classes=len(chosen.classes),
        expected=patient.expected,
        seed=patient.seed,
        on_check=on_check,
    )
    return Diagnosis(patient.model.reference, origin, len(chosen), tuple(findings))


def _model(patient: Patient, store: Store, kind: DataKind) -> tuple[nn.Module, str]:
    wanted = patient.model
    if is_reference(wanted.reference):
        if patient.weights != "auto":
            raise UsageError(
                f"--weights {patient.weights} is for systems of ismn's own, not for {wanted.reference}.",
                "Give the file of yours with --checkpoint.",
            )
        return load_user_model(wanted, kind.shape.channels), _origin(wanted)
    if wanted.arguments or wanted.checkpoint or wanted.mean or wanted.std:
        raise UsageError(
            f"{wanted.reference} is a system of ismn's own: --checkpoint, --model-arg, --mean and --std are for yours.",
            "Name yours as path/to/file.py:Name, or choose weights with --weights.",
        )
    from ismn_cli.stages.resolve import resolve

    resolved = resolve(wanted.reference, patient.weights, store, kind)
    return resolved.pipeline, resolved.origin


def _origin(wanted: UserModel) -> str:
    return str(wanted.checkpoint) if wanted.checkpoint else "as its code leaves it (no --checkpoint)"
