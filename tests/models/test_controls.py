"""The controls: JPEG and median against other implementations, the sign decoder on noise of known size."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import median_filter
from torch import Tensor, nn

from ismn_models.controls import (
    Jpeg,
    Median,
    SignDecoder,
    build_jpeg,
    build_median,
    build_sign_decoder,
)
from ismn_models.controls_config import JpegConfig, MedianConfig, SignDecoderConfig
from ismn_models.image_prior import ImagePrior
from ismn_models.shape import Shape
from ismn_models.transforms import dct_matrix

TINY = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))


def smooth_images(n: int = 12, channels: int = 3) -> Tensor:
    """Draw images whose cosine coefficients fall off as natural images' do; grey levels are whole."""
    generator = torch.Generator().manual_seed(0)
    k = torch.arange(32.0)
    fall = (1 + (k.square()[:, None] + k.square()) / 4) ** -0.9
    coefficients = torch.randn(n, channels, 32, 32, generator=generator) * fall
    matrix = dct_matrix(32)
    x = matrix.T @ coefficients @ matrix
    x = 0.5 + 0.7 * (x - x.mean((2, 3), keepdim=True)) + 0.1 * torch.randn(n, 1, 1, 1, generator=generator)
    return (x.clamp(0, 1) * 255).round() / 255


def attacked(x: Tensor, eps: float) -> Tensor:
    signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).sign()
    return (x + eps * signs).clamp(0, 1)


def psnr(x: Tensor, y: Tensor) -> float:
    return float(-10 * torch.log10((x - y).square().mean()))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_equals_pillow(channels: int) -> None:
    x = smooth_images(2, channels)
    result = Jpeg(JpegConfig(quality=50)).reform(x)
    for image, got in zip(x, result, strict=True):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        packed = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(packed, "JPEG", quality=50)
        wanted = np.asarray(Image.open(packed)).reshape(32, 32, channels)
        np.testing.assert_array_equal((got * 255).round().permute(1, 2, 0).numpy(), wanted)


def test_jpeg_keeps_more_at_higher_quality() -> None:
    x = smooth_images()
    error = [float((Jpeg(JpegConfig(quality=q)).reform(x) - x).abs().mean()) for q in (10, 75, 95)]
    assert error == sorted(error, reverse=True)
    assert error[1] < 0.02


@pytest.mark.parametrize("radius", [1, 2])
def test_median_equals_scipys(radius: int) -> None:
    x = torch.rand(2, 3, 9, 7)
    width = 2 * radius + 1
    wanted = median_filter(x.numpy(), size=(1, 1, width, width), mode="mirror")
    np.testing.assert_array_equal(Median(MedianConfig(radius=radius)).reform(x).numpy(), wanted)


def test_median_has_a_gradient() -> None:
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    system = build_median(MedianConfig(), Shape(4, 3), TINY)
    for surrogate in system.defence.surrogates(system.base).values():
        (gradient,) = torch.autograd.grad(surrogate(x).logits.sum(), x)
        assert gradient.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize(
    ("system", "differentiable"),
    [
        (build_jpeg(JpegConfig(), Shape(4, 3), TINY), False),
        (build_median(MedianConfig(), Shape(4, 3), TINY), True),
        (build_sign_decoder(SignDecoderConfig(), Shape(4, 3), TINY), False),
    ],
)
def test_controls_reform_and_never_reject(system: nn.Module, differentiable: bool) -> None:
    x = smooth_images(3)
    decision = system.decide(x)
    assert torch.equal(decision.logits, TINY(system.defence.reform(x)))
    assert not (decision.flagged | decision.rejected).any()
    assert system.defence.differentiable == differentiable
    assert not system.defence.state_dict().keys() - {"threshold"}


@pytest.mark.parametrize("build", [build_jpeg, build_sign_decoder])
def test_other_channel_counts_are_refused(build: object) -> None:
    config = JpegConfig() if build is build_jpeg else SignDecoderConfig()
    with pytest.raises(ValueError, match="1 or 3 channels"):
        build(config, Shape(4, 2), TINY)  # type: ignore[operator]


@pytest.mark.parametrize("eps", [0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("told", [True, False])
def test_sign_decoder_undoes_sign_noise(eps: float, told: bool) -> None:
    x = smooth_images()
    noisy = attacked(x, eps)
    decoded = SignDecoder(SignDecoderConfig(eps=eps if told else None)).reform(noisy)
    assert ((decoded >= 0) & (decoded <= 1)).all()
    assert psnr(decoded, x) > 25
    assert psnr(decoded, x) > psnr(noisy, x) + 8


def test_sign_decoder_finds_the_size() -> None:
    decoder, x = SignDecoder(SignDecoderConfig()), smooth_images()
    for eps in (8 / 255, 0.1, 0.2, 0.3, 0.4):
        assert decoder.estimate(attacked(x, eps)).tolist() == pytest.approx([eps] * len(x))
    between = decoder.estimate(attacked(x, 0.27))
    assert ((between - 0.27).abs() < 0.051).all()


def test_clean_images_pass_unless_a_size_is_told() -> None:
    x = smooth_images()
    assert torch.equal(SignDecoder(SignDecoderConfig()).reform(x), x)
    assert psnr(SignDecoder(SignDecoderConfig(eps=0.3)).reform(x), x) < 30


def test_sign_decoder_treats_each_image_alone() -> None:
    decoder, x = SignDecoder(SignDecoderConfig()), smooth_images(4)
    mixed = torch.cat([attacked(x[:2], 0.3), x[2:]])
    alone = torch.cat([decoder.reform(image[None]) for image in mixed])
    assert torch.allclose(decoder.reform(mixed), alone, atol=1e-4)


def test_sign_decoder_reads_grey_images() -> None:
    x = smooth_images(6, channels=1)
    noisy = attacked(x, 0.3)
    decoded = SignDecoder(SignDecoderConfig(eps=0.3), channels=1).reform(noisy)
    assert psnr(decoded, x) > psnr(noisy, x) + 8


def test_dct_equals_scipys_transform() -> None:
    x = torch.rand(5, 9)
    wanted = dctn(x.numpy(), norm="ortho")
    np.testing.assert_allclose((dct_matrix(5) @ x @ dct_matrix(9).T).numpy(), wanted, atol=1e-6)


def test_wiener_filter_limits() -> None:
    prior, x = ImagePrior(), torch.rand(2, 3, 16, 24)
    nothing, much = torch.zeros(2, 1, 1, 1), torch.full((2, 1, 1, 1), 1e12)
    assert torch.allclose(prior.denoise(x, nothing), x, atol=1e-5)
    assert prior.denoise(x, much).std() < 1e-3
    assert (prior.energy(smooth_images()) < prior.energy(attacked(smooth_images(), 0.1))).all()
