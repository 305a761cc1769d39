"""What ISMN takes at 512x512 in batches of 8, planned and measured: a training step of each stage, PGD-10 of each view.

    OMP_NUM_THREADS=2 python benchmarks/memory_512.py [CASE...] [--size 512] [--batch-size 8] [--steps 10]

Planned: `ismn_cli.engine.memory.peak_bytes`, which `ismn run RECIPE --plan` prints. Measured: the growth of the
process's resident memory, in a process of its own each. Images are generated, weights untrained, and the detector
flags everything and is never satisfied, so that every attack goes through the whole loop. Linux. PGD-10 through the
loop takes half an hour of one core; the most memory it needs shows with --steps 2 already.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.core.specs import AttackSpec, Knowledge, ThreatModel
from ismn_cli.engine.craft import craft_batch
from ismn_cli.engine.device import autocast
from ismn_cli.engine.dry_run import attack_a_step, train_a_step
from ismn_cli.engine.memory import peak_bytes
from ismn_cli.stages.weights import on_device
from ismn_cli.threats.views import views
from ismn_models.images import Images
from ismn_models.ismn.config import IsmnConfig
from ismn_models.ismn.system import build
from ismn_models.ismn.training import stages
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape

GIB = 2**30
STAGES = {"mapping": 0, "target": 2}
VIEWS = ("system", "regenerated", "unrolled", "clean-route", "bare classifier")
CASES = (*STAGES, *VIEWS)
OPTIONS = ("size", "batch_size", "precision", "steps")


def main() -> None:
    """Print a line for each case, or measure one where it is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the training steps")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument("--measure", action="store_true", help="the one case given, in this process")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    given = parser.parse_args()
    if unknown := [case for case in given.cases if case not in CASES]:
        parser.error(f"no case {unknown[0]}; there are {', '.join(CASES)}")
    shape = Shape(2, 3, given.size)
    if given.measure:
        measure(given.cases[0], shape, given)
        return
    print(f"{'':16}{'planned':>10}{'measured':>10}{'seconds':>9}   GiB; torch itself apart")
    for case in given.cases or CASES:
        options = [f"--{name.replace('_', '-')}={getattr(given, name)}" for name in OPTIONS]
        own = [sys.executable, __file__, case, "--measure", *options]
        answer = subprocess.run(own, check=True, capture_output=True, text=True)
        measured, seconds = map(float, answer.stdout.split())
        planned = peak_bytes(planned_step(case, shape, given.batch_size, given.precision)) / GIB
        print(f"{case:16}{planned:10.2f}{measured:10.2f}{seconds:9.0f}", flush=True)


def system_for(shape: Shape) -> Pipeline:
    """Return an untrained ISMN whose detector flags everything and is never satisfied, laid out as in a run."""
    system = build(IsmnConfig(), shape)
    system.defence.threshold.fill_(-torch.inf)
    return on_device(system, torch.device("cpu"))


def planned_step(case: str, shape: Shape, n: int, precision: str) -> Callable[[], None]:
    """Return what `--plan` runs without contents."""
    if case in STAGES:
        context = autocast(torch.device("cpu"), precision)
        return lambda: train_a_step(
            stages(system_for(shape), IsmnConfig())[STAGES[case]], shape, n, n, context
        )
    return lambda: attack_a_step(views(system_for(shape).eval(), Knowledge.ADAPTIVE)[case], shape, n)


def measure(case: str, shape: Shape, given: argparse.Namespace) -> None:
    """Take the real step, or all of PGD's, and print the growth of this process in GiB, and the seconds."""
    torch.manual_seed(0)
    before, start = resident("VmRSS"), time.perf_counter()
    system = system_for(shape)
    pixels = torch.randint(0, 256, (given.batch_size, shape.channels, shape.size, shape.size), dtype=torch.uint8)
    images = Images(pixels, torch.arange(given.batch_size) % shape.classes)
    if case in STAGES:
        train(system, STAGES[case], images, given.precision)
    else:
        attack(system, case, images, given.steps)
    print((resident("VmHWM") - before) / GIB, time.perf_counter() - start)


def train(system: Pipeline, number: int, images: Images, precision: str) -> None:
    """Take a step in the last epoch of a stage."""
    context = autocast(torch.device("cpu"), precision) if precision != "fp32" else nullcontext
    stage = stages(system, IsmnConfig())[number]
    stage.begin_epoch(stage.epochs - 1, images)
    with context():
        stage.step(images.floats(), images.labels, torch.arange(len(images)), 0.5)


def attack(system: Pipeline, view: str, images: Images, steps: int) -> None:
    """Attack through one view with PGD."""
    spec = AttackSpec(method="pgd", threat=ThreatModel(eps=8 / 255), params={"steps": steps})
    crafted = craft_batch(
        views(system.eval(), Knowledge.ADAPTIVE)[view],
        make_attack(spec, 2),
        images.floats(),
        images.labels,
        spec.threat,
        seed=0,
    )
    assert not crafted.failed.any(), crafted.notes


def resident(name: str) -> int:
    """Return this process's memory in bytes: VmRSS, what it has now, or VmHWM, the most that it has had."""
    # Not getrusage: its figure begins with that of the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    main()
