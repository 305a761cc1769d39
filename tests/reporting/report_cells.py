"""Results for the tests of reporting: made by counts for readable tables, at random for properties."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from ismn_cli.core.ceilings import Ceiling
from ismn_cli.core.records import Answers, CellResult, Draws
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Norm, Samples, Subject, ThreatModel

FEW = settings(max_examples=40, deadline=None)
"""For properties of whole reports: an example takes some 50 ms, and more on a busy machine."""
DEFENCES = ("none", "ismn", "magnet", "ddsa")
METHODS = ("fgsm", "rfgsm", "pgd")
LEVELS = (8 / 255, 0.2, 0.3, 0.4)
TRICKY = (
    "a|b",
    "<b>x</b>",
    "R&D",
    "[red]x[/red]",
    "[/]",
    "two\nlines",
    "_x_ __y__ ~~z~~",
    "tab\tbed",
    "🦊 fox",
    "`code`",
    "*_~#$\\",
)


def digest(text: str) -> str:
    """Return a sha256 that stands for weights or images."""
    return hashlib.sha256(text.encode()).hexdigest()


def samples(dataset: str = "cifar10", n: int = 1000, total: int = 10_000) -> Samples:
    """Return the identity of the first ``n`` test images."""
    return Samples(
        dataset=dataset, split="test", count=n, total=total, ids=digest(f"{dataset}{n}"), data=digest(dataset)
    )


def cell(system: str, method: str | None, eps: float = 0.0, **changes: Any) -> Cell:
    """Return a gray-box cell, or a clean one without ``method``."""
    norm, targeted = changes.pop("norm", Norm.LINF), changes.pop("targeted", False)
    threat = ThreatModel(norm=norm, eps=eps, targeted=targeted)
    params = changes.pop("params", {"steps": 10} if method == "pgd" else {})
    fields: dict[str, Any] = {
        "classifier": Subject(name="none", weights=digest("base")),
        "defence": Subject(name=system, weights=digest(system)),
        "samples": samples(),
        "knowledge": Knowledge.GRAY if method else Knowledge.CLEAN,
        "attack": AttackSpec(method=method, threat=threat, params=params) if method else None,
        "seed": 0,
        "batch_size": 32,
    }
    return Cell(**(fields | changes))


def answers(n: int, right: int, rejected: int = 0, flagged: int | None = None, loops: int = 0) -> Answers:
    """Return answers on labels of zero: the first ``right`` are right, the last ``rejected`` are refused."""
    flags = rejected if flagged is None else flagged
    return Answers(
        predicted=tuple(0 if i < right else 1 for i in range(n)),
        flagged=tuple(i >= n - flags for i in range(n)),
        rejected=tuple(i >= n - rejected for i in range(n)),
        score=(0.0,) * n,
        loops=tuple(loops if i >= n - flags else 0 for i in range(n)),
    )


def result(where: Cell, clean: Answers, attacked: Answers | None = None, **changes: Any) -> CellResult:
    """Return a result whose labels are all zero, with plausible distances and costs."""
    n = where.samples.count
    fields: dict[str, Any] = {"ids": tuple(range(n)), "labels": (0,) * n, "judge_seconds": 0.0021 * n}
    if where.attack is not None:
        eps = where.attack.threat.eps
        passes = 10 * n if where.attack.method == "pgd" else n
        fields |= {"failed": (False,) * n, "linf": (eps,) * n, "l2": (50 * eps,) * n}
        fields |= {"forwards": passes, "backwards": passes, "craft_seconds": 0.004 * passes}
    return CellResult(cell=where, clean=clean, attacked=attacked, **(fields | changes))


def matrix() -> list[CellResult]:
    """Return 4 defences, clean and under 12 attacks, on 1,000 images; one attack failed on 3 of them."""
    found = []
    for d, defence in enumerate(DEFENCES):
        n, refused = 1000, 24 if defence == "magnet" else 0
        clean = answers(n, 842 - 7 * d, refused)
        found.append(result(cell(defence, None), clean))
        for m, method in enumerate(METHODS):
            for e, eps in enumerate(LEVELS):
                right = 100 - 30 * e if d == 0 else 800 - 45 * d - 40 * m - 21 * e
                flags = 0 if d in (0, 3) else 180 + 150 * e
                attacked = answers(n, right, flags if defence == "magnet" else 0, flags, loops=2)
                lost = defence == "magnet" and method == "pgd" and eps == 0.4
                changes: dict[str, Any] = {"failed": tuple(lost and i < 3 for i in range(n))}
                if lost:
                    changes["notes"] = ("1 batch gave NaN",)
                found.append(result(cell(defence, method, eps), clean, attacked, **changes))
    return found


def ceilings(n: int = 1000) -> list[Ceiling]:
    """Return the ceilings of the first ``n`` test images, as they are on 1,000 of CIFAR-10."""
    shares = {8 / 255: (0.0, 1.0), 0.2: (0.014, 0.994), 0.3: (0.796, 0.78), 0.4: (1.0, 0.5)}
    return [
        Ceiling(samples=samples(n=n), norm=Norm.LINF, eps=eps, conflicting=round(some * n), possible=share * n)
        for eps, (some, share) in shares.items()
    ]


def levels() -> list[CellResult]:
    """Return 3 systems on 200 images, clean and under 2 attacks at 2 sizes of gray, white and adaptive attackers.

    ``magnet`` refuses by a score; ``diverse``, which is in no catalogue, was asked 5 times; ``none`` met its white-box
    attacker only under fgsm, and is broken on fewer images than under gray-box pgd. Figures vary from image to image.
    """
    found = []
    for d, defence in enumerate(("none", "magnet", "diverse")):
        where = {"samples": samples(n=200), "draws": 5 if defence == "diverse" else 1}
        found.append(result(cell(defence, None, **where), _scored(defence, 0, 170 - 5 * d), **_asked(defence, 170)))
        for k, knowledge in enumerate((Knowledge.GRAY, Knowledge.WHITE, Knowledge.ADAPTIVE)):
            if defence == "none" and knowledge is Knowledge.ADAPTIVE:
                continue
            for m, method in enumerate(("fgsm", "pgd")[: 1 if (defence, knowledge) == ("none", "white") else 2]):
                for eps in (8 / 255, 0.2):
                    right = int((150 - 60 * m - 40 * k - 20 * d) * (1 if eps < 0.1 else 0.5)) + 60 * (d == 0) * k
                    spot = cell(defence, method, eps, knowledge=knowledge, **where)
                    attacked = _scored(defence, 1 + m + k, max(right, 0))
                    clean = _scored(defence, 0, 170 - 5 * d)
                    asked = _asked(defence, 170) | _asked(defence, max(right, 0), "draws_attacked")
                    failed = tuple(method == "pgd" and knowledge == "adaptive" and i < 2 for i in range(200))
                    found.append(result(spot, clean, attacked, failed=failed, **asked))
    return found


def _scored(defence: str, strength: int, right: int) -> Answers:
    """Return answers on 200 labels of zero, right on ``right`` images spread out; a score of 1 is refused."""
    order = [(i * 37 + 11 * strength) % 200 for i in range(200)]
    scores = [((i * 61) % 200) / 198 + 0.1 * (4 - strength) * bool(strength) for i in range(200)]
    if defence != "magnet":
        scores = [0.0] * 200
    flags = tuple(score >= 1 for score in scores)
    return Answers(
        predicted=tuple(0 if place < right else 1 for place in order),
        flagged=flags,
        rejected=flags,
        score=tuple(scores),
        loops=(0,) * 200,
    )


def _asked(defence: str, right: int, field: str = "draws_clean") -> dict[str, Any]:
    """Return 5 draws: all right on some images, 3 of 5 on others."""
    if defence != "diverse":
        return {}
    counts = tuple(5 if i < right // 2 else 3 if i < right else 1 for i in range(200))
    return {field: Draws(k=5, right=counts, majority_right=tuple(count >= 3 for count in counts))}


def _answers(n: int) -> st.SearchStrategy[Answers]:
    def column(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(values, min_size=n, max_size=n).map(tuple)

    return st.builds(
        Answers,
        predicted=column(st.integers(0, 2)),
        flagged=column(st.booleans()),
        rejected=column(st.booleans()),
        score=column(st.floats(-5, 5)),
        loops=column(st.integers(0, 5)),
    )


NAMES = st.sampled_from(TRICKY) | st.text(max_size=12) | st.sampled_from(DEFENCES)


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    """Draw a cell with any names, on few images."""
    n = draw(st.integers(1, 7))
    where = samples(draw(NAMES), n, draw(st.sampled_from((n, 10_000))))
    knowledge = draw(st.sampled_from([k for k in Knowledge if k is not Knowledge.CLEAN]))
    eps = draw(st.sampled_from(LEVELS) | st.floats(0, 1))
    method = draw(st.none() | st.sampled_from(METHODS) | NAMES)
    changes: dict[str, Any] = {"knowledge": knowledge} if method else {}
    weights = draw(st.sampled_from(("", digest("a"), digest("b"))))
    subject = Subject(name=draw(NAMES), weights=weights)
    seed, norm = draw(st.integers(0, 2)), draw(st.sampled_from(Norm))
    return cell("", method, eps, samples=where, defence=subject, seed=seed, norm=norm, **changes)


@st.composite
def results(draw: st.DrawFn) -> CellResult:
    """Draw a result of any cell: any answers, failures, distances, costs and notes."""
    where = draw(cells())
    n = where.samples.count
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    changes: dict[str, Any] = {"labels": tuple(labels), "notes": tuple(draw(st.lists(NAMES, max_size=2)))}
    changes["judge_seconds"] = draw(st.floats(0, 1e4))
    if where.attack is None:
        return result(where, draw(_answers(n)), **changes)
    far = st.floats(0, 99) | st.sampled_from((math.inf, math.nan))
    for field, values in {"failed": st.booleans(), "linf": st.floats(0, 1), "l2": far}.items():
        changes[field] = tuple(draw(st.lists(values, min_size=n, max_size=n)))
    changes["forwards"] = draw(st.integers(0, 10**7))
    return result(where, draw(_answers(n)), draw(_answers(n)), **changes)
