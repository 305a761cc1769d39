"""`ismn gate`: a stored run against bars, as an exit code. Starts at once: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import note, result, say, table
from ismn_cli.cli.options import StoreDir, examples, listed

if TYPE_CHECKING:
    from ismn_cli.core.gate import Gate, Terms
    from ismn_cli.core.gate_rules import Rule

HELP = "\n\n".join(
    [
        "Judge a stored run by bars of your own, for the checks of a build.",
        "Metrics are columns of `ismn report`. clean_accuracy and false_positive are measured without attack; "
        "robust_accuracy, robust_rejected_success and success are worst cases, image by image, over all attacks that "
        "were run, or over those of one knowledge level: robust_accuracy@white.",
        "Exit codes: 0 every bar is cleared; 1 a bar is missed; 2 something to put right in the command; 3 no verdict, "
        "because the run is incomplete or a figure cannot be trusted: an attack failed on images that no other attack "
        "broke, or the audit found it unreliable. 3 outweighs 1.",
    ]
)
EXAMPLES = examples(
    "ismn gate --min robust_accuracy=0.45",
    "ismn gate --min clean_accuracy=80% --min robust_accuracy@white=0.3 --eps 8/255 --defence ismn",
    "ismn gate --baseline attack-pgd-0123abcd --max-drop 0.01 --confident",
    "ismn gate --min robust_accuracy=0.45 --junit gate.xml --summary gate.md",
)
Bars = list[str] | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gate", help=HELP, epilog=EXAMPLES)(gate)


def gate(
    least: Annotated[
        Bars, typer.Option("--min", metavar="METRIC=VALUE", help="At least this much: 0.45 or 45%. Repeatable.")
    ] = None,
    most: Annotated[
        Bars, typer.Option("--max", metavar="METRIC=VALUE", help="At most this much, where less is better. Repeatable.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="ID", help="The run to compare with, image by image. See --max-drop.")
    ] = None,
    max_drop: Annotated[
        Bars,
        typer.Option(
            metavar="[METRIC=]VALUE",
            help="At most this much below the baseline. Without METRIC: robust_accuracy. Repeatable.",
        ),
    ] = None,
    run: Annotated[
        str,
        typer.Option(
            metavar="ID", show_default=False, help="The run to judge. (default: latest that measured a system)"
        ),
    ] = "latest",
    defence: Annotated[
        Bars,
        typer.Option(metavar="NAME[,NAME...]", help="Judge only these systems. (default: every one in the run)"),
    ] = None,
    eps: Annotated[
        Bars,
        typer.Option(metavar="SIZE[,SIZE...]", help="Judge only these sizes. (default: every one in the run)"),
    ] = None,
    confident: Annotated[
        bool,
        typer.Option("--confident", help="Ask it of the worse end of the 95 % interval, not of the figure itself."),
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Trust only what `ismn audit` has looked at: without it, exit code 3.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append markdown, as for $GITHUB_STEP_SUMMARY.")
    ] = None,
    store: StoreDir = None,
) -> None:
    """Judge a run."""
    from ismn_cli.core.gate import Terms, check_terms

    rules = tuple(_rules(least or (), most or (), max_drop or ()))
    terms = Terms(rules, _sizes(eps), confident, audit)
    check_terms(terms, baseline is not None)
    found = _judged(store, run, baseline, terms, listed(defence) or ())
    _show(found)
    if junit is not None:
        _write_junit(junit, found)
    if summary is not None:
        _append_summary(summary, found)
    raise typer.Exit(found.code)


def _rules(least: Sequence[str], most: Sequence[str], drops: Sequence[str]) -> list[Rule]:
    from ismn_cli.core.gate_rules import Bound, parse_rules

    return [
        *parse_rules(Bound.MIN, least),
        *parse_rules(Bound.MAX, most),
        *parse_rules(Bound.DROP, drops),
    ]


def _sizes(eps: Sequence[str] | None) -> tuple[float, ...]:
    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.specs import parse_eps

    try:
        return tuple(parse_eps(size) for size in listed(eps) or ())
    except ValueError as error:
        raise UsageError(f"--eps: {error}.", "Write, for example: --eps 8/255") from None


def _judged(folder: Path | None, name: str, baseline: str | None, terms: Terms, only: Sequence[str]) -> Gate:
    from ismn_cli.core.gate import judge
    from ismn_cli.core.gate_evidence import find_run, gather
    from ismn_cli.core.store import Store

    store = Store.open(folder)
    run = find_run(store, name)
    before = find_run(store, baseline) if baseline is not None else None
    if before is not None and before.record.id == run.record.id:
        note(f"run '{run.record.id}' is its own baseline: nothing can have dropped.")
    return judge(gather(store, run), terms, gather(store, before) if before else None, only)


def _write_junit(path: Path, found: Gate) -> None:
    from ismn_cli.core.storage import write_text
    from ismn_cli.reporting.junit import junit

    write_text(path, junit(found))
    say(f"junit:   {path}")


def _append_summary(path: Path, found: Gate) -> None:
    from ismn_cli.core.storage import writing
    from ismn_cli.reporting.gate_text import markdown

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(("\n\n" if stream.tell() else "") + markdown(found))
    say(f"summary: {path}")


def _show(found: Gate) -> None:
    from ismn_cli.reporting.gate_text import HEAD, remarks, rows, title, verdict

    table(title(found), HEAD, rows(found))
    for remark in remarks(found):
        result(f"- {remark}")
    result(verdict(found))
