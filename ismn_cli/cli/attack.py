"""`ismn attack`: options in, one matrix of attacks, one table out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ismn_cli.cli.console import note, results_apart, say, show
from ismn_cli.cli.engine import workers
from ismn_cli.cli.options import (
    Address,
    Attribute,
    Checkpoint,
    DataDir,
    DefenceArg,
    Defences,
    Device,
    Engine,
    ImageSize,
    Limit,
    Mean,
    Model,
    ModelArg,
    Seed,
    SkipDoctor,
    Std,
    StoreDir,
    Track,
    UnsafePickle,
    Weights,
    choice,
    defence_params,
    examples,
    given,
    key_values,
    listed,
    model_choice,
)
from ismn_cli.cli.progress import Display

if TYPE_CHECKING:
    from ismn_cli.core.findings import Audit
    from ismn_cli.core.recipes import MatrixRecipe
    from ismn_cli.core.records import RunKind
    from ismn_cli.core.store import Store
    from ismn_cli.core.tracking import Openers
    from ismn_cli.stages.matrix import Finished
    from ismn_cli.stages.plan import Matrix
    from ismn_cli.stages.steps import Steps
    from ismn_cli.stages.train import Trained

HELP = "Attack a classifier, or a defended system; store the examples and what became of each."
EXAMPLES = examples(
    "ismn attack --method pgd --eps 0.3",
    "ismn attack --method pgd --eps 8/255 --param steps=40 --limit 1000",
    "ismn attack --method pgd --eps 8/255 --defence ismn --knowledge white",
    "ismn attack --defence ismn --knowledge adaptive --limit 200",
    "ismn attack --model net.py:Net --checkpoint weights.pt --mean .485,.456,.406 --std .229,.224,.225",
)
USUAL = {"black": ["square"], "adaptive": ["pgd-ensemble"]}
"""Methods of a level where none is given and a recipe's own default would not do."""
FAR = 16 / 255


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("attack", help=HELP, epilog=EXAMPLES)(attack)


def attack(
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Attacks; see `ismn list attacks`. Or of your own: path/to/file.py:attack, package.module:attack. "
            "(default: pgd; black: square; adaptive: pgd-ensemble)",
        ),
    ] = None,
    eps: Annotated[
        list[str] | None,
        typer.Option(metavar="SIZE[,SIZE...]", help="Size, pixels in [0, 1]: 0.3 or 8/255. (default: 8/255)"),
    ] = None,
    norm: Annotated[str | None, typer.Option(metavar="NORM", help="linf or l2. (default: linf)")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A parameter of the attack, such as steps=40. Repeatable."),
    ] = None,
    eot: Annotated[
        int | None,
        typer.Option(metavar="N", help="Draws to average over where a system draws at random. (default: 10)"),
    ] = None,
    defence: Defences = None,
    defence_arg: DefenceArg = None,
    knowledge: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="What the attacker may touch: gray (the bare classifier), black (the system's outputs, or systems "
            "of the attacker's own), white (the whole system), adaptive (every route through it, worst case); "
            "several by commas. (default: gray)",
        ),
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Systems that black-box gradient attacks are made on; NAME@RUN for one trained here. "
            "(default: at)",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Data set. (default: cifar10 if it is on disk, else cifar10-mini)"),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Search in float32 throughout; what is found is judged in it anyway.")
    ] = False,
    limit: Limit = None,
    attribute: Attribute = None,
    image_size: ImageSize = None,
    model: Model = None,
    model_arg: ModelArg = None,
    checkpoint: Checkpoint = None,
    mean: Mean = None,
    std: Std = None,
    unsafe_pickle: UnsafePickle = False,
    skip_doctor: SkipDoctor = False,
    weights: Weights = None,
    seed: Seed = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images attacked at a time. (default: 32)")
    ] = None,
    device: Device = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
    track: Track = None,
    engine: Engine = None,
    address: Address = None,
) -> None:
    """Attack a system."""
    recipe = attack_recipe(
        param or (),
        attack=given({"method": listed(method), "eps": listed(eps), "norm": norm, "eot": eot}),
        defence=listed(defence),
        defence_params=defence_params(defence, defence_arg),
        knowledge=listed([knowledge]) if knowledge else None,
        transfer=listed(transfer),
        dataset=choice(dataset, limit, attribute, image_size),
        model=model_choice(model, model_arg, checkpoint, mean, std, unsafe_pickle, not skip_doctor),
        search="fp32" if exact else None,
        weights=weights,
        seed=seed,
        batch_size=batch_size,
    )
    if dataset is None:
        recipe = with_data_at_hand(recipe, data_dir)
    for remark in size_notes(recipe):
        note(remark)
    finished = carry_out(recipe, data_dir, device, store, "attack", None, track or (), engine, address)

    from ismn_cli.reporting.attack_table import attack_report

    show(attack_report(finished.results, ceilings=finished.ceilings))
    say(f"run:    {finished.run.folder}")
    say(f"report: {finished.run.folder / 'report.csv'}")
    say(f"next:   ismn defend --defence {'none,jpeg,median' if recipe.model else 'ismn,magnet,ddsa'}")


def attack_recipe(params: Sequence[str], **options: Any) -> MatrixRecipe:
    """Return the recipe that the options describe; ``params`` go to every method. Raises UsageError."""
    from ismn_cli.core.recipe_files import validate
    from ismn_cli.core.recipes import MatrixRecipe
    from ismn_cli.core.references import is_reference

    default = MatrixRecipe(name="attack")
    levels = options.get("knowledge") or default.knowledge
    attack = dict(options.get("attack", {}))
    if "method" not in attack:
        attack["method_at"] = {level: USUAL[level] for level in levels if level in USUAL}
    by_level = attack.get("method_at", {})
    methods = [name for level in levels for name in by_level.get(level) or attack.get("method", default.attack.method)]
    mapping = {"task": "matrix", "name": "attack"} | given(options) | {"attack": attack}
    # A reference has dots of its own, which are no path in a recipe.
    own = [method for method in dict.fromkeys(methods) if is_reference(method)]
    if own and params:
        attack["params"] = {method: key_values("--param", params) for method in own}
    named = [method for method in dict.fromkeys(methods) if method not in own]
    recipe = validate(mapping, [f"attack.params.{method}.{param}" for method in named for param in params])
    if not isinstance(recipe, MatrixRecipe):
        raise TypeError(f"not a matrix: {recipe.task}")
    # It names a folder of the store.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(["attack", *dict.fromkeys(methods)]))
    return recipe.model_copy(update={"name": name[:80]})


def with_data_at_hand(recipe: MatrixRecipe, data_dir: Path | None) -> MatrixRecipe:
    """Return the recipe for cifar10 if that is on disk, else for the images that come with ismn."""
    from ismn_cli.data.loading import dataset_at_hand

    if dataset_at_hand(data_dir):
        return recipe
    note("cifar10 is not on disk: using cifar10-mini, 1,000 of its test images. (--data-dir, --dataset)")
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"name": "cifar10-mini"})})


def size_notes(recipe: MatrixRecipe) -> list[str]:
    """Return a remark for every L-inf size that is far above the usual one."""
    if recipe.attack.norm != "linf" or recipe.dataset.name not in ("cifar10", "cifar10-mini"):
        return []
    return [_far(eps) for eps in recipe.attack.eps if eps > FAR + 1e-9]


def _far(eps: float) -> str:
    from ismn_cli.core.specs import format_eps
    from ismn_cli.reporting.published import ceiling

    text = f"eps {format_eps(eps)} is far above the usual 8/255."
    top = ceiling("cifar10", "linf", eps)
    if top is None:
        return text
    return f"{text} No classifier can be right on more than {top.accuracy:.1%} of CIFAR-10 there."


@results_apart()
def carry_out(
    recipe: MatrixRecipe,
    data_dir: Path | None,
    device: str | None,
    store: Path | None,
    kind: RunKind,
    prefer_base: str | None = None,
    track: Sequence[str] = (),
    engine: str | None = None,
    address: str | None = None,
) -> Finished:
    """Run a matrix with progress; say which weights it uses and what was stored already."""
    from ismn_cli.core.store import Store
    from ismn_cli.stages.matrix import run_plan
    from ismn_cli.stages.plan import plan_matrix
    from ismn_cli.stages.tracking import openers

    trackers = openers(track)
    place = Store.open(store)
    with workers(engine, address, device) as cluster:
        steps = trained(recipe, place, data_dir, device, trackers)
        if cluster is not None:
            recipe, device = cluster.searched(recipe), cluster.planned_on()
        matrix = plan_matrix(recipe, place, data_dir, device or "auto", prefer_base, steps)
        say_systems(matrix)
        how = (cluster.carry_out, cluster.device) if cluster else ()
        with Display() as display:
            finished = run_plan(matrix, place, kind, display.matrix, trackers, *how)
    if finished.stored:
        note(f"{finished.stored} of {len(finished.results)} cells were stored already and not computed again.")
    say_verdict(finished.audit)
    return finished


def say_systems(matrix: Matrix) -> None:
    """Say which weights each system has, and what is left out."""
    for system in matrix.systems:
        say(f"{system.subject.name}: {system.origin}")
    for reason in matrix.left_out:
        note(reason)
    if len({system.base.weights for system in matrix.systems}) > 1:
        note("these systems stand on different base classifiers: each is attacked through its own.")


def trained(
    recipe: MatrixRecipe, store: Store, data_dir: Path | None, device: str | None, track: Openers
) -> Steps:
    """Carry out the recipe's own trainings with progress; say which run each is."""
    from ismn_cli.stages.steps import NO_STEPS
    from ismn_cli.stages.trainings import run_steps

    if not recipe.training:
        return NO_STEPS

    def on_step(name: str, trained: Trained) -> None:
        done = "was trained before" if trained.already else "trained"
        say(f"{name}: {done}, run {trained.run.record.id}")

    with Display() as display:
        return run_steps(recipe, store, data_dir, device or "auto", display.training, on_step, track)


def say_verdict(audit: Audit) -> None:
    """Say in a line what the audit of a matrix came to, and how to see it."""
    from ismn_cli.reporting.findings_table import summary

    say(f"audit:  {summary(audit.findings)} See: ismn audit --run {audit.run}")
