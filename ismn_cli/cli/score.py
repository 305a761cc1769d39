"""`ismn score`: adversarial examples made elsewhere, checked and judged like any others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.attack import say_verdict, with_data_at_hand
from ismn_cli.cli.console import note, results_apart, say, show
from ismn_cli.cli.options import (
    Attribute,
    DataDir,
    DefenceArg,
    Defences,
    Device,
    ImageSize,
    Limit,
    Seed,
    StoreDir,
    Weights,
    choice,
    defence_params,
    examples,
    listed,
)
from ismn_cli.cli.progress import Display

if TYPE_CHECKING:
    from ismn_cli.core.recipes import MatrixRecipe
    from ismn_cli.data.example_files import Given
    from ismn_cli.stages.matrix import Finished
    from ismn_cli.stages.score import ScoreMatrix

HELP = (
    "Judge adversarial examples that were made elsewhere (Foolbox, ART, AutoAttack, `ismn export`).\n\n"
    "Arrays in the file: the examples as x_adv, adv, adversarial, examples or images, [N, C, H, W] or [N, H, W, C], "
    "floats in [0, 1] or whole numbers of 0 to 255; perhaps y (labels), ids (indices in the data set: then in any "
    "order, and of any part of it) and clean. All that is wrong with them is named, and nothing is judged, unless "
    "every example keeps to the threat model."
)
EXAMPLES = examples(
    "ismn score --examples adv.npz --eps 8/255",
    "ismn score --examples adv.npz --eps 8/255 --defence none,ismn --dataset cifar10 --limit 1000",
    "ismn score --examples adv.safetensors --eps 0.5 --norm l2 --knowledge white --defence none",
)
OWN_DATA = ("name", "attribute", "image_size")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("score", help=HELP, epilog=EXAMPLES)(score)


def score(
    file: Annotated[
        Path,
        typer.Option("--examples", metavar="FILE", help="A .npz or .safetensors file, or a folder of PNG images."),
    ],
    eps: Annotated[str, typer.Option(metavar="SIZE", help="Size that they keep to: 0.3 or 8/255, pixels in [0, 1].")],
    norm: Annotated[str | None, typer.Option(metavar="NORM", help="linf or l2. (default: linf)")] = None,
    defence: Defences = None,
    defence_arg: DefenceArg = None,
    knowledge: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="What their maker held: black (other systems: they are transferred), gray (the bare classifier), "
            "white or adaptive (the one system that they are judged on). (default: black)",
        ),
    ] = None,
    drop: Annotated[
        bool,
        typer.Option(
            "--drop-violations",
            help="Count samples that leave ball or box as unknown, neither robust nor broken, and judge the others.",
        ),
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Data set. (default: the file's own, else cifar10 or cifar10-mini)"),
    ] = None,
    limit: Limit = None,
    attribute: Attribute = None,
    image_size: ImageSize = None,
    weights: Weights = None,
    seed: Seed = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Images judged at a time. (default: 32)")] = None,
    device: Device = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
) -> None:
    """Judge examples made elsewhere."""
    from ismn_cli.data.example_files import read_examples
    from ismn_cli.stages.score import score_recipe

    given = read_examples(file)
    data = ({} if dataset else own_data(given)) | choice(dataset, limit, attribute, image_size)
    options = {
        "eps": eps,
        "norm": norm,
        "defence": listed(defence),
        "defence_params": defence_params(defence, defence_arg),
        "knowledge": knowledge,
        "dataset": data,
        "weights": weights,
        "seed": seed,
        "batch_size": batch_size,
    }
    recipe = score_recipe(options, given, drop)
    if "name" not in data:
        recipe = with_data_at_hand(recipe, data_dir)
    for name in given.unread:
        note(f"array '{name}' is not read.")
    finished = carry_out(recipe, given, data_dir, device, store)

    from ismn_cli.reporting.attack_table import attack_report

    show(attack_report(finished.results, ceilings=finished.ceilings))
    say(f"run:    {finished.run.folder}")
    say(f"report: {finished.run.folder / 'report.csv'}")


def own_data(given: Given) -> dict[str, object]:
    """Return the data set that `ismn export` noted in the file, if it did."""
    from ismn_cli.core.datasets import is_code
    from ismn_cli.core.errors import UsageError

    noted = given.metadata.get("data")
    if not isinstance(noted, dict):
        return {}
    if is_code(str(noted.get("name"))):
        # a file from elsewhere does not decide which code is run here
        raise UsageError(
            f"{given.place} says that its images are those of '{noted['name']}', which is code.",
            "If you know that code, say so: --dataset NAME",
        )
    return {name: noted[name] for name in OWN_DATA if noted.get(name) is not None}


@results_apart()
def carry_out(
    recipe: MatrixRecipe, given: Given, data_dir: Path | None, device: str | None, store: Path | None
) -> Finished:
    """Check and judge the examples with progress; say what they are judged on."""
    from ismn_cli.core.store import Store
    from ismn_cli.stages.matrix import run_plan
    from ismn_cli.stages.score import plan_score

    place = Store.open(store)
    matrix = plan_score(recipe, given, place, data_dir, device or "auto")
    tell(matrix)
    with Display() as display:
        finished = run_plan(matrix, place, "score", display.matrix)
    if finished.stored:
        note(f"{finished.stored} of {len(finished.results)} cells were stored already and not computed again.")
    say_verdict(finished.audit)
    return finished


def tell(matrix: ScoreMatrix) -> None:
    """Say which images the examples are of, what they are judged on, and what was wrong with them."""
    samples = matrix.images.samples()
    say(f"examples: of {samples.count:,} images of {samples.dataset} {samples.split}")
    for system in matrix.systems:
        say(f"{system.subject.name}: {system.origin}")
    for remark in matrix.checked.notes:
        note(remark)
