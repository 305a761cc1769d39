"""`ismn check`: does a model, a defence, an attack or a data set of one's own keep to the rules? Asked in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import draw, people, result, say
from ismn_cli.cli.options import DataDir, ImageSize, Seed, StoreDir, data_choice, examples, key_values

if TYPE_CHECKING:
    from ismn_cli.stages.conformance import Candidate

HELP = "Check a model, defence, attack or data set of your own: shapes, ranges, gradients, randomness, side effects."
EXAMPLES = examples(
    "ismn check defence.py:Smooth",
    "ismn check attack.py:attack --arg steps=20",
    "ismn check data.py:data --data-dir DIR",
    "ismn check jpeg",
    "In a test of your own: from ismn_cli.testing import check_defence",
    "Exit code: 0 where no rule is broken, 1 where one is, 2 for wrong usage.",
)
BROKEN = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check", help=HELP, epilog=EXAMPLES)(check)


def check(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="path/to/file.py:Name, package.module:Name, an installed plug-in, or a name of `ismn list`.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="model, defence, attack or dataset. (default: found out from what it is)"),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", metavar="KEY=VALUE", help="An argument of the class or function. Repeatable."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Images that a model or defence is asked with. (default: cifar10-mini)"),
    ] = None,
    image_size: ImageSize = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="rich, markdown or json.")] = "rich",
    seed: Seed = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
) -> None:
    """Check something of one's own."""
    from ismn_cli.core.errors import unknown_name
    from ismn_cli.reporting.findings_table import FORMATS
    from ismn_cli.stages.conformance import KINDS, Candidate

    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    chosen = next((each for each in KINDS if each == kind), None)
    if kind is not None and chosen is None:
        raise unknown_name("kind", kind, KINDS)
    arguments = key_values("--arg", arg or ())
    images = data_choice(dataset or "cifar10-mini", None, None, image_size)
    candidate = Candidate(reference, chosen, arguments, images, data_dir, seed or 0)
    if _broken(candidate, store, form):
        raise typer.Exit(BROKEN)


def _broken(candidate: Candidate, store: Path | None, form: str) -> bool:
    """Ask every rule, show what is said, and return whether any is broken."""
    from ismn_cli.core.findings import Verdict
    from ismn_cli.core.references import WORDS
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.findings_table import render_findings
    from ismn_cli.stages.conformance import examine

    with people().status("checking"):
        found = examine(candidate, Store.open(store))
    title = f"{candidate.reference}, checked as a {WORDS.get(found.kind, found.kind)}".replace("a attack", "an attack")
    shown = render_findings(found.findings, form, title=title)
    if isinstance(shown, str):
        result(shown)
    else:
        draw(shown)
    broken = any(finding.verdict is Verdict.FAIL for finding in found.findings)
    if not broken:
        given = "" if candidate.dataset.name == "cifar10-mini" else f" --dataset {candidate.dataset.name}"
        say(f"next:   {NEXT[found.kind].format(candidate.reference)}{given if found.kind != 'dataset' else ''}")
    return broken


NEXT = {
    "model": "ismn doctor {0}",
    "defence": "ismn attack --defence none,{0} --knowledge white,adaptive --limit 100",
    "attack": "ismn attack --method {0} --limit 100",
    "dataset": "ismn train --dataset {0} --system classifier",
}
