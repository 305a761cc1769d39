"""`ismn doctor`: is my number right? A model examined in seconds, before anything is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import note, people, result, results_apart, say
from ismn_cli.cli.options import (
    Attribute,
    Checkpoint,
    DataDir,
    Device,
    ImageSize,
    Mean,
    ModelArg,
    Seed,
    Std,
    StoreDir,
    UnsafePickle,
    Weights,
    data_choice,
    examples,
    model_choice,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ismn_cli.stages.doctor import Patient

HELP = "Examine a model before it is attacked: logits, gradients, normalisation, randomness, accuracy."
EXAMPLES = examples(
    "ismn doctor none",
    "ismn doctor net.py:Net --checkpoint weights.pt --expected 0.92",
    "ismn doctor models.resnet:resnet20 --checkpoint resnet20.th --mean .485,.456,.406 --std .229,.224,.225",
    "Exit code: 0 where no check fails, 1 where one does, 2 for wrong usage.",
)
FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", help=HELP, epilog=EXAMPLES)(doctor)


def doctor(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="path/to/file.py:Name or package.module:Name (a class, a function that makes a model, or a model), "
            "a file (.pt, .pt2, .onnx), timm:NAME, hf-hub:ID, torchvision:NAME, robustbench:NAME, or a system of "
            "`ismn list systems`.",
            show_default=False,
        ),
    ],
    checkpoint: Checkpoint = None,
    model_arg: ModelArg = None,
    mean: Mean = None,
    std: Std = None,
    unsafe_pickle: UnsafePickle = False,
    expected: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="What clean accuracy should be: 0.92 or 92%. (default: only not guessing)"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Data set. (default: cifar10 if it is on disk, else cifar10-mini)"),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", help="Use the first N images of a seeded, class-balanced order.")
    ] = 500,
    attribute: Attribute = None,
    image_size: ImageSize = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="rich, markdown or json.")] = "rich",
    weights: Weights = None,
    seed: Seed = None,
    device: Device = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
) -> None:
    """Examine a model."""
    from ismn_cli.core.errors import unknown_name
    from ismn_cli.core.recipes import ModelChoice
    from ismn_cli.core.settings import build_model
    from ismn_cli.reporting.findings_table import FORMATS
    from ismn_cli.stages.doctor import Patient

    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    chosen = model_choice(model, model_arg, checkpoint, mean, std, unsafe_pickle) or {}
    asked = build_model(ModelChoice, chosen, "the model", "Write, for example: --model-arg depth=20")
    patient = Patient(
        asked,
        data_choice(dataset or _at_hand(data_dir), limit, attribute, image_size),
        seed or 0,
        _share(expected),
        weights or "auto",
        data_dir,
        device or "auto",
    )
    if _examined(patient, store, form):
        raise typer.Exit(FAILED)


def _examined(patient: Patient, store: Path | None, form: str) -> bool:
    """Examine, show what was found, and return whether anything failed."""
    from rich.console import Console

    from ismn_cli.core.findings import Verdict
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.findings_table import render_findings
    from ismn_cli.stages.doctor import examine

    with _progress() as tell, results_apart():
        found = examine(patient, Store.open(store), tell)
    title = f"{found.subject} on {found.images:,} test images of {patient.dataset.name}"
    say(f"weights: {found.origin}")
    shown = render_findings(found.findings, form, title=title)
    if isinstance(shown, str):
        result(shown)
    else:
        Console(highlight=False).print(shown)
    return any(finding.verdict is Verdict.FAIL for finding in found.findings)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on a terminal which check is being made."""
    from ismn_cli.core.checks import CHECKS

    with people().status("loading") as status:
        yield lambda code: status.update(f"{CHECKS[code].title}: {CHECKS[code].asks}")


def _at_hand(data_dir: Path | None) -> str:
    from ismn_cli.data.loading import dataset_at_hand

    if dataset_at_hand(data_dir):
        return "cifar10"
    note("cifar10 is not on disk: using cifar10-mini, 1,000 of its test images. (--data-dir, --dataset)")
    return "cifar10-mini"


def _share(text: str | None) -> float | None:
    from ismn_cli.core.errors import UsageError

    if text is None:
        return None
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--expected '{text}' is not a share.", "Write 0.92 or 92%.")
    return value
