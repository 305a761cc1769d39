"""Trackers found by name before any work, and told of a run so that nothing they do can cost it."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import methodcaller
from pathlib import Path
from types import TracebackType

from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.references import is_reference, load_attribute
from ismn_cli.core.runs import Run
from ismn_cli.core.tracking import Opener, Openers, Tracker
from ismn_cli.stages import tensorboard

_LOG = logging.getLogger("ismn")
NO_TRACKERS: Openers = {}
_OWN = "For one of your own: --track package.module:Name or path/to/file.py:Name (docs/trackers.md)."


def openers(names: Sequence[str]) -> Openers:
    """Return what opens the trackers called ``names``: "tensorboard", or a reference to one of the user's own.

    Raises UsageError: an unknown name, nothing there, something that cannot be called as an `Opener`, a package
    that is missing.
    """
    return {name: _opener(name) for name in names}


def _opener(name: str) -> Opener:
    if name == tensorboard.FOLDER:
        return _tensorboard()
    if not is_reference(name):
        raise unknown_name("tracker", name, [tensorboard.FOLDER])
    found = load_attribute(name, "tracker")
    try:
        inspect.signature(found).bind(run="", folder=Path(), step=0)
    except (TypeError, ValueError):
        raise UsageError(f"'{name}' cannot be called with run=..., folder=..., step=....", _OWN) from None
    opener: Opener = found
    return opener


def _tensorboard() -> Opener:
    try:
        return tensorboard.load()
    except ImportError as error:
        raise UsageError(
            f"TensorBoard cannot be imported ({error}).", 'Install it: pip install "ismn-cli[tensorboard]"'
        ) from None


class Tracking:
    """The trackers of one run. They are opened at the first figure; one that raises is told nothing more.

    They run on random numbers of their own, so that what they draw changes nothing.
    """

    def __init__(self, found: Openers, run: Run) -> None:
        self._found, self._run = dict(found), run
        self._open: dict[str, Tracker] | None = None

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(methodcaller("close"))
        self._open, self._found = {}, {}

    def wanted(self) -> bool:
        """Whether anybody is there to be told."""
        return bool(self._found if self._open is None else self._open)

    def tell(self, figures: Mapping[str, float], step: int) -> None:
        """Tell every tracker the figures of a step."""
        if not self.wanted():
            return
        if self._open is None:
            self._start(step)
        for name, value in figures.items():
            self._each(methodcaller("scalar", name, float(value), step))

    def _start(self, step: int) -> None:
        self._open = {}
        for name, opener in self._found.items():
            with self._guarding(name):
                self._open[name] = opener(run=self._run.record.id, folder=self._run.local_folder(), step=step)
        self._each(methodcaller("hparams", self._run.record.recipe))

    def _each(self, call: Callable[[Tracker], object]) -> None:
        for name, tracker in list((self._open or {}).items()):
            with self._guarding(name):
                call(tracker)

    @contextmanager
    def _guarding(self, name: str) -> Iterator[None]:
        from ismn_cli.engine.rng import isolated

        try:
            with isolated(secrets.randbits(32)):
                yield
        except (Exception, SystemExit) as error:
            (self._open or {}).pop(name, None)
            _LOG.warning("Tracker %s is told nothing more (%s: %s).", name, type(error).__name__, error)
