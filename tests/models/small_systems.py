"""Every system of the catalogue in small: 16x16 images of three classes, a net of a few hundred weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from ismn_cli.engine.fit import Progress, fit
from ismn_models.adversarial import system as adversarial
from ismn_models.adversarial.config import AdversarialConfig
from ismn_models.adversarial.trades import system as trades
from ismn_models.adversarial.trades.config import TradesConfig
from ismn_models.classifiers import training as classifiers
from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.controls import build_jpeg, build_median, build_sign_decoder
from ismn_models.controls_config import JpegConfig, MedianConfig, SignDecoderConfig
from ismn_models.ddsa import system as ddsa
from ismn_models.ddsa.config import DdsaConfig
from ismn_models.distillation import system as distillation
from ismn_models.distillation.config import DistillationConfig
from ismn_models.hgd import system as hgd
from ismn_models.hgd.config import HgdConfig
from ismn_models.images import Images
from ismn_models.ismn import system as ismn
from ismn_models.ismn.config import IsmnConfig
from ismn_models.lad import system as lad
from ismn_models.lad.config import LadConfig
from ismn_models.magnet import system as magnet
from ismn_models.magnet.config import MagnetConfig
from ismn_models.magnet.diverse import system as diverse
from ismn_models.magnet.diverse.config import DiverseConfig
from ismn_models.pipeline import Pipeline
from ismn_models.prn import system as prn
from ismn_models.prn.config import PrnConfig
from ismn_models.shape import Shape
from ismn_models.training import Stage

SIZE, CLASSES = 16, 3
RATES = {"error_drop_rate": 0.2, "jsd_drop_rate": 0.2}
"""Far above the real ones, so that a few images show both verdicts."""


class SmallNet(nn.Module):
    """Smooth, so that no gradient is zero by chance."""

    def __init__(self, classes: int = CLASSES, side: int = SIZE) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Linear(6 * (side // 2) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 3 * self.out(self.norm(self.conv(4 * x - 2)).tanh().flatten(1))
        return logits


def images(n: int = 24, seed: int = 0, side: int = SIZE) -> Images:
    """Smooth random images of which each class is brighter in a channel of its own."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 0.6 * torch.rand(n, 3, 4, 4, generator=generator)
    labels = torch.arange(n) % CLASSES
    coarse[torch.arange(n), labels] += 0.3
    smooth = nn.functional.interpolate(coarse, size=side, mode="bilinear")
    noisy = (smooth + 0.05 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
    return Images((noisy * 255).to(torch.uint8), labels)


def _ismn(base: nn.Module) -> Pipeline:
    return ismn.build(IsmnConfig(false_positive_rate=0.3), Shape(CLASSES, 3, SIZE), base)


BUILDERS: dict[str, Callable[[nn.Module], Pipeline]] = {
    "none": lambda base: classifiers.build(ClassifierConfig(), Shape(CLASSES, 3), base),
    "ismn": _ismn,
    "magnet": lambda base: magnet.build(MagnetConfig(**RATES), Shape(CLASSES, 3), base),
    "magnet, paper": lambda base: magnet.build(MagnetConfig(arch="paper", **RATES), Shape(CLASSES, 3), base),
    "magnet, error only": lambda base: magnet.build(
        MagnetConfig(off=("jsd-10", "jsd-40"), **RATES), Shape(CLASSES, 3), base
    ),
    "magnet, no reformer": lambda base: magnet.build(MagnetConfig(off=("reformer",), **RATES), Shape(CLASSES, 3), base),
    "magnet, mnist": lambda base: magnet.build(
        MagnetConfig(setup="mnist", error_drop_rate=0.2), Shape(CLASSES, 3, SIZE), base
    ),
    "magnet-diverse": lambda base: diverse.build(DiverseConfig(pack=3, **RATES), Shape(CLASSES, 3), base),
    "ddsa": lambda base: ddsa.build(DdsaConfig(), Shape(CLASSES, 3, SIZE), base),
    "prn": lambda base: prn.build(PrnConfig(maps=8, false_positive_rate=0.3), Shape(CLASSES, 3, SIZE), base),
    "at": lambda base: adversarial.build(AdversarialConfig(), Shape(CLASSES, 3), base),
    "trades": lambda base: trades.build(TradesConfig(), Shape(CLASSES, 3), base),
    "hgd": lambda base: hgd.build(HgdConfig(maps=4), Shape(CLASSES, 3, SIZE), base),
    "distillation": lambda base: distillation.build(DistillationConfig(), Shape(CLASSES, 3), base),
    "lad": lambda base: lad.build(LadConfig(), Shape(CLASSES, 3, SIZE), base),
    "jpeg": lambda base: build_jpeg(JpegConfig(), Shape(CLASSES, 3), base),
    "median": lambda base: build_median(MedianConfig(), Shape(CLASSES, 3), base),
    "sign-decoder": lambda base: build_sign_decoder(SignDecoderConfig(eps=0.1), Shape(CLASSES, 3), base),
}
"""By the name in the catalogue, and perhaps what differs from the defaults."""


def small_system(name: str, seed: int = 0) -> Pipeline:
    """Return a system with random weights and fitted thresholds, in eval mode."""
    torch.manual_seed(seed)
    system = BUILDERS[name](SmallNet()).eval()
    own = [system.defence] if system.classifier is system.base else [system.defence, system.classifier]
    with torch.no_grad():
        # A copied classifier is not the base, and ISMN's new generator, which does nothing, begins to.
        for parameter in nn.ModuleList(own).parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    system.defence.calibrate(images(40, seed).floats().split(20), system.classifier)
    return system


class Killed(BaseException):
    """Stands for a signal: no `except Exception` on the way may stop it."""


Build = Callable[[], tuple[Pipeline, list[Stage]]]


def train(build: Build, checkpoint: Path, on_progress: Callable[[Progress], None] = lambda _: None) -> Pipeline:
    """Train what ``build`` gives, from weights that depend on nothing around, on twenty-four images."""
    torch.manual_seed(0)
    pipeline, stages = build()
    train_on, validation = images(24, side=8), images(9, seed=1, side=8)
    torch.manual_seed(torch.seed() % 1000)  # where the process comes from must not matter
    fit(
        pipeline,
        stages,
        train_on,
        validation,
        seed=1,
        checkpoint=checkpoint,
        precision=nullcontext,
        on_progress=on_progress,
    )
    return pipeline


def check_every_kill(build: Build, folder: Path) -> None:
    """Kill a training at each of its reports in turn: continued, it gives the weights of one left alone."""
    reports: list[Progress] = []
    whole = copy.deepcopy(train(build, folder / "whole.pt", reports.append).state_dict())
    assert len({report.stage for report in reports}) > 1
    for deadly in range(len(reports)):
        left = [deadly]

        def kill(_: Progress, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1

        checkpoint = folder / f"{deadly}.pt"
        try:
            train(build, checkpoint, kill)
        except Killed:
            continued = train(build, checkpoint).state_dict()
        for name, value in whole.items():
            assert torch.equal(value, continued[name]), (deadly, reports[deadly].stage, name)
