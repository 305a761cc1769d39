"""Controls that keep everyone honest: JPEG, a median filter, and an untrained decoder of sign perturbations.

A defence that does not beat these has learnt nothing that a few lines of image processing do not know.
"""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor, nn

from ismn_models.classifiers.nets import base_net
from ismn_models.controls_config import JpegConfig, MedianConfig, SignDecoderConfig
from ismn_models.image_prior import ImagePrior
from ismn_models.pipeline import Classify, Defence, Pipeline, Read, Reading, straight_through
from ismn_models.shape import Shape

GRID = (8 / 255, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
"""Sizes that the sign decoder tries on an image. The best is then refined."""
TRIAL_ROUNDS = 8
REFINEMENT = (0.9, 1.15)
"""How far, as a factor, the refined size may move: about halfway to its neighbours."""
WORTH = 0.45
"""A perturbation is believed if its removal makes the image's energy under the prior fall below this share.

Removing 8/255 leaves at least 0.58 for 95 in 100 clean CIFAR-10 images, and at most 0.25 for 95 in 100 images
that carry it.
"""
FINAL_VARIANCE = 3e-4
DOUBT = 4.0
"""The decoder's residual errors sit together, in textures, where white noise of their variance would not."""


class Jpeg(Defence):
    """JPEG at a fixed quality (Das et al. 2017; Guo et al. 2018). 1 or 3 channels."""

    policy = "reform"
    differentiable = False

    def __init__(self, config: JpegConfig) -> None:
        super().__init__()
        self.quality = config.quality

    @torch.no_grad()
    def reform(self, x: Tensor) -> Tensor:
        """Return x [N, C, H, W] in [0, 1] after compression; pixels are whole multiples of 1/255."""
        pixels = (x * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
        images = [self._compress(image) for image in pixels]
        return torch.stack(images).permute(0, 3, 1, 2).to(x) / 255

    def _compress(self, image: Tensor) -> Tensor:
        """Take uint8 [H, W, C] through the codec."""
        packed = io.BytesIO()
        Image.fromarray(image.squeeze(2).numpy()).save(packed, "JPEG", quality=self.quality)
        with Image.open(packed) as unpacked:
            return torch.frombuffer(bytearray(unpacked.tobytes()), dtype=torch.uint8).view(image.shape)


class Median(Defence):
    """Median over a square window of each channel, borders reflected (Xu et al. 2018)."""

    policy = "reform"

    def __init__(self, config: MedianConfig) -> None:
        super().__init__()
        self.radius = config.radius

    def reform(self, x: Tensor) -> Tensor:
        """Return the filtered images, same shape as x [N, C, H, W]."""
        r = self.radius
        padded = nn.functional.pad(x, (r, r, r, r), mode="reflect")
        windows = padded.unfold(2, 2 * r + 1, 1).unfold(3, 2 * r + 1, 1)
        return windows.flatten(4).median(4).values

    def surrogates(self, classify: Classify) -> dict[str, Read]:
        """Return the filter with its own gradient, from each window's median pixel alone, and passed by the identity.

        The first is exact and leaves the pixels that are no median without a gradient; the second moves them all.
        """
        identity = straight_through(self.reform)
        return super().surrogates(classify) | {"bpda": lambda x: Reading(classify(identity(x)))}


class SignDecoder(Defence):
    """Undoes perturbations of one known size in every pixel, with no training.

    With x' = clip(x + eps s), s = +-1, only the signs are unknown, and a wrong sign sticks out of a smooth image
    by 2 eps. The decoder alternates between two estimates: the expected signs given the image, whose assumed
    error shrinks from round to round, and the image given the signs, a Wiener filter. Where x' - eps or x' + eps
    leaves [0, 1] the sign is certain; a clipped pixel gives an interval instead.

    Where a perturbation does not saturate, as with many small steps, the premise fails and little is gained.
    """

    policy = "reform"
    differentiable = False

    def __init__(self, config: SignDecoderConfig, channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.prior = ImagePrior(channels)

    @torch.no_grad()
    def reform(self, x: Tensor) -> Tensor:
        """Return the decoded images, same shape as x [N, C, H, W] in [0, 1]."""
        x = x.float()
        told = self.config.eps
        eps = self.estimate(x) if told is None else x.new_full((len(x),), told)
        decoded, _ = self._decode(x, eps, self.config.rounds, refine=told is None)
        return torch.where(eps[:, None, None, None] > 0, decoded, x)

    @torch.no_grad()
    def estimate(self, x: Tensor) -> Tensor:
        """Return the size in `GRID` whose removal suits the prior best, [N]; 0 where none is worth it."""
        best = WORTH * self.prior.energy(x)
        eps = x.new_zeros(len(x))
        for size in GRID:
            _, removed = self._decode(x, x.new_full((len(x),), size), TRIAL_ROUNDS)
            energy = self.prior.energy(removed)
            eps = torch.where(energy < best, size, eps)
            best = torch.minimum(energy, best)
        return eps

    def _decode(self, x: Tensor, eps: Tensor, rounds: int, refine: bool = False) -> tuple[Tensor, Tensor]:
        """Return the Wiener estimate of the image and x without the expected perturbation, both like x.

        With ``refine``, eps [N] is fitted anew in the second half of the rounds (expectation-maximisation).
        """
        size = eps[:, None, None, None]
        inside = (x > 0) & (x < 1)
        pixels = inside.sum((1, 2, 3), keepdim=True).clamp_min(1)
        first = size.square().clamp_min(1e-6)
        last = torch.minimum(first / 3, torch.full_like(first, FINAL_VARIANCE))
        image, removed = self.prior.denoise(x, first), x
        for step in range(rounds):
            variance = first * (last / first) ** (step / (rounds - 1))
            signs = torch.tanh(size * (x - image) / variance)
            if refine and step >= rounds // 2:
                fitted = (signs * (x - image) * inside).sum((1, 2, 3), keepdim=True) / pixels
                size = torch.clamp(fitted, *(f * eps[:, None, None, None] for f in REFINEMENT))
            removed, doubt = _remove(x, image, signs, size, variance, inside)
            noise = DOUBT * doubt.mean((1, 2, 3), keepdim=True)
            image = self.prior.denoise(removed, noise.clamp_min(1e-5))
        return image.clamp(0, 1), removed


def _remove(
    x: Tensor, image: Tensor, signs: Tensor, size: Tensor, variance: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the expected clean image given ``image`` with error ``variance``, and its variance per pixel."""
    slack = 1e-3  # stored examples may be rounded to whole grey levels, half of one is 2e-3
    signs = torch.where(x - size < -slack, -1.0, torch.where(x + size > 1 + slack, 1.0, signs))
    low, high = (x - size).clamp_min(0), (x + size).clamp_max(1)
    clipped = torch.maximum(torch.minimum(image, high), low)
    removed = torch.where(inside, x - size * signs, clipped)
    spread = size.square() * (1 - signs.square())
    return removed, torch.where(inside, spread, torch.minimum(size.square() / 12, variance))


def build_jpeg(config: JpegConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the base classifier behind JPEG. Raises ValueError unless 1 or 3 channels."""
    if shape.channels not in (1, 3):
        raise ValueError(f"JPEG stores 1 or 3 channels, not {shape.channels}")
    return Pipeline(base_net(shape, base), Jpeg(config))


def build_median(config: MedianConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the base classifier behind a median filter."""
    return Pipeline(base_net(shape, base), Median(config))


def build_sign_decoder(config: SignDecoderConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the base classifier behind the sign decoder. Raises ValueError unless 1 or 3 channels."""
    return Pipeline(base_net(shape, base), SignDecoder(config, shape.channels))
