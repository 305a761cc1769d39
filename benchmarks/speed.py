"""PGD-10 at 8/255 by ismn, torchattacks, Foolbox and ART: images a CPU second, side by side in one process.

    python benchmarks/speed.py [--net none,at] [--images 128] [--repeats 5] [--threads 1]

The libraries get all images in one batch, as their READMEs show; ismn works through them as `ismn attack` does, in its
search precision and with --exact. Who goes first changes from round to round; figures are medians of the rounds'
ratios of CPU time. Passes are counted at the net's door. The peak is that of a product of two large
matrices, or of a convolution, in the same precision; the share is that of all passes, forward and back to the image.
What each side breaks is judged in float32. Exit code 1 where ismn breaks fewer than torchattacks by more than chance.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchattacks
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.core.recipes import DataChoice
from ismn_cli.core.specs import Search, ThreatModel
from ismn_cli.core.store import Store
from ismn_cli.data.loading import load_dataset
from ismn_cli.engine.craft import craft_batch
from ismn_cli.engine.passes import for_search
from ismn_cli.stages.resolve import resolve
from ismn_models.pipeline import Defence, Pipeline

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
Side = Callable[[], Tensor]


class Tally:
    """Images that went in, and gradients that came back; a copy of a net counts on the same one."""

    forwards = backwards = 0

    def __deepcopy__(self, memo: object) -> Tally:
        return self


class Door(nn.Module):
    """A net that counts."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.tally = net, Tally()

    def forward(self, x: Tensor) -> Tensor:
        self.tally.forwards += len(x)
        logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self._back)  # type: ignore[no-untyped-call]
        return logits

    def _back(self, gradient: Tensor) -> None:
        self.tally.backwards += len(gradient)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="none,at", help="released systems without a defence in front (none,at)")
    parser.add_argument("--images", type=int, default=128, help="images of cifar10-mini (default: 128)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    return parser.parse_args()


def theirs(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Side]:
    """Return the libraries that are installed, each with PGD as its README shows it."""
    bare = torchattacks.PGD(net, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)
    sides: dict[str, Side] = {"torchattacks": lambda: bare(x, y)}
    try:
        foolbox = importlib.import_module("foolbox")
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True)
        sides["foolbox"] = lambda: attack(model, x, y, epsilons=EPS)[1]
    except ImportError:
        print("foolbox is not installed")
    try:
        evasion = importlib.import_module("art.attacks.evasion")
        estimator = importlib.import_module("art.estimators.classification").PyTorchClassifier(
            net, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0.0, 1.0), device_type="cpu"
        )
        pgd = evasion.ProjectedGradientDescent(
            estimator, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=1, batch_size=len(x), verbose=False
        )
        sides["art"] = lambda: torch.from_numpy(pgd.generate(x.numpy(), y.numpy()))
    except ImportError:
        print("art is not installed")
    return sides


def ours(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Side]:
    threat = ThreatModel(eps=EPS)
    attack = make_attack(resolve_params("pgd", threat, {"steps": STEPS}), 10)
    system, plain = Pipeline(net, Defence()), x.contiguous(memory_format=torch.channels_last)

    def side(search: Search) -> Side:
        view = for_search(system, search).classifier.eval()
        return lambda: craft_batch(view, attack, plain, y, threat, 0).adversarial

    return {"ismn": side(Search.BF16), "ismn --exact": side(Search.FP32)}


def clocked(side: Side) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    side()
    return time.perf_counter() - wall, time.process_time() - cpu


def race(sides: dict[str, Side], repeats: int) -> list[dict[str, tuple[float, float]]]:
    for side in sides.values():
        side()
    names = list(sides)
    rounds = []
    for i in range(repeats):
        order = names[i % len(names) :] + names[: i % len(names)]
        rounds.append({name: clocked(sides[name]) for name in order})
    return rounds


def peak(dtype: torch.dtype) -> float:
    """Return the operations a second of a matrix product or a convolution, whichever does more, at their best."""
    a, b = torch.rand(1024, 1024).to(dtype), torch.rand(1024, 1024).to(dtype)
    x = torch.rand(16, 128, 32, 32).to(dtype, memory_format=torch.channels_last)
    w = torch.rand(128, 128, 3, 3).to(dtype, memory_format=torch.channels_last)
    steps: dict[float, Side] = {
        2.0 * 1024**3: lambda: a @ b,
        2.0 * x.numel() * 128 * 9: lambda: nn.functional.conv2d(x, w, padding=1),
    }
    best = max(count / min(clocked(step)[1] for _ in range(30)) for count, step in steps.items())
    return best * torch.get_num_threads()


def flops(net: nn.Module, x: Tensor) -> tuple[float, float]:
    """Return the floating-point operations of a pass forward, and back to the image, of one image."""
    one = x[:1].clone().requires_grad_()
    counts = []
    with FlopCounterMode(display=False) as forward:
        logits = net(one)
    counts.append(float(forward.get_total_flops()))
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(logits.sum(), one)
    return counts[0], float(backward.get_total_flops())


def report(name: str, net: Door, x: Tensor, y: Tensor, repeats: int) -> bool:
    """Race on one net, print its table, and return whether ismn broke as many as torchattacks."""
    sides = {**ours(net, x, y), **theirs(net, x, y)}
    counts, broken = {}, {}
    for side, run in sides.items():
        net.tally.forwards = net.tally.backwards = 0
        adversarial = run()
        counts[side] = net.tally.forwards / len(x), net.tally.backwards / len(x)
        with torch.no_grad():
            broken[side] = int((net.net(adversarial).argmax(1) != y).sum())
    rounds = race(sides, repeats)
    there, back = flops(net.net, x)
    print(f"\n{name}: PGD-{STEPS} on {len(x)} images, {torch.get_num_threads()} threads, {repeats} rounds")
    head = f"{'images/s':>10}{'against torchattacks':>22}{'forward':>9}{'back':>6}{'wrong':>7}{'share of peak':>15}"
    print(f"{'':<14}{head}")
    for side in sides:
        ratio = statistics.median(r["torchattacks"][1] / r[side][1] for r in rounds)
        seconds = statistics.median(r[side][1] for r in rounds) / torch.get_num_threads()
        dtype = torch.bfloat16 if side == "ismn" else torch.float32
        forward, backward = counts[side]
        done = len(x) * (forward * there + backward * back) / seconds
        print(
            f"{side:<14}{len(x) / seconds:>10.1f}{ratio:>22.2f}{forward:>9.1f}{backward:>6.1f}{broken[side]:>7}"
            f"{100 * done / peak(dtype):>13.0f} %"
        )
    return broken["ismn"] >= broken["torchattacks"] - 0.02 * len(x)


def main() -> int:
    args = options()
    torch.set_num_threads(args.threads)
    images = load_dataset(DataChoice(name="cifar10-mini", limit=args.images), "test", None)
    x, y = next(iter(images.batches(args.images)))
    as_good = True
    for name in args.net.split(","):
        with tempfile.TemporaryDirectory() as folder:
            pipeline = resolve(name, "released", Store.open(Path(folder)), images.kind).pipeline
        net = copy.deepcopy(pipeline.classifier).to(memory_format=torch.contiguous_format).eval()
        as_good &= report(name, Door(net), x, y, args.repeats)
    return 0 if as_good else 1


if __name__ == "__main__":
    sys.exit(main())
