"""Everything that is known by name: systems, attacks and data sets, imported on use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ismn_cli.core.attack_catalogue import ATTACKS, AttackEntry
from ismn_cli.core.errors import UsageError, unknown_name

__all__ = [
    "ATTACKS",
    "DATASETS",
    "SYSTEMS",
    "TRAINABLE",
    "AttackEntry",
    "DatasetEntry",
    "SystemEntry",
    "find",
    "load",
]

Entry = TypeVar("Entry")
Policy = Literal["none", "reform", "reject", "route"]


@dataclass(frozen=True)
class SystemEntry:
    """A classifier with its defence. References have the form "module:name"."""

    name: str
    summary: str
    policy: Policy
    """What becomes of an input: untouched; reformed always; refused, or regenerated, if it looks attacked."""
    config: str | None
    """Frozen dataclass of settings, free of torch."""
    build: str
    """``build(config, shape, base=None) -> Pipeline``"""
    stages: str | None
    """``stages(pipeline, config) -> list[Stage]``; None where there is nothing to train."""
    trained_as: str | None
    """The name that `ismn train --system` knows it by."""
    alter: str | None = None
    """``alter(pipeline) -> Pipeline`` takes a part out of the trained system ``trained_as``."""


@dataclass(frozen=True)
class DatasetEntry:
    """A set of labelled square images."""

    name: str
    summary: str
    load: str
    """``load(split, data_dir, **options) -> ImageSet``"""
    trainable: bool
    options: tuple[str, ...] = ()
    """Which of `DataChoice.options` it takes."""
    source: str | None = None
    """``source(data_dir, **options) -> Source``, where the images are files of their own."""
    origins: str | None = None
    """``origins() -> list[str]``: where the files are to be had by hand."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """What ``load`` is given besides, where many data sets are loaded by one function."""


def _by_name(*entries: SystemEntry) -> dict[str, SystemEntry]:
    return {entry.name: entry for entry in entries}


def _trained(
    name: str, summary: str, policy: Policy, config: str, room: str | None = None
) -> SystemEntry:
    """Return a defence that is trained, in a room of its own under ismn_models, of its own name unless given."""
    room = f"ismn_models.{room or name}"
    return SystemEntry(
        name,
        summary,
        policy,
        f"{room}.config:{config}",
        f"{room}.system:build",
        f"{room}.training:stages",
        name,
    )


def _ablation(name: str, summary: str, policy: Policy, alter: str) -> SystemEntry:
    """Return ISMN, trained as it is, with a part taken out."""
    room = "ismn_models.ismn"
    return SystemEntry(
        name,
        f"ablation: {summary}",
        policy,
        f"{room}.config:IsmnConfig",
        f"{room}.system:build",
        stages=None,
        trained_as="ismn",
        alter=f"{room}.ablations:{alter}",
    )


def _control(name: str, summary: str, config: str, build: str) -> SystemEntry:
    """Return a control: a reformer without weights, there to be compared with."""
    return SystemEntry(
        name,
        summary,
        "reform",
        f"ismn_models.controls_config:{config}",
        f"ismn_models.controls:{build}",
        stages=None,
        trained_as=None,
    )


SYSTEMS: dict[str, SystemEntry] = _by_name(
    SystemEntry(
        "none",
        "Table 1's classifier without a defence",
        "none",
        "ismn_models.classifiers.config:ClassifierConfig",
        "ismn_models.classifiers.training:build",
        "ismn_models.classifiers.training:stages",
        trained_as="classifier",
    ),
    _trained(
        "ismn",
        "instance sparsity mapping: detect, regenerate, answer (Haque and Kang 2021)",
        "route",
        "IsmnConfig",
    ),
    _trained(
        "magnet", "MagNet: auto-encoder detectors and reformer (Meng and Chen 2017)", "reject", "MagnetConfig"
    ),
    _trained(
        "magnet-diverse",
        "MagNet with a pack of eight auto-encoders, one drawn for each image",
        "reject",
        "DiverseConfig",
        room="magnet.diverse",
    ),
    _trained("ddsa", "deep denoising sparse auto-encoder (after Bakhti et al. 2019)", "reform", "DdsaConfig"),
    _trained("prn", "perturbation rectifying network with a detector (Akhtar et al. 2018)", "route", "PrnConfig"),
    _trained(
        "at",
        "Table 1's classifier, adversarially trained (Madry et al. 2018)",
        "none",
        "AdversarialConfig",
        room="adversarial",
    ),
    _trained(
        "trades",
        "Table 1's classifier, trained by TRADES (Zhang et al. 2019)",
        "none",
        "TradesConfig",
        room="adversarial.trades",
    ),
    _trained("hgd", "HGD: U-net denoiser guided by the classifier's logits (Liao et al. 2018)", "reform", "HgdConfig"),
    _trained(
        "distillation",
        "Table 1's classifier by defensive distillation (Papernot et al. 2016)",
        "none",
        "DistillationConfig",
    ),
    _trained(
        "lad",
        "latent adversarial defence (Zhou et al. 2019); Table 4's with classifier_config.arch=celebanet",
        "none",
        "LadConfig",
    ),
    _ablation("ismn-no-mapping", "ISMN's target classifier alone, no regeneration", "none", "no_mapping"),
    _ablation("ismn-no-target", "ISMN's mapping network before the base classifier", "route", "no_target"),
    _ablation("ismn-no-detector", "ISMN with every input regenerated", "route", "no_detector"),
    _ablation(
        "ismn-no-loop", "ISMN, suspicious inputs regenerated once: Sun et al. 2020's rule", "route", "no_loop"
    ),
    _control("jpeg", "control: JPEG compression", "JpegConfig", "build_jpeg"),
    _control("median", "control: median filter", "MedianConfig", "build_median"),
    _control(
        "sign-decoder", "control: untrained decoder of sign noise", "SignDecoderConfig", "build_sign_decoder"
    ),
)

TRAINABLE: dict[str, SystemEntry] = {
    entry.trained_as: entry for entry in SYSTEMS.values() if entry.trained_as and entry.stages
}
"""Systems by the name that `ismn train --system` knows them by."""

DATASETS: dict[str, DatasetEntry] = {
    "cifar10": DatasetEntry(
        "cifar10",
        "CIFAR-10: 45,000 training, 5,000 validation and 10,000 test images",
        "ismn_cli.data.cifar10:load",
        trainable=True,
    ),
    "cifar10-mini": DatasetEntry(
        "cifar10-mini",
        "1,000 test images of CIFAR-10, shipped with ismn; for evaluation only",
        "ismn_cli.data.mini:load",
        trainable=False,
    ),
    "mnist": DatasetEntry(
        "mnist",
        "MNIST: 55,000 training, 5,000 validation and 10,000 test images",
        "ismn_cli.data.mnist:load",
        trainable=True,
    ),
    "celeba": DatasetEntry(
        "celeba",
        "CelebA or CelebA-HQ, one attribute: 17,999 training, 2,000 validation and 2,000 test images (--data-dir DIR)",
        "ismn_cli.data.celeba:load",
        trainable=True,
        options=("attribute", "image_size"),
        source="ismn_cli.data.celeba:source",
        origins="ismn_cli.data.celeba:origins",
    ),
    "folder": DatasetEntry(
        "folder",
        "images of your own, a folder for each class (--data-dir DIR)",
        "ismn_cli.data.folder:load",
        trainable=True,
        options=("image_size",),
        source="ismn_cli.data.folder:source",
    ),
    "csv": DatasetEntry(
        "csv",
        "images of your own, a table of path,label[,split] (--data-dir FILE.csv or DIR)",
        "ismn_cli.data.csv_table:load",
        trainable=True,
        options=("image_size",),
        source="ismn_cli.data.csv_table:source",
    ),
    "npz": DatasetEntry(
        "npz",
        "images of your own, as arrays in .npz files (--data-dir FILE or DIR)",
        "ismn_cli.data.npz:load",
        trainable=True,
        options=("image_size",),
    ),
}


def find(table: Mapping[str, Entry], kind: str, name: str) -> Entry:
    """Return the entry called ``name``. Raises UsageError with the nearest name of this ``kind``."""
    if name not in table:
        raise unknown_name(kind, name, table)
    return table[name]


def load(reference: str) -> Any:
    """Import what "module:name" refers to. Raises UsageError where the module or the name does not exist."""
    module_name, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        missing = error.name or module_name
        hint = f"Is '{missing}' installed in this environment?"
        raise UsageError(f"Cannot import '{reference}': {error}.", hint) from error
    except AttributeError as error:
        raise UsageError(f"Cannot import '{reference}': {error}.", "Write it as module:name.") from error
