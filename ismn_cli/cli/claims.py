"""`ismn claims`: published figures put to the test, under every reading of what was done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import note, say
from ismn_cli.cli.options import DataDir, Device, Limit, ReportFormat, Seed, StoreDir, Weights, examples, listed
from ismn_cli.cli.progress import Display

if TYPE_CHECKING:
    from ismn_cli.core.claim_verdicts import Comparison
    from ismn_cli.core.claims import Claims, Reading
    from ismn_cli.stages.claims import Setting

HELP = "Put a paper's figures to the test: measured, with interval and ceiling, under every reading of its level."
EXAMPLES = examples(
    "ismn claims table3 --limit 100",
    "ismn claims table3 --reading linf,l2 --format markdown -o table3.md",
    "ismn claims ./mine.yaml --data-dir ~/data",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("claims", help=HELP, epilog=EXAMPLES)(claims)


def claims(
    source: Annotated[
        str, typer.Argument(metavar="CLAIMS", help="table3 or table4, which come with ismn, or a YAML file.")
    ],
    limit: Limit = None,
    reading: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME...]", help="Only these readings of the attack level. (default: all)"),
    ] = None,
    form: ReportFormat = "rich",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file. (default: stdout)")
    ] = None,
    weights: Weights = None,
    seed: Seed = None,
    device: Device = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
) -> None:
    """Show the verdict table of a published table."""
    from ismn_cli.cli.report import deliver
    from ismn_cli.core.claim_files import choose_readings, load_claims
    from ismn_cli.core.errors import UsageError, unknown_name
    from ismn_cli.reporting.claims_table import claims_report
    from ismn_cli.reporting.render import FORMATS

    if form not in FORMATS:
        raise unknown_name("report format", form, FORMATS)
    if limit is not None and limit < 1:
        raise UsageError(f"A limit of {limit} leaves no images.", "Write --limit 100, or leave it out.")
    loaded = load_claims(source)
    readings = choose_readings(loaded, listed(reading))
    if loaded.not_tested:
        from ismn_cli.stages.claims import untested

        found = untested(loaded, readings)
    else:
        setting = _setting(loaded, limit, weights, seed, data_dir)
        found = _tested(loaded, readings, setting, store, data_dir, device)
    deliver(claims_report(loaded, found), form, output)


def _setting(
    claims: Claims, limit: int | None, weights: str | None, seed: int | None, data_dir: Path | None
) -> Setting:
    from ismn_cli.core.recipes import DataChoice
    from ismn_cli.stages.claims import Setting

    name = claims.dataset
    if name == "cifar10":
        from ismn_cli.data.loading import dataset_at_hand

        if not dataset_at_hand(data_dir):
            name = "cifar10-mini"
            note("cifar10 is not on disk: using cifar10-mini, 1,000 of its test images. (--data-dir)")
    return Setting(DataChoice(name=name, limit=limit), weights or "auto", seed or 0)


def _tested(
    claims: Claims,
    readings: tuple[Reading, ...],
    setting: Setting,
    store: Path | None,
    data_dir: Path | None,
    device: str | None,
) -> list[Comparison]:
    """Run what is missing, with progress."""
    from ismn_cli.core.store import Store
    from ismn_cli.stages.claims import plan_claims, run_claims

    place = Store.open(store)
    plan = plan_claims(claims, readings, setting, place, data_dir, device or "auto")
    for system in plan.systems:
        say(f"{system.subject.name}: {system.origin}")
    for reason in plan.left_out:
        note(reason)
    with Display() as display:
        return run_claims(plan, place, display.matrix)
