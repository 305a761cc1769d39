"""CIFAR-10 and MNIST by download through torchvision, with checksums; quick to give up where there is no network."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import tarfile
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets import CIFAR10, MNIST
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

ANSWER_WITHIN = 10.0
"""Seconds for the server's first answer, name resolution included."""
STALLED_AFTER = 30.0
"""Seconds without a byte, once the download has begun."""


_FAILURES = (OSError, HTTPException, tarfile.TarError, RuntimeError, EOFError)


class DownloadError(Exception):
    """The download did not succeed; the message is the reason in a few words."""


def download(root: Path) -> None:
    """Put ``cifar-10-batches-py`` in ``root``, whole or not at all; an archive that lies there is used.

    Raises DownloadError: no answer within ten seconds, a stalled or damaged download, a full disk.
    """
    with _scratch(root) as scratch:
        archive = _archive(root, scratch)
        extract_archive(str(archive), str(scratch))
        _move_into(scratch / CIFAR10.base_folder, root)


def download_mnist(folder: Path) -> None:
    """Put MNIST's four archives in ``folder``, each whole or not at all; one that lies there is used.

    Raises DownloadError: as `download`, where no mirror has an archive.
    """
    with _scratch(folder) as scratch:
        for name, md5 in MNIST.resources:
            if not check_integrity(folder / name, md5):
                _from_a_mirror(name, md5, scratch)
                (scratch / name).replace(folder / name)


def _from_a_mirror(name: str, md5: str, scratch: Path) -> None:
    failures: list[Exception] = []
    for mirror in MNIST.mirrors:
        try:
            _ask_server(mirror + name)
            with patience(STALLED_AFTER):
                download_url(mirror + name, str(scratch), name, md5)
        except _FAILURES as error:
            failures.append(error)
        else:
            return
    raise failures[0]


@contextlib.contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """Give a folder inside ``root`` to work in, and turn what goes wrong into a DownloadError."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=root, prefix=".download-")
        # stdout belongs to results: whatever torchvision has to say goes to stderr
        with scratch as folder, contextlib.redirect_stdout(sys.stderr):
            yield Path(folder)
    except _FAILURES as error:
        raise DownloadError(_in_short(error)) from None


def _archive(root: Path, scratch: Path) -> Path:
    name: str = CIFAR10.filename
    if check_integrity(root / name, CIFAR10.tgz_md5):
        return root / name
    _ask_server(CIFAR10.url)
    with patience(STALLED_AFTER):
        download_url(CIFAR10.url, str(scratch), name, CIFAR10.tgz_md5)
    return scratch / name


def _ask_server(url: str) -> None:
    """Ask for the headers, in a thread because no timeout of a socket bounds the look-up of a name."""
    failures: list[Exception] = [TimeoutError(f"no answer within {ANSWER_WITHIN:g} s")]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_WITHIN):
                failures.clear()
        except (OSError, HTTPException) as error:
            failures[:] = [error]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_WITHIN)
    for failure in failures:
        raise failure


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Give a server so many seconds without a byte."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _move_into(folder: Path, root: Path) -> None:
    try:
        folder.rename(root / folder.name)
    except OSError as error:
        # another process was faster: its copy has passed the same checksum
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _in_short(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    reason = getattr(cause, "strerror", None) or cause
    where = getattr(cause, "filename", None)
    return " ".join(str(reason).split()) + (f": {where}" if where else "") or type(error).__name__
