"""The download: from a server on this machine, and quickly given up where there is none."""

from __future__ import annotations

import hashlib
import http.server
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic_cifar import write_py
from torchvision.datasets import CIFAR10

from ismn_cli.core.errors import UsageError
from ismn_cli.data import cifar10, download, places


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive in place of the original, with its checksum."""
    write_py(tmp_path / "made", ("test_batch",))
    path = tmp_path / "server" / CIFAR10.filename
    path.parent.mkdir()
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(tmp_path / "made" / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def server(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    def handler(*arguments: object) -> Handler:
        return Handler(*arguments, directory=str(archive.parent))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{running.server_port}/{archive.name}")
        yield running
        running.shutdown()


@pytest.mark.usefixtures("server")
def test_what_is_not_here_is_downloaded_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(cifar10.load("test")) == 10_000
    home = places.home_data()
    assert [path.name for path in home.iterdir()] == ["cifar-10-batches-py"]
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/nobody-listens")
    assert len(cifar10.load("test")) == 10_000


@pytest.mark.usefixtures("server")
def test_a_copy_that_was_quicker_is_kept(tmp_path: Path) -> None:
    first = tmp_path / "home" / CIFAR10.base_folder / "test_batch"
    first.parent.mkdir(parents=True)
    first.write_bytes(b"from another process")
    download.download(tmp_path / "home")
    assert first.read_bytes() == b"from another process"
    assert [path.name for path in (tmp_path / "home").iterdir()] == [CIFAR10.base_folder]


def test_an_archive_brought_by_hand_is_used(archive: Path) -> None:
    home = places.home_data()
    home.mkdir(parents=True)
    (home / archive.name).symlink_to(archive)
    assert len(cifar10.load("test")) == 10_000


@pytest.mark.usefixtures("server")
def test_a_damaged_archive_leaves_nothing_behind(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"could not be downloaded \(File not found or corrupted"):
        cifar10.load("test")
    assert list(places.home_data().iterdir()) == []


def assert_says_what_to_do(error: UsageError, folder: Path) -> None:
    assert "\n" not in error.message + error.hint
    assert "CIFAR-10 is not on this machine and could not be downloaded" in error.message
    for words in ("data_batch_1.bin to data_batch_5.bin and test_batch.bin", "cifar10-mini"):
        assert words in error.hint
    assert str(folder / "cifar-10-batches-bin") in error.hint
    assert str(folder / "cifar-10-batches-py") in error.hint


def test_offline_gives_one_error_with_files_and_folder(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UsageError, match="Name or service not known") as caught:
        cifar10.load("train")
    assert_says_what_to_do(caught.value, places.home_data())
    with pytest.raises(UsageError) as caught:
        cifar10.load("train", tmp_path)
    assert_says_what_to_do(caught.value, tmp_path)
    assert time.monotonic() - start < 5
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def no_answer(*_host_and_port: object, **_named: object) -> list[object]:
    time.sleep(3)
    raise socket.gaierror(-3, "Temporary failure in name resolution")


def test_a_network_that_swallows_everything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ANSWER_WITHIN", 0.2)
    monkeypatch.setattr("socket.getaddrinfo", no_answer)
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"no answer within 0\.2 s"):
        cifar10.load("test")
    assert time.monotonic() - start < 2


def test_a_stalled_download_is_given_up(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers with headers and then falls silent."""

    class Silent(Handler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            stop.wait(20)

    stop = threading.Event()
    monkeypatch.setattr(download, "STALLED_AFTER", 0.2)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{running.server_port}/x")
        with pytest.raises(UsageError, match="timed out"):
            cifar10.load("test")
        stop.set()
        running.shutdown()
    assert socket.getdefaulttimeout() is None


def test_an_unwritable_home_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ISMN_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"could not be downloaded \(.*file"):
        cifar10.load("test")
