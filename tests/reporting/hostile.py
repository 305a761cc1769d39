"""Names that would break a format, or make it do something; and results whose every name is one of them."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from report_cells import answers, result

from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Samples, Subject, ThreatModel

HOSTILE = (
    "a|b", "|", "||", "\\|", "<script>alert(1)</script>", "</table>", "<!--", "-->", "]]>",
    "<img src=x onerror=a()>", '"><b>', "'", '"', "&", "&lt;", "&#0;", "_", "__x__", "%", "%s", "$", "$x$",
    "\\", "\\\\", "\\\\ \\hline", "`", "```", "{", "}", "{}", "{{7*7}}", "{% raw %}", "\\end{document}",
    "\\input{x}", "\\write18{ls}", "^^5c", "~", "^", "#", "##", "# x", "- x", "1. x", "> x", "---", "--", "''",
    ",,", "``x''", "[x](http://e.x)", "![x](http://e.x/a.png)", "http://e.x", "www.e.x", "a@e.x", "[", "]",
    "[red]", "[/]", "*", "**x**", "=cmd()", "=1+1", "@SUM(A1)", "+1", "-1", "'=1", "＝1", ",", ";", '"a","b"',
    "a,b", "x\ny", "x\r\ny", "\r", "\n\n", "\t", "\x00", "x\x00y", "\x1b[31mred", "\x07", "\x85", "\u2028",
    "🦊", "\U0001f469\u200d\U0001f52c", "é", "ﬁ", "ß", "ħ", "א", "\u202etxt", "\u200f", "\u200b", "\ufeff",
    "e\u0301", "日本", "Ω", "–", "…", "‰", "·", " ", "", "  x  ",
)  # fmt: skip
NAMES = st.sampled_from(HOSTILE) | st.lists(st.sampled_from(HOSTILE), max_size=4).map("".join) | st.text(max_size=15)
Name = Callable[[str], str]


def named(name: Name) -> list[CellResult]:
    """Return a small matrix in which every text is ``name`` of what tells it apart from others of its kind."""
    return [
        _measured(name, defence, knowledge, method)
        for defence in "01"
        for knowledge, methods in ((Knowledge.GRAY, "01"), (Knowledge.WHITE, "0"))
        for method in (None, *methods)
        if method is not None or knowledge is Knowledge.GRAY
    ]


def _measured(name: Name, defence: str, knowledge: Knowledge, method: str | None) -> CellResult:
    threat, params = ThreatModel(eps=0.1), {name("p"): name("v")}
    attack = AttackSpec(method=name(method), threat=threat, params=params) if method else None
    where = Cell(
        classifier=Subject(name=name("c"), weights=name("w")),
        defence=Subject(name=name(defence), weights=name(f"{defence}w")),
        samples=Samples(dataset=name("d"), split=name("s"), count=4, total=9, ids=name("i"), data=name("x")),
        knowledge=knowledge if attack else Knowledge.CLEAN,
        attack=attack,
        seed=0,
        batch_size=4,
        sources=(Subject(name=name("t"), weights=name("u")),) if method == "1" else (),
        after=(attack,) if attack and method == "1" else (),
    )
    told = (name("n"), name("m"))
    return result(where, answers(4, 3), answers(4, 2, 1) if attack else None, notes=told)


def crowd() -> list[CellResult]:
    """Return a defence for each of `HOSTILE`, which is in all its names, clean and under an attack of that name."""
    return [
        _measured(lambda mark, text=text: f"{text}{mark}{text}", str(i), Knowledge.GRAY, method)
        for i, text in enumerate(HOSTILE)
        for method in (None, "0")
    ]
