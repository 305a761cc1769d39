"""matplotlib's figures as SVG that belongs into a page: its colours, its font, its ids; no styles of its own.

Colours are drawn as stand-ins and become the page's CSS variables, so that a figure follows the theme. Style
attributes become presentation attributes, because the page's content security policy allows no others.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 12
"""Colours of series in the page's style sheet."""
INK, SOFT, LINE = "#010203", "#020304", "#030405"
_TONES = {INK: "ink", SOFT: "soft", LINE: "line"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")
Dash = tuple[float, tuple[float, ...]] | str
DASHES: tuple[Dash, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_SVG = "{http://www.w3.org/2000/svg}"
_LINKED = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"(\d+(?:\.\d+)?)px")
_KEPT = {
    "fill", "fill-opacity", "fill-rule", "opacity", "stroke", "stroke-dasharray", "stroke-dashoffset",
    "stroke-linecap", "stroke-linejoin", "stroke-opacity", "stroke-width", "text-anchor",
}  # fmt: skip


def tone(position: int) -> str:
    """Return the stand-in for the colour of the series at ``position``."""
    return f"#0a0a{position % SERIES:02x}"


def dash(position: int) -> Dash:
    """Return how the line of the series at ``position`` is drawn: others once the colours are used up."""
    return DASHES[position // SERIES % len(DASHES)]


def panel(width: float = 4.4, height: float = 3.1, left: float = 0.6) -> tuple[Figure, Axes]:
    """Return an empty figure of one pair of axes, in inches of 72 units, and the axes.

    ``left`` is the room for the labels there: matplotlib's own layouts measure every text, which takes longer than to
    draw the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, 0.52 / height, 1 - (left + 0.14) / width, 1 - 0.66 / height))
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)
    axes.tick_params(colors=SOFT, labelsize=10, length=3, color=LINE)
    axes.grid(True, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(SOFT)
        label.set_fontsize(10.5)
    return figure, axes


def drawn(figure: Figure, name: str, title: str, description: str) -> str:
    """Return ``figure`` as an svg element; ``name`` is unlike that of any other figure on the page."""
    import matplotlib
    from matplotlib.text import Text

    stream = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    for words in figure.findobj(Text):
        words.set_parse_math(False)  # a name with dollars is no formula
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is the browser's font that has to know a letter
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return themed(stream.getvalue(), name, title, description)


def themed(text: str, name: str, title: str, description: str) -> str:
    """Return the svg document ``text`` as an element of a page."""
    ElementTree.register_namespace("", _SVG[1:-1])
    root = ElementTree.fromstring(text)
    for part in list(root):
        if part.tag == f"{_SVG}metadata" or part.find(f"{_SVG}style") is not None:
            root.remove(part)
    _renamed(root, name)
    for element in root.iter():
        _restyled(element)
        element.tag = element.tag.removeprefix(_SVG)
    words = [ElementTree.Element("title", id=f"{name}-title"), ElementTree.Element("desc", id=f"{name}-desc")]
    words[0].text, words[1].text = title, description
    root[:0] = words
    _head(root, name)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _head(root: ElementTree.Element, name: str) -> None:
    size = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {
        "viewBox": size,
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-desc",
        "stroke-linejoin": "round",
        "class": "plot",
    }


def _renamed(root: ElementTree.Element, name: str) -> None:
    """Give what is referred to an id of its own on the page, and take every other id away."""
    elements = list(root.iter())
    wanted = set(chain.from_iterable(map(_references, elements)))
    ids = {old: f"{name}-{i}" for i, old in enumerate(sorted(wanted))}
    for element in elements:
        own = element.attrib.pop("id", None)
        if own in ids:
            element.set("id", ids[own])
        elif own and own.startswith("series-"):
            element.set("class", f"series {own}")
        if target := element.attrib.pop(_LINKED, None):
            element.set("href", f"#{ids[target[1:]]}")
        for key, value in element.attrib.items():
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{ids[found[1]]})", value))


def _references(element: ElementTree.Element) -> Iterator[str]:
    if target := element.get(_LINKED):
        yield target[1:]
    for value in element.attrib.values():
        yield from _REFERENCE.findall(value)


def _restyled(element: ElementTree.Element) -> None:
    style = element.attrib.pop("style", "")
    for declaration in filter(None, style.split(";")):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in ("font", "font-size") and (size := _FONT.search(value)):
            element.set("font-size", size[1])
        elif key in _KEPT:
            element.set(key, _colour(value))


def _colour(value: str) -> str:
    if value in _TONES:
        return f"var(--{_TONES[value]})"
    if value.startswith("#0a0a"):
        return f"var(--s{int(value[-2:], 16)})"
    return value
