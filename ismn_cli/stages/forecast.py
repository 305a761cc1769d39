"""What a matrix would take: its systems timed on a few groups of images, the attacks' passes counted, cheap ones tried.

Nothing is stored. What is stored already is not in the forecast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ismn_cli.core.forecast import Charge, Forecast
from ismn_cli.core.specs import AttackSpec
from ismn_cli.core.store import Store
from ismn_cli.stages.jobs import Job
from ismn_cli.stages.plan import Matrix
from ismn_cli.stages.resolve import Resolved

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ismn_cli.engine.pace import Pace

PILOT = 48
"""Images that systems are timed on, and cheap attacks tried: several groups."""
TRIED = 5.0
"""Seconds that an attack may be predicted to take on the pilot's images to be tried on them."""
RECORD = 170
"""Bytes of a cell's record for an image, about."""
PER_IMAGE = 80
"""Bytes beside the pixels in the examples of an image, about."""
TESTED = 60
"""Images that a self-test attacks."""

Tell = Callable[[str, int, int], None]
"""(what is being timed, how many have been, how many there are)."""


def forecast(matrix: Matrix, store: Store, tell: Tell = lambda *_: None, missing: tuple[str, ...] = ()) -> Forecast:
    """Return what the cells of ``matrix`` would take that are still to be computed.

    ``missing``: the recipe's systems that have no weights yet.
    """
    stored = {cell.key() for _, cell in matrix.cells() if store.cell(cell.key())}
    pilot = _Pilot(matrix)
    open_jobs = matrix.open_jobs(stored)
    chained = any(cell.after for job in open_jobs for _, cell in job.cells)
    charges = list[Charge]()
    total = len(open_jobs) + 1
    tell("answers", 0, total)
    charges += pilot.clean([s for s in matrix.systems if matrix.clean_cell(s).key() not in stored])
    for done, job in enumerate(open_jobs, 1):
        tell(job.label(), done, total)
        charges.append(pilot.charge(job))
    return Forecast(
        charges=tuple(charges),
        fixed_seconds=_self_tests(matrix, store, open_jobs, pilot),
        images=len(matrix.images),
        available=matrix.images.total,
        pilot=len(pilot.x),
        missing=missing,
        order=tuple(dict.fromkeys(charge.attack for charge in charges if charge.attack)) if chained else (),
    )


def _self_tests(matrix: Matrix, store: Store, jobs: list[Job], pilot: _Pilot) -> float:
    """Return the seconds of the self-tests that are to come: on victims that fall, each as dear as the base."""
    from ismn_cli.engine.passes import for_search
    from ismn_cli.stages.self_test import untested

    base = pilot.pace_of("base", for_search(matrix.systems[0].pipeline, matrix.search()).base)
    specs = untested(store, (cell for job in jobs for _, cell in job.cells))
    return sum(TESTED * base.seconds(*pilot.passes(spec, falls=True)) for spec in specs)


class _Pilot:
    """A few images, and what is left of them on each system while the attacks go on."""

    def __init__(self, matrix: Matrix) -> None:
        import torch

        self.matrix = matrix
        self.x, self.y = next(iter(matrix.images.batches(min(PILOT, len(matrix.images)))))
        self.x = self.x.to(matrix.device, memory_format=torch.channels_last)
        self.y = self.y.to(matrix.device)
        self.alive: dict[tuple[str, str], Tensor] = {}
        self._judged: dict[str, tuple[float, Tensor]] = {}
        self._paces: dict[str, Pace] = {}
        self._passes: dict[tuple[str, bool, bool], tuple[int, int]] = {}

    def clean(self, systems: list[Resolved]) -> list[Charge]:
        """Return the charge of the answers without attack, if any are missing."""
        if not systems:
            return []
        seconds = sum(self.judged(system)[0] * self._draws(system) for system in systems)
        names = tuple(system.subject.name for system in systems)
        return [Charge("clean", "", names, 0, 0, 0.0, 0.0, seconds, RECORD * len(systems))]

    def judged(self, system: Resolved) -> tuple[float, Tensor]:
        """Return the seconds that the system takes for an image, and which of the pilot's it answers right."""
        import torch

        from ismn_cli.engine.judge import judge

        name = system.subject.name
        if name not in self._judged:
            judge(system.pipeline, [self.x[:1]])
            answers, seconds = judge(system.pipeline, [self.x])
            right = torch.tensor(answers.predicted) == self.y.cpu()
            self._judged[name] = seconds / len(self.x), right & ~torch.tensor(answers.rejected)
        return self._judged[name]

    def charge(self, job: Job) -> Charge:
        """Return what the job takes for an image, and try it where that is soon done."""
        forwards, backwards, seconds = self._crafting(job)
        chain = job.cells[0][0].subject.name, str(job.knowledge)
        alive = self.alive.get(chain, self.judged(job.cells[0][0])[1]) if job.survivors else None
        share = 1.0 if alive is None else alive.sum().item() / len(alive)
        tried = alive is not None and bool(alive.any()) and seconds * len(self.x) * share <= TRIED
        if tried and alive is not None:
            self.alive[chain] = self._left(job, alive)
        pixels = self.x[0].numel() * 4
        return Charge(
            knowledge=str(job.knowledge),
            attack=job.attack.label(),
            systems=tuple(system.subject.name for system, _ in job.cells),
            forwards=forwards,
            backwards=backwards,
            share=share,
            craft_seconds=seconds,
            judge_seconds=sum(self.judged(system)[0] * cell.draws for system, cell in job.cells),
            bytes=pixels + PER_IMAGE + RECORD * len(job.cells),
            piloted=tried,
        )

    def _crafting(self, job: Job) -> tuple[float, float, float]:
        """Return the passes forward and backward of an image through every view, and the seconds they take."""
        owner = f"{job.cells[0][0].subject.key()} {job.knowledge} {job.attack.eot}"
        forwards = backwards = seconds = 0.0
        for name, view in job.views().items():
            made = self.passes(job.attack, guarded=self._guarded(view))
            forwards, backwards = forwards + made[0], backwards + made[1]
            seconds += self.pace_of(f"{owner} {name}", view).seconds(*made)
        return forwards, backwards, seconds

    def pace_of(self, key: str, view: nn.Module) -> Pace:
        """Return how fast a module is, timed once."""
        from ismn_cli.engine.pace import pace

        if key not in self._paces:
            self._paces[key] = pace(view, self.x, len(self.matrix.images))
        return self._paces[key]

    def passes(self, attack: AttackSpec, *, guarded: bool = False, falls: bool = False) -> tuple[int, int]:
        """Return the attack's passes on an image that holds, or ``falls``, counted once."""
        from ismn_cli.attacks.adapter import make_attack
        from ismn_cli.engine.pace import passes_of

        key = attack.key(), guarded, falls
        if key not in self._passes:
            classes = len(self.matrix.images.classes)
            made = make_attack(attack, classes)
            self._passes[key] = passes_of(
                made, attack.threat, self.x.shape[1], classes, guarded=guarded, falls=falls
            )
        return self._passes[key]

    def _guarded(self, view: nn.Module) -> bool:
        """Whether a detector stands in the attack's way."""
        import torch

        from ismn_cli.engine.counting import Counted

        with torch.no_grad():
            return Counted(view, whole_groups=True).look(self.x[:1]).margin is not None

    def _left(self, job: Job, alive: Tensor) -> Tensor:
        """Attack the pilot's images that hold, and return which still do."""
        import torch

        from ismn_cli.attacks.adapter import make_attack
        from ismn_cli.engine.judge import judge
        from ismn_cli.threats.worst_case import craft_through

        system, attack = job.cells[0][0], make_attack(job.attack, len(self.matrix.images.classes))
        rows = alive.nonzero()[:, 0].to(self.x.device)
        x, y = self.x[rows], self.y[rows]
        worst = craft_through(job.views(), attack, x, y, job.attack.threat, 0, job.verdict(0))
        answers, _ = judge(system.pipeline, [worst.crafted.adversarial])
        left = alive.clone()
        left[alive.nonzero()[:, 0]] = torch.tensor(answers.predicted) == y.cpu()
        return left

    def _draws(self, system: Resolved) -> int:
        return self.matrix.clean_cell(system).draws
