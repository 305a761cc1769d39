"""The DDSA-style schedule: min over theta of E[max over delta of J(x, f(x + delta))] + E[J(x, f(x))]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.crafting import BankedStage, ascend, pgd
from ismn_models.ddsa.config import DdsaConfig
from ismn_models.ddsa.system import Ddsa
from ismn_models.images import Images
from ismn_models.parallel import drawn, uniform_like
from ismn_models.pipeline import Pipeline
from ismn_models.sparsity import RunningMeanSparsity
from ismn_models.training import BATCH, Stage, descend, warmup_cosine

MEASURED = 1000
"""Validation images that the closing figures are taken on."""


def stages(pipeline: Pipeline, config: DdsaConfig) -> list[Stage]:
    """Return the stages after the base classifier's own."""
    if not isinstance(pipeline.defence, Ddsa):
        raise TypeError(f"not a DDSA pipeline: {type(pipeline.defence).__name__}")
    return [DenoisingStage(pipeline.base, pipeline.defence, config)]


class DenoisingStage(BankedStage):
    """Adam on the two-term reconstruction cost, each image attacked by PGD at an eps of its own."""

    name = "denoising"
    shareable = True

    def __init__(self, base: nn.Module, defence: Ddsa, config: DdsaConfig) -> None:
        super().__init__()
        self.base, self.defence, self.config = base, defence, config
        self.epochs, self.batch_size = config.epochs, config.batch_size
        self.optimisers = (torch.optim.Adam(defence.autoencoder.parameters(), config.lr),)
        bias = defence.autoencoder.second.bias
        self.sparsity = RunningMeanSparsity(len(bias), config.mu, config.beta).to(bias.device)
        self.modules = (self.sparsity,)

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`."""
        self.base.requires_grad_(False).eval()
        self.defence.train()
        if self.config.inner == "classifier":
            self.prepare_bank(epoch, train, self.config.refresh)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        if self.config.inner == "classifier":
            attacked, _ = self.bank.lookup(index, lambda missing: self.attack(x[missing]))
        else:
            attacked, _ = self.attack(x)
        # Mirrored only: shifted-in black borders would cost the 512-number code more than they teach it.
        clean, attacked = self.augment(torch.cat([x, attacked], 1), pixels=0).chunk(2, 1)
        net = self.defence.autoencoder
        code = net.encode(torch.cat([attacked, clean]))
        from_attacked, from_clean = net.decode(code).chunk(2)
        perturbed, plain = (from_attacked - clean).square().mean(), (from_clean - clean).square().mean()
        lr = self.config.lr * warmup_cosine(progress)
        descend(self.optimisers[0], perturbed + plain, lr)
        if self.config.uses("sparsity"):
            self.sparsity.apply_to(net.second.bias, code.detach(), lr)
        figures = {"loss": perturbed + plain, "mse attacked": perturbed, "mse clean": plain}
        return {name: value.item() for name, value in (figures | {"activation": code.mean()}).items()}

    def attack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return PGD examples on x [N, C, n, n] and their eps [N], uniform in [0, eps_max].

        On the classifier they move away from its own answer: true labels would leak through the examples.
        """
        eps = self.config.eps_max * drawn(lambda n: torch.rand(n, device=x.device), len(x))
        stride = 2.5 * eps / self.config.pgd_steps
        if self.config.inner == "recon":
            return self._attack_reconstruction(x, eps, stride), eps
        with torch.no_grad():
            labels = self.base(x).argmax(1)
        return pgd(self.base, x, labels, eps, self.config.pgd_steps, stride), eps

    def _attack_reconstruction(self, x: Tensor, eps: Tensor, stride: Tensor) -> Tensor:
        radius, step = eps[:, None, None, None], stride[:, None, None, None]
        attacked = (x + radius * (2 * uniform_like(x) - 1)).clamp_(0, 1)
        for _ in range(self.config.pgd_steps):
            direction = ascend(lambda p: (self.defence.autoencoder(p) - x).square(), attacked)
            attacked = torch.clamp(attacked + step * direction, x - radius, x + radius).clamp_(0, 1)
        return attacked

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Return the error and the base's accuracy on denoised validation images, clean and attacked.

        The first thousand do: the attack on each costs as much as twenty classifications.
        """
        self.base.requires_grad_(False).eval()
        self.defence.eval()
        measured = validation.take(slice(MEASURED))
        sums: dict[str, float] = {}
        for x, y in self.watched(measured, BATCH):
            for name, images in (("clean", x), ("attacked", self.attack(x)[0])):
                with torch.no_grad():
                    denoised = self.defence.reform(images)
                    right = (self.base(denoised).argmax(1) == y).sum().item()
                    error = (denoised - x).square().mean().item() * len(x)
                for figure, value in ((f"validation mse, {name}", error), (f"accuracy, {name}", right)):
                    sums[figure] = sums.get(figure, 0.0) + value
        return {figure: value / len(measured) for figure, value in sums.items()}
