"""A cluster that falls silent is noticed, after as much patience as it is worth."""

from __future__ import annotations

import socket

import pytest

from ismn_cli.core.errors import CutError, UsageError
from ismn_cli.stages.pulse import EVERY, PATIENCE, Pulse, place_of, reachable


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("ray://head:10001", ("head", 10001)),
        ("[::1]:6379", ("::1", 6379)),
        ("head", None),
        ("head:port", None),
        ("head:99999", None),
        ("http://head:80", None),
        ("head:80/path", None),
        ("", None),
    ],
)
def test_addresses(address: str, place: tuple[str, int] | None) -> None:
    assert place_of(address) == place


def test_where_nothing_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"127.0.0.1:{server.getsockname()[1]}"
        reachable(there)
        reachable("auto")
    with pytest.raises(UsageError, match="Nothing answers"):
        reachable(there)
    with pytest.raises(UsageError, match="no address of a Ray cluster"):
        reachable("ray:/there")


def test_patience() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    place = server.getsockname()
    pulse = Pulse({"head": place})
    pulse.check(100.0)
    server.close()
    pulse.check(100.0 + EVERY / 2)  # no look yet
    pulse.check(110.0)
    pulse.check(110.0 + PATIENCE - 0.1)
    with socket.create_server(place):  # it is back
        pulse.check(130.0)
    pulse.check(140.0)
    pulse.check(140.0 + PATIENCE - 0.1)
    with pytest.raises(CutError, match="head of the Ray cluster is gone"):
        pulse.check(145.0 + PATIENCE)
