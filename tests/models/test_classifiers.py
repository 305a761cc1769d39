"""Table 1's classifier: exact shapes and weight counts (algorithm notes, after the paper's Table 1)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.table1 import Table1
from ismn_models.classifiers.training import CleanTraining, accuracy, build, stages
from ismn_models.images import Images
from ismn_models.shape import Shape
from ismn_models.training import flip_and_shift, warmup_cosine


def weights(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("padding", "classes", "expected"),
    [("valid", 10, 7_232_970), ("same", 10, 17_456_586), ("valid", 2, 7_224_770)],
)
def test_weight_counts(padding: str, classes: int, expected: int) -> None:
    assert weights(Table1(classes, 3, padding)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("padding", "sides"), [("valid", [30, 28, 14, 12, 10]), ("same", [32, 32, 16, 16, 16])])
def test_layer_shapes(padding: str, sides: list[int]) -> None:
    net = Table1(10, 3, padding)  # type: ignore[arg-type]
    seen = []
    for layer in net.features:
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-1]))
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert [seen[0], seen[2], seen[4], seen[6], seen[8]] == sides


@pytest.mark.parametrize("size", [28, 48, 64])
def test_any_image_size(size: int) -> None:
    assert Table1(4, 1)(torch.rand(2, 1, size, size)).shape == (2, 4)


def test_pool_is_the_identity_at_32() -> None:
    net = Table1(10).eval()
    x = torch.rand(2, 3, 32, 32)
    pooled = net.pool(net.features((x - 0.5) * 4)).flatten(1)
    torch.testing.assert_close(net(x), net.output(net.dense(pooled).relu()))


def test_training_lowers_the_loss_and_measures_accuracy() -> None:
    torch.manual_seed(0)
    labels = torch.arange(48) % 2
    pixels = (labels * 200).to(torch.uint8)[:, None, None, None].expand(48, 1, 16, 16).contiguous()
    images = Images(pixels, labels)
    config = ClassifierConfig(epochs=2, batch_size=8, lr=0.01)
    pipeline = build(config, Shape(2, 1))
    (stage,) = stages(pipeline, config)
    assert isinstance(stage, CleanTraining)
    losses = [
        stage.step(images.floats(index), images.labels[index], index, k / 6)["loss"]
        for k, index in enumerate(torch.randperm(48).split(8))
    ]
    assert losses[-1] < losses[0]
    measured = stage.finish(images, images)["validation accuracy"]
    right = (pipeline.base(images.floats()).argmax(1) == labels).float().mean().item()
    assert measured == pytest.approx(right)
    assert accuracy(pipeline, images) == pytest.approx(measured)


def test_flip_and_shift_moves_stacked_images_alike() -> None:
    torch.manual_seed(1)
    x = torch.rand(16, 3, 8, 8)
    a, b = flip_and_shift(torch.cat([x, x], 1), 2).chunk(2, 1)
    assert torch.equal(a, b)
    assert not torch.equal(a, x)


def test_flip_and_shift_against_brute_force() -> None:
    """Every result is one of the 2 x 3 x 3 shifted and mirrored versions of its image."""
    torch.manual_seed(2)
    x = torch.rand(12, 1, 5, 5)
    padded = torch.nn.functional.pad(x, (1,) * 4)
    versions = [
        torch.flip(crop, [3]) if mirrored else crop
        for i in range(3)
        for j in range(3)
        for mirrored in (False, True)
        for crop in [padded[:, :, i : i + 5, j : j + 5]]
    ]
    for k, image in enumerate(flip_and_shift(x, 1)):
        assert any(torch.equal(image, version[k]) for version in versions)


@given(st.floats(0, 1))
@settings(max_examples=50)
def test_schedule_stays_within_its_bounds(progress: float) -> None:
    assert 0 <= warmup_cosine(progress) <= 1


def test_schedule_ends_at_zero() -> None:
    assert warmup_cosine(1.0) == pytest.approx(0, abs=1e-9)
    assert warmup_cosine(0.1) == pytest.approx(1)
