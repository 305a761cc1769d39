"""`ismn check`: what a name or a reference stands for, and what the conformance kit says of it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import JsonValue

from ismn_cli.core.catalogue import ATTACKS, DATASETS, SYSTEMS
from ismn_cli.core.datasets import is_known
from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.findings import Finding
from ismn_cli.core.recipes import DataChoice, ModelChoice
from ismn_cli.core.references import called, is_reference, load_attribute, plugins, referred
from ismn_cli.core.store import Store
from ismn_cli.core.torchvision_sets import PREFIX

if TYPE_CHECKING:
    from ismn_cli.data.image_set import ImageSet

Kind = Literal["model", "defence", "attack", "dataset"]
KINDS: tuple[Kind, ...] = get_args(Kind)
IMAGES = 100
"""Images of a data set that a model or a defence is asked with."""


@dataclass(frozen=True)
class Candidate:
    """What is to be checked, and with what."""

    reference: str
    kind: Kind | None = None
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    dataset: DataChoice = field(default_factory=lambda: DataChoice(name="cifar10-mini"))
    data_dir: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Examined:
    """What it was, and what every rule says of it."""

    kind: Kind
    findings: tuple[Finding, ...]


def examine(candidate: Candidate, store: Store) -> Examined:
    """Find out what ``candidate`` is and ask every rule of it. Raises UsageError: nothing of that name, or no kind."""
    from ismn_cli.engine.rng import isolated

    # What the user's code prints is no result.
    with redirect_stdout(sys.stderr), isolated(candidate.seed):
        kind = candidate.kind or kind_of(candidate.reference, candidate.arguments)
        return Examined(kind, _CHECKS[kind](candidate, store))


def kind_of(reference: str, arguments: Mapping[str, JsonValue]) -> Kind:
    """Return what a name or a reference stands for. Raises UsageError where that cannot be told."""
    from ismn_cli.stages.user_models import FILES, LIBRARIES

    if not is_reference(reference):
        return _kind_of_name(reference)
    if reference.startswith(PREFIX) and is_known(reference):
        return "dataset"
    if reference.partition(":")[0] in LIBRARIES or Path(reference).suffix in FILES:
        return "model"
    found = load_attribute(reference)
    kind = _kind_of_object(found) or _kind_of_function(found)
    if kind is None and callable(found) and not inspect.isclass(found):
        kind = _kind_of_object(called(reference, found, arguments, "--arg"))
    if kind is None:
        raise UsageError(f"It cannot be told what {reference} is.", f"Say so: --kind {'|'.join(KINDS)}")
    return kind


def _kind_of_name(name: str) -> Kind:
    tables: Mapping[Kind, Any] = {"defence": SYSTEMS, "attack": ATTACKS, "dataset": DATASETS, "model": {}}
    names = {kind: {*table, *plugins(kind)} for kind, table in tables.items()}
    for kind, known in names.items():
        if name in known:
            return kind
    if is_known(name):
        return "dataset"
    raise unknown_name("model, defence, attack or data set", name, set[str]().union(*names.values()))


def _kind_of_object(found: Any) -> Kind | None:
    """Return what an object, or what a class makes, is: by what it derives from."""
    from torch import nn
    from torch.utils.data import Dataset

    from ismn_models.pipeline import Defence, Pipeline

    kind = found if inspect.isclass(found) else type(found)
    if issubclass(kind, Defence | Pipeline):
        return "defence"
    if issubclass(kind, nn.Module):
        return "model"
    attack = getattr(sys.modules.get("torchattacks.attack"), "Attack", None)
    if attack is not None and issubclass(kind, attack):
        return "attack"
    return "dataset" if issubclass(kind, Dataset) else None


def _kind_of_function(found: Any) -> Kind | None:
    """Return what a function is: an attack has to be given four things, a data set a split."""
    if not callable(found):
        return None
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return None
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if needed[:1] == ["split"]:
        return "dataset"
    return "attack" if len(needed) >= 4 else None


def _model(candidate: Candidate, store: Store) -> tuple[Finding, ...]:
    from ismn_cli.stages.user_models import is_own, load_user_model
    from ismn_cli.testing.models import model_findings

    images = _images(candidate)
    classes = len(images.classes)
    if is_own(candidate.reference):
        choice = ModelChoice(reference=candidate.reference, arguments=dict(candidate.arguments))
        net: Any = load_user_model(choice, images.kind.shape.channels).net
    else:
        net = _built_in(candidate, store, images)
    return model_findings(net, images.floats(), candidate.reference, classes=classes, seed=candidate.seed)


def _defence(candidate: Candidate, store: Store) -> tuple[Finding, ...]:
    from ismn_cli.testing.defences import defence_findings

    images = _images(candidate)
    if candidate.reference in SYSTEMS:
        made: Any = _built_in(candidate, store, images)
    else:
        found = load_attribute(referred("defence", candidate.reference, SYSTEMS), "defence")
        made = _maker(found, candidate)
    return defence_findings(made, images.floats(), candidate.reference, shape=images.kind.shape, seed=candidate.seed)


def _maker(found: Any, candidate: Candidate) -> Any:
    """Return an instance as it is, and what makes one as a function without arguments; tried, so that it can be."""
    from torch import nn

    if isinstance(found, nn.Module) or not callable(found):
        if candidate.arguments:
            raise UsageError(
                f"{candidate.reference} is made already: --arg would change nothing.", "Leave it out, or name a class."
            )
        return found if isinstance(found, nn.Module) else lambda: found

    def make() -> Any:
        return called(candidate.reference, found, candidate.arguments, "--arg")

    make()
    return make


def _built_in(candidate: Candidate, store: Store, images: ImageSet) -> Any:
    from ismn_cli.stages.resolve import resolve

    if candidate.arguments:
        raise UsageError(f"{candidate.reference} is a system of ismn's own: it takes no --arg.", "Leave --arg out.")
    name, _, run = candidate.reference.partition("@")
    return resolve(name, run or "auto", store, images.kind).pipeline


def _images(candidate: Candidate) -> ImageSet:
    from ismn_cli.data.loading import load_dataset

    choice = candidate.dataset.model_copy(update={"limit": candidate.dataset.limit or IMAGES})
    return load_dataset(choice, "test", candidate.data_dir, candidate.seed)


def _attack(candidate: Candidate, store: Store) -> tuple[Finding, ...]:
    from ismn_cli.testing.attack_case import making, norms_of
    from ismn_cli.testing.attacks import attack_findings

    entry, norms = ATTACKS.get(candidate.reference), norms_of(candidate.reference)
    make, control = making(candidate.reference, candidate.arguments), entry is not None and (entry.expects or 0) < 0.5
    found: list[Finding] = []
    for norm in norms:
        subject = candidate.reference if len(norms) == 1 else f"{candidate.reference}, {norm}"
        found += attack_findings(make, subject, norm, control=control, seed=candidate.seed)
    return tuple(found)


def _dataset(candidate: Candidate, store: Store) -> tuple[Finding, ...]:
    from ismn_cli.testing.datasets import dataset_findings

    if candidate.arguments:
        raise UsageError("A data set takes no --arg.", "It is called with the split, and the folder of --data-dir.")
    name = candidate.reference
    given = is_reference(name) or name in plugins("dataset")
    data = _function(name, candidate.data_dir) if given and not name.startswith("torchvision:") else None
    return dataset_findings(data or _loaded(candidate), name)


def _function(name: str, data_dir: Path | None) -> Callable[[str], Any]:
    """Return the user's own function, to be called with the split alone."""
    found = load_attribute(referred("dataset", name, DATASETS), "dataset")
    if not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}, not a function.", "Write data(split).")
    takes = "data_dir" in inspect.signature(found).parameters

    def data(split: str) -> Any:
        return found(split, data_dir=data_dir) if takes else found(split)

    if hasattr(found, "classes"):
        vars(data)["classes"] = found.classes
    return data


def _loaded(candidate: Candidate) -> Callable[[str], Any]:
    """Return a data set of ismn's own as a function of the split. Raises UsageError where it has no test images."""
    from ismn_cli.data.loading import load_dataset

    choice = candidate.dataset.model_copy(update={"name": candidate.reference, "limit": None})

    def data(split: str) -> Any:
        try:
            images = load_dataset(choice, split, candidate.data_dir)
        except UsageError:
            if split == "test":
                raise
            return None
        return images.pixels, images.labels

    vars(data)["classes"] = load_dataset(choice, "test", candidate.data_dir).classes
    return data


_CHECKS: Mapping[Kind, Callable[[Candidate, Store], tuple[Finding, ...]]] = {
    "model": _model,
    "defence": _defence,
    "attack": _attack,
    "dataset": _dataset,
}
