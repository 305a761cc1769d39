"""A model and some images, examined: from names to findings."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.core.checks import CHECKS
from ismn_cli.core.environment import ismn_version
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.recipes import DataChoice, ModelChoice
from ismn_cli.core.specs import DataKind
from ismn_cli.core.store import Store
from ismn_cli.stages.bases import Base
from ismn_cli.stages.user_models import is_own, load_user_model, model_options

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ismn_cli.data.image_set import ImageSet

_LOG = logging.getLogger("ismn")
QUICK = 64
"""Images that a model is examined on before it is attacked."""


@dataclass(frozen=True)
class Patient:
    """Which model is examined, and on which images."""

    model: ModelChoice
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


def before_attack(base: Base | None, images: ImageSet, store: Store, device: torch.device) -> None:
    """Examine a model of the user's own on a few images, unless that was done in this store, or is not wanted.

    Raises UsageError for a finding with which no figure of an attack would mean anything.
    """
    if base is None or base.model is None or not base.model.doctor:
        return
    chosen = images.select(QUICK, seed=0)
    content = [ismn_version(), "doctor", base.weights, chosen.samples().key()]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    findings = store.findings(key)
    if findings is None:
        findings = _examined(base, chosen.to(device))
        store.put_findings(key, findings)
        if not _failed(findings):
            _LOG.info("doctor: nothing against %s on %d images.", base.model.reference, len(chosen))
    if failed := _failed(findings):
        raise _stopped(base.model, images.name, failed)


def _examined(base: Base, images: ImageSet) -> tuple[Finding, ...]:
    from ismn_cli.audit.model_checks import quick_findings

    classes = len(images.classes)
    return tuple(quick_findings(base.net, images.floats(), images.labels, base.origin, classes, seed=0))


def _failed(findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for finding in findings if finding.verdict is Verdict.FAIL]


def _stopped(model: ModelChoice, dataset: str, failed: list[Finding]) -> UsageError:
    told = " ".join(f"{CHECKS[finding.code].title}: {finding.says}" for finding in failed)
    options = model_options(model).removeprefix("--model ")
    return UsageError(
        f"The doctor stops {model.reference}. {told}",
        f"{CHECKS[failed[0].code].remedy} Examine it: ismn doctor {options} --dataset {dataset}. To go on all the "
        "same: --skip-doctor (in a recipe: model.doctor: false)",
    )


def _model(patient: Patient, store: Store, kind: DataKind) -> tuple[nn.Module, str]:
    wanted = patient.model
    if is_own(wanted.reference):
        if patient.weights != "auto":
            raise UsageError(
                f"--weights {patient.weights} is for systems of ismn's own, not for {wanted.reference}.",
                "Give the file of yours with --checkpoint.",
            )
        made = load_user_model(wanted, kind.shape.channels)
        return made.net, made.origin
    if wanted.arguments or wanted.checkpoint or wanted.mean or wanted.std:
        raise UsageError(
            f"{wanted.reference} is a system of ismn's own: --checkpoint, --model-arg, --mean and --std are for yours.",
            "Name yours as path/to/file.py:Name, or choose weights with --weights.",
        )
    from ismn_cli.stages.resolve import resolve

    name, _, run = wanted.reference.partition("@")
    resolved = resolve(name, run or patient.weights, store, kind)
    return resolved.pipeline, resolved.origin
