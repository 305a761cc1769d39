"""A house in which everything takes a moment: 8x8 images of three classes, nets of a few hundred weights.

Names are those of the real house, so that the real commands run unchanged. `python small_world.py ARGUMENTS` is the
command line in that house, for tests that need a process of their own; SMALL_WORLD_PASS makes each of its classifier's
passes take as many seconds.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ismn_cli.core import catalogue
from ismn_cli.core.catalogue import DatasetEntry, SystemEntry
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import DataKind
from ismn_cli.data.image_set import ImageSet
from ismn_cli.stages import resolve
from ismn_models.images import Images
from ismn_models.pipeline import Classify, Defence, Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage

CLASSES, CHANNELS, SIZE = 3, 3, 8
KIND = DataKind("cifar10", Shape(CLASSES, CHANNELS, SIZE))
COUNTS = {"train": 90, "validation": 30, "test": 60}


def load(split: str, data_dir: Path | None = None) -> ImageSet:
    """Images whose channel of the class's number is brighter, under noise."""
    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"There is no folder {data_dir}.", "Give another --data-dir.")
    n = COUNTS[split]
    generator = torch.Generator().manual_seed(len(split))
    labels = torch.arange(n) % CLASSES
    pixels = torch.randint(0, 120, (n, CHANNELS, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(n), labels] += 60
    return ImageSet(
        pixels, labels, name="cifar10", split=split, ids=torch.arange(n), classes=("red", "green", "blue"),
        data_hash=f"{len(split):064x}", total=n,
    )  # fmt: skip


def load_mini(split: str, data_dir: Path | None = None) -> ImageSet:
    """The first thirty test images, under the name of the set that comes with ismn."""
    if split != "test":
        raise UsageError("cifar10-mini can never be trained on.", "Use --dataset cifar10.")
    return replace(load("test").take(slice(30)), name="cifar10-mini", total=30, family="cifar10")


@dataclass(frozen=True)
class PlainConfig:
    epochs: int = 8
    batch_size: int = 16
    lr: float = 0.1
    width: int = 6


@dataclass(frozen=True)
class CleanerConfig:
    epochs: int = 2
    batch_size: int = 16
    lr: float = 0.01
    rate: float = 0.05
    policy: str = "pass"


class Net(nn.Module):
    def __init__(self, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(float(os.environ.get("SMALL_WORLD_PASS", "0")))
        return self.out(self.norm(self.conv(x)).relu().mean((2, 3)))


class Cleaner(Defence):
    """Blurs a little; its score is how much it changed the image."""

    def __init__(self, config: CleanerConfig, channels: int) -> None:
        super().__init__()
        self.policy, self.rate = config.policy, config.rate
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def reform(self, x: Tensor) -> Tensor:
        return (x + 0.1 * self.conv(x)).clamp(0, 1)

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        return (self.reform(x) - x).flatten(1).square().mean(1)

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        with torch.no_grad():
            scores = torch.cat([self.score(x, classify) for x in batches])
        self.threshold.copy_(scores.quantile(1 - self.rate))


class Noisy(Defence):
    """Adds noise, fresh at every look."""

    policy = "reform"
    randomised = True

    def reform(self, x: Tensor) -> Tensor:
        return (x + 0.2 * torch.randn_like(x)).clamp(0, 1)


class Descent(Stage):
    """SGD with momentum on ``loss``; SMALL_WORLD_SLEEP makes each step take as many seconds."""

    def __init__(self, name: str, net: nn.Module, config: Any, pipeline: Pipeline) -> None:
        self.name, self.pipeline, self.net = name, pipeline, net
        self.epochs, self.batch_size = config.epochs, config.batch_size
        self.optimisers = (torch.optim.SGD(net.parameters(), lr=config.lr, momentum=0.9),)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        time.sleep(float(os.environ.get("SMALL_WORLD_SLEEP", "0")))
        self.net.train()
        noisy = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
        if self.name == "base":
            loss = nn.functional.cross_entropy(self.net(noisy), y)
        else:
            loss = (self.pipeline.defence.reform(noisy) - x).square().mean()
        self.optimisers[0].zero_grad()
        loss.backward()
        self.optimisers[0].step()
        return {"loss": loss.item()}

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        self.pipeline.eval()
        if self.name == "base":
            return {}
        if self.pipeline.classifier is not self.pipeline.base:
            self.pipeline.classifier.load_state_dict(self.pipeline.base.state_dict())
        self.pipeline.defence.calibrate((x for x, _ in validation.batches(8)), self.pipeline.classifier)
        return {"threshold": float(self.pipeline.defence.threshold)}


def build_plain(config: PlainConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    return Pipeline(base or Net(shape.classes, shape.channels, config.width), Defence())


def plain_stages(pipeline: Pipeline, config: PlainConfig) -> list[Stage]:
    return [Descent("base", pipeline.base, config, pipeline)]


def build_rejecting(config: CleanerConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    net = base or Net(shape.classes, shape.channels, PlainConfig().width)
    return Pipeline(net, Cleaner(replace(config, policy="reject"), shape.channels))


def build_reforming(config: CleanerConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    net = base or Net(shape.classes, shape.channels, PlainConfig().width)
    return Pipeline(net, Cleaner(config, shape.channels))


def build_routing(config: CleanerConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    net = base or Net(shape.classes, shape.channels, PlainConfig().width)
    own = copy.deepcopy(net)
    return Pipeline(net, Cleaner(replace(config, policy="route"), shape.channels), own)


def cleaner_stages(pipeline: Pipeline, config: CleanerConfig) -> list[Stage]:
    return [Descent("cleaning", pipeline.defence, config, pipeline)]


def build_control(config: CleanerConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    return build_reforming(config, shape, base)


def build_noisy(config: CleanerConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    return Pipeline(base or Net(shape.classes, shape.channels, PlainConfig().width), Noisy())


def _system(name: str, policy: Any, config: str, build: str, stages: str | None, trained_as: str | None) -> SystemEntry:
    staged = f"small_world:{stages}" if stages else None
    return SystemEntry(name, name, policy, f"small_world:{config}", f"small_world:{build}", staged, trained_as)


SYSTEMS = (
    _system("none", "none", "PlainConfig", "build_plain", "plain_stages", "classifier"),
    _system("ismn", "route", "CleanerConfig", "build_routing", "cleaner_stages", "ismn"),
    _system("magnet", "reject", "CleanerConfig", "build_rejecting", "cleaner_stages", "magnet"),
    _system("ddsa", "reform", "CleanerConfig", "build_reforming", "cleaner_stages", "ddsa"),
    _system("median", "reform", "CleanerConfig", "build_noisy", None, None),
)
DATASETS = (
    DatasetEntry("cifar10", "small", "small_world:load", trainable=True),
    DatasetEntry("cifar10-mini", "smaller", "small_world:load_mini", trainable=False),
)


def install(released: Path) -> None:
    """Put the small entries in the place of the real ones; released weights lie in ``released``."""
    torch.set_num_threads(1)
    sys.modules.setdefault("small_world", sys.modules[__name__])
    for system in SYSTEMS:
        catalogue.SYSTEMS[system.name] = system
        if system.trained_as:
            catalogue.TRAINABLE[system.trained_as] = system
    catalogue.DATASETS.update({dataset.name: dataset for dataset in DATASETS})
    resolve.released_folder = lambda: released


if __name__ == "__main__":
    install(Path(os.environ["SMALL_WORLD_RELEASED"]))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    from ismn_cli.cli.app import exit_code

    sys.exit(exit_code(sys.argv[1:]))
