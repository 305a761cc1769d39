"""FGSM, PGD and AutoAttack on somebody else's CIFAR-10 net: our cell against the library called directly.

For ResNet-20 and ResNet-32 as He et al. (2016, section 4.2) built them for CIFAR-10, with shortcuts that have no
weights; a state dict as github akamaster/pytorch_resnet_cifar10 and cassidylaidlaw/ReColorAdv publish them.
The images are the first of the test set. Both sides attack groups of 16 on the same draws and are compared image by
image: all pixels, and whether the net is still right. Exit code 1 where they differ.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchattacks
from pyautoattack import AutoAttack
from torch import Tensor, nn
from torch.nn import functional as F

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.core.recipes import DataChoice
from ismn_cli.core.specs import AttackSpec, ThreatModel, parse_eps
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.loading import load_dataset
from ismn_cli.engine.ball import project
from ismn_cli.engine.craft import craft_batch
from ismn_cli.engine.draws import Common
from ismn_cli.engine.groups import filled, groups
from ismn_cli.engine.rng import derive, seed_everything

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VERSIONS = ("standard", "plus", "rand")

Direct = Callable[[nn.Module, Tensor, Tensor, AttackSpec, int], Tensor]
"""(net, x, y, what to run, a seed drawn from the global generator) -> images, by the library alone."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="a checkpoint, .th or .pt")
    parser.add_argument("--data-dir", type=Path, help="where CIFAR-10 lies")
    parser.add_argument("--limit", type=int, default=20, help="images (default: 20)")
    parser.add_argument("--batch", type=int, default=100, help="images a batch (default: 100)")
    parser.add_argument("--eps", type=parse_eps, default="8/255", help="L-inf (default: 8/255)")
    parser.add_argument("--steps", type=int, default=20, help="PGD steps (default: 20)")
    help_text = f"{', '.join(VERSIONS)}, or attacks of its own such as apgd-ce+square (default: standard)"
    parser.add_argument("--autoattack", default="standard", help=help_text)
    return parser.parse_args()


class Block(nn.Module):
    """Two convolutions and a shortcut, which skips pixels and fills up channels with zeros where both change."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.added = stride, channels - before

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        skipped = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(skipped, (0, 0, 0, 0, self.added // 2, self.added // 2))
        return (inner + shortcut).relu()


class ResNet(nn.Module):
    """A ResNet of 6 ``blocks`` + 2 layers on images in [0, 1], which it normalises itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1, blocks)
        self.layer2 = self._stage(16, 32, 2, blocks)
        self.layer3 = self._stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(before: int, channels: int, stride: int, blocks: int) -> nn.Sequential:
        rest = (Block(channels, channels, 1) for _ in range(blocks - 1))
        return nn.Sequential(Block(before, channels, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.bn1(self.conv1((x - self.mean) / self.std)).relu()
        logits: Tensor = self.linear(self.layer3(self.layer2(self.layer1(stem))).mean((2, 3)))
        return logits


def load_net(path: Path) -> ResNet:
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in content.get("state_dict", content).items()}
    net = ResNet(len({key.split(".")[1] for key in state if key.startswith("layer1.")}))
    net.load_state_dict(state)
    return net.eval()


def fgsm(net: nn.Module, x: Tensor, y: Tensor, spec: AttackSpec, seed: int) -> Tensor:
    x = x.clone().requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(net(x), y), x)[0]
    return (x + spec.threat.eps * gradient.sign()).clamp(0, 1).detach()


def pgd(net: nn.Module, x: Tensor, y: Tensor, spec: AttackSpec, seed: int) -> Tensor:
    images: Tensor = torchattacks.PGD(net, eps=spec.threat.eps, **spec.params)(x, y)
    return images


def autoattack(net: nn.Module, x: Tensor, y: Tensor, spec: AttackSpec, seed: int) -> Tensor:
    version, names = spec.params["version"], str(spec.params["attacks"])
    attacks = names.split("+") if version == "custom" else None
    attack = AutoAttack(net, attacks=attacks, eps=spec.threat.eps, norm="Linf", seed=seed, version=version)
    images: Tensor = attack.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return images


@dataclass
class Row:
    """One attack over all batches. Pairs are (the cell, the library)."""

    name: str
    right: list[int] = field(default_factory=lambda: [0, 0])
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])
    other_pixels: int = 0
    other_outcomes: int = 0
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return not (self.other_pixels or self.other_outcomes)


def race(net: nn.Module, images: ImageSet, spec: AttackSpec, direct: Direct, batch: int) -> Row:
    row, attack, threat = Row(spec.label()), make_attack(spec, 10), spec.threat
    for index, (x, y) in enumerate(images.batches(batch)):
        seed, start = derive("third party", index), time.perf_counter()
        crafted = craft_batch(net, attack, x, y, threat, seed)
        middle = time.perf_counter()
        theirs = project(torch.cat(list(in_groups(direct, net, x, y, spec, seed))), x, threat)
        end = time.perf_counter()
        compare(row, [right(net, candidate, y) for candidate in (crafted.adversarial, theirs)])
        row.other_pixels += int((crafted.adversarial != theirs).flatten(1).any(1).sum())
        row.notes |= dict.fromkeys(crafted.notes)
        row.seconds = [row.seconds[0] + middle - start, row.seconds[1] + end - middle]
    return row


def in_groups(direct: Direct, net: nn.Module, x: Tensor, y: Tensor, spec: AttackSpec, seed: int) -> Iterator[Tensor]:
    """Yield the library's images, on groups and draws such as the cell's."""
    for rows in groups(x):
        seed_everything(seed)
        # The adapter's draw, too: for PGD's generator to stand where it stands there.
        drawn = int(torch.randint(2**31 - 1, ()))
        with Common():
            yield direct(net, filled(x[rows]), filled(y[rows]), spec, drawn)[: len(rows)]


def compare(row: Row, flags: list[Tensor]) -> None:
    row.right = [total + int(flag.sum()) for total, flag in zip(row.right, flags, strict=True)]
    row.other_outcomes += int((flags[0] != flags[1]).sum())


def right(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = net(x)
        return logits.argmax(1) == y


def report(row: Row, count: int) -> None:
    ours, theirs = (100 * share / count for share in row.right)
    seconds = "".join(f"{value:>8.1f}" for value in row.seconds)
    print(f"{row.name:<20}{ours:>8.1f}{theirs:>9.1f}{row.other_pixels:>8}{row.other_outcomes:>10}{seconds}", flush=True)
    for note in row.notes:
        print(f"  {note}")


def main() -> int:
    args = options()
    threat, net = ThreatModel(eps=args.eps), load_net(args.weights)
    images = load_dataset(DataChoice(), "test", args.data_dir).take(slice(args.limit))
    custom = {"version": "custom", "attacks": args.autoattack}
    ensemble = {"version": args.autoattack} if args.autoattack in VERSIONS else custom
    rounds: list[tuple[AttackSpec, Direct]] = [
        (resolve_params("fgsm", threat, {}), fgsm),
        (resolve_params("pgd", threat, {"steps": args.steps}), pgd),
        (resolve_params("autoattack", threat, ensemble), autoattack),
    ]
    clean = sum(int(right(net, x, y).sum()) for x, y in images.batches(args.batch))
    print(f"{args.weights.name}, the first {len(images)} test images: {100 * clean / len(images):.1f} % right")
    print(f"{'% right under':<20}{'cell':>8}{'library':>9}{'pixels':>8}{'outcomes':>10}{'cell s':>8}{'lib. s':>8}")
    equal = []
    for spec, direct in rounds:
        row = race(net, images, spec, direct, args.batch)
        report(row, len(images))
        equal.append(row.equal)
    print(f"images that differ in pixels or outcome: {'none' if all(equal) else 'some'}")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
