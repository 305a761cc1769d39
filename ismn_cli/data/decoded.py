"""Images decoded once: a file of uint8 [N, C, n, n] in the home folder, mapped into memory rather than read.

    cache/<key>.pixels    the images        cache/<key>.json    what they are, with checksums
    cache/<key>.headers.json                what the headers of the same files said

The key is a hash of every file's path, size and time of change, so that a changed file is decoded anew. The
folder may be deleted at any time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ismn_cli.core.storage import home_folder, write_text, write_whole, writing
from ismn_cli.data import pictures, workers

log = logging.getLogger(__name__)

FEW_TO_DECODE, FEW_TO_EXAMINE = 256, 20_000
"""Files that are quicker done in this process than by starting others."""
LINE_EVERY = 10.0
"""Seconds between lines that tell how far it is."""
SAMPLED = 64
"""Images that are compared with their checksum whenever a cache is opened."""
STALE = 3600.0
"""Seconds after which an unfinished file that nobody writes to is taken for the remains of a kill."""

Problem = tuple[str, str]
"""(path, what is wrong with it)."""


@dataclass(frozen=True)
class Survey:
    """What the headers of some files say."""

    grey: tuple[str, ...]
    """Paths of the images with one channel."""
    sizes: dict[tuple[int, int], int]
    """(width, height) -> number of images."""


@dataclass(frozen=True)
class Decoded:
    """Images uint8 [N, C, n, n], mapped from disk, and the sha256 of all of them."""

    pixels: Tensor
    sha256: str


def survey(files: Sequence[Path]) -> tuple[Survey, list[Problem]]:
    """Read every header; what was found is kept where there was no problem. Quick: see `pictures.examine`."""
    paths = [str(path.absolute()) for path in files]
    place = _folder() / f"{_key(paths)}.headers.json"
    kept = _read_json(place)
    with suppress(KeyError, TypeError, ValueError):
        return Survey(tuple(kept["grey"]), {(w, h): n for w, h, n in kept["sizes"]}), []
    found, problems = examined(paths)
    if not problems:
        sizes = [[*size, count] for size, count in found.sizes.items()]
        write_text(place, json.dumps({"grey": found.grey, "sizes": sizes}))
    return found, problems


def examined(paths: Sequence[str], full: bool = False) -> tuple[Survey, list[Problem]]:
    """Read every header; with ``full``, decode every file."""
    ready = workers.worked(partial(pictures.examine_all, full), paths, FEW_TO_DECODE if full else FEW_TO_EXAMINE)
    told, found = _Told("Examining", len(paths)), list[pictures.Examined]()
    with closing(ready):
        for chunk in ready:
            found += chunk
            told.so_far(len(found))
    pairs = list(zip(paths, found, strict=True))
    headers = [(path, header) for path, header in pairs if not isinstance(header, str)]
    grey = tuple(path for path, header in headers if header.channels == 1)
    sizes = Counter((header.width, header.height) for _, header in headers)
    return Survey(grey, dict(sizes)), [(path, wrong) for path, wrong in pairs if isinstance(wrong, str)]


def decoded(files: Sequence[Path], channels: int, size: int) -> tuple[Decoded | None, list[Problem]]:
    """Return the images, decoded now if they never were; None where there are problems.

    Raises UsageError where the disk has no room for them.
    """
    paths = [str(path.absolute()) for path in files]
    place = _folder() / f"{_key(paths, channels, size)}.pixels"
    shape = (len(paths), channels, size, size)
    found = _open(place, shape)
    if found is not None:
        return found, []
    try:
        return _written(place, paths, shape), []
    except _UndecodableError as error:
        return None, error.problems


class _UndecodableError(Exception):
    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems


def _written(place: Path, paths: Sequence[str], shape: tuple[int, ...]) -> Decoded:
    size = int(np.prod(shape))
    log.info("Decoding %s images to %dx%d, once: they are kept in %s (%.1f GB).", f"{shape[0]:,}", shape[2],
             shape[3], place.parent, size / 1e9)  # fmt: skip
    _clear_remains(place.parent)
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(place.parent).free < size:
            raise OSError(errno.ENOSPC, f"the disk has not the {size / 1e9:.1f} GB that the decoded images take")
    digests = []
    write_whole(place, lambda temporary: digests.append(_fill(temporary, paths, shape)))
    pixels = _mapped(place, shape)
    write_text(_beside(place), json.dumps({"shape": shape, "sha256": digests[0], "sample": _sample(pixels)}))
    return Decoded(_as_tensor(pixels), digests[0])


def _fill(temporary: Path, paths: Sequence[str], shape: tuple[int, ...]) -> str:
    """Write all images, in order; return their sha256. Raises _UndecodableError after the last one."""
    digest, problems, done = hashlib.sha256(), list[Problem](), 0
    told = _Told("Decoding", len(paths))
    ready = workers.worked(partial(pictures.decode_all, shape[1], shape[2]), paths, FEW_TO_DECODE)
    with temporary.open("wb") as stream, closing(ready):
        for chunk in ready:
            problems += chunk.problems
            stream.write(chunk.pixels)
            digest.update(chunk.pixels)
            done += chunk.files
            told.so_far(done)
    if problems:
        raise _UndecodableError(problems)
    return digest.hexdigest()


def _open(place: Path, shape: tuple[int, ...]) -> Decoded | None:
    """Return what is kept in ``place``; None where there is nothing, or nothing that can be trusted."""
    kept = _read_json(_beside(place))
    if not place.exists() or not kept:
        return None
    if kept.get("shape") == list(shape) and place.stat().st_size == np.prod(shape):
        pixels = _mapped(place, shape)
        if kept.get("sample") == _sample(pixels):
            return Decoded(_as_tensor(pixels), str(kept.get("sha256")))
    log.warning("The decoded images in %s are damaged; they are made again.", place)
    return None


def _mapped(place: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Map a file, copying what is written to; read only where there is no memory to promise for that."""
    try:
        return np.memmap(place, np.uint8, "c", shape=shape)
    except OSError:
        return np.memmap(place, np.uint8, "r", shape=shape)


def _as_tensor(pixels: npt.NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # that a read-only map must not be written to: nobody does
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(pixels)


def _sample(pixels: npt.NDArray[np.uint8]) -> str:
    """Return the sha256 of some images, evenly spaced from the first to the last."""
    rows = np.linspace(0, len(pixels) - 1, min(SAMPLED, len(pixels))).astype(np.int64)
    return hashlib.sha256(np.ascontiguousarray(pixels[rows]).data).hexdigest()


def _folder() -> Path:
    return home_folder() / "cache"


def _beside(place: Path) -> Path:
    return place.with_suffix(".json")


def _key(paths: Sequence[str], *what: object) -> str:
    digest = hashlib.sha256(repr(what).encode())
    for path in paths:
        digest.update(f"{path}\x1f{_stamp(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _stamp(path: str) -> str:
    try:
        found = Path(path).stat()
    except OSError:
        return "missing"
    return f"{found.st_size}\x1f{found.st_mtime_ns}"


def _read_json(place: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(place.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _clear_remains(folder: Path) -> None:
    """Delete what a killed process left unfinished; one that works writes all the time."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()


class _Told:
    """Tells every ten seconds how far the work is, and how long it will take."""

    def __init__(self, doing: str, total: int) -> None:
        self.doing, self.total = doing, total
        self.started = self.last = time.monotonic()

    def so_far(self, done: int) -> None:
        """Tell, if it is time to."""
        now = time.monotonic()
        if now - self.last < LINE_EVERY or done == self.total:
            return
        self.last = now
        share = done / self.total
        left = (now - self.started) * (1 - share) / share
        log.info("%s %s images: %.0f %%, about %.0f s left.", self.doing, f"{self.total:,}", 100 * share, left)
