"""The pack's schedule: each autoencoder alone for some epochs, then all together, rewarded for their differences."""

from __future__ import annotations

from torch import Tensor, nn

from ismn_models.images import Images
from ismn_models.magnet.diverse.config import DiverseConfig
from ismn_models.magnet.diverse.system import DiverseMagnet
from ismn_models.magnet.training import AutoencoderStage
from ismn_models.pipeline import Pipeline
from ismn_models.training import Stage


def stages(pipeline: Pipeline, config: DiverseConfig) -> list[Stage]:
    """Return the stages after the base classifier's own."""
    defence = pipeline.defence
    if not isinstance(defence, DiverseMagnet):
        raise TypeError(f"not a diverse MagNet pipeline: {type(defence).__name__}")
    return [AloneStage(pipeline.base, defence, config), TogetherStage(pipeline.base, defence, config)]


class AloneStage(AutoencoderStage):
    """The autoencoders side by side: no term of the loss holds two of them."""

    name = "alone"

    def __init__(self, base: nn.Module, defence: DiverseMagnet, config: DiverseConfig) -> None:
        super().__init__(base, defence, config)
        self.epochs = config.alone_epochs

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Nothing to fit before all are trained together."""
        return {}


class TogetherStage(AutoencoderStage):
    """The sum over the pack of MSE(AE_i, x) - diversity MSE(AE_i, mean over the pack), and the activities."""

    name = "together"

    def __init__(self, base: nn.Module, defence: DiverseMagnet, config: DiverseConfig) -> None:
        super().__init__(base, defence, config)
        self.diversity = config.diversity

    def error(self, rebuilt: Tensor, x: Tensor) -> Tensor:
        """Return the diverse loss of ``rebuilt`` [A, N, C, H, W], at least 0."""
        return super().error(rebuilt, x) - self.diversity * len(rebuilt) * spread(rebuilt)

    def figures(self, rebuilt: Tensor) -> dict[str, float]:
        """Return how far the autoencoders are apart."""
        return {"spread": spread(rebuilt).item()}


def spread(rebuilt: Tensor) -> Tensor:
    """Return the mean squared distance of ``rebuilt`` [A, N, C, H, W] from its mean over the pack."""
    return (rebuilt - rebuilt.mean(0)).square().mean()
