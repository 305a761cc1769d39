"""For maintainers: finished trainings made into released weights, rounded to fp16 and measured as shipped.

    python -m ismn_cli.stages.release --run classifier=RUN --run ismn=RUN --data-dir DIR

A defence's file leaves the base classifier out: that is the released "classifier", rounded, for all of them.
Their thresholds were fitted before the rounding, so the false-positive rate is measured again, and told.
Trained with `--classifier released` they stand on the rounded classifier from the start.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.core.catalogue import TRAINABLE
from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.recipes import DataChoice
from ismn_cli.core.storage import write_text
from ismn_cli.core.store import Store
from ismn_cli.stages.manifest import (
    MANIFEST,
    Released,
    file_hash,
    manifest_text,
    read_manifest,
    released_folder,
)
from ismn_cli.stages.measure import clean_figures
from ismn_cli.stages.resolve import Source, load_source, resolve, run_source, untrained
from ismn_cli.stages.train import saving
from ismn_cli.stages.weights import (
    Header,
    load_weights,
    on_device,
    read_header,
    save_weights,
    system_hash,
    tensor_hash,
)

if TYPE_CHECKING:
    import torch

    from ismn_cli.core.runs import Run
    from ismn_cli.data.image_set import ImageSet
    from ismn_models.pipeline import Pipeline

BASE = "classifier"


@dataclass(frozen=True)
class Workshop:
    """Where trainings come from, where files go, and what they are measured on."""

    store: Store
    destination: Path
    test: ImageSet
    device: torch.device


def release(
    runs: Mapping[str, str],
    destination: Path,
    store: Store,
    data_dir: Path | None,
    device: str = "auto",
    limit: int | None = None,
) -> dict[str, Released]:
    """Write fp16 files and the manifest to ``destination``; return the new entries.

    ``runs`` maps "classifier", "ismn", "magnet", "ddsa" to run ids; "classifier" may be any run, of which the
    base classifier is taken. What is released there already stays. Measured on all test images, or ``limit``.
    Raises UsageError: a run that is not finished, of another system, or around another base classifier.
    """
    from ismn_cli.data.loading import load_dataset
    from ismn_cli.engine.device import pick_device

    for name in runs:
        if name not in TRAINABLE:
            raise unknown_name("system to release", name, TRAINABLE)
    sources = {name: run_source(store.local().run(run)) for name, run in runs.items()}
    for name, source in sources.items():
        if source.header.model is not None:
            raise UsageError(
                f"{source.origin} stands on {source.header.model.reference}, which is not ismn's to release.",
                f"Train it on ismn's own: ismn train --system {name} --classifier released",
            )
    dataset = next(iter(sources.values())).header.dataset
    test = load_dataset(DataChoice(name=dataset, limit=limit), "test", data_dir)
    shop = Workshop(store, destination, test, pick_device(device))
    destination.mkdir(parents=True, exist_ok=True)
    before = read_manifest(destination)
    entries: dict[str, Released] = {}
    for name in sorted(runs, key=lambda name: name != BASE):
        entries[name] = _release(shop, name, store.local().run(runs[name]), before | entries)
        write_text(destination / MANIFEST, manifest_text(before | entries))
    return entries


def _release(shop: Workshop, name: str, run: Run, known: Mapping[str, Released]) -> Released:
    source = run_source(run)
    if name == BASE:
        base_file = None
        pipeline = resolve("none", run.record.id, shop.store, source.header.kind()).pipeline
        header = _as_classifier(source.header)
    else:
        base_file = _base_file(shop, known)
        _check_system(name, run, source.header)
        pipeline = load_source(source)
        header = source.header.model_copy(update={"base": _check_base(source, base_file)})
    file = shop.destination / f"{name}.safetensors"
    rounded = Source(file, _write(file, pipeline, header, alone=name == BASE), "", base_file)
    return _entry(shop, name, run, rounded, known)


def _as_classifier(header: Header) -> Header:
    """Return the header of a system's base classifier, by itself."""
    return header.model_copy(update={"system": BASE, "config": header.base_config})


def _check_system(name: str, run: Run, header: Header) -> None:
    if header.system != name:
        raise UsageError(f"Run {run.record.id} trained {header.system}, not {name}.", "See the runs: ismn list runs")


def _base_file(shop: Workshop, known: Mapping[str, Released]) -> Path:
    if BASE not in known:
        raise UsageError("There is no released classifier to stand on.", "Give one too: --run classifier=RUN")
    return shop.destination / known[BASE].file


def _check_base(source: Source, base_file: Path) -> str:
    """Return the hash of the released base, once it is sure that it is the system's own base, rounded."""
    released = load_source(Source(base_file, read_header(base_file), "")).base
    own = load_source(source).base
    for tensor, (name, rounded) in zip(own.state_dict().values(), released.state_dict().items(), strict=True):
        if tensor.shape != rounded.shape or not _rounds_to(tensor, rounded):
            raise UsageError(
                f"{source.origin} stands on another base than the released classifier ('{name}' differs).",
                f"Train it on that one: ismn train --system {source.header.system} --classifier released",
            )
    return tensor_hash(released)


def _rounds_to(tensor: torch.Tensor, rounded: torch.Tensor) -> bool:
    import torch

    return bool(torch.equal(tensor, rounded) or torch.equal(tensor.half().to(rounded.dtype), rounded))


def _write(file: Path, pipeline: Pipeline, header: Header, alone: bool) -> Header:
    """Write the rounded file; where it holds the base itself, with the hash that the rounded base has."""
    with saving(file):
        save_weights(file, pipeline, header, half=True, base=alone)
    if not alone:
        return header
    read_back = untrained(header)
    load_weights(file, read_back)
    exact = header.model_copy(update={"base": tensor_hash(read_back.base)})
    with saving(file):
        save_weights(file, read_back, exact, half=True)
    return exact


def _entry(shop: Workshop, name: str, run: Run, rounded: Source, known: Mapping[str, Released]) -> Released:
    record, header = run.record, rounded.header
    pipeline = load_source(rounded).eval()
    tensors = system_hash(pipeline)
    return Released(
        file=rounded.file.name,
        sha256=file_hash(rounded.file),
        tensors=tensors,
        system=name,
        config=header.config,
        base=None if name == BASE else BASE,
        recipe=record.recipe,
        dataset=header.dataset,
        data=header.data,
        images=header.images,
        epochs=header.epochs,
        environment=record.environment,
        measured=_measured(shop, pipeline, known.get(BASE) if name != BASE else None),
        training=record.figures,
        training_seconds=record.training_seconds,
        notes=record.notes,
    )


def _measured(shop: Workshop, pipeline: Pipeline, base: Released | None) -> dict[str, float]:
    """Measure the rounded system; its base classifier alone is the one released as ``base``."""
    figures = clean_figures(on_device(pipeline, shop.device), shop.test, shop.device, lambda _: None)
    alone = figures if base is None else base.measured
    return figures | {"clean accuracy of the base classifier": alone["clean accuracy"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Release from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ismn_cli.stages.release",
        description="Make finished trainings into released weights: fp16 files and a manifest with figures.",
    )
    parser.add_argument("--run", action="append", required=True, metavar="NAME=RUN", help="repeatable")
    parser.add_argument("--destination", type=Path, help="folder (default: that of the package)")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    runs = dict(part.partition("=")[::2] for part in options.run)
    try:
        destination = options.destination or released_folder()
        entries = release(runs, destination, Store.open(options.store), options.data_dir, options.device)
    except UsageError as error:
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        return 2
    for name, entry in entries.items():
        figures = ", ".join(f"{key} {value:.4g}" for key, value in entry.measured.items())
        sys.stdout.write(f"{name}: {figures}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
