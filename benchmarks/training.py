"""Training of a classifier by ismn and by public single-file trainers' loops: images a CPU second, side by side.

    python benchmarks/training.py [--arch table1] [--images 1024] [--batch 128] [--rounds 5] [--device cpu]

The same net and images, in one process. airbench: the loop of KellerJordan/cifar10-airbench (images kept and moved in
16 bits, the epoch's shifts at once, weights in 16 bits, channels last, label smoothing, nothing read back from a step);
its net, optimiser and schedule buy fewer epochs, not faster ones, and are left out. pytorch-cifar: the loop of
kuangliu/pytorch-cifar (DataLoader, torchvision's transforms, float32). All keep freed memory, as `ismn train` does
(`ismn_cli/core/heap.py`): without it airbench's loop is a twentieth slower, the others a fifth to a third. Who goes
first changes from round to round; figures are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ismn_cli.core.heap import keep_freed_memory
from ismn_cli.engine.device import autocast
from ismn_cli.engine.fit import fit
from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.nets import base_net
from ismn_models.classifiers.training import stages
from ismn_models.images import Images
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.shape import Shape

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
LR, MOMENTUM, DECAY, SMOOTHING, SHIFT = 0.01, 0.9, 5e-4, 0.2, 4
Epoch = Callable[[], None]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="table1", help="table1, resnet18 or wrn28-10 (default: table1)")
    parser.add_argument("--images", type=int, default=1024, help="images of an epoch (default: 1024)")
    parser.add_argument("--batch", type=int, default=128, help="images a step (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each side (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    return parser.parse_args()


def new_net(args: argparse.Namespace, layout: torch.memory_format = torch.channels_last) -> nn.Module:
    """Return the same first weights on every call."""
    torch.manual_seed(0)
    net = base_net(Shape(), None, ClassifierConfig(arch=args.arch))
    return net.to(args.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def ours(args: argparse.Namespace, images: Images) -> Epoch:
    pipeline = Pipeline(new_net(args), Defence())
    config = ClassifierConfig(arch=args.arch, epochs=1, batch_size=args.batch, lr=LR, label_smoothing=SMOOTHING)
    precision, few = autocast(torch.device(args.device)), images.take(slice(0, 1))
    on_device = images.to(args.device)

    def epoch() -> None:
        with tempfile.TemporaryDirectory() as folder:
            schedule = stages(pipeline, config)
            fit(pipeline, schedule, on_device, few, seed=0, checkpoint=Path(folder, "c.pt"), precision=precision)

    return epoch


def airbench(args: argparse.Namespace, images: Images) -> Epoch:
    net = new_net(args).to(torch.bfloat16)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    # The loss is a sum: the step is smaller, and what decays it larger, by as much.
    lr, decay = LR / args.batch, DECAY * args.batch
    optimiser = torch.optim.SGD(net.parameters(), lr, MOMENTUM, weight_decay=decay, nesterov=True, fused=True)
    pixels = (images.pixels.to(args.device).bfloat16() / 255).contiguous(memory_format=torch.channels_last)
    padded = nn.functional.pad(transforms.Normalize(MEAN, STD)(pixels), (SHIFT,) * 4, "reflect")
    labels = images.labels.to(args.device)

    def epoch() -> None:
        net.train()
        shifted = cropped(padded, pixels.shape[-1]).flip(-1)
        for rows in torch.split(torch.randperm(len(labels), device=args.device), args.batch):
            answers = net(shifted[rows])
            loss = nn.functional.cross_entropy(answers, labels[rows], label_smoothing=SMOOTHING, reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            net.zero_grad(set_to_none=True)

    return epoch


def cropped(padded: Tensor, size: int) -> Tensor:
    """Return windows [N, C, size, size] of padded images, each somewhere else: airbench's batch_crop for r > 2."""
    n, channels, height, width = padded.shape
    shifts = torch.randint(0, height - size + 1, (n, 2), device=padded.device)
    rows = padded.new_empty(n, channels, size, width)
    found = padded.new_empty(n, channels, size, size)
    for s in range(height - size + 1):
        rows[shifts[:, 0] == s] = padded[shifts[:, 0] == s, :, s : s + size, :]
    for s in range(width - size + 1):
        found[shifts[:, 1] == s] = rows[shifts[:, 1] == s, :, :, s : s + size]
    return found


class _Pictures(Dataset[tuple[Tensor, int]]):
    """CIFAR-10 as torchvision's class gives it: a PIL image at a time, through its transforms."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.transform = transforms.Compose([
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=SHIFT),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images.pixels[i]), int(self.images.labels[i])


def pytorch_cifar(args: argparse.Namespace, images: Images) -> Epoch:
    net = new_net(args, torch.contiguous_format)
    optimiser = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    loader = DataLoader(_Pictures(images), batch_size=args.batch, shuffle=True)

    def epoch() -> None:
        net.train()
        for inputs, targets in loader:
            inputs, targets = inputs.to(args.device), targets.to(args.device)
            optimiser.zero_grad()
            outputs = net(inputs)
            loss = nn.functional.cross_entropy(outputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            loss.item()
            outputs.max(1)[1].eq(targets).sum().item()

    return epoch


def seconds(epoch: Epoch, device: str) -> float:
    """Return the CPU seconds of an epoch; on a GPU, those of the wall."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    epoch()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    args = options()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (args.images, 3, 32, 32), dtype=torch.uint8, generator=draw)
    images = Images(pixels, torch.randint(0, 10, (args.images,), generator=draw))
    sides = {"ismn": ours, "airbench": airbench, "pytorch-cifar": pytorch_cifar}
    epochs = {name: side(args, images) for name, side in sides.items()}
    for epoch in epochs.values():
        epoch()
    rounds = []
    for i in range(args.rounds):
        order = list(epochs) if i % 2 == 0 else list(epochs)[::-1]
        rounds.append({name: seconds(epochs[name], args.device) for name in order})
    print(f"{args.arch}, {args.images} images, batches of {args.batch}, {args.threads} threads, {args.rounds} rounds")
    for name in epochs:
        speed = args.images / statistics.median(found[name] for found in rounds)
        ratio = statistics.median(found[name] / found["ismn"] for found in rounds)
        print(f"{name:<16}{speed:>8.0f} images/s   ismn is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
