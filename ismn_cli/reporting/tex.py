"""Any text as LaTeX that pdflatex sets as it is: nothing in it is a command."""

from __future__ import annotations

import re
import unicodedata

from ismn_cli.reporting.table import one_line

_SET = frozenset(map(chr, (*range(0x20, 0x7F), *range(0xA1, 0x17F)))) - frozenset("ĦħĸĿŀŉŦŧ")
"""What LaTeX reads and T1 fonts have: ASCII, and the letters and signs of Latin languages."""
_SPELT = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\dots{}",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "•": r"\textbullet{}",
    "€": r"\texteuro{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
}
_GREEK = {
    "αβγδεζηθικλμ": "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu",
    "νξπρστυφχψω": "nu xi pi rho sigma tau upsilon phi chi psi omega",
    "ΓΔΘΛΞΠΣΦΨΩ": "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega",
}
for _letters, _names in _GREEK.items():
    _SPELT |= {letter: f"$\\{name}$" for letter, name in zip(_letters, _names.split(), strict=True)}
_BETWEEN = re.compile(r"(?<=-)(?=-)|(?<=')(?=')|(?<=,)(?=,)")
"""Between signs that TeX would set as one: a dash, a quotation mark."""


def escape(words: str) -> str:
    """Return ``words`` on one line, every character set as it is; one that T1 fonts lack as \\texttt{U+1F600}."""
    text = unicodedata.normalize("NFC", one_line(words))
    return "{}".join("".join(map(_spelt, part)) for part in _BETWEEN.split(text))


def guard(tex: str) -> str:
    """Return ``tex`` so that a command before it does not take its beginning for an argument."""
    return f"{{}}{tex}" if tex.startswith(("[", "*")) else tex


def _spelt(sign: str) -> str:
    if sign in _SPELT:
        return _SPELT[sign]
    return sign if sign in _SET else f"\\texttt{{U+{ord(sign):04X}}}"
