"""From a system pinned by its weights to where they lie: among the trainings here and the released ones, or nowhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import DataKind, Subject
from ismn_cli.core.store import Store
from ismn_cli.stages.bases import Base
from ismn_cli.stages.resolve import Resolved, finished, resolve, run_source
from ismn_cli.stages.user_defences import DefenceSetup, defended


def find_pinned(
    subject: Subject,
    base: Subject | None,
    store: Store,
    kind: DataKind,
    own: Base | None = None,
    setup: DefenceSetup | None = None,
) -> Resolved | None:
    """Return the system whose weights are exactly those of ``subject``, around ``base``; None where there is none.

    ``own``: the base classifier that the user has named. The hashes are taken over the tensors as they are loaded,
    whatever the files are called. Raises UsageError for a defence of the user's own, see ``setup``, whose code cannot
    be run as it is now.
    """
    users = None if subject.name in SYSTEMS else setup
    for found in _resolved("none" if users else subject.name, base, store, kind, own):
        if base not in (None, found.base):
            continue
        system = defended(subject.name, found, users, store, kind) if users else found
        if system.subject == subject:
            return system
    return None


def _resolved(
    name: str, base: Subject | None, store: Store, kind: DataKind, own: Base | None
) -> Iterator[Resolved]:
    """Yield the system called ``name`` with the weights of each place that may have them."""
    owners = (own, None) if own else (None,)
    for weights, owner in itertools.product(_places(store, base), owners):
        with suppress(UsageError):
            yield resolve(name, weights, store, kind, own=owner)


def _places(store: Store, base: Subject | None) -> Iterator[str]:
    """Yield "released", and each finished training that has the base classifier."""
    yield "released"
    for run in store.local().runs():
        if not finished(run):
            continue
        try:
            header = run_source(run).header
        except UsageError:
            continue
        if base is None or header.base == base.weights:
            yield run.record.id
