"""`ismn list`: what there is by name. Starts at once: no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import note, result, table
from ismn_cli.cli.options import StoreDir, examples

if TYPE_CHECKING:
    from ismn_cli.core.records import RunRecord

HELP = "List systems, attacks, datasets, recipes, claims, checks or runs."
EXAMPLES = examples("ismn list attacks", "ismn list runs --plain")
Rows = Sequence[Sequence[str]]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("list", help=HELP, epilog=EXAMPLES)(show_list)


@dataclass(frozen=True)
class Listing:
    """Column headings, and the function that makes the rows, the name first."""

    head: tuple[str, ...]
    rows: Callable[[StoreDir], Rows]


def show_list(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="systems, attacks, datasets, recipes, claims, checks or runs.")
    ],
    plain: Annotated[bool, typer.Option("--plain", help="Tabs instead of a table, for other programs.")] = False,
    store: StoreDir = None,
) -> None:
    """Show a list."""
    from ismn_cli.core.errors import unknown_name

    if what not in LISTINGS:
        raise unknown_name("list", what, LISTINGS)
    listing = LISTINGS[what]
    rows = listing.rows(store)
    if plain:
        result("".join("\t".join(row) + "\n" for row in rows))
    elif rows:
        table(what, listing.head, rows)
    if not rows:
        note(f"there are no {what} yet. Make one: ismn run quickstart")


def _systems(_: StoreDir) -> Rows:
    from ismn_cli.core.catalogue import SYSTEMS

    return [(e.name, e.policy, e.trained_as or "nothing to train", e.summary) for e in SYSTEMS.values()]


def _attacks(_: StoreDir) -> Rows:
    from ismn_cli.core.catalogue import ATTACKS

    return [
        (e.name, " ".join(e.norms), "yes" if e.gradient else "no", _parameters(e.defaults), e.summary)
        for e in ATTACKS.values()
    ]


def _parameters(defaults: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in defaults.items())


def _datasets(_: StoreDir) -> Rows:
    from ismn_cli.core.catalogue import DATASETS
    from ismn_cli.core.references import plugins
    from ismn_cli.core.torchvision_sets import PREFIX, SETS

    own = [(e.name, "yes" if e.trainable else "no", e.summary) for e in DATASETS.values()]
    installed = [(name, "yes", f"plug-in: {reference}") for name, reference in plugins("dataset").items()]
    return [
        *own,
        (f"{PREFIX}NAME", "yes", f"torchvision's {', '.join(SETS)}"),
        ("FILE.py:NAME", "yes", "a function of your own, data(split); package.module:NAME too"),
        *installed,
    ]


def _recipes(_: StoreDir) -> Rows:
    from ismn_cli.core.recipe_files import recipe_names

    return recipe_names()


def _claims(_: StoreDir) -> Rows:
    from ismn_cli.core.claim_files import claims_names

    return claims_names()


def _checks(_: StoreDir) -> Rows:
    from ismn_cli.core.checks import CHECKS

    return [(check.title, check.asks, check.flags, check.source) for check in CHECKS.values()]


def _runs(store: StoreDir) -> Rows:
    from ismn_cli.core.store import Store

    records = [run.record for run in Store.open(store).runs()]
    return [(r.id, r.kind, r.status, r.started[:16], _came_of(r)) for r in records]


def _came_of(record: RunRecord) -> str:
    if record.kind != "train":
        return f"{len(record.cells)} cells"
    test = record.figures.get("test")
    return f"clean accuracy {test['clean accuracy']:.1%}" if test else ""


LISTINGS = {
    "systems": Listing(("name", "policy", "ismn train --system", "what it is"), _systems),
    "attacks": Listing(("name", "norms", "gradients", "parameters", "what it is"), _attacks),
    "datasets": Listing(("name", "for training", "what it is"), _datasets),
    "recipes": Listing(("name", "what it is"), _recipes),
    "claims": Listing(("name", "what it is"), _claims),
    "checks": Listing(("check", "what it asks", "what it flags", "source"), _checks),
    "runs": Listing(("name", "kind", "status", "started (UTC)", "results"), _runs),
}
