"""HGD's schedule: the denoiser on attacked images of the frozen base classifier, which also guides it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.crafting import BankedStage, pgd
from ismn_models.hgd.config import HgdConfig
from ismn_models.hgd.guidance import guiding
from ismn_models.hgd.system import Hgd
from ismn_models.images import Images
from ismn_models.parallel import drawn, only, uniform_like
from ismn_models.pipeline import Pipeline
from ismn_models.training import BATCH, Stage, descend

MEASURED = 1000
"""Validation images that the closing figures are taken on."""
STEPS = {"fgsm": 1, "ifgsm2": 2, "ifgsm4": 4}


def stages(pipeline: Pipeline, config: HgdConfig) -> list[Stage]:
    """Return the stages after the base classifier's own.

    Raises RefusalError where the base classifier cannot guide as ``config`` wants it.
    """
    if not isinstance(pipeline.defence, Hgd):
        raise TypeError(f"not an HGD pipeline: {type(pipeline.defence).__name__}")
    return [GuidedStage(pipeline.base, pipeline.defence, config)]


def lr_factor(progress: float) -> float:
    """Return the learning rate's factor after ``progress`` in [0, 1) of the epochs."""
    if progress < 0.6:
        return 1.0
    return 0.1 if progress < 0.9 else 0.01


class GuidedStage(BankedStage):
    """Adam on the guide's loss, each image with an attack and an eps of its own."""

    name = "guided denoising"
    shareable = True

    def __init__(self, base: nn.Module, defence: Hgd, config: HgdConfig) -> None:
        super().__init__()
        self.base, self.defence, self.config = base, defence, config
        self.epochs, self.batch_size = config.epochs, config.batch_size
        self.loss = guiding(config.guidance, base)
        self.optimisers = (torch.optim.Adam(defence.denoiser.parameters(), config.lr),)

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`."""
        self.base.requires_grad_(False).eval()
        self.defence.train()
        self.prepare_bank(epoch, train, self.config.refresh)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        attacked, _ = self.bank.lookup(index, lambda missing: self.attack(x[missing]))
        # Mirrored only: a shift would bring in black borders that no attacked image has.
        clean, attacked = self.augment(torch.cat([x, attacked], 1), pixels=0).chunk(2, 1)
        loss, logits = self.loss(self.defence.reform(attacked), clean, y)
        descend(self.optimisers[0], loss, self.config.lr * lr_factor(progress))
        return {"loss": loss.item(), "accuracy": (logits.argmax(1) == y).float().mean().item()}

    def attack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x [N, C, H, W], each image attacked by one of the config's kinds, and their eps [N].

        FGSM moves away from the classifier's own answer, its steps are eps/steps long, and it starts at the image.
        """
        levels, kinds = self.config.grey_levels(), len(self.config.attacks)
        eps = drawn(lambda n: torch.randint(1, levels + 1, (n,), device=x.device), len(x)) / 255
        kind_of = drawn(lambda n: torch.randint(0, kinds, (n,), device=x.device), len(x))
        with torch.no_grad():
            answers = self.base(x).argmax(1)
        attacked = x.clone()
        for number, kind in enumerate(self.config.attacks):
            with only(kind_of == number) as chosen:
                if chosen.total:
                    chosen.put(attacked, self._attack(kind, *(t[chosen.at] for t in (x, answers, eps))))
        return attacked, eps

    def _attack(self, kind: str, x: Tensor, answers: Tensor, eps: Tensor) -> Tensor:
        if kind == "noop":
            return x
        if kind == "noise":
            return (x + eps[:, None, None, None] * (2 * uniform_like(x) - 1)).clamp_(0, 1)
        steps = STEPS[kind]
        return pgd(self.base, x, answers, eps, steps, eps / steps, random_start=False)

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Return the accuracy on clean and attacked validation images, with the denoiser and without.

        The first thousand do.
        """
        self.base.requires_grad_(False).eval()
        self.defence.eval()
        measured = validation.take(slice(MEASURED))
        sums: dict[str, int] = {}
        for x, y in self.watched(measured, BATCH):
            for kind, images in (("clean", x), ("attacked", self.attack(x)[0])):
                with torch.no_grad():
                    answers = {"accuracy": self.base(self.defence.reform(images)), "base accuracy": self.base(images)}
                for name, logits in answers.items():
                    figure = f"validation {name}, {kind}"
                    sums[figure] = sums.get(figure, 0) + int((logits.argmax(1) == y).sum())
        return {figure: right / max(len(measured), 1) for figure, right in sums.items()}
