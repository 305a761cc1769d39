"""The HTML report as its readers have it: opened from the disk, at every width, in both themes, by mouse and by key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
WIDTHS = (1440, 768, 390)
SCHEMES = ("light", "dark")
HARMFUL = ("serious", "critical")
MARGINS = 76
"""CSS pixels on a printed page, a centimetre on either side."""
COLUMN = """(table, column) => [...table.tBodies[0].rows].map(row => {
    const value = row.cells[column].dataset.v;
    return value === undefined ? null : isNaN(value) ? value : Number(value);
})"""
SORTED = f"""() => [...document.querySelectorAll('table:has(th[aria-sort])')].map(table => {{
    const rows = () => [...table.tBodies[0].rows].map(row => row.textContent).sort().join('|');
    const before = rows();
    const columns = [...table.querySelectorAll('th[aria-sort] button')].map(button => {{
        button.click();
        return ({COLUMN})(table, button.closest('th').cellIndex);
    }});
    return {{columns, kept: rows() === before}};
}})"""
"""Sorts every table by every column; what it then holds."""


def pictured(page: Any, path: Path) -> None:
    """Keep a picture to look at. On a busy machine Chromium may be without memory for a long page: then the top."""
    from playwright.sync_api import Error

    try:
        page.screenshot(path=str(path), full_page=True)
    except Error:
        page.screenshot(path=str(path))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_whole_and_quiet(opening, tmp_path: Path, width: int, scheme: str) -> None:
    opened = opening(width, scheme)
    page = opened.page
    wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
    assert max(wide) <= width
    assert page.evaluate("document.documentElement.scrollHeight") > 2000
    pictured(page, tmp_path / f"{width}-{scheme}.png")
    images = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert all(images) and bool(images) == (page.locator("#stories").count() == 1)
    assert opened.heard == []
    assert [url for url in opened.asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in opened.asked if url.startswith("file:")]) == 1


def test_names_are_text(opening, report: Path) -> None:
    page = opening().page
    assert page.locator("img[src='x']").count() == 0 and "49" not in page.title()
    if report.parent.name.startswith("report"):
        assert page.get_by_text("<img src=x onerror=alert(1)>").count() > 0


def test_without_scripts_it_can_be_read(opening) -> None:
    page = opening(java_script_enabled=False).page
    assert page.locator("main table").count() > 3
    assert page.locator("th button").count() == 0
    assert page.locator("main section").first.is_visible()


@pytest.mark.parametrize("way", ["click", "Enter", "Space"])
def test_sorting_is_by_number(opening, way: str) -> None:
    page = opening().page
    table = page.locator("#cells")
    column, values = _telling_column(table)
    button = table.locator("thead tr:last-child th").nth(column).locator("button")
    for name, sign in (("ascending", 1), ("descending", -1)):
        button.click() if way == "click" else button.press(way)
        after = table.evaluate(COLUMN, column)
        numbers = [value for value in after if value is not None]
        assert numbers == sorted(numbers, key=lambda value: sign * value) != values
        assert after[len(numbers) :] == [None] * (len(values) - len(numbers)), "what has no value comes last"
        assert sorted(numbers) == sorted(value for value in values if value is not None), "no row is lost"
        assert button.locator("..").get_attribute("aria-sort") == name
    assert table.locator("th[aria-sort$=scending]").count() == 1


def _telling_column(table: Any) -> tuple[int, list[float | None]]:
    """Return a column whose order by number is neither that by text nor the one it has."""
    for column in range(1, table.locator("thead tr:last-child th").count()):
        values = table.evaluate(COLUMN, column)
        numbers = [value for value in values if value is not None]
        if any(isinstance(value, str) for value in numbers) or len(numbers) < 3:
            continue
        if sorted(numbers) not in (numbers, sorted(numbers, key=str), numbers[::-1]):
            return column, values
    raise AssertionError("no column tells numbers from text")


def test_every_column_of_every_table_sorts(opening) -> None:
    opened = opening()
    tables = opened.page.evaluate(SORTED)
    assert len(tables) > 3 and all(table["kept"] for table in tables)
    for column in (column for table in tables for column in table["columns"]):
        values = [value for value in column if value is not None]
        if all(isinstance(value, float | int) for value in values):
            assert values == sorted(values)
    assert opened.heard == []


def test_filtering_hides_rows_and_says_how_many_are_left(opening) -> None:
    page = opening().page
    for box in page.locator("input[type=search]").all():
        table = page.locator(f"#{str(box.get_attribute('id')).removesuffix('-filter')}")
        count = page.locator(f"output[for={box.get_attribute('id')}]")
        rows = table.locator("tbody tr").count()
        everything = [text.lower() for text in table.locator("tbody tr").all_inner_texts()]
        assert count.inner_text().startswith(f"{rows} of {rows}")
        for words in ("gray pgd", "MAGNET", "no such row"):
            wanted = sum(all(word in text for word in words.lower().split()) for text in everything)
            box.fill(words)
            assert table.locator("tbody tr:visible").count() == wanted < rows
            assert count.inner_text().startswith(f"{wanted} of {rows}")
            assert (wanted > 0) == (words != "no such row")
        box.fill("")
        assert table.locator("tbody tr:visible").count() == rows
    assert page.locator("input[type=search]").count() >= 1


def test_the_gallery_shows_the_outcome_that_is_chosen(opening) -> None:
    page = opening().page
    cards = page.locator("#stories .story")
    if not cards.count():
        pytest.skip("this report has no gallery: its runs kept no pictures")
    outcomes = {card.get_attribute("data-outcome") for card in cards.all()}
    choice = page.get_by_label("Outcome")
    assert len(outcomes) > 1
    for outcome in outcomes:
        choice.select_option(outcome)
        shown = page.locator("#stories .story:visible")
        assert {card.get_attribute("data-outcome") for card in shown.all()} == {outcome}
        assert 0 < shown.count() < cards.count()
    choice.select_option("")
    assert page.locator("#stories .story:visible").count() == cards.count()


def test_the_theme_follows_the_system_and_the_reader(opening) -> None:
    light, dark = opening(scheme="light").page, opening(scheme="dark").page
    assert _lightness(light) > 0.8 > 0.2 > _lightness(dark)
    toggle = light.get_by_role("button", name="Dark theme")
    toggle.click()
    assert _lightness(light) == _lightness(dark)
    light.reload()
    assert _lightness(light) == _lightness(dark), "the choice is kept"
    light.get_by_role("button", name="Light theme").press("Enter")
    assert _lightness(light) > 0.8
    light.emulate_media(color_scheme="dark")
    assert _lightness(light) > 0.8, "the reader's choice is above the system's"


def _lightness(page: Any) -> float:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / (3 * 255)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_prints_whole_and_on_white(opening, scheme: str) -> None:
    page = opening(scheme=scheme).page
    printed = page.pdf(format="A4", prefer_css_page_size=True)
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", printed)) > 2
    points = re.search(rb"/MediaBox \[0 0 ([\d.]+)", printed)
    assert points
    paper = int(float(points[1]) / 72 * 96 - MARGINS)
    page.emulate_media(media="print")
    page.set_viewport_size({"width": paper, "height": paper})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("nav.contents").is_visible() and not page.locator("input:visible").count()
    # Chromium shrinks a page that is wider than the paper; by more than a quarter nobody can read it.
    assert page.evaluate("document.documentElement.scrollWidth") <= paper * 4 / 3
    assert _cut_off(page) == []
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert max(map(float, re.findall(r"[\d.]+", ink)[:3])) < 128


def _cut_off(page: Any) -> list[str]:
    """Return what has more in it than it shows."""
    found: list[str] = page.evaluate("""() => [...document.querySelectorAll('main *')].filter(e => {
        const hides = ['hidden', 'auto', 'scroll', 'clip'].includes(getComputedStyle(e).overflowX);
        return hides && !(e instanceof SVGElement) && e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1;
    }).map(e => e.outerHTML.slice(0, 80))""")
    return found


def test_the_first_key_leads_past_the_contents(opening) -> None:
    page = opening().page
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.get_attribute("href") == "#main" and _seen(page)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_the_keyboard_goes_from_top_to_bottom(opening) -> None:
    page = opening().page
    assert page.locator("[tabindex]:not([tabindex='0']):not([tabindex='-1'])").count() == 0
    page.evaluate("window.passed = []")
    for _ in range(60):
        page.keyboard.press("Tab")
        assert _seen(page), page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        page.evaluate("passed.push(document.activeElement)")
    follows = "passed.slice(1).every((e, i) => passed[i].compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING)"
    assert page.evaluate(follows) is True
    assert page.evaluate("new Set(passed).size") == 60


def _seen(page: Any) -> bool:
    """Whether what has the focus is in view, under nothing, and marked."""
    seen: bool = page.evaluate("""() => {
        const e = document.activeElement, r = e.getBoundingClientRect(), style = getComputedStyle(e);
        const inView = r.width > 0 && r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.left < innerWidth;
        const top = document.elementFromPoint(Math.max(r.left, 0) + Math.min(r.width / 2, 40),
            Math.min(Math.max(r.top + Math.min(r.height / 2, 12), 0), innerHeight - 1));
        const covered = top && !e.contains(top) && !top.contains(e);
        return inView && !covered && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
    }""")
    return seen


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")])
def test_axe_finds_nothing_serious(opening, axe: str, width: int, scheme: str) -> None:
    page = opening(width, scheme).page
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert len(found["passes"]) > 10
    harmful = [violation for violation in found["violations"] if violation["impact"] in HARMFUL]
    assert [f"{v['id']}: {v['help']}, {[node['html'][:120] for node in v['nodes'][:3]]}" for v in harmful] == []
