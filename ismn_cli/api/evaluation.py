"""What an evaluation came to: tables, the worst case, the audit, a report in any format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ismn_cli.core.findings import Audit
from ismn_cli.core.rates import Rate, right_from_the_start, robust_accuracy

if TYPE_CHECKING:
    from pandas import DataFrame

    from ismn_cli.core.records import CellResult
    from ismn_cli.core.runs import Run
    from ismn_cli.reporting.table import Report
    from ismn_cli.stages.matrix import Finished

WIDTH = 160


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation. In a notebook it shows itself."""

    finished: Finished

    @property
    def results(self) -> tuple[CellResult, ...]:
        """Every cell: what became of each image."""
        return self.finished.results

    @property
    def audit(self) -> Audit:
        """What the checks say of these figures."""
        return self.finished.audit

    @property
    def run(self) -> Run:
        """The stored run: ``run.folder``, and ``run.record.id`` for `ismn report --run`."""
        return self.finished.run

    def table(self) -> DataFrame:
        """Return one row per cell and worst case; the columns are those of `ismn report --format csv`."""
        return self._report.frame()

    def worst_case(self) -> DataFrame:
        """Return the headline: per system and level, the share of images that outlives every attack.

        Columns: defence, knowledge ("all": of several levels the worst), norm, eps, clean and robust accuracy in %,
        the latter with its 95 % Wilson interval (low, high), samples, unknown (images on which an attack failed).
        """
        import pandas as pd

        from ismn_cli.core.worst_case import attack_of, trials
        from ismn_cli.reporting.worst_rows import level_cases

        rows = []
        for system in trials(self.results):
            for case in level_cases(system):
                cell = case.worst.cells[0].cell
                threat = attack_of(cell).threat
                place = {"defence": cell.defence.name, "knowledge": case.level, "norm": threat.norm.value}
                clean, robust = right_from_the_start(case.worst), robust_accuracy(case.worst)
                rows.append(place | {"eps": threat.eps, **_rates(clean, robust), "unknown": case.worst.incomplete})
        return pd.DataFrame(rows)

    def report(self, form: str = "markdown") -> str:
        """Return the report as text: "markdown", "html" (a whole page), "latex", "csv", "json" or "rich".

        Raises UsageError for any other format.
        """
        from ismn_cli.reporting.render import render_text

        if form == "html":
            from ismn_cli.reporting.html.cells import Reduced
            from ismn_cli.reporting.html.page import Evidence, text

            results = Reduced(iter(self.results))
            for _ in results:
                pass
            return text(self._report, Evidence([self.run], results.cells))
        return self._drawn() if form == "rich" else render_text(self._report, form)

    def __repr__(self) -> str:
        return f"{self.worst_case().to_string(index=False)}\n{self._verdict}"

    def _repr_markdown_(self) -> str:
        return self.report("markdown")

    def _repr_html_(self) -> str:
        from html import escape

        return f"{self.worst_case().to_html(index=False)}<p>{escape(self._verdict)}</p>"

    @property
    def _verdict(self) -> str:
        from ismn_cli.reporting.findings_table import summary

        return f"Audit: {summary(self.audit.findings)}"

    @cached_property
    def _report(self) -> Report:
        from ismn_cli.reporting.comparison_table import comparison_report

        unreliable = self.audit.unreliable()
        return comparison_report(self.results, ceilings=self.finished.ceilings, unreliable=unreliable)

    def _drawn(self) -> str:
        from io import StringIO

        from rich.console import Console

        from ismn_cli.reporting.render import render

        stream = StringIO()
        Console(file=stream, width=WIDTH, highlight=False).print(render(self._report, "rich"))
        return stream.getvalue()


def _rates(clean: Rate, robust: Rate) -> dict[str, Any]:
    low, high = robust.interval()
    percent = {"clean": clean.value, "robust": robust.value, "low": low, "high": high}
    return {name: round(100 * value, 1) for name, value in percent.items()} | {"samples": robust.total}
