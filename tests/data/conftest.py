"""No network, no copies of this machine's own, and one synthetic copy for all tests."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from synthetic_cifar import write_bin, write_py

from ismn_cli.data import places


@pytest.fixture(autouse=True)
def no_other_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the machine's own copies, and what was warned of before, out of the tests."""
    monkeypatch.delenv("ISMN_DATA_DIR", raising=False)
    monkeypatch.setenv("ISMN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(places, "_told", set())


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests outside this machine fail at once, as they do offline."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.getaddrinfo", _only_this_machine)


def _only_this_machine(host: str, port: int, *_rest: object, **_named: object) -> list[object]:
    if host != "127.0.0.1":
        raise socket.gaierror(-2, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]


@pytest.fixture(scope="session")
def whole_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every batch in the bin layout, under "bin", and two of them in the py layout, under "py"."""
    root = tmp_path_factory.mktemp("cifar")
    write_bin(root / "bin")
    write_py(root / "py", ("data_batch_1", "test_batch"))
    return root
