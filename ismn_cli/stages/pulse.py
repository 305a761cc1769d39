"""Whether a Ray cluster is still there: Ray itself waits a minute, and then ends the process without a word."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from ismn_cli.core.errors import CutError, UsageError

PATIENCE = 10.0
"""Seconds of silence after which a cluster is gone: a head that others keep alive may come back sooner."""
EVERY = 2.0
_ANSWER = 3.0

Place = tuple[str, int]


def reachable(address: str) -> None:
    """Raise UsageError unless ``address`` is "auto" or a HOST:PORT that answers: Ray would try for minutes."""
    if address == "auto":
        return
    place = place_of(address)
    if place is None:
        raise UsageError(f"'{address}' is no address of a Ray cluster.", "Write auto, HOST:PORT or ray://HOST:PORT.")
    if not _answers(place):
        raise UsageError(
            f"Nothing answers at {address}.", "Is the cluster up? Start one: ray start --head. Or leave --address out."
        )


def place_of(address: str) -> Place | None:
    """Return host and port of "HOST:PORT" or "ray://HOST:PORT"."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        plain = parts.scheme in ("", "ray") and not (parts.path or parts.query)
        return (parts.hostname, parts.port) if plain and parts.hostname and parts.port else None
    except ValueError:
        return None


@dataclass
class Pulse:
    """Places that have to answer, and since when they do not."""

    places: dict[str, Place]
    patience: float = PATIENCE
    silent: dict[str, float] = field(default_factory=dict)
    looked: float = 0.0

    @classmethod
    def of(cls, ray: Any, address: str | None) -> Self:
        """Return those of the cluster that this process is connected to."""
        client = address if address and address.startswith("ray://") else None
        context = ray.get_runtime_context()
        head = place_of(client or context.gcs_address)
        places = {"head": head} if head else {}
        if client is None:
            own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
            places["node of this machine"] = (own["NodeManagerAddress"], own["NodeManagerPort"])
        return cls(places, PATIENCE if address else EVERY)

    def check(self, now: float | None = None) -> None:
        """Raise CutError where one has been silent for as long as there is patience; looks at most every `EVERY`."""
        now = time.monotonic() if now is None else now
        if now - self.looked < EVERY:
            return
        self.looked = now
        for name, place in self.places.items():
            if _answers(place):
                self.silent.pop(name, None)
            elif now - self.silent.setdefault(name, now) >= self.patience:
                raise gone(name)


def gone(name: str) -> CutError:
    """Return the error for a part of the cluster that is not there any more."""
    return CutError(f"The {name} of the Ray cluster is gone.", "What is done is stored. Start Ray again, and continue:")


def _answers(place: Place) -> bool:
    try:
        socket.create_connection(place, _ANSWER).close()
    except OSError:
        return False
    return True
