"""Modules, defences and tensors of a program through the stages of the command line: matrix, store, audit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.api.attack import Attack
from ismn_cli.api.evaluation import Evaluation
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import Knowledge, ThreatModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ismn_models.pipeline import Defence

    Images = Tensor | NDArray[np.generic] | str

USUAL = ThreatModel(eps=8 / 255)


def evaluate(
    model: nn.Module | str | None,
    images: Images,
    labels: Images | Sequence[int] | None = None,
    *,
    attacks: Iterable[str | Attack | Callable[..., Any]],
    threat: ThreatModel = USUAL,
    defences: Iterable[str | Defence] = ("none",),
    knowledge: Iterable[Knowledge | str] = ("white",),
    limit: int | None = None,
    calibration: Images | None = None,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "auto",
    store: Path | str | None = None,
    data_dir: Path | str | None = None,
    doctor: bool = True,
) -> Evaluation:
    """Attack a classifier, alone and behind defences, and judge every example as `ismn attack` does.

    >>> import torch
    >>> from ismn_cli import Attack, Defence, ThreatModel, evaluate
    >>> class Darker(Defence):
    ...     policy = "reform"
    ...     def reform(self, x):
    ...         return 0.9 * x
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3)).eval()
    >>> images = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8)
    >>> found = evaluate(
    ...     model, images, model(images / 255).argmax(1), attacks=["fgsm", Attack("pgd", steps=5)],
    ...     threat=ThreatModel(eps=16 / 255), defences=["none", Darker()], knowledge=["white"], doctor=False,
    ... )
    >>> found.worst_case()[["defence", "clean", "robust", "samples"]]
      defence  clean  robust  samples
    0    none  100.0     0.0       12
    1  Darker  100.0     0.0       12

    ``model``: a module with logits [N, K] for pixels in [0, 1], the reference of one ("file.py:Net", "timm:NAME"),
    or None for ismn's own. ``images``: [N, C, H, W], uint8 or floats in [0, 1] (kept as bytes: rounded to 1/255),
    with ``labels`` [N]; or the name of a data set, whose test images are taken. ``defences``: names, references, or
    `Defence` objects; what is given is copied and left as it is. A detector is calibrated on the clean images
    ``calibration``, where they are given. ``knowledge``: "black", "gray", "white", "adaptive".

    Results go to ``store``, else to ISMN_HOME or ~/.ismn, where `ismn report`, `ismn show` and `ismn audit` see them
    too. They are pinned by the tensors, settings and code of what was given, down to the functions that it calls:
    the same again is not computed again, and something changed never takes the results of what it was. What cannot
    be pinned is said, and computed anew each time; what is read from files only while it runs is not seen. The record
    of live objects cannot be repeated by `ismn rerun`.
    ``doctor``: whether a model is examined first, and not attacked where no figure would mean anything.

    Raises UsageError, whose hint says what to do, before any work is done.
    """
    from ismn_cli.core.store import Store
    from ismn_cli.stages.live import Asked, plan_live
    from ismn_cli.stages.matrix import run_plan

    asked = Asked(
        model=model,
        images=images,
        labels=labels,
        attacks=[_attack(each) for each in _several(attacks, "attacks")],
        threat=threat,
        defences=_several(defences, "defences"),
        knowledge=tuple(str(level) for level in _several(knowledge, "knowledge")),
        limit=limit,
        calibration=calibration,
        seed=seed,
        batch_size=batch_size,
        device=device,
        data_dir=None if data_dir is None else Path(data_dir),
        doctor=doctor,
    )
    with _told(seed):
        place = Store.open(store)
        finished = run_plan(plan_live(asked, place), place, "attack", lambda _: None)
    return Evaluation(finished)


def _several(given: Any, name: str) -> tuple[Any, ...]:
    """Return what was given as a tuple. Raises UsageError for nothing, and for one where there should be several."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"{name} is {given!r}, not a list.", f"Write {name}=[{given!r}].")
    found = tuple(given)
    if not found:
        raise UsageError(f"There are no {name}.", "Give one or more.")
    return found


def _attack(given: Any) -> tuple[Any, Any]:
    return (given.method, given.params) if isinstance(given, Attack) else (given, {})


@contextmanager
def _told(seed: int) -> Iterator[None]:
    """Keep stdout clean of what strangers' code prints, the generators as they were, and show the hint of an error."""
    from ismn_cli.engine.rng import isolated

    try:
        with redirect_stdout(sys.stderr), isolated(seed):
            yield
    except UsageError as error:
        if error.hint:
            error.add_note(error.hint)
        raise
