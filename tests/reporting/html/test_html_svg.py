"""Figures of matplotlib as parts of a page: no styles, no ids that clash, colours of the theme, names as they are."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from report_cells import TRICKY

from ismn_cli.reporting.html.svg import DASHES, SERIES, dash, drawn, panel, tone


def figure(name: str, label: str = "label") -> ElementTree.Element:
    drawing, axes = panel()
    for place in range(SERIES + 1):
        axes.plot([0, 1], [place, 1], color=tone(place), linestyle=dash(place), marker="o", gid=f"series-{place}")
    axes.set_yticks([0], [label])
    return ElementTree.fromstring(drawn(drawing, name, label, f"What {label} is."))


def test_a_figure_brings_no_style_and_takes_the_colours_of_the_page() -> None:
    root = figure("one")
    assert "style" not in {element.tag for element in root.iter()}
    colours = set()
    for element in root.iter():
        assert "style" not in element.attrib
        colours |= {element.get(name) for name in ("fill", "stroke")} - {None, "none"}
    assert {f"var(--s{place})" for place in range(SERIES)} <= colours
    assert all(colour.startswith("var(--") for colour in colours)
    named = {element.get("class") for element in root.iter() if element.get("class")}
    assert {f"series series-{place}" for place in range(SERIES + 1)} <= named


def test_figures_share_no_id_and_refer_to_their_own() -> None:
    pages = [figure("one"), figure("two")]
    ids = [[e.get("id") for e in root.iter() if e.get("id")] for root in pages]
    assert len(set(ids[0]) | set(ids[1])) == len(ids[0]) + len(ids[1])
    for root, own in zip(pages, ids, strict=True):
        text = ElementTree.tostring(root, encoding="unicode")
        assert set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text)) <= set(own)


@pytest.mark.parametrize("label", [*TRICKY, "$x^2$", "$\\frac", "100 %", "a\\b"])
def test_a_name_is_written_as_it_is(label: str) -> None:
    label = " ".join(label.split())
    texts = [element.text for element in figure("one", label).iter("text")]
    assert label in texts


def test_series_are_told_apart_also_when_colours_are_used_up() -> None:
    looks = {(tone(place), str(dash(place))) for place in range(SERIES * len(DASHES))}
    assert len(looks) == SERIES * len(DASHES)
