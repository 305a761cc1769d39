"""A lock made of a file, for machines that share a file system and nothing else: no lock daemon is asked.

Who holds it is written in the file, which comes into being by a hard link: complete, and for one process only. The
holder touches it every `BEAT` seconds. It is free where there is no such file, and it may be taken over where its
holder is gone: a process of this machine that no longer runs, at once; one elsewhere, whose end cannot be seen, after
`STALE` seconds without a touch.

Whoever takes over links the claim to a name that is made of the dead holder's content. So of all that find the same
holder dead one wins, and what it has won cannot be won again: a claim counts only where it is the end of the chain
that begins at the lock. Then it moves into the place of the lock.

What is assumed of the file system: that a hard link and a rename are atomic and refused or done for all machines
alike (POSIX; NFS from version 2 on, Lustre, GPFS, BeeGFS), that a file just made here makes a directory be read anew
(NFS does), and that times of change come from one clock, its server's, with which alone they are compared. Where
there are no hard links, creation with O_EXCL takes their place (NFS has that from version 3 on): a process killed
between making its lock and writing who it is leaves one that is free after `STALE` seconds.
A holder that sleeps for longer than `STALE` on another machine is taken for dead. It sees so when it wakes, and says
so; nothing can stop it in between, so what it guards has to be written whole.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from ismn_cli.core.specs import Frozen

BEAT, STALE = 15.0, 180.0
"""Seconds. Attributes of files are remembered by NFS clients for up to 60."""
_TRIES = 100
_LINKLESS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_LOG = logging.getLogger("ismn.store")


class Holder(Frozen):
    """A process, such that no other is taken for it: not of another machine, another container or a later time."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,255}$")]
    kernel: str
    """The boot of the machine and the namespace of process numbers; empty where it cannot be told."""
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    started: str
    """When, in words of the system; empty where it cannot be told."""
    token: str

    @property
    def here(self) -> bool:
        """Whether its process number is one of ours."""
        return bool(self.kernel) and (self.host, self.kernel) == _machine()

    def lives(self) -> bool | None:
        """Whether the process runs; None where that cannot be seen from here."""
        if not self.here:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is another user's
            pass
        started = _started(self.pid)
        return None if started is None else started == self.started


class TakenError(Exception):
    """Somebody holds the lease; ``holder`` is None where it cannot be read who."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(holder)
        self.holder = holder


@dataclass(frozen=True)
class _Claim:
    path: Path
    content: bytes
    touched: float

    @property
    def holder(self) -> Holder | None:
        try:
            return Holder.model_validate_json(self.content)
        except ValidationError:
            return None

    @property
    def successor(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:32]


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``. Raises TakenError, and OSError where the disk refuses."""
    held = _Lease(path)
    held.take()
    ended = threading.Event()
    heart = threading.Thread(target=held.beat, args=(ended,), name="lease", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        held.release()


class _Lease:
    def __init__(self, path: Path) -> None:
        self.path = path
        host, kernel = _machine()
        token = secrets.token_hex(16)
        own = Holder(host=host, kernel=kernel, pid=os.getpid(), started=_started(os.getpid()) or "", token=token)
        self.content = own.model_dump_json().encode()
        self.draft = path.with_name(f".{path.name}.{token}.tmp")

    def take(self) -> None:
        try:
            for _ in range(_TRIES):
                now = self._write_draft()
                chain = self._chain()
                if chain and _alive(chain[-1], now):
                    raise TakenError(chain[-1].holder)
                if self._claim(chain):
                    return
        finally:
            self.draft.unlink(missing_ok=True)
        raise TakenError(None)

    def beat(self, ended: threading.Event) -> None:
        """Touch the file until it is over, or until it is somebody else's."""
        while not ended.wait(BEAT):
            with suppress(OSError):  # the server is away for a moment
                if not self._own(self.path):
                    _LOG.warning("'%s' was taken over: nothing was heard of this process. Stop it.", self.path)
                    return
                os.utime(self.path)

    def release(self) -> None:
        with suppress(OSError):
            chain = self._chain()
            if len(chain) == 1 and chain[0].content == self.content:
                self.path.unlink()

    def _claim(self, chain: list[_Claim]) -> bool:
        """Claim what the end of ``chain`` held, and move into the place of the lock; False where another was first."""
        target = self._after(chain[-1]) if chain else self.path
        if not self._link(target):
            return False
        chain = self._chain()
        if not chain or chain[-1].content != self.content:
            target.unlink(missing_ok=True)
            return False
        if len(chain) > 1:
            self._write_draft()
            os.replace(self.draft, self.path)  # noqa: PTH105 - the atomic call, by its own name
            for claim in chain[1:]:
                claim.path.unlink(missing_ok=True)
        return True

    def _chain(self) -> list[_Claim]:
        """Return the lock and the claims on it, each on the one before."""
        found: list[_Claim] = []
        path = self.path
        while (claim := _read(path)) and claim.path not in [earlier.path for earlier in found]:
            found.append(claim)
            path = self._after(claim)
        return found

    def _after(self, claim: _Claim) -> Path:
        return self.path.with_name(f"{self.path.name}.{claim.successor}")

    def _write_draft(self) -> float:
        """Write who we are beside the lock; return when that was, by the clock of the file system."""
        # Anew: by now the old one may be linked to a claim, which whoever is killed in here would leave empty.
        self.draft.unlink(missing_ok=True)
        with self.draft.open("xb") as stream:
            stream.write(self.content)
            stream.flush()
            os.fsync(stream.fileno())
            return os.fstat(stream.fileno()).st_mtime

    def _link(self, target: Path) -> bool:
        try:
            target.hardlink_to(self.draft)
        except FileExistsError:
            return self._own(target)  # the answer to a link that was made may be lost on the way
        except FileNotFoundError:  # the draft was swept away as a dead process's
            return False
        except OSError as error:
            if error.errno not in _LINKLESS:
                raise
            return self._create(target)
        return True

    def _create(self, target: Path) -> bool:
        try:
            with target.open("xb") as stream:
                stream.write(self.content)
        except FileExistsError:
            return False
        return True

    def _own(self, path: Path) -> bool:
        claim = _read(path)
        return claim is not None and claim.content == self.content


def _read(path: Path) -> _Claim | None:
    for _ in range(2):
        try:
            with path.open("rb") as stream:
                return _Claim(path, stream.read(4096), os.fstat(stream.fileno()).st_mtime)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return None


def _alive(claim: _Claim, now: float) -> bool:
    holder = claim.holder
    lives = holder.lives() if holder else None
    return now - claim.touched < STALE if lives is None else lives


def _machine() -> tuple[str, str]:
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:255]
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return host, f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return host, _asked("sysctl", "-n", "kern.bootsessionuuid")


def _started(pid: int) -> str | None:
    """Return when a process began; "" where it has ended and nobody has asked how, None where it cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    return _asked("ps", "-o", "lstart=", "-p", str(pid)) or None


def _asked(*command: str) -> str:
    """Return what a command of a system without /proc says."""
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return ""
