"""A report in any format. Figures and names are those of its table; only their dress differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from ismn_cli.core.errors import unknown_name
from ismn_cli.reporting import exports, latex, markdown
from ismn_cli.reporting.table import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

Format = Literal["rich", "markdown", "latex", "csv", "json", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)


def render(report: Report, form: str) -> str | RenderableType:
    """Return ``report`` as a renderable for "rich", which fits itself to the console, else as text.

    Raises UsageError for any other format.
    """
    if form == "rich":
        from ismn_cli.reporting.terminal import Terminal

        return Terminal(report)
    return render_text(report, form)


def render_text(report: Report, form: str) -> str:
    """Return ``report`` as text that ends with a line break: "markdown", "latex", "csv", "json" or "html"."""
    writers = {"markdown": markdown.text, "latex": latex.text, "csv": exports.csv, "json": exports.json, "html": _page}
    if form not in writers:
        raise unknown_name("report format", form, FORMATS)
    return writers[form](report)


def _page(report: Report) -> str:
    from ismn_cli.reporting.html.page import text

    return text(report)
