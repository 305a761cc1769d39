"""BT01: does an attack find an adversarial example where one is known to exist?

Zimmermann et al. 2022, arXiv 2206.13991. Around each image the last layer is replaced by a readout that tells one
point on the boundary of the ball from a thousand inside: the point is an adversarial example by construction, and the
attack is to find it, or one like it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from pydantic import JsonValue
from torch import Tensor

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.audit.case import Case, read
from ismn_cli.audit.planted import copies, corners, inside, rescaled, surface
from ismn_cli.audit.readout import Binarised, features_of, fit
from ismn_cli.audit.tolerance import fewer_than, samples
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.rng import derive, isolated
from ismn_models.pipeline import Reading, Surrogate

INNER_POINTS, PAPER_SAMPLES = 999, 512
RANDOM = 200
"""Points on the surface, and as many corners, that a random attacker tries."""
ROUNDS = 10
"""Of drawing boundary points until one is on the wanted side of the detector."""
CLOSE = 0.999
"""Where a random point crosses the readout's boundary, it is moved this share of the way to the planted example: the
reference's way to make the test harder."""
ENOUGH = 0.95
EASY = 0.5
"""A random attacker who finds this share of what the attack finds makes the test say little."""
AS_IS, TURNED = "as it is", "turned round"
_FEWEST = 10
_CANDIDATES = 16
_CLIMB = 20


@dataclass(frozen=True)
class Tally:
    """How often the planted examples were found."""

    found: int
    random: int
    total: int
    skipped: int

    @property
    def verdict(self) -> Verdict:
        """Fail significantly below `ENOUGH`; warn below it, and where random points do nearly as well."""
        if fewer_than(self.found, self.total, ENOUGH):
            return Verdict.FAIL
        easy = self.random >= max(1, EASY * self.found)
        return Verdict.WARN if easy or self.found < ENOUGH * self.total else Verdict.PASS


def binarization(case: Case, count: int = 10, inner_points: int = INNER_POINTS) -> Finding:
    """BT01 on ``count`` of the samples that are right; behind a detector once more with its answer turned round."""
    if not count:
        return case.not_run("BT01", "It was left out: its budget is 0.")
    try:
        make_attack(case.spec, 2)
    except UsageError as error:
        return case.not_run("BT01", f"The test has two classes, and the attack cannot do with two: {error}")
    chosen = case.attacked[:count]
    features = features_of(case.model, case.x[chosen[:1]])
    if features is None:
        return case.not_run("BT01", "The answers do not come straight from a linear layer, which could be replaced.")
    shown = read(features, case.x[chosen[:1]], case.seed)
    inner = min(inner_points, shown.logits.shape[1] - 2)
    if inner < _FEWEST:
        return case.not_run("BT01", f"There are only {shown.logits.shape[1]} features before the last layer.")
    ways = {AS_IS: False} | ({} if shown.margin is None else {TURNED: True})
    tallies = {way: _Test(case, features, inner, turned).tally(chosen) for way, turned in ways.items()}
    return _finding(case, tallies, inner, inner_points)


@dataclass(frozen=True)
class _Test:
    """The test of one case: what its parts have in common."""

    case: Case
    features: Surrogate
    inner: int
    turned: bool
    """Whether the detector's answer is turned round: what it flags is to be reached, the rest is refused."""

    def tally(self, chosen: Tensor) -> Tally:
        """Plant an example near each of the samples at ``chosen`` int64 [n], and look for it."""
        found = random = total = 0
        for position in chosen.tolist():
            planted = self._plant(position)
            if planted is None:
                continue
            model, lucky = planted
            case = replace(self.case, model=model, y=torch.zeros_like(self.case.y), num_classes=2)
            run = case.run(who=torch.tensor([position]))
            if run.failed.any():
                continue  # it can do with the model's own classes, not with two
            total, random, found = total + 1, random + lucky, found + int(run.fooled.sum())
        return Tally(found, random, total, len(chosen) - total)

    def _plant(self, position: int) -> tuple[Binarised, bool] | None:
        """Return a model that calls one point near the sample another class, and whether random points find such.

        None where no such model can be made.
        """
        x, generator = self.case.x[position], self._generator(position)
        boundary = self._boundary(x, generator)
        if boundary is None:
            return None
        points = torch.cat([inside(x, self.inner, self.case.threat, generator), boundary])
        found = fit(self._read(points).logits, torch.arange(len(points), device=x.device) >= self.inner)
        if found is None:
            return None
        model = Binarised(self.features, *found, inverted=self.turned)
        # In the precision and through the detector that the attack meets: the example has to be one.
        planted = float(self._lead(model, boundary))
        if planted <= 0:
            return None
        tried = [make(x, RANDOM, self.case.threat, generator) for make in (surface, corners)]
        chance = float(self._lead(model, torch.cat(tried)).max())
        if chance <= 0:
            return model, False
        model.raise_bar(CLOSE * planted)
        return model, chance > CLOSE * planted

    def _boundary(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return a point [1, C, H, W] at eps from x, on the side of the detector that is to be reached."""
        for _ in range(ROUNDS):
            drawn = surface(x, _CANDIDATES, self.case.threat, generator)
            wanted = self._wanted(self._read(drawn)).nonzero()[:, 0]
            if len(wanted):
                return drawn[wanted[:1]]
        return self._pushed(x) if self.turned else None

    def _pushed(self, x: Tensor) -> Tensor | None:
        """Return a point that the detector flags, found along the gradient of its margin."""
        point, origin = copies(x, 1), copies(x, 1)
        for _ in range(_CLIMB):
            leaf = point.detach().requires_grad_()
            with isolated(self.case.seed), evaluating(self.features, frozen=True), torch.enable_grad():
                margin = self.features.look(leaf).margin
                if margin is None or not margin.requires_grad:
                    return None
                (slope,) = torch.autograd.grad(margin.sum(), leaf)
            if not slope.any():
                return None
            step = point - origin + self.case.threat.eps / 4 * slope.sign()
            point = rescaled(origin, step, self.case.threat)
            if bool(self._wanted(self._read(point)).all()):
                return point
        return None

    def _lead(self, model: Binarised, points: Tensor) -> Tensor:
        """Return the score of the planted class [n]; minus infinity where the detector refuses."""
        logits, margin = read(model, points, self.case.seed)
        return logits[:, 1] if margin is None else logits[:, 1].masked_fill(margin >= 0, -torch.inf)

    def _read(self, points: Tensor) -> Reading:
        return read(self.features, points, self.case.seed)

    def _wanted(self, reading: Reading) -> Tensor:
        if reading.margin is None:
            return torch.ones(len(reading.logits), dtype=torch.bool, device=reading.logits.device)
        return reading.margin > 0 if self.turned else reading.margin < 0

    def _generator(self, position: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.case.seed, "binarization", position, self.turned))


def _finding(case: Case, tallies: dict[str, Tally], inner: int, asked: int) -> Finding:
    evidence: dict[str, JsonValue] = {way: dict(asdict(tally)) for way, tally in tallies.items()}
    evidence |= {"inner_points": inner}
    usable = {way: tally for way, tally in tallies.items() if tally.total}
    if not usable:
        says = "No example could be planted: the features do not tell a point on the boundary from those inside, "
        says += "or the attack crashes on two classes."
        return case.finding("BT01", Verdict.NOT_RUN, says, evidence)
    verdict = max((tally.verdict for tally in usable.values()), key=list(Verdict).index)
    says = " ".join(_told(way, tally) for way, tally in tallies.items())
    few = f" The features allow {inner:,} points beside each instead of {asked:,}." if inner < asked else ""
    return case.finding("BT01", verdict, f"{says}{few}", evidence)


def _told(way: str, tally: Tally) -> str:
    if not tally.total:
        return f"With the detector's answer {way} no example could be planted near any of {samples(tally.skipped)}."
    paper = f", where the paper takes {PAPER_SAMPLES}" if tally.total < PAPER_SAMPLES else ""
    says = f"The attack found {tally.found:,} of {tally.total:,} examples that were planted near an image{paper}"
    says += f"; random points found {tally.random:,}." if way == AS_IS else f", with the detector's answer {way}."
    if tally.random >= max(1, EASY * tally.found):
        says += " The planted examples are too easy to find for this to say much."
    return says + (f" Near {samples(tally.skipped)} none could be planted." if tally.skipped else "")
