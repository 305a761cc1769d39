"""`ismn show`: one sample's life through a system, as a figure and in the terminal."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import note, results_apart, say, table
from ismn_cli.cli.options import DataDir, Device, StoreDir, examples

if TYPE_CHECKING:
    from ismn_cli.core.lives import Step
    from ismn_cli.core.records import CellResult, Outcome
    from ismn_cli.core.runs import Run
    from ismn_cli.stages.show import Shown

HELP = (
    "Show one sample's life: the image, the perturbation, what the defence made of it, and every answer on the way. "
    "Without SAMPLE: which samples are worth it."
)
EXAMPLES = examples(
    "ismn show latest",
    "ismn show latest 8136",
    "ismn show latest 8136 --defence magnet --method pgd -o life.pdf",
)

LONGEST = 40
"""Characters that are shown of a class's name."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("show", help=HELP, epilog=EXAMPLES)(show)


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or latest; see `ismn list runs`.")],
    sample: Annotated[
        int | None, typer.Argument(metavar="[SAMPLE]", help="The image's number in its data set.", show_default=False)
    ] = None,
    defence: Annotated[
        str | None, typer.Option(metavar="NAME", help="Under this defence. (default: the first of the run)")
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="Under this attack.")] = None,
    knowledge: Annotated[str | None, typer.Option(metavar="LEVEL", help="Of an attacker at this level.")] = None,
    eps: Annotated[str | None, typer.Option(metavar="SIZE", help="At this size: 0.3 or 8/255.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help=".png, .svg or .pdf. (default: into the run's folder)"),
    ] = None,
    device: Device = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
) -> None:
    """Show a sample, or which there are."""
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.life_figure import check_form
    from ismn_cli.stages.show import Wanted, attacked_results, choose, life_of, run_to_show

    if output is not None:
        check_form(output.suffix)
    place = Store.open(store)
    chosen = run_to_show(place, run)
    wanted = Wanted(defence, method, knowledge, _read_eps(eps))
    results = wanted.among(attacked_results(place, chosen))
    if sample is None:
        _list(chosen, results, wanted != Wanted(), output)
        return
    cell, position = choose(chosen, results, sample)
    if len(results) > 1:
        note(f"{_under(cell)}; {len(results)} cells fit: --defence, --knowledge, --method and --eps choose another.")
    with results_apart():
        shown = life_of(chosen, place, cell, position, data_dir, device or "auto")
    if shown.life.note:
        note(shown.life.note)
    system = re.sub(r"[^A-Za-z0-9._-]+", "-", cell.cell.defence.name)  # a name of the user's own may be a path
    path = output or chosen.folder / f"life-{sample}-{system}-{cell.cell.key()[:8]}.png"
    _tell(shown)
    _draw(shown, path)


def _read_eps(text: str | None) -> float | None:
    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.specs import parse_eps

    if text is None:
        return None
    try:
        return parse_eps(text)
    except ValueError as error:
        raise UsageError(f"{error}.", "Write, for example: --eps 8/255") from None


def _list(run: Run, results: Sequence[CellResult], whole: bool, output: Path | None) -> None:
    """Print which samples are worth showing: their numbers, labels, and the answers that broke them."""
    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.lives import read_album
    from ismn_cli.core.picks import TOLD
    from ismn_cli.stages.show import worth_showing

    if output is not None:
        hint = f"Add one of those listed by: ismn show {run.record.id}"
        raise UsageError("-o takes the figure of one sample, and none was named.", hint)
    album = read_album(run.folder)
    classes = album.lives.classes if album else ()
    found = worth_showing(results, whole)
    cells = [result for result in results if result.cell.key() in found]
    lines = []
    for result in cells:
        own = [_samples(result, told, found[result.cell.key()][told], classes) for told in TOLD]
        lines.append([result.cell.defence.name, _attack(result), *own])
    table(f"Samples of run {run.record.id} by what became of them", ["defence", "attack", *TOLD], lines)
    first = next((i for own in found.values() for told in TOLD for i in own[told]), None)
    if first is not None:
        say(f"next:   ismn show {run.record.id} {cells[0].ids[first]}")


def _samples(result: CellResult, outcome: Outcome, positions: Sequence[int], classes: Sequence[str]) -> str:
    """Return how many met this outcome, and some of them: "12: 92 dog > cat, 17 ship > truck, ..."."""
    count = result.outcomes().count(outcome)
    answers = result.attacked.predicted if result.attacked else ()
    told = []
    for i in positions:
        label, answer = _name(classes, result.labels[i]), _name(classes, answers[i])
        told.append(f"{result.ids[i]} {label}" + (f" > {answer}" if answers[i] != result.labels[i] else ""))
    more = ", ..." if count > len(positions) else ""
    return f"{count}: {', '.join(told)}{more}" if told else "0"


def _name(classes: Sequence[str], label: int) -> str:
    from ismn_cli.reporting.table import one_line

    if label < 0:
        return "no answer"
    return one_line(classes[label])[:LONGEST] if label < len(classes) else f"class {label}"


def _attack(result: CellResult) -> str:
    from ismn_cli.core.worst_case import attack_of

    return f"{result.cell.knowledge} {attack_of(result.cell).label()}"


def _under(result: CellResult) -> str:
    return f"{result.cell.defence.name} under {_attack(result)}"


def _title(shown: Shown) -> str:
    """Return what became of the sample: "8136, cat: ismn under gray pgd 8/255, broken (truck)"."""
    life, answer = shown.life, _name(shown.classes, shown.life.predicted)
    end = f" ({answer})" if life.predicted != life.label else ""
    return f"{life.id}, {_name(shown.classes, life.label)}: {_under(shown.result)}, {life.outcome}{end}"


def _tell(shown: Shown) -> None:
    """Print a line for each step."""
    from ismn_cli.reporting.table import one_line

    life, clean = shown.life, shown.pictures[0]
    lines = []
    for step, picture in zip(life.steps, shown.pictures, strict=True):
        away = f"{abs(picture - clean).max():.4f}" if step is not life.steps[0] else "–"
        lines.append([one_line(step.name), *_answer(shown, step), _score(step, life.threshold), away])
    head = ["picture", "answer", "confidence", "detector", "change, L∞"]
    table(_title(shown), head, lines)


def _answer(shown: Shown, step: Step) -> tuple[str, str]:
    if step.predicted < 0:
        return "none", "–"
    right = "" if step.predicted == shown.life.label else " (wrong)"
    return _name(shown.classes, step.predicted) + right, f"{step.confidences()[step.predicted]:.1%}"


def _score(step: Step, threshold: float | None) -> str:
    if step.score is None:
        return "–"
    if threshold is None or math.isnan(step.score):
        return f"{step.score:.3g}"
    return f"{step.score:.3g} {'≥' if step.score >= threshold else '<'} {threshold:.3g}"


def _draw(shown: Shown, path: Path) -> None:
    """Write the figure, and draw it in the terminal where that can."""
    from ismn_cli.cli.terminal_picture import draw_life
    from ismn_cli.core.storage import write_whole
    from ismn_cli.reporting.life_figure import check_form, life_figure

    parts = shown.life, shown.pictures, shown.classes, _title(shown)
    content = life_figure(*parts, check_form(path.suffix))
    write_whole(path, lambda temporary: temporary.write_bytes(content))
    if sys.stdout.isatty():
        draw_life(shown.life, shown.pictures, lambda: life_figure(*parts, "png", dpi=100))
    say(f"figure: {path}")
