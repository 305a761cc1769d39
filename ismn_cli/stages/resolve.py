"""From a name to a system with weights: newest finished training, else released weights; it says which."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.core.catalogue import SYSTEMS, TRAINABLE, SystemEntry, find, load
from ismn_cli.core.datasets import named
from ismn_cli.core.errors import UsageError
from ismn_cli.core.runs import Run
from ismn_cli.core.settings import build_settings
from ismn_cli.core.specs import DataKind, Subject
from ismn_cli.core.store import Store
from ismn_cli.stages.bases import Base, remade
from ismn_cli.stages.manifest import read_manifest, released_file, released_folder
from ismn_cli.stages.user_defences import DefenceSetup, defended, reference_of
from ismn_cli.stages.user_models import model_options
from ismn_cli.stages.weights import Header, hash_tensors, load_weights, parts_state, read_header, tensor_hash

if TYPE_CHECKING:
    from torch import nn

    from ismn_models.pipeline import Pipeline

_LOG = logging.getLogger("ismn")
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Source:
    """Where a trained system lies. ``base_file`` holds its base classifier where ``file`` does not."""

    file: Path
    header: Header
    origin: str
    base_file: Path | None = None


@dataclass(frozen=True)
class Resolved:
    """A system that can decide, with its weights pinned. ``origin`` says in words where they come from."""

    subject: Subject
    base: Subject
    pipeline: Pipeline
    origin: str
    policy: str


def resolve(
    name: str,
    weights: str,
    store: Store,
    kind: DataKind,
    prefer_base: str | None = None,
    own: Base | None = None,
    setup: DefenceSetup | None = None,
) -> Resolved:
    """Return the system called ``name`` for images of ``kind``, on the CPU and in evaluation mode.

    ``weights``: "auto" (the newest finished training, else the released weights), "released", or a run's id.
    With ``prefer_base``, the hash of a base classifier, "auto" takes the newest system around that one if
    there is one. It stands on ``own`` where that is given: a defence that is trained has to be around that one. With
    ``setup``, a name that ismn does not have is that of a defence of the user's own, which then is on its device.
    Raises UsageError: unknown names, nothing trained or released, weights for other data.
    """
    if setup is not None and name not in SYSTEMS:
        reference_of(name)
        plain = resolve("none", weights, store, kind, prefer_base, own)
        return defended(name, plain, setup, store, kind)
    entry = find(SYSTEMS, "system", name)
    if own is not None and needs_base_only(entry):
        return _on(own, entry, kind)
    around = None if own is None else _around(own, entry, weights, store, kind)
    source = around or _choose(entry, weights, store, kind, prefer_base)
    _check_fits(source, kind)
    trained = load_source(source, own)
    if entry.trained_as == source.header.system:
        settings = _settings(entry, source.header)
        pipeline = load(entry.alter)(trained) if entry.alter else trained
    else:
        # An undefended system, or a defence without weights: around the same base classifier.
        settings = _settings(entry, None)
        pipeline = load(entry.build)(settings, kind.shape, base=trained.base)
    pipeline.eval()
    base = Subject(name="classifier", weights=source.header.base)
    subject = _subject(entry, pipeline, settings, base, pinned=source.header.model is not None)
    return Resolved(subject, base, pipeline, source.origin, entry.policy)


def _on(own: Base, entry: SystemEntry, kind: DataKind) -> Resolved:
    """Return a system that needs a base classifier and nothing else of weights, on the given one."""
    settings = _settings(entry, None)
    pipeline = load(entry.build)(settings, kind.shape, base=own.net)
    pipeline.eval()
    base = Subject(name="classifier", weights=own.weights)
    subject = _subject(entry, pipeline, settings, base, pinned=own.model is not None)
    return Resolved(subject, base, pipeline, own.origin, entry.policy)


def _around(own: Base, entry: SystemEntry, weights: str, store: Store, kind: DataKind) -> Source:
    """Return the training of a defence around the given base classifier: the newest, or that of a run."""
    if weights not in ("auto", "released"):
        candidates = iter([_from_run(entry, store.local().run(weights), store)])
    else:
        candidates = _candidates(entry, store)
    found = next((s for s in candidates if s.header.base == own.weights and s.header.kind() == kind), None)
    if found is not None:
        return found
    options = f" {model_options(own.model)}" if own.model else ""
    raise UsageError(
        f"There is no {entry.name} around {own.origin}.",
        f"Train it first: ismn train --system {entry.trained_as}{train_options(kind)}{options}",
    )


def source_of(name: str, weights: str, store: Store, kind: DataKind) -> Source:
    """Return where the weights of a system for images of ``kind`` lie. Raises UsageError; see `resolve`."""
    source = _choose(find(SYSTEMS, "system", name), weights, store, kind, None)
    _check_fits(source, kind)
    return source


def base_of(classifier: str, store: Store, kind: DataKind) -> Base:
    """Return the base classifier for a training on images of ``kind``.

    ``classifier``: "released", a run's id, or "auto": the newest finished training's, else the released one.
    """
    source = source_of("none", classifier, store, kind)
    header = source.header
    return Base(load_source(source).base, header.base, header.base_config, source.origin, header.model)


def finished(run: Run) -> bool:
    """Whether ``run`` is a training that is done and still has its weights."""
    record = run.record
    return record.kind == "train" and record.status == "done" and (run.folder / WEIGHTS).is_file()


def run_source(run: Run) -> Source:
    """Return what a finished training run trained. Raises UsageError if it is not one."""
    if not finished(run):
        state = "is a training that is not finished" if run.record.kind == "train" else "trained nothing"
        raise UsageError(f"Run {run.record.id} {state}.", "See the finished ones: ismn list runs")
    file = run.folder / WEIGHTS
    return Source(file, read_header(file), f"run {run.record.id}")


def load_source(source: Source, own: Base | None = None) -> Pipeline:
    """Build the system that ``source`` describes and load its weights, on the CPU.

    A base classifier of the user's own is made again, unless it is there already: ``own``. Raises UsageError, also
    where that has become another one.
    """
    header = source.header
    if header.model is not None:
        pipeline = untrained(header, own.net if own else remade(header, source.origin))
        load_weights(source.file, pipeline, base=False)
        return pipeline
    pipeline = untrained(header)
    load_weights(source.file, pipeline, base=source.base_file is None)
    if source.base_file is not None:
        base = load_source(Source(source.base_file, read_header(source.base_file), "")).base
        pipeline.base.load_state_dict(base.state_dict())
    if tensor_hash(pipeline.base) != header.base:
        raise UsageError(f"{source.file} belongs to another base classifier.", "Train again with --fresh.")
    return pipeline


def untrained(header: Header, base: nn.Module | None = None) -> Pipeline:
    """Build the system that ``header`` describes, around ``base`` where that is given."""
    entry, plain = find(TRAINABLE, "trained system", header.system), SYSTEMS["none"]
    shape = header.kind().shape
    if base is None:
        base = load(plain.build)(build_settings(load(str(plain.config)), header.base_config, "base"), shape).base
    pipeline: Pipeline = load(entry.build)(_settings(entry, header), shape, base=base)
    return pipeline


def _choose(entry: SystemEntry, weights: str, store: Store, kind: DataKind, prefer_base: str | None) -> Source:
    if weights == "auto":
        candidates = (source for source in _candidates(entry, store) if source.header.kind() == kind)
        source = next(candidates, None)
        if source is not None and prefer_base not in (None, source.header.base):
            source = next((s for s in candidates if s.header.base == prefer_base), source)
        return source or _released(entry, kind)
    if weights == "released":
        return _released(entry, kind)
    return _from_run(entry, store.local().run(weights), store)


def _from_run(entry: SystemEntry, run: Run, store: Store) -> Source:
    """Return the run where it trained this system, else the newest of its kind around the same base."""
    source = run_source(run)
    if _serves(source, entry):
        return source
    alike = (s for s in _candidates(entry, store) if s.header.base == source.header.base)
    found = next(alike, None)
    if found is None:
        raise UsageError(
            f"Run {run.record.id} trained {source.header.system}; there is no {entry.name} around its base.",
            f"Train one: ismn train --system {entry.name} --classifier {run.record.id}",
        )
    return found


def _candidates(entry: SystemEntry, store: Store) -> Iterator[Source]:
    """Yield what could serve as this system: finished trainings, the newest first, then the released one."""
    for run in store.local().runs():
        if not finished(run):
            continue
        try:
            source = run_source(run)
        except UsageError as error:
            _LOG.warning("Run %s is left out: %s", run.record.id, error.message)
            continue
        if source.header.system in TRAINABLE and _serves(source, entry):
            yield source
    try:
        yield _released(entry)
    except UsageError as error:
        _LOG.debug("%s", error.message)


def _serves(source: Source, entry: SystemEntry) -> bool:
    """Whether ``source`` gives this system: any base classifier serves where that is all it needs."""
    return needs_base_only(entry) or source.header.system == entry.trained_as


def needs_base_only(entry: SystemEntry) -> bool:
    """Whether a base classifier is all that this system has of weights."""
    return entry.trained_as in (None, "classifier")


def _released(entry: SystemEntry, kind: DataKind | None = None) -> Source:
    wanted = "classifier" if needs_base_only(entry) else str(entry.trained_as)
    folder = released_folder()
    manifest = read_manifest(folder)
    where = f" on {kind.dataset}" if kind else ""
    if wanted not in manifest or (kind and manifest[wanted].dataset != kind.dataset):
        raise UsageError(
            f"There are no weights for {entry.name}{where}: none was trained here, and none is released.",
            f"Train it first: ismn train --system {wanted}{train_options(kind)}",
        )
    found = manifest[wanted]
    file = released_file(folder, found)
    base_file = released_file(folder, manifest[found.base]) if found.base else None
    return Source(file, read_header(file), "the released weights", base_file)


def _settings(entry: SystemEntry, header: Header | None) -> Any:
    if entry.config is None:
        return None
    values = header.config if header else {}
    return build_settings(load(entry.config), values, f"settings of {entry.name}")


def _subject(entry: SystemEntry, pipeline: Pipeline, settings: Any, base: Subject, pinned: bool = False) -> Subject:
    """Pin the system: the tensors, and the settings where they take part in a decision.

    ``pinned``: what pins the base classifier stands for its tensors.
    """
    if entry.trained_as == "classifier":
        return Subject(name=entry.name, weights=base.weights)
    text = json.dumps(asdict(settings) if settings else {}, sort_keys=True) + (entry.alter or "")
    parts = parts_state(pipeline)
    if pinned:
        parts = {name: tensor for name, tensor in parts.items() if not name.startswith("base.")}
        text += base.weights
    digest = hashlib.sha256(f"{hash_tensors(parts)}\n{text}".encode()).hexdigest()
    return Subject(name=entry.name, weights=digest)


def train_options(kind: DataKind | None) -> str:
    """Return the options of `ismn train` that ask for images of ``kind``."""
    if kind is None:
        return ""
    there = named(kind.dataset)
    told = f" --attribute {there.rest}" if "attribute" in there.options else ""
    return f" --dataset {shlex.quote(there.name)}{told}" + (f" --image-size {there.size}" if there.size else "")


def _check_fits(source: Source, kind: DataKind) -> None:
    own, wanted = source.header.kind().shape, kind.shape
    if own == wanted:
        return
    raise UsageError(
        f"{source.origin} answers with {own.classes} classes for {own.channels} channels of {own.size} pixels a side; "
        f"{kind.dataset} has {wanted.classes}, {wanted.channels} and {wanted.size}.",
        f"Train on images of that kind first: ismn train{train_options(kind)}",
    )
