"""From a system pinned by its weights to where they lie: among the trainings here and the released ones, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import DataKind, Subject
from ismn_cli.core.store import Store
from ismn_cli.stages.resolve import Resolved, finished, resolve, run_source


def find_pinned(subject: Subject, base: Subject | None, store: Store, kind: DataKind) -> Resolved | None:
    """Return the system whose weights are exactly those of ``subject``, around ``base``; None where there is none.

    The hashes are taken over the tensors as they are loaded, whatever the files are called.
    """
    for weights in _places(store, base):
        try:
            found = resolve(subject.name, weights, store, kind)
        except UsageError:
            continue
        if found.subject == subject and base in (None, found.base):
            return found
    return None


def _places(store: Store, base: Subject | None) -> Iterator[str]:
    """Yield "released", and each finished training that has the base classifier."""
    yield "released"
    for run in store.runs():
        if not finished(run):
            continue
        try:
            header = run_source(run).header
        except UsageError:
            continue
        if base is None or header.base == base.weights:
            yield run.record.id
