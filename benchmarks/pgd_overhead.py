"""What the harness adds to torchattacks' own PGD: same model, batch and steps, side by side.

Time: both in one process, in turns, the median of the pairs' ratios. Memory: a fresh process for each, the
peak of resident memory above what was there before the attack. Exit code 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchattacks
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.core.specs import ThreatModel
from ismn_cli.engine.craft import craft_batch
from ismn_models.classifiers.table1 import Table1

EPS = 8 / 255
CLASSES = 10
TIME_LIMIT, MEMORY_LIMIT = 1.05, 1.1
VARIANTS = ("torchattacks", "ismn")

Variants = dict[str, Callable[[], Tensor]]
Clocks = tuple[float, float]
"""(wall seconds, CPU seconds)"""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32, help="images a batch (default: 32)")
    parser.add_argument("--steps", type=int, default=10, help="PGD steps (default: 10)")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of runs (default: 7)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's own choice)")
    parser.add_argument("--tiny", action="store_true", help="a small net in place of Table 1's classifier")
    # How this script calls itself for the memory of one variant.
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def variants(args: argparse.Namespace) -> Variants:
    """Return both ways to attack the same net on the same images: the bare library, and the harness."""
    torch.manual_seed(0)
    net = tiny() if args.tiny else Table1(CLASSES)
    net.eval()
    x, y = torch.rand(args.batch, 3, 32, 32), torch.arange(args.batch) % CLASSES
    threat = ThreatModel(eps=EPS)
    spec = resolve_params("pgd", threat, {"steps": args.steps})
    ours = make_attack(spec, CLASSES)
    bare = torchattacks.PGD(net, eps=EPS, **spec.params)
    return {
        "torchattacks": lambda: bare(x, y),
        "ismn": lambda: craft_batch(net, ours, x, y, threat, seed=0).adversarial,
    }


def tiny() -> nn.Module:
    """Return a net of 1.5 % of Table 1's multiply-adds: a batch's fixed costs still stay small beside it."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, CLASSES),
    )


def clocked(attack: Callable[[], Tensor]) -> Clocks:
    wall, cpu = time.perf_counter(), time.process_time()
    attack()
    return time.perf_counter() - wall, time.process_time() - cpu


def race(attacks: Variants, repeats: int) -> list[dict[str, Clocks]]:
    """Time both in turns; which goes first alternates, so that a drift of the machine favours neither."""
    for attack in attacks.values():
        attack()
    rounds = []
    for i in range(repeats):
        order = VARIANTS if i % 2 == 0 else VARIANTS[::-1]
        rounds.append({name: clocked(attacks[name]) for name in order})
    return rounds


def resident(field: str) -> int:
    """Return this process's resident memory in bytes: "VmRSS" now, "VmHWM" at its peak."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux a child starts with its parent's.
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_growth(attack: Callable[[], Tensor]) -> int:
    # The autograd engine and the convolution kernels load themselves at the first pass, whoever makes it.
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    torch.autograd.grad(nn.functional.conv2d(image, torch.rand(4, 3, 3, 3)).sum(), image)
    before = resident("VmRSS")
    for _ in range(3):
        attack()
    return resident("VmHWM") - before


def measured_peak(name: str) -> int:
    """Return the bytes that one variant needs, from a fresh process with the same options."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peak", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(args: argparse.Namespace, rounds: list[dict[str, Clocks]], peaks: dict[str, int]) -> bool:
    """Print the table; return whether both limits were kept."""
    bare, ours = VARIANTS
    net = "a tiny net" if args.tiny else "Table 1"
    threads = torch.get_num_threads()
    print(f"PGD-{args.steps} on {net}, batch {args.batch}, {threads} threads, {args.repeats} pairs")
    print(f"{'':<22}{bare:>14}{ours:>10}{'ratio':>8}{'limit':>8}")
    wall, cpu = (statistics.median(r[ours][i] / r[bare][i] for r in rounds) for i in (0, 1))
    for label, i, ratio, limit in (("wall ms", 0, wall, TIME_LIMIT), ("CPU ms", 1, cpu, "")):
        a, b = (1000 * statistics.median(r[name][i] for r in rounds) for name in VARIANTS)
        print(f"{label:<22}{a:>14.1f}{b:>10.1f}{ratio:>8.3f}{limit:>8}")
    memory = peaks[ours] / peaks[bare]
    a, b = (peaks[name] / 1e6 for name in VARIANTS)
    print(f"{'peak memory added MB':<22}{a:>14.1f}{b:>10.1f}{memory:>8.3f}{MEMORY_LIMIT:>8}")
    return wall <= TIME_LIMIT and memory <= MEMORY_LIMIT


def main() -> int:
    args = options()
    if args.threads:
        torch.set_num_threads(args.threads)
    attacks = variants(args)
    if args.peak:
        print(peak_growth(attacks[args.peak]))
        return 0
    peaks = {name: measured_peak(name) for name in VARIANTS}
    return 0 if report(args, race(attacks, args.repeats), peaks) else 1


if __name__ == "__main__":
    sys.exit(main())
