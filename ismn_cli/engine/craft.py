"""One batch of adversarial examples: the attack proposes; the harness clips, verifies and counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ismn_cli.core import effort
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.notes import merged
from ismn_cli.core.specs import ThreatModel
from ismn_cli.engine.ball import allowed, distances, project
from ismn_cli.engine.children import forks, one_thread, processes, side_by_side
from ismn_cli.engine.counting import Counted
from ismn_cli.engine.draws import Common
from ismn_cli.engine.groups import (
    MOST,
    WIDE,
    Groups,
    MemoryShortError,
    filled,
    group_size,
    groups,
    out_of_memory,
    shares,
)
from ismn_cli.engine.guard import Guard
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.passes import denied, in_float32, sums_in_bf16
from ismn_cli.engine.rng import isolated


class Proposed(NamedTuple):
    """What an attack proposes when it has something to say about it."""

    images: Tensor
    notes: tuple[str, ...] = ()
    void: Tensor | None = None
    """bool [N]: what it says of these counts for nothing, and a note says why; None: all counts."""
    settled: Tensor | None = None
    """bool [N]: these need no further round; None: none of them."""


Attack = Callable[[nn.Module, Tensor, Tensor], Tensor | Proposed]
"""(model, x [N, C, H, W] in [0, 1], y int64 [N]) -> images of the same shape.

The model is a `Counted` one: besides logits, its `look` gives the margin of a detector in the way, if any. One that
says it is ``foreign`` is the user's own: model and settings are guarded against it (see `ismn_cli.engine.guard`).
One that ``regroups`` is given all images at once and forms the groups itself, again and again of those that hold.
One with ``rounds``, attacks that are run in turn, has each of them attack what the ones before it have not settled.
One that tells its ``spec`` may attack groups side by side on a CPU: see `children.side_by_side`.
"""


@dataclass(frozen=True)
class Crafted:
    """Adversarial examples for N images, and what they cost."""

    adversarial: Tensor
    """float32 [N, C, H, W], inside the ball and the box. Where the attack failed, the clean image."""
    failed: Tensor
    """bool [N]: the attack crashed, gave NaN, or left the threat model by more than rounding."""
    notes: tuple[str, ...]
    linf: Tensor
    """[N], pixels."""
    l2: Tensor
    forwards: int
    """Images sent forward."""
    backwards: int
    seconds: float


class _Verified(NamedTuple):
    """What became of some of the images: see `Crafted`."""

    columns: tuple[Tensor, ...]
    """adversarial, failed, linf, l2."""
    settled: Tensor
    """bool [N]: needs no further round."""
    notes: tuple[str, ...]
    forwards: int = 0
    backwards: int = 0

    @property
    def failed(self) -> Tensor:
        """See `Crafted`."""
        return self.columns[1]


_ATTACKING = Groups("attacking")
CHEAP = 5
"""Passes of an image in attacks that are over before processes have begun."""
DEAR = 50
"""Passes of groups that are worth processes: to begin two and warm them up takes a third of a second."""


def craft_batch(
    model: nn.Module, attack: Attack, x: Tensor, y: Tensor, threat: ThreatModel, seed: int, together: bool = False
) -> Crafted:
    """Attack ``model`` on x float32 [N, C, H, W] in [0, 1] with labels y int64 [N].

    What becomes of an image does not depend on the others: images are attacked in groups (see `groups`), each on the
    same random numbers (see `Common`), and the model always sees whole groups; on the CPU in L-inf that is so to the
    last bit. Not where all are attacked ``together``, on draws of their own, as an attack may ask that makes one
    perturbation for all.

    The model is in eval mode and its parameters take no gradients while it is attacked; mode, gradients and
    the global random generators are as before afterwards. Whatever the attack returns is clipped to the ball
    and the box; a sample further out than rounding explains has failed. Raises UsageError for images out of
    range or of another type, and when memory runs out even for the smallest group (see `Groups`): neither says
    anything about the attack.
    """
    _check(x, y)
    together = together or getattr(attack, "together", False)
    start = time.perf_counter()
    with evaluating(model, frozen=True), torch.inference_mode(False), torch.enable_grad():
        found = (_at_once if together else _in_rounds)(attack, model, x, y, threat, seed)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
    seconds = time.perf_counter() - start
    adversarial, failed, linf, l2 = found.columns
    return Crafted(adversarial, failed, found.notes, linf, l2, found.forwards, found.backwards, seconds)


def _check(x: Tensor, y: Tensor) -> None:
    hint = "Give float32 images [N, C, H, W] with pixels in [0, 1] and int64 labels [N]."
    if x.dtype != torch.float32 or x.ndim != 4:
        raise UsageError(f"Images are {_kind(x)}.", hint)
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise UsageError(f"Labels are {_kind(y)} for {len(x)} images.", hint)
    # Written so that NaN fails it too.
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise UsageError("There are pixels outside [0, 1], or not finite.", hint)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _at_once(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> _Verified:
    counted = Counted(model)
    try:
        with isolated(seed):
            return _verified(_propose(attack, counted, x, y) if len(x) else Proposed(x), x, threat, counted)
    except Exception as error:
        if out_of_memory(error):
            raise MemoryShortError("attacking", len(x), "Give a smaller batch size.") from None
        raise


def _in_rounds(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> _Verified:
    """Run the attack, or its rounds in turn: what one of them leaves makes whole groups again for the next."""
    rounds = getattr(attack, "rounds", None)
    if not rounds:
        return _in_groups(attack, model, x, y, threat, seed)
    found = _verified(Proposed(x), x, threat)
    for each in rounds:
        left = (~found.settled).nonzero()[:, 0]
        if not len(left):
            break
        found = _replaced(found, left, _in_groups(each, model, x[left], y[left], threat, seed))
    return found


def _replaced(old: _Verified, rows: Tensor, new: _Verified) -> _Verified:
    """Return ``old`` with what became of ``rows`` int64 [n] since, and what both cost."""
    return _Verified(
        tuple(before.index_copy(0, rows, now) for before, now in zip(old.columns, new.columns, strict=True)),
        old.settled.index_copy(0, rows, new.settled),
        merged((*old.notes, *new.notes)),
        old.forwards + new.forwards,
        old.backwards + new.backwards,
    )


def _in_groups(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> _Verified:
    """Return what became of x, attacked a group at a time, or all at once by an attack that forms its groups itself."""

    def searched(rows: Tensor) -> _Verified:
        counted = Counted(model, whole_groups=True)
        with isolated(seed), Common():
            proposed = _propose(attack, counted, x[rows], y[rows])
        return _verified(proposed, x[rows], threat, counted)

    def attacked(rows: Tensor) -> _Verified:
        found = searched(rows)
        if not _heeds_answers(attack):
            return found
        kept = (~found.failed).nonzero()[:, 0]
        with isolated(seed):
            again = kept[denied(model, found.columns[0][kept], y[rows][kept])]
        if not len(again):
            return found
        # It ended where bf16 alone says that it has succeeded.
        with in_float32(model):
            return _replaced(found, again, searched(rows[again]))

    regroups = getattr(attack, "regroups", False) and len(x) > group_size(x)
    found = _each(attack, model, x, attacked, regroups)
    if regroups and any(bool(part.failed.any()) for part in found):
        # What crashed on one group is not to cost the others.
        found = _each(attack, model, x, attacked)
    found = found or [_verified(Proposed(x), x, threat)]
    columns = tuple(torch.cat(parts) for parts in zip(*(part.columns for part in found), strict=True))
    return _Verified(
        columns,
        torch.cat([part.settled for part in found]),
        merged(note for part in found for note in part.notes),
        sum(part.forwards for part in found),
        sum(part.backwards for part in found),
    )


def _each(
    attack: Attack, model: nn.Module, x: Tensor, attacked: Callable[[Tensor], _Verified], regroups: bool = False
) -> list[_Verified]:
    """Return what became of each group of x; of an attack that forms its own, of all together or of each process's.

    Where groups are attacked side by side, one that is alone is attacked on one thread as well: a sum is rounded by the
    number of threads.
    """
    passes = _passes(attack)
    if passes <= CHEAP or not forks(x):
        return _ATTACKING.each(model, x, attacked, len(x) if regroups else None)
    count = processes(x) if passes * len(groups(x)) >= DEAR else 1
    if regroups:
        parts = torch.tensor_split(torch.arange(len(x)), count)
    elif getattr(attack, "whole_groups", False):
        parts = groups(x)
    else:
        parts = shares(x, count, WIDE if sums_in_bf16(model) else MOST)

    def share(rows: Tensor) -> list[_Verified]:
        return _ATTACKING.each(model, x[rows], lambda some: attacked(rows[some]), len(rows))

    with one_thread():
        return [part for shared in side_by_side(share, parts, count) for part in shared]


def _passes(attack: Attack) -> float:
    """Return about how many passes an image takes whose groups may be attacked side by side; 0 where they may not.

    A user's own attack may remember one group when it meets the next.
    """
    spec = getattr(attack, "spec", None)
    return 0.0 if spec is None or getattr(attack, "foreign", False) else effort.passes(spec)


def _heeds_answers(attack: Attack) -> bool:
    """See `AttackEntry`; one that is not in the catalogue may."""
    spec = getattr(attack, "spec", None)
    entry = None if spec is None else ATTACKS.get(spec.method)
    return entry is None or entry.heeds_answers


def _marked(marks: Tensor | None, images: Tensor) -> Tensor:
    """Return ``marks``, or where there are none bool [N] without any."""
    return torch.zeros(len(images), dtype=torch.bool, device=images.device) if marks is None else marks


def _propose(attack: Attack, model: Counted, x: Tensor, y: Tensor) -> Proposed:
    """Return the attack's images. Of an attack of the user's own none count where it harmed what it was lent."""
    if not getattr(attack, "foreign", False):
        return _proposed(attack, model, x, y)
    guard, harm = Guard(model), list[str]()
    try:
        proposed = _proposed(attack, model, x, y)
    finally:
        harm = guard.restored()
    own = _by_itself(guard, model.model, x) if harm else []
    harm = [harmed for harmed in harm if harmed not in own]
    if not harm:
        return proposed
    notes = tuple(f"the attack {harmed} on {len(x)} samples" for harmed in harm)
    return _nothing(x, *proposed.notes, *notes)


def _by_itself(guard: Guard, model: nn.Module, x: Tensor) -> list[str]:
    """Return what ``model`` does to itself where it does no more than answer: no attack is to blame for that."""
    with suppress(Exception):  # what it raises, it raises in the attack's hands
        model(filled(x))
    return guard.restored()


def _proposed(attack: Attack, model: Counted, x: Tensor, y: Tensor) -> Proposed:
    """Return the attack's images, or NaN and a note where it gave none. It works on copies of x and y.

    An attack with ``whole_groups`` is given a group filled up with copies.
    """
    whole = model.whole_groups and getattr(attack, "whole_groups", False)
    model.images = len(x)
    try:
        answer = attack(model, *((filled(each, whole=True) if whole else each).detach().clone() for each in (x, y)))
    except UsageError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        return _nothing(x, f"the attack crashed on {len(x)} samples: {_reason(error)}")
    proposed, notes, *marks = answer if isinstance(answer, Proposed) else Proposed(answer)
    if whole and isinstance(proposed, Tensor):
        proposed = proposed[: len(x)]
        marks = [None if each is None else each[: len(x)] for each in marks]
    if not isinstance(proposed, Tensor) or proposed.shape != x.shape or not proposed.is_floating_point():
        kind = _kind(proposed) if isinstance(proposed, Tensor) else type(proposed).__name__
        return _nothing(x, f"the attack returned {kind} for images {list(x.shape)}")
    return Proposed(proposed.detach().to(x), notes, *marks)


def _nothing(x: Tensor, *notes: str) -> Proposed:
    return Proposed(torch.full_like(x, torch.nan), notes, torch.ones(len(x), dtype=torch.bool, device=x.device))


def _reason(error: Exception) -> str:
    if "does not require grad" in str(error):
        return "it needs gradients, and what it attacks gives none"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _verified(given: Proposed, x: Tensor, threat: ThreatModel, counted: Counted | None = None) -> _Verified:
    """Return images that keep to the threat model, which samples failed, and what was said and why."""
    proposed, void = given.images, _marked(given.void, x)
    finite = proposed.isfinite().flatten(1).all(1)
    kept = finite & ~void & allowed(proposed, x, threat) if len(x) else finite
    adversarial = torch.where(kept[:, None, None, None], project(proposed, x, threat), x)
    notes = []
    if endless := int((~finite & ~void).sum()):
        notes.append(f"the attack returned values that are not finite for {endless} samples")
    if strayed := int((finite & ~kept & ~void).sum()):
        notes.append(f"the attack left the threat model on {strayed} samples")
    settled = _marked(given.settled, x) | ~kept
    passes = (counted.forwards, counted.backwards) if counted else (0, 0)
    return _Verified((adversarial, ~kept, *distances(adversarial, x)), settled, (*given.notes, *notes), *passes)
