"""TensorBoard event files of a run, in its folder `tensorboard`. Needs the extra of that name."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

FOLDER = "tensorboard"


def load() -> type[TensorBoard]:
    """Return the tracker. Raises ImportError where TensorBoard is not installed."""
    import tensorboard  # noqa: F401 - torch's writer is built on it

    return TensorBoard


class TensorBoard:
    """Writes event files, figures in single precision: others are not shown. All is on disk as soon as it is told."""

    def __init__(self, *, run: str, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _await_a_name_of_its_own(folder / FOLDER)
        self._step = step
        self._writer: Any = SummaryWriter(str(folder / FOLDER), purge_step=step)

    def hparams(self, values: Mapping[str, JsonValue]) -> None:
        """Write the recipe as text, and flat for the table of hyperparameters."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        # Indented, it is code, whatever it holds.
        lines = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).splitlines()
        self._writer.add_text("recipe", "\n".join(f"    {line}" for line in lines), self._step)
        flat = hparams_pb(dict(_flat(values)))
        self._writer.file_writer.add_summary(flat, self._step)

    def scalar(self, name: str, value: float, step: int) -> None:
        """See `Tracker`."""
        self._writer.add_scalar(name, value, step)
        # A checkpoint may follow: what it will not tell again has to be on disk before.
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


def _await_a_name_of_its_own(folder: Path) -> None:
    """Wait until no event file of ``folder`` was begun in the present second.

    They are read in the order of their names, which begin with that second and go on with the process's number: one
    that goes on where another was cut has to come after it.
    """
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.05)


def _flat(values: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, bool | int | float | str):
            yield name, value
        else:
            yield name, json.dumps(value, ensure_ascii=False)
