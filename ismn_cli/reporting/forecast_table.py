"""A forecast as a table for people: time and disk, attack by attack, and what a budget buys."""

from __future__ import annotations

from ismn_cli.core.forecast import Charge, Forecast, half_width
from ismn_cli.reporting.outlook_table import Sheet

REMARK = (
    "An attack's time is that of images that hold against it to the end, so it is an upper bound where they fall; "
    "attacks on survivors that were tried count what they left."
)

NAMED = 3
"""Systems whose names fit into a row."""


def forecast_sheet(found: Forecast, images: int) -> Sheet:
    """Return the table for so many ``images``."""
    head = ("attack", "knowledge", "systems", "images", "passes each", "ms each", "time", "disk")
    rows = tuple(_row(charge, images) for charge in found.charges)
    tests = ("self-tests", "-", "-", "-", "-", "-", duration(found.fixed_seconds), "-")
    whole = ("all", "-", "-", f"{images:,}", "-", "-",
             duration(found.seconds(images)), size(found.bytes(images)))  # fmt: skip
    return Sheet("Time and disk", head, (*rows, *([tests] if found.fixed_seconds else []), whole))


def forecast_lines(found: Forecast, images: int) -> list[str]:
    """Return what there is to say below the table."""
    half = 100 * half_width(images)
    lines = [f"{images:,} images give an accuracy of 50 % to ±{half:.1f} points, of 90 % to "
             f"±{100 * half_width(images, 0.9):.1f} (95 % Wilson interval)."]  # fmt: skip
    if found.order:
        lines.append(f"Attacks on survivors, the cheap ones first: {', '.join(found.order)}.")
    lines.append(f"Timed on {found.pilot} images. {REMARK}")
    if found.missing:
        lines.append(f"Not in it, without weights: {', '.join(found.missing)}.")
    return lines


def duration(seconds: float) -> str:
    """Return a time as people say it: "4 s", "12 min", "3 h 20 min"."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min"


def size(count: float) -> str:
    """Return a number of bytes in MiB or GiB."""
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.2f} GiB"


def _names(systems: tuple[str, ...]) -> str:
    return ", ".join(systems) if len(systems) <= NAMED else f"{len(systems)}, {systems[0]} first"


def _row(charge: Charge, images: int) -> tuple[str, ...]:
    passes = charge.forwards + charge.backwards
    attacked = images * charge.share
    return (
        charge.attack or "(answers without attack)",
        charge.knowledge,
        _names(charge.systems),
        f"{attacked:,.0f}" if charge.attack else f"{images:,}",
        f"{passes:,.0f}" if charge.attack else "-",
        f"{1000 * charge.craft_seconds:,.1f}" if charge.attack else "-",
        duration(charge.seconds(images)),
        size(images * charge.bytes),
    )
