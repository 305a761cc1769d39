"""A whole evaluation against the libraries: clean, FGSM, PGD-40 with 5 restarts, AutoAttack standard, at 8/255.

    python benchmarks/evaluation.py [--system none,at] [--limit 200] [--exact] [--art] [--engine ray] [--patience 6.5]

The libraries are called as their READMEs show: torchattacks, each restart a call, then pyautoattack, in batches of 100;
with --art ART's FGSM, PGD and AutoAttack too (which wants the package multiprocess). Ours is the same matrix in an
empty store, everything counted, self-tests and ceilings too, and with --engine ray the start of its workers. One side
after the other; CPU seconds, those of this process and its children, not of Ray's workers, stand beside those of the
wall. A sample holds if nothing that a side runs breaks it in float32. A side that takes more than --patience times as
long as ours is ended there. Exit code 1 where ours holds a sample that the libraries break.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
import torchattacks
from pyautoattack import AutoAttack
from torch import Tensor, nn

from ismn_cli.core.recipe_files import validate
from ismn_cli.core.recipes import DataChoice, MatrixRecipe
from ismn_cli.core.records import Outcome
from ismn_cli.core.store import Store
from ismn_cli.core.worst_case import trials
from ismn_cli.data.loading import load_dataset
from ismn_cli.stages.cluster import cluster
from ismn_cli.stages.engines import locally
from ismn_cli.stages.matrix import run_plan
from ismn_cli.stages.plan import plan_matrix
from ismn_cli.stages.resolve import resolve

EPS, STEPS, RESTARTS, BATCH = 8 / 255, 40, 5, 100


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="none,at", help="systems without a defence in front (default: none,at)")
    parser.add_argument("--limit", type=int, default=200, help="images (default: 200)")
    parser.add_argument("--exact", action="store_true", help="ours searches in float32")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ours: who computes")
    parser.add_argument("--art", action="store_true", help="ART too")
    parser.add_argument("--patience", type=float, default=0, help="end what takes so much longer (default: never)")
    return parser.parse_args()


def right(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(part).argmax(1) for part in torch.split(x, BATCH)]) == y


def libraries(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return bool [N]: right, and still right after every attack."""
    holds = right(net, x, y)
    pgd = torchattacks.PGD(net, eps=EPS, alpha=2 / 255, steps=STEPS, random_start=True)
    for attack in (torchattacks.FGSM(net, eps=EPS), *[pgd] * RESTARTS):
        parts = zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True)
        holds &= right(net, torch.cat([attack(a, b) for a, b in parts]), y)
    ensemble = AutoAttack(net, norm="Linf", eps=EPS, version="standard", seed=0)
    ensemble.verbose = False
    adversarial, _ = ensemble.run_standard_evaluation(x, y, batch_size=BATCH)
    return holds & right(net, adversarial, y)


def art(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    evasion = importlib.import_module("art.attacks.evasion")
    classification = importlib.import_module("art.estimators.classification")
    model = classification.PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    holds = right(net, x, y)
    pgd = evasion.ProjectedGradientDescent(
        model, eps=EPS, eps_step=2 / 255, max_iter=STEPS, num_random_init=RESTARTS, batch_size=BATCH, verbose=False
    )
    attacks = (evasion.FastGradientMethod(model, eps=EPS, batch_size=BATCH), pgd)
    for attack in (*attacks, evasion.AutoAttack(model, eps=EPS, eps_step=2 / 255, batch_size=BATCH)):
        holds &= right(net, torch.from_numpy(attack.generate(x.numpy(), y.numpy())), y)
    return holds


def ours(name: str, limit: int, exact: bool, engine: str) -> Tensor:
    recipe = validate(
        {
            "task": "matrix",
            "name": "evaluation",
            "dataset": {"name": "cifar10-mini", "limit": limit},
            "defence": [name],
            "knowledge": ["white"],
            "attack": {
                "method": ["fgsm", "pgd-ensemble", "autoattack"],
                "eps": ["8/255"],
                "params": {"pgd-ensemble": {"loss": "ce", "steps": STEPS, "restarts": RESTARTS}},
            },
            "survivors": True,
            "search": "fp32" if exact else "auto",
            "weights": "released",
            # A batch is one worker's; it decides no outcome.
            "batch_size": 256 if engine == "local" else -(-limit // (os.cpu_count() or 1)),
        },
        [],
    )
    assert isinstance(recipe, MatrixRecipe)
    workers = cluster(None, "cpu") if engine == "ray" else nullcontext()
    with tempfile.TemporaryDirectory() as folder, workers as there:
        carry_out = there.carry_out if there else locally
        store = Store.open(Path(folder))
        matrix = plan_matrix(recipe, store, None, "cpu")
        finished = run_plan(matrix, store, "run", lambda progress: None, carry_out=carry_out)
        (system,) = trials(finished.results)
        worst = system.worst_case(EPS)
    assert worst is not None
    return torch.tensor([outcome is Outcome.SURVIVED for outcome in worst.outcomes()])


def report(name: str, side: str, holds: Tensor, wall: float, cpu: float) -> None:
    count = f"{int(holds.sum())} of {len(holds)} hold"
    print(f"{name:<6}{side:<11}{count:<18}{wall:>9.1f} s{cpu:>9.1f} CPU s", flush=True)


def clocked(run: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    holds = run()
    return holds, time.perf_counter() - wall, sum(os.times()[:4]) - cpu


class TooLongError(BaseException):
    """The time of a side is over. None of them is to catch it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TooLongError in a block that takes longer; 0: never."""

    def ring(*_: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def against(
    name: str, side: str, run: Callable[[], Tensor], ours: tuple[Tensor, float, float], patience: float
) -> int:
    """Run a side and say how it did against ours. Return how many samples it broke that ours holds."""
    mine, our_wall, our_cpu = ours
    try:
        with at_most(patience * our_wall):
            holds, wall, cpu = clocked(run)
    except TooLongError:
        print(f"{name:<6}against {side}: more than {patience:g} times faster; it was ended there", flush=True)
        return 0
    report(name, side, holds, wall, cpu)
    missed, more = int((mine & ~holds).sum()), int((~mine & holds).sum())
    print(
        f"{name:<6}against {side}: {wall / our_wall:.2f} times faster, {cpu / our_cpu:.2f} in CPU time; held here and "
        f"broken there {missed}, the other way round {more}",
        flush=True,
    )
    return missed


def main() -> int:
    args = options()
    images = load_dataset(DataChoice(name="cifar10-mini", limit=args.limit), "test", None)
    x, y = next(iter(images.batches(args.limit)))
    missed = 0
    for name in args.system.split(","):
        with tempfile.TemporaryDirectory() as folder:
            system = resolve(name, "released", Store.open(Path(folder)), images.kind)
        net = system.pipeline.classifier.eval()
        found = clocked(partial(ours, name, args.limit, args.exact, args.engine))
        report(name, "ismn", *found)
        sides = {"libraries": libraries} | ({"art": art} if args.art else {})
        for side, run in sides.items():
            missed += against(name, side, partial(run, net, x, y), found, args.patience)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
