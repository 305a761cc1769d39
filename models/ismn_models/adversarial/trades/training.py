"""TRADES: min over theta of E[CE(f(x), y) + beta max over |delta| <= eps of KL(f(x) || f(x + delta))] (Eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from ismn_models.adversarial.trades.config import TradesConfig
from ismn_models.adversarial.training import RobustTraining
from ismn_models.crafting import ascend, evaluating
from ismn_models.parallel import normal_like
from ismn_models.pipeline import Pipeline
from ismn_models.training import Stage

START = 0.001
"""Standard deviation of the noise that the attack starts from: at x itself the divergence has no gradient."""


def stages(pipeline: Pipeline, config: TradesConfig) -> list[Stage]:
    """Return the stages after the base classifier's own."""
    return [TradesTraining(pipeline, config)]


def divergence(logits: Tensor, attacked: Tensor) -> Tensor:
    """Return KL(softmax(logits) || softmax(attacked)) of each sample, [N], for logits [N, K]."""
    return kl_div(
        attacked.float().log_softmax(1), logits.float().log_softmax(1), reduction="none", log_target=True
    ).sum(1)


class TradesTraining(RobustTraining):
    """SGD on CE(f(x), y) + beta KL(f(x) || f(x')). The attack sees the net in eval mode."""

    name = "TRADES"
    shareable = True
    config: TradesConfig

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        x = self.augment(x)
        attacked = self.attack(x)
        self.net.train()
        loss, logits = self.loss(x, attacked, y)
        self.descend(loss, progress)
        return {"loss": loss.item(), "accuracy": (logits.argmax(1) == y).float().mean().item()}

    def loss(self, x: Tensor, attacked: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of images and attacked images [N, C, H, W] with labels y [N], and the clean logits [N, K].

        Three passes, as in the official code: each normalises by its own batch and counts in the running statistics,
        the clean images twice. The gradient flows through both sides of the divergence.
        """
        logits = self.net(x).float()
        answers = self.net(attacked)
        robust = divergence(self.net(x), answers).mean()
        return cross_entropy(logits, y) + self.config.beta * robust, logits

    def attack(self, x: Tensor) -> Tensor:
        """Return images in the ball around x [N, C, H, W] that the net answers least as it does x; no labels."""
        low, high = (x - self.config.eps).clamp_(min=0), (x + self.config.eps).clamp_(max=1)
        attacked = x + START * normal_like(x)
        with evaluating(self.net):
            with torch.no_grad():
                logits = self.net(x)
            for _ in range(self.config.steps):
                direction = ascend(lambda p: divergence(logits, self.net(p)), attacked)
                attacked = torch.clamp(attacked + self.config.attack_step_size() * direction, low, high)
        return attacked
