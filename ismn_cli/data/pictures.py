"""Image files: what a header tells, what is wrong with a file, and a file as a square of pixels.

No torch here: the worker processes import this module and nothing heavier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")

CHANNELS = {"1": 1, "L": 1, "LA": 1} | dict.fromkeys(("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), 3)
"""Mode of an image -> channels that it is read with; others are not read."""
_END = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 1024
"""Bytes at the end of a file in which its end marker is looked for."""
_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    channels: int
    """1 for grey, 3 for colour."""
    width: int
    height: int


Examined = Header | str
"""A header, or what is wrong with the file."""


def examine(path: str | Path, full: bool = False) -> Examined:
    """Return a file's header, or what is wrong with it in a few words.

    Quick unless ``full``: a file is decoded only where its end marker is missing, so that one cut short is told
    from one with something appended.
    """
    try:
        with Image.open(path) as image:
            channels = CHANNELS.get(image.mode)
            if channels is None:
                return f"its pixels are of kind {image.mode}, not of 8 bits a channel"
            if full or not _ends_whole(Path(path), image.format or ""):
                image.load()
            return Header(channels, *image.size)
    except Exception as error:  # a malformed file may raise anything at all
        return _reason(Path(path), error)


def examine_all(full: bool, paths: Sequence[str]) -> list[Examined]:
    """Return what `examine` says of each."""
    return [examine(path, full) for path in paths]


def decode(path: str | Path, channels: int, size: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [channels, size, size]: the largest square in the middle, resized by antialiased bilinear filter."""
    with Image.open(path) as image:
        square = square_of(image, channels)
    return resized(square, size)


def square_of(image: Image.Image, channels: int) -> Image.Image:
    """Return the largest square in the middle of an image, in grey (1 channel) or colour (3)."""
    # by way of RGBA, as Pillow asks for where a palette has transparent colours
    square = centred(image.convert("RGBA") if "transparency" in image.info else image)
    return square.convert("RGB" if channels == 3 else "L")


def resized(square: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """Return a square image of 8 bits a channel as uint8 [C, size, size]; at its own size as it is."""
    if square.width != size:
        square = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(square).reshape(size, size, -1).transpose(2, 0, 1))


def centred(image: Image.Image) -> Image.Image:
    """Return the largest square in the middle of an image."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


class Chunk(NamedTuple):
    """Some images, decoded; those that could not be are black."""

    pixels: bytes
    files: int
    problems: list[tuple[str, str]]
    """(path, what is wrong with it)."""


def decode_all(channels: int, size: int, paths: Sequence[str]) -> Chunk:
    """Decode files, going on after one that cannot be."""
    parts, problems = [], []
    for path in paths:
        try:
            parts.append(decode(path, channels, size).tobytes())
        except Exception as error:  # a malformed file may raise anything at all
            problems.append((path, _reason(Path(path), error)))
            parts.append(bytes(channels * size * size))
    return Chunk(b"".join(parts), len(paths), problems)


def is_web_page(path: Path) -> bool:
    """Return whether a file begins as HTML does: what a download site sends in place of a file."""
    with path.open("rb") as stream:
        head = stream.read(256)
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE)


def _ends_whole(path: Path, form: str) -> bool:
    marker = _END.get(form)
    if marker is None:
        return True
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL))
        return marker in stream.read()


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "is missing"
    try:
        if path.stat().st_size == 0:
            return "is empty"
        if is_web_page(path):
            return "is a web page, not an image"
    except OSError as refused:
        return f"cannot be read ({refused.strerror or refused})"
    if isinstance(error, UnidentifiedImageError):
        return "is no image that can be read"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"is cut short ({text})" if "truncated" in text.lower() else f"cannot be decoded ({text})"
