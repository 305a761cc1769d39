"""CelebANet: exact shapes and weight counts, torchvision's features, one logit as two, and ImageNet's weights."""

from __future__ import annotations

from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import VGG11_BN_Weights, vgg11_bn

from ismn_models.classifiers.celebanet import IMAGENET, CelebANet
from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.nets import Reduced
from ismn_models.classifiers.training import build, stages
from ismn_models.images import Images
from ismn_models.lad.latents import latent_of
from ismn_models.refusal import RefusalError
from ismn_models.shape import Shape

WIDTHS = [64, 128, 256, 256, 512, 512, 512, 512]
FACES = Images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2))
PRETRAINED = ClassifierConfig(arch="celebanet", pretrained=True)


@pytest.fixture(scope="module")
def net() -> CelebANet:
    torch.manual_seed(0)
    return CelebANet().eval()


@pytest.fixture(scope="module")
def imagenet() -> dict[str, torch.Tensor]:
    """Weights of the form that torchvision publishes, with random features."""
    torch.manual_seed(1)
    with torch.device("meta"):
        whole = vgg11_bn(weights=None)
    features = whole.features.to_empty(device="cpu")
    for tensor in features.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape))
    return {f"features.{name}": value for name, value in features.state_dict().items()} | {
        "classifier.0.bias": torch.zeros(4096)
    }


def by_hand(classes: int, channels: int) -> int:
    inputs = [channels, *WIDTHS[:-1]]
    convolutions = sum((9 * i + 1) * o + 2 * o for i, o in zip(inputs, WIDTHS, strict=True))
    outputs = 1 if classes == 2 else classes
    return convolutions + (8192 + 1) * 4096 + (4096 + 1) * 2048 + (2048 + 1) * outputs


@pytest.mark.parametrize(("classes", "channels"), [(2, 3), (2, 1), (5, 3)])
def test_weight_counts(classes: int, channels: int) -> None:
    with torch.device("meta"):
        net = CelebANet(classes, channels)
    assert sum(p.numel() for p in net.parameters()) == by_hand(classes, channels)
    assert by_hand(2, 3) == 51_177_217


def test_layer_shapes_at_128(net: CelebANet) -> None:
    seen: list[tuple[int, ...]] = []
    layers = [m for m in net.modules() if isinstance(m, nn.MaxPool2d | nn.Linear)]
    handles = [m.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:]))) for m in layers]
    assert net(torch.rand(1, 3, 128, 128)).shape == (1, 2)
    for handle in handles:
        handle.remove()
    maps = [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
    assert seen == [*maps, (4096,), (2048,), (1,)]


@pytest.mark.parametrize("size", [32, 50, 160])
def test_any_image_size(net: CelebANet, size: int) -> None:
    assert net.embed(torch.rand(1, 3, size, size)).shape == (1, 4096)


def test_the_features_are_torchvisions(net: CelebANet, imagenet: dict[str, torch.Tensor]) -> None:
    with torch.device("meta"):
        theirs = vgg11_bn(weights=None).features
    theirs = theirs.to_empty(device="cpu").eval()
    theirs.load_state_dict(net.features.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(net.features(x), theirs(x))


def test_input_is_normalised_as_for_torchvision(net: CelebANet) -> None:
    x = torch.rand(2, 3, 32, 32)
    mean, std = VGG11_BN_Weights.IMAGENET1K_V1.transforms().mean, VGG11_BN_Weights.IMAGENET1K_V1.transforms().std
    wanted = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(net.normalise(x), wanted)


def test_two_classes_are_the_sigmoid_of_one_logit(net: CelebANet) -> None:
    x = torch.rand(3, 3, 32, 32)
    logits, z = net(x), net.head(net.embed(x)).squeeze(1)
    assert torch.equal(logits, torch.stack([torch.zeros_like(z), z], 1))
    torch.testing.assert_close(logits.softmax(1)[:, 1], z.sigmoid())


def test_its_latents_are_rectified_and_pass_the_reduction(net: CelebANet) -> None:
    x = torch.rand(2, 3, 64, 64)
    small = nn.functional.interpolate(x, size=(32, 32), mode="area")
    z = latent_of(Reduced(net, 32))(x)
    assert torch.equal(z, net.embed(small).relu())
    torch.testing.assert_close(net.head[2:](z), net.head(net.embed(small)))


@given(st.lists(st.tuples(st.floats(-60, 60), st.booleans()), min_size=1, max_size=20))
def test_cross_entropy_of_the_pair_is_the_binary_one_with_its_gradient(answers: list[tuple[float, bool]]) -> None:
    z = torch.tensor([logit for logit, _ in answers], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([label for _, label in answers])
    pair = torch.stack([torch.zeros_like(z), z], 1)
    losses = [
        nn.functional.cross_entropy(pair, y.long()),
        nn.functional.binary_cross_entropy_with_logits(z, y.double()),
    ]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in losses))


class Downloads:
    """Stands for torch's downloader: counts, and gives ``answer``, or raises it."""

    def __init__(self, answer: dict[str, torch.Tensor] | Exception) -> None:
        self.answer, self.asked = answer, list[str]()

    def __call__(self, url: str, **options: object) -> dict[str, torch.Tensor]:
        self.asked.append(url)
        assert options["check_hash"] is True
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, imagenet: dict[str, torch.Tensor]) -> Downloads:
    downloads = Downloads(imagenet)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", downloads)
    return downloads


def test_features_of_imagenet_are_fetched_when_training_begins_only(
    downloads: Downloads, imagenet: dict[str, torch.Tensor]
) -> None:
    pipeline = build(replace(PRETRAINED, side=16), Shape(2, 3, 32))
    assert isinstance(pipeline.base, Reduced)
    (stage,) = stages(pipeline, PRETRAINED)
    assert downloads.asked == []
    stage.begin_epoch(0, FACES)
    stage.begin_epoch(1, FACES)
    assert downloads.asked == [IMAGENET] == [VGG11_BN_Weights.IMAGENET1K_V1.url]
    features = pipeline.base.net.get_submodule("features").state_dict()
    assert features.keys() == {name.removeprefix("features.") for name in imagenet if name.startswith("features.")}
    assert all(torch.equal(features[name], imagenet[f"features.{name}"]) for name in features)


def test_without_pretrained_nothing_is_fetched(downloads: Downloads) -> None:
    with torch.device("meta"):
        pipeline = build(ClassifierConfig(arch="celebanet"), Shape(2, 3))
    (stage,) = stages(pipeline, ClassifierConfig(arch="celebanet"))
    stage.begin_epoch(0, FACES)
    assert downloads.asked == []


@pytest.mark.parametrize("failure", [URLError("no route to host"), RuntimeError("invalid hash value")])
def test_offline_it_says_what_to_leave_out(failure: Exception, downloads: Downloads) -> None:
    downloads.answer = failure
    with torch.device("meta"):
        pipeline = build(PRETRAINED, Shape(2, 3))
    (stage,) = stages(pipeline, PRETRAINED)
    with pytest.raises(RefusalError, match=r"no route to host|invalid hash") as caught:
        stage.begin_epoch(0, FACES)
    assert "Leave pretrained out" in caught.value.hint


@pytest.mark.parametrize(
    ("config", "shape"),
    [(PRETRAINED, Shape(2, 1, 128)), (replace(PRETRAINED, arch="table1"), Shape(2, 3, 128))],
)
def test_pretrained_is_refused_where_there_is_nothing_to_begin_with(config: ClassifierConfig, shape: Shape) -> None:
    with pytest.raises(ValueError, match="celebanet and colour images only"):
        config.resolved(shape)
    assert PRETRAINED.resolved(Shape(2, 3, 128)) is PRETRAINED
