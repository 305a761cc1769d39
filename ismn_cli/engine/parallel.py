"""Several processes that train one system, as torchrun starts them: they meet, agree, part, and notice who is gone."""

from __future__ import annotations

import io
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ismn_cli.core.errors import UsageError
from ismn_cli.core.world import World
from ismn_models.joint_layers import joint_layers
from ismn_models.parallel import LostError, Rows, answering, reduce_sum

Found = TypeVar("Found")
PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others. One that ends is noticed at once; this is for a network or machine that
falls silent."""
PIECE = 2**28
"""Bytes that are sent at a time."""
_CONTINUES = "What is done is kept: the same command, with as many processes or fewer, continues after the last epoch."


class Ranks:
    """The processes of one training, seen from one of them; of a single process, where ``world`` is one."""

    def __init__(self, world: World = World()) -> None:  # noqa: B008 - frozen
        self.rank, self.size, self.local_rank = world.rank, world.size, world.local_rank
        self.leads = world.rank == 0
        """Whether this is the process that records, stores and shows."""
        self.tells = self.leads
        """Whether this is the process that says how it ended: the first one to find out."""
        self._store: Any = None

    def open(self) -> None:
        """Meet the others. Raises UsageError where they do not come."""
        try:
            base, rank, size = next(rendezvous("env://", timeout=PATIENCE))
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            self._store = PrefixStore(f"ismn/{attempt}", base)
            distributed.init_process_group(
                _backend(), store=self._store, rank=rank, world_size=size, timeout=PATIENCE
            )
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"The {self.size} processes of this training do not find each other ({error}).",
                "Is the address that torchrun was given one of this network (--rdzv-endpoint, GLOO_SOCKET_IFNAME)?",
            ) from error

    def part(self) -> None:
        """Part from the others for good: what follows is the work of this process alone."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def failed(self) -> None:
        """Find out whether this is the first process that ends before its time, which `tells` the reason."""
        if self._store is None:
            return
        try:
            self.tells = self._store.add("failed", 1) == 1
        except RuntimeError:  # it lived in a process that is gone
            self.tells = True

    def from_first(self, content: Found) -> Found:
        """Return what the first process has: tensors, numbers and texts in dictionaries and lists."""
        if self.size == 1:
            return content
        written = io.BytesIO()
        if self.leads:
            torch.save(content, written)
        size = torch.tensor(written.tell())
        reduce_sum(size)
        raw = torch.zeros(int(size), dtype=torch.uint8)
        if self.leads:
            raw = torch.frombuffer(written.getbuffer(), dtype=torch.uint8)
        for piece in torch.split(raw, PIECE):
            with answering():
                distributed.broadcast(piece, 0)
        if self.leads:
            return content
        found: Found = torch.load(io.BytesIO(raw.numpy()), weights_only=True, map_location="cpu")  # type: ignore[arg-type]
        return found

    def device(self, name: str) -> str:
        """Return the name of this process's own device where ``name`` was asked for. Raises UsageError."""
        if self.size == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return name
        if name not in ("auto", "cuda"):
            raise UsageError(f"Several processes cannot all have device '{name}'.", "Give cuda, one for each, or cpu.")
        found = torch.cuda.device_count()
        if self.local_rank >= found:
            raise UsageError(
                f"This machine has {found} GPU{'' if found == 1 else 's'}, and more processes were started on it.",
                f"Start --nproc-per-node {found}, or give --device cpu." if found else "Give --device cpu.",
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"

    def rows(self, n: int, device: torch.device) -> Rows | None:
        """Return which of a batch of ``n`` rows are this process's; None: all.

        Every so-many-th one, so that a step which treats its first rows otherwise is spread as well.
        """
        if self.size == 1:
            return None
        own = torch.arange(n, device=device)[self.rank :: self.size]
        return Rows(own if len(own) else own.new_zeros(1), n, idle=not len(own))

    def joint(self, modules: Sequence[torch.nn.Module]) -> AbstractContextManager[None]:
        """Let the layers of ``modules`` that see the batch see all of it; see `ismn_models.joint_layers`."""
        return nullcontext() if self.size == 1 else joint_layers(modules)


def _backend() -> str:
    # What is said about the work goes by gloo, on the CPU, wherever the work itself is.
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"


ALONE = Ranks()


@contextmanager
def joined(ranks: Ranks) -> Iterator[None]:
    """Train as one of ``ranks``. Raises UsageError where the others do not come, and where one is lost.

    Whatever ends the block, `Ranks.tells` says afterwards whether this process is the one to speak of it.
    """
    if ranks.size == 1:
        yield
        return
    try:
        with _ended_in_words():
            ranks.open()
            yield
            ranks.part()
    except (LostError, distributed.DistError) as error:
        # Ctrl-C reaches all processes, and the one that is gone may only have been quicker.
        time.sleep(0.5)
        ranks.failed()
        raise UsageError(f"A process of this training was lost ({_first_line(error)}).", _CONTINUES) from error
    except BaseException:
        ranks.failed()
        raise


@contextmanager
def _ended_in_words() -> Iterator[None]:
    """Turn SIGTERM, by which torchrun ends the processes that are left, into an error; after any, do not hear it."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise LostError("torchrun ended the others")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException:
        # This process ends by itself, with its reason told. torchrun is about to end it, and would cut it short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, before)


def _first_line(error: Exception) -> str:
    lines = re.sub(r"^\[[^]]*\] ", "", str(error).strip()).splitlines()  # less the place in a library's source
    return lines[0][:160] if lines else type(error).__name__

