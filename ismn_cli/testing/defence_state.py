"""Rules of what a defence holds and touches: CD06 and CD14 to CD17."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ismn_cli.engine.rng import isolated
from ismn_cli.testing.defence_case import FICKLE, PART, DefenceCase
from ismn_cli.testing.devices import moved
from ismn_cli.testing.surroundings import disturbed, reseeded, same
from ismn_cli.testing.verdicts import Said, doubt, either, fine, unasked, wrong

DETECTING = ("reject", "route")


def calibrate(case: DefenceCase) -> Said:
    """CD06: thresholds that flag some images, the same each time."""
    if case.problem:
        return wrong(f"{case.problem}.")
    if not _same_again(case):
        return wrong("Calibrated once more on the same images, it has other buffers.")
    if case.defence.policy not in DETECTING:
        return fine("It has no detector to calibrate.")
    if not bool(case.decided().flagged.any()) and not bool(case.decided(case.clean).flagged.any()):
        threshold = case.defence.threshold.flatten().tolist()
        return wrong(f"Nothing is flagged, neither clean images nor noise (threshold {threshold}): it detects nothing.")
    share = float(case.decided(case.clean).flagged.float().mean())
    said = f"{share:.0%} of {len(case.clean)} clean images are flagged"
    return doubt(f"{said}: more than half.") if share > 0.5 else fine(f"{said}.")


def _same_again(case: DefenceCase) -> bool:
    before = {name: buffer.clone() for name, buffer in case.system.named_buffers()}
    batches = [part.clone() for part in torch.split(case.clean, PART)]
    with isolated(case.seed), torch.no_grad():
        case.defence.calibrate(batches, case.system.classifier)
    return all(same(before[name], buffer) for name, buffer in case.system.named_buffers())


def state_dict(case: DefenceCase) -> Said:
    """CD14: another of its kind, given the state dict, answers alike."""
    if case.fresh is None:
        return unasked("It cannot be copied (see CD15).")
    case.fresh.load_state_dict(case.system.state_dict())
    if bool(case.fickle.any()):
        return unasked(FICKLE)
    apart = case.differs(case.decided(), case.decided(system=case.fresh))
    flags = case.decided().flagged != case.decided(system=case.fresh).flagged
    count = int((apart | flags).sum())
    return either(
        [f"a fresh one that loads the state dict answers {count} of {len(apart)} images otherwise"] if count else [],
        "A fresh one that loads the state dict answers alike.",
    )


def deep_copy(case: DefenceCase) -> Said:
    """CD15: a copy that answers alike and shares no tensor."""
    twin = copy.deepcopy(case.system)
    count = int((case.differs(case.decided(), case.decided(system=twin)) & ~case.fickle).sum())
    places = {tensor.data_ptr() for tensor in _tensors(case.system).values() if tensor.numel()}
    shared = [name for name, tensor in _tensors(twin).items() if tensor.numel() and tensor.data_ptr() in places]
    problems = [
        f"its copy answers {count} of {len(case.x)} images otherwise" if count else "",
        f"its copy shares {', '.join(shared[:3])} with it" if shared else "",
    ]
    return either(problems, "A copy answers alike, with tensors of its own.")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those too that a state dict leaves out."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def leaves_alone(case: DefenceCase) -> Said:
    """CD16: nothing but the decision comes of deciding."""
    x = case.x.clone()

    def run() -> None:
        with torch.no_grad():
            case.system.decide(x)

    changed = disturbed(case.system, run)
    problems = [*changed.settings, *changed.module, *reseeded(run)]
    problems += [] if same(x, case.x) else ["it changes the images that it is given"]
    return either(problems, "Images, weights, buffers, modes, settings and generators are as before.")


def devices(case: DefenceCase) -> Said:
    """CD17: it decides where it is moved."""
    return moved(case.system, case.x[:2], lambda system, x: system.decide(x))  # type: ignore[operator]
