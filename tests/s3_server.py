"""A server that speaks S3 (moto's), for the tests of stores in object storage; skipped where it is not installed."""

from __future__ import annotations

import itertools
import logging
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

_NUMBER = itertools.count()
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Server:
    address: str

    def ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        asked = urllib.request.Request(f"{self.address}/{path}", content, {"Content-Type": "text/plain"}, method=method)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.read()

    def bucket(self) -> str:
        """Make a bucket; return its URL."""
        name = f"lab-{next(_NUMBER)}"
        self.ask("PUT", name)
        return f"s3://{name}"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed: there is no S3 server to test with")
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    yield Server("http://{}:{}".format(*running.get_host_and_port()))
    running.stop()


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Send what speaks S3 to the server, this process and those that it starts."""
    from s3fs import S3FileSystem

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (ACCOUNT | {"AWS_ENDPOINT_URL": server.address}).items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield server
    S3FileSystem.clear_instance_cache()
