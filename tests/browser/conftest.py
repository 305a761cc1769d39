"""A report of a small matrix, and a browser to open it in.

ISMN_REPORT names the report of another matrix that is to pass the same tests.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("sandbox", "first-run")
DISABLED = ("gpu", "quic", "background-networking", "component-update", "sync", "smooth-scrolling")
RECIPE = """
task: matrix
name: small
defence: [none, ismn, magnet, median]
knowledge: [gray, white]
attack: {method: [fgsm, pgd], eps: [0.03, 0.1, 0.3], eot: 2}
draws: 3
training:
  base: {system: classifier}
  ismn: {system: ismn, classifier: base}
  magnet: {system: magnet, classifier: base}
"""
HOSTILE = ("red|_%$", "<img src=x onerror=alert(1)>", "blue & \N{RAINBOW}\n# {{ 7 * 7 }}")


@pytest.fixture(scope="session", params=["small world", *filter(None, [os.environ.get("ISMN_REPORT")])])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a report."""
    browser()
    if request.param != "small world":
        return Path(request.param).resolve()
    with pytest.MonkeyPatch.context() as patch:
        return _small_report(tmp_path_factory.mktemp("report"), patch)


def _small_report(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    import small_world

    from ismn_cli.cli.app import exit_code
    from ismn_cli.core import catalogue, recipe_files
    from ismn_cli.stages import resolve

    # Others have settings that the small world's systems do not know.
    recipes = [path for path in recipe_files._packaged() if path.stem == "quickstart"]
    patch.setattr(recipe_files, "_packaged", lambda: recipes)
    for table in (catalogue.SYSTEMS, catalogue.TRAINABLE, catalogue.DATASETS):
        for name, entry in dict(table).items():
            patch.setitem(table, name, entry)
    patch.setattr(resolve, "released_folder", resolve.released_folder)
    load = small_world.load
    patch.setattr(small_world, "load", lambda *where: replace(load(*where), classes=HOSTILE))
    patch.setenv("ISMN_HOME", str(folder / "home"))
    (folder / "released").mkdir()
    small_world.install(folder / "released")
    (folder / "small.yaml").write_text(RECIPE)
    page = folder / "report.html"
    assert exit_code(["run", str(folder / "small.yaml"), "--limit", "18", "--device", "cpu"]) == 0
    assert exit_code(["report", "--format", "html", "-o", str(page)]) == 0
    assert 'id="stories"' in page.read_text(encoding="utf-8")
    return page


def browser() -> str:
    """Return where Chromium is, or skip."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"there is no {', '.join(BROWSERS)} on the path")
    return found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = [f"--no-{name}" for name in QUIET] + [f"--disable-{name}" for name in DISABLED]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser(), args=arguments)
        yield opened
        opened.close()


class Opened:
    """A report in a browser; ``heard`` are its complaints, ``asked`` what it wanted from the network."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.heard: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.heard.append(str(error)))
        page.on("dialog", lambda dialog: (self.heard.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append(request.url))


Open = Callable[..., Opened]


@pytest.fixture
def opening(report: Path, chromium: Any) -> Iterator[Open]:
    """Open the report at a width, in a scheme ("light" or "dark"); keywords are Playwright's."""
    contexts = []

    def at(width: int = 1440, scheme: str = "light", **more: Any) -> Opened:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.goto(report.as_uri(), wait_until="load")
        return opened

    yield at
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """Return axe-core, or skip."""
    places = [Path(os.environ.get("ISMN_AXE") or ROOT), ROOT / "node_modules/axe-core/axe.min.js"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        pytest.skip("there is no axe-core (npm install axe-core@4, or ISMN_AXE=.../axe.min.js)")
    return found.read_text(encoding="utf-8")
