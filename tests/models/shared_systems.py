"""Every system that is trained, small enough for a few steps of it, by one process or as one of several."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import small_lad
import torch
from small_systems import CLASSES, Build, SmallNet, images
from torch import Tensor, nn

from ismn_cli.core.world import World
from ismn_cli.engine.fit import Progress, fit
from ismn_cli.engine.parallel import Ranks, joined
from ismn_cli.engine.shareable import same_answers
from ismn_models.adversarial import system as adversarial
from ismn_models.adversarial.config import AdversarialConfig
from ismn_models.adversarial.trades import system as trades
from ismn_models.adversarial.trades import training as trades_training
from ismn_models.adversarial.trades.config import TradesConfig
from ismn_models.adversarial.training import stages as adversarial_stages
from ismn_models.classifiers import training as classifiers
from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.ddsa import system as ddsa
from ismn_models.ddsa.config import DdsaConfig
from ismn_models.ddsa.training import stages as ddsa_stages
from ismn_models.distillation import system as distillation
from ismn_models.distillation.config import DistillationConfig
from ismn_models.distillation.training import stages as distillation_stages
from ismn_models.hgd import system as hgd
from ismn_models.hgd.config import HgdConfig
from ismn_models.hgd.training import stages as hgd_stages
from ismn_models.ismn import system as ismn
from ismn_models.ismn.config import IsmnConfig
from ismn_models.ismn.training import stages as ismn_stages
from ismn_models.lad.config import LadConfig
from ismn_models.lad.training import HardeningStage
from ismn_models.magnet import system as magnet
from ismn_models.magnet.config import MagnetConfig
from ismn_models.magnet.diverse import system as diverse
from ismn_models.magnet.diverse.config import DiverseConfig
from ismn_models.magnet.diverse.training import stages as diverse_stages
from ismn_models.magnet.training import stages as magnet_stages
from ismn_models.prn import system as prn
from ismn_models.prn.config import PrnConfig
from ismn_models.prn.training import stages as prn_stages
from ismn_models.shape import Shape

SIDE, IMAGES, BATCH = 16, 18, 8
"""Batches of 8, 8 and 2: of three processes the last one has nothing to do in the third."""
SHAPE = Shape(CLASSES, 3, SIDE)


class Dropped(SmallNet):
    """With dropout of maps and of features before the class layer, as CelebANet has it."""

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.tanh(self.norm(self.conv(4 * x - 2)))
        logits: Tensor = 3 * self.out(self.features(self.maps(maps).flatten(1)))
        return logits

    def __init__(self) -> None:
        super().__init__(side=SIDE)
        self.maps, self.features = nn.Dropout2d(0.3), nn.Dropout(0.5)


def _made(build: Any, config: Any, stages: Any, net: Callable[[], nn.Module] = SmallNet) -> Build:
    def make() -> Any:
        pipeline = build(config, SHAPE, net())
        return pipeline, stages(pipeline, config)

    return make


def _ismn(**settings: Any) -> Build:
    config = IsmnConfig(
        mapping_epochs=2, target_epochs=2, batch_size=BATCH, gan_start=1, pgd_steps=2, at_steps=2, refresh=2,
        detector_images=12, false_positive_rate=0.2, **settings
    )  # fmt: skip
    return _made(ismn.build, config, ismn_stages)


def _hgd(**settings: Any) -> Build:
    return _made(hgd.build, HgdConfig(maps=2, epochs=2, batch_size=BATCH, **settings), hgd_stages)


def _ddsa(**settings: Any) -> Build:
    return _made(ddsa.build, DdsaConfig(epochs=2, batch_size=BATCH, pgd_steps=2, **settings), ddsa_stages)


def _at(**settings: Any) -> Build:
    config = AdversarialConfig(epochs=2, batch_size=BATCH, start="base", eps=0.05, **settings)
    return _made(adversarial.build, config, adversarial_stages)


def _lad(**settings: Any) -> Build:
    config = LadConfig(
        epochs=2, batch_size=4, per_class=3, generator_epochs=2, generator_batch_size=BATCH, width=8, svm_images=4,
        svm_epochs=1, eps_max=1.0, **settings
    )  # fmt: skip
    return lambda: small_lad.make(config)


def _hardening() -> Any:
    """LAD's last stage alone, on examples that are given: those it makes itself are rounded, and follow no rounding."""
    pipeline, (*_, stage) = small_lad.make(LadConfig(epochs=2, batch_size=4))
    assert isinstance(stage, HardeningStage)
    generator = torch.Generator().manual_seed(0)
    stage.examples.index = torch.tensor([0, 3, 4, 7, 8, 11, 12])
    stage.examples.pixels = torch.randint(0, 256, (7, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return pipeline, [stage]


SYSTEMS: dict[str, Build] = {
    "classifier": _made(
        classifiers.build,
        ClassifierConfig(epochs=3, batch_size=BATCH, label_smoothing=0.1, temperature=2.0),
        classifiers.stages,
        Dropped,
    ),
    "at": _at(steps=2),
    "at, fast": _at(method="fast"),
    "trades": _made(
        trades.build, TradesConfig(epochs=2, batch_size=BATCH, steps=2, start="base"), trades_training.stages
    ),
    "distillation": _made(
        distillation.build,
        DistillationConfig(teacher_epochs=1, student_epochs=2, batch_size=BATCH, temperature=5),
        distillation_stages,
    ),
    "ismn": _ismn(),
    "ismn, plain": _ismn(generator="plain", sparsity="topk", train_label="true"),
    "magnet": _made(
        magnet.build, MagnetConfig(epochs=2, batch_size=BATCH, error_drop_rate=0.2, jsd_drop_rate=0.2), magnet_stages
    ),
    "magnet-diverse": _made(
        diverse.build,
        DiverseConfig(pack=2, alone_epochs=1, epochs=1, batch_size=BATCH, error_drop_rate=0.2, jsd_drop_rate=0.2),
        diverse_stages,
    ),
    "ddsa": _ddsa(),
    "ddsa, recon": _ddsa(inner="recon"),
    "hgd": _hgd(),
    "hgd, features": _hgd(guidance="features", refresh=1),
    "hgd, labels": _hgd(guidance="labels", attacks=("noise", "fgsm")),
    "prn": _made(
        prn.build,
        PrnConfig(
            maps=4, epochs=2, batch_size=BATCH, eps=(0.1,), perturbations=3, seeds=1, universal_images=8,
            universal_passes=1, detector_images=12, false_positive_rate=0.2,
        ),
        prn_stages,
    ),
    "lad": _lad(),
    "lad, hardening": _hardening,
    "lad, compat": _lad(compat=True),
}  # fmt: skip


@dataclass
class Outcome:
    """What a training leaves: the weights, those beside the system too, what was told after each step, the figures."""

    weights: dict[str, Tensor]
    told: list[tuple[str, int, int, dict[str, float]]] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def train(name: str, checkpoint: Path, **options: Any) -> Outcome:
    """Train the system; ``options`` go to `fit`."""
    torch.manual_seed(0)
    pipeline, stages = SYSTEMS[name]()
    pipeline.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = 8 if name.startswith("lad") else SIDE
    outcome = Outcome({})

    def hear(progress: Progress) -> None:
        outcome.told.append((progress.stage, progress.epoch, progress.step, progress.figures))

    outcome.figures = fit(
        pipeline,
        stages,
        images(IMAGES, side=side),
        images(9, seed=1, side=side),
        seed=1,
        checkpoint=checkpoint,
        precision=nullcontext,
        on_progress=hear,
        **options,
    )
    beside = {f"{s.name}.{i}": module for s in stages for i, module in enumerate(s.modules) if s.name != "generator"}
    tensors = {"": pipeline, **beside}
    outcome.weights = {f"{p}{p and '.'}{n}": t.clone() for p, m in tensors.items() for n, t in m.state_dict().items()}
    return outcome


class Layered(nn.Module):
    """A convolution, what is in question, and a class layer; ``rows`` is how many rows the layer makes of one."""

    def __init__(self, layer: Callable[[Tensor], Tensor], rows: int = 1) -> None:
        super().__init__()
        self.conv, self.layer, self.rows = nn.Conv2d(3, 8, 3, padding=1), layer, rows
        self.out = nn.Linear(8 * SIDE**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        logits: Tensor = self.out(self.layer(maps.view(len(x) * self.rows, -1, SIDE, SIDE)).reshape(len(x), -1))
        return logits


def _by_halves(maps: Tensor) -> Tensor:
    return torch.cat([half - half.mean(0) for half in maps.chunk(2)])


LAYERS: dict[str, tuple[bool, Callable[[], nn.Module]]] = {
    "batch norm": (True, lambda: Layered(nn.BatchNorm2d(8))),
    "batch norm, all batches alike": (True, lambda: Layered(nn.BatchNorm2d(8, momentum=None))),
    "batch norm without statistics": (False, lambda: Layered(nn.BatchNorm2d(8, track_running_stats=False))),
    "group norm": (True, lambda: Layered(nn.GroupNorm(2, 8))),
    "dropout": (True, lambda: Layered(nn.Dropout(0.5))),
    "dropout of maps": (True, lambda: Layered(nn.Dropout2d(0.5))),
    "dropout of other rows": (False, lambda: Layered(nn.Dropout(0.5), rows=2)),
    "dropout by a function": (False, lambda: Layered(lambda maps: nn.functional.dropout(maps, 0.5))),
    "alpha dropout": (False, lambda: Layered(nn.AlphaDropout(0.5))),
    "a draw that is not used": (False, lambda: Layered(lambda maps: maps + 0 * torch.rand(len(maps), 1, 1, 1))),
    "instance norm with statistics": (False, lambda: Layered(nn.InstanceNorm2d(8, track_running_stats=True))),
    "centred on the batch": (False, lambda: Layered(lambda maps: maps - maps.mean(0))),
    "centred on half the batch": (False, lambda: Layered(_by_halves)),
}
"""Layers, and whether a net with them may be trained by several processes."""


def verdicts(ranks: Ranks) -> dict[str, bool]:
    """Return by layer whether it was found to do the same, and left everything as it was."""
    found = {}
    for name, (_, make) in LAYERS.items():
        torch.manual_seed(0)
        net = make().eval()
        before, drawn = {n: t.clone() for n, t in net.state_dict().items()}, torch.get_rng_state()
        found[name] = same_answers(net, SHAPE, ranks)
        same = all(torch.equal(before[n], t) for n, t in net.state_dict().items())
        assert same and torch.equal(drawn, torch.get_rng_state()) and not any(m.training for m in net.modules()), name
    return found


def main(folder: Path, names: list[str]) -> None:
    """Train systems as one of the processes that torchrun's variables speak of; the first writes what came of it."""
    ranks = Ranks(World.here())
    with joined(ranks):
        found = verdicts(ranks)
        for name in names:
            outcome = train(name, folder / f"{name}.checkpoint", ranks=ranks)
            if ranks.leads:
                torch.save(vars(outcome), folder / f"{name}.pt")
    (folder / f"verdicts-{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
