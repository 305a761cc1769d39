"""`ismn train`: options in, one training, the next command out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ismn_cli.cli.console import note, people, results_apart, say
from ismn_cli.cli.options import (
    Attribute,
    Checkpoint,
    DataDir,
    Device,
    ImageSize,
    Limit,
    Mean,
    Model,
    ModelArg,
    Overrides,
    Seed,
    SkipDoctor,
    Std,
    StoreDir,
    Track,
    UnsafePickle,
    choice,
    examples,
    given,
    model_choice,
)
from ismn_cli.cli.progress import Display
from ismn_cli.core.balance import uneven

if TYPE_CHECKING:
    from ismn_cli.core.recipes import TrainRecipe
    from ismn_cli.core.records import RunRecord
    from ismn_cli.engine.parallel import Ranks

HELP = "Train a system, stage by stage. A training that was stopped continues where it was."
EXAMPLES = examples(
    "ismn train --dataset cifar10",
    "ismn train --dataset cifar10 --system magnet --classifier released",
    "ismn train --system magnet --model net.py:Net --checkpoint weights.pt",
    "ismn train --system ismn --limit 2000 --epochs 1",
    "ismn train --system ismn config.generator=plain config.mapping_lr=1e-4",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", help=HELP, epilog=EXAMPLES)(train)


def train(
    overrides: Overrides = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Data set. (default: cifar10)")] = None,
    system: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to train; see `ismn list systems`. (default: ismn)")
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="WHICH",
            help="Base classifier: fresh (train it first), released, a run's id, or auto. "
            "(default: auto, which is fresh for ismn, and for the others the newest "
            "finished training's, else the released one)",
        ),
    ] = None,
    model: Model = None,
    model_arg: ModelArg = None,
    checkpoint: Checkpoint = None,
    mean: Mean = None,
    std: Std = None,
    unsafe_pickle: UnsafePickle = False,
    skip_doctor: SkipDoctor = False,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Epochs of every stage.")] = None,
    limit: Limit = None,
    attribute: Attribute = None,
    image_size: ImageSize = None,
    seed: Seed = None,
    device: Device = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="auto (bf16 where the hardware has it), fp32 or bf16. (default: auto)"),
    ] = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
    track: Track = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin again, even if this training is done.")] = False,
) -> None:
    """Train a system."""
    recipe = train_recipe(
        overrides or (),
        system=system,
        classifier=classifier,
        model=model_choice(model, model_arg, checkpoint, mean, std, unsafe_pickle, not skip_doctor),
        epochs=epochs,
        seed=seed,
        precision=precision,
        dataset=choice(dataset, limit, attribute, image_size) or None,
    )
    carry_out(recipe, data_dir, device, store, fresh, track or ())


def train_recipe(overrides: Sequence[str], **options: Any) -> TrainRecipe:
    """Return the recipe that the options describe. Raises UsageError."""
    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.recipe_files import validate
    from ismn_cli.core.recipes import TrainRecipe

    mapping = {"task": "train", "name": "train"} | given(options)
    recipe = validate(mapping, overrides)
    if not isinstance(recipe, TrainRecipe):
        raise UsageError("'task' cannot be overridden here.", "Use: ismn run RECIPE")
    if recipe.name == "train":
        # names of the user's own have letters in them that no folder of the store has
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"train-{recipe.system}-{recipe.dataset.name}")[:80]
        recipe = recipe.model_copy(update={"name": name})
    return recipe


@results_apart()
def carry_out(
    recipe: TrainRecipe,
    data_dir: Path | None,
    device: str | None,
    store: Path | None,
    fresh: bool,
    track: Sequence[str] = (),
) -> None:
    """Train, and say where it is and what to type next."""
    from ismn_cli.core.runs import check_local
    from ismn_cli.core.store import Store
    from ismn_cli.stages.tracking import openers
    from ismn_cli.stages.train import assist
    from ismn_cli.stages.train import train as run_training

    trackers = openers(track)
    place = Store.open(store)
    check_local(place.root)
    with several() as ranks:
        if not ranks.leads:
            assist(recipe, place, data_dir, device or "auto", ranks)
            return
        with Display() as display:
            trained = run_training(
                recipe, place, data_dir, device or "auto", display.training, fresh, trackers, ranks
            )
    record = trained.run.record
    if trained.already:
        note(f"this training is finished already, on {(record.finished or '')[:16]}; --fresh begins it again.")
        if track:
            note("there was nothing to tell a tracker.")
    _tell(record, trained.run.folder)


@contextmanager
def several() -> Iterator[Ranks]:
    """Train as one of the processes that torchrun started, if it did; of what ends them, one speaks."""
    from ismn_cli.core.world import World
    from ismn_cli.engine.parallel import Ranks, joined

    world = World.here()
    ranks = Ranks(world)
    try:
        with joined(ranks):
            yield ranks
    finally:
        people().quiet = not ranks.tells


def _tell(record: RunRecord, folder: Path) -> None:
    test = record.figures.get("test", {})
    if test:
        fraction = f"{test['clean accuracy']:.1%} of {test['images']:.0f} test images"
        flagged = test.get("false-positive rate")
        alarm = "" if flagged is None else f", {flagged:.1%} of them flagged"
        say(f"clean accuracy: {fraction}{alarm}")
    if "classes" in test and uneven(int(test["classes"]), test["majority-class rate"]):
        most = f"always answering the most frequent class gives a clean accuracy of {test['majority-class rate']:.1%}"
        say(f"balanced accuracy: {test['balanced accuracy']:.1%} over {test['classes']:.0f} classes; {most}")
    for remark in record.notes:
        note(remark)
    say(f"run:     {record.id}")
    say(f"weights: {folder / 'weights.safetensors'}")
    say(f"next:    ismn attack --method pgd --eps 8/255 --weights {record.id}")
