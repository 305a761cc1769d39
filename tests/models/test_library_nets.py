"""Classifiers of torchvision and timm: the library's own nets, refused early where they do not fit."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from ismn_cli.core.errors import UsageError
from ismn_cli.core.settings import build_settings
from ismn_cli.core.specs import DataKind
from ismn_cli.stages.resolve import untrained
from ismn_cli.stages.weights import Header, load_weights, save_weights, tensor_hash
from ismn_models.classifiers.celebanet import MEAN, STD
from ismn_models.classifiers.config import ARCHS, ClassifierConfig
from ismn_models.classifiers.hardened import initialise
from ismn_models.classifiers.nets import ARCHITECTURES, Reduced, base_net
from ismn_models.classifiers.reference import Reference, check
from ismn_models.classifiers.training import build
from ismn_models.refusal import RefusalError
from ismn_models.shape import Shape

SMALL = "torchvision:shufflenet_v2_x0_5"
TRANSFORMER = "timm:test_vit"


def arch(name: str, side: int = 128) -> ClassifierConfig:
    return build_settings(ClassifierConfig, {"arch": name, "side": side}, "settings")


def seeded(make) -> nn.Module:
    torch.manual_seed(5)
    return make().eval()


LIBRARY = {
    SMALL: lambda: models.shufflenet_v2_x0_5(weights=None, num_classes=3),
    "torchvision:squeezenet1_1": lambda: models.squeezenet1_1(weights=None, num_classes=3),
    "timm:test_resnet": lambda: timm.create_model("test_resnet", num_classes=3),
    TRANSFORMER: lambda: timm.create_model("test_vit", num_classes=3, img_size=32),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_net_is_the_librarys_behind_imagenets_normalisation(name: str) -> None:
    ours = seeded(lambda: base_net(Shape(3, 3, 32), config=arch(name)))
    theirs = seeded(LIBRARY[name])
    x = torch.rand(2, 3, 32, 32)
    pixels = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(ours(x), theirs(pixels))


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 64)])
def test_channels_sizes_and_two_classes(name: str, channels: int, size: int) -> None:
    shape = Shape(2, channels, size)
    config = arch(name, side=32).resolved(shape)
    net = base_net(shape, config=config)
    assert isinstance(net, Reduced if size > 32 else Reference)
    x = torch.rand(2, channels, size, size, requires_grad=True)
    logits: Tensor = net(x)
    assert logits.shape == (2, 2)
    logits.square().sum().backward()
    assert x.grad is not None and bool(x.grad.any())


def test_torchvisions_transformers_are_told_the_size() -> None:
    with torch.device("meta"):
        net, x = Reference("torchvision:vit_b_16", 2, 3, 48), torch.empty(2, 3, 48, 48)
    assert net(x).shape == (2, 2)
    assert net.net.encoder.pos_embedding.shape[1] == 1 + 3 * 3


@pytest.mark.parametrize("name", [SMALL, TRANSFORMER])
def test_new_weights_are_drawn_as_the_library_draws_them(name: str) -> None:
    """A transformer has parameters that belong to no layer with a draw of its own."""
    net = seeded(lambda: base_net(Shape(3, 3, 64), config=arch(name, side=32)))
    other = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.add_(1)
    torch.manual_seed(5)
    other.net.reset_parameters()
    assert tensor_hash(other) == tensor_hash(net)
    torch.manual_seed(6)
    initialise(other, net, "fresh")
    moved = [not torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True) if a.std() > 0]
    assert all(moved)
    initialise(other, net, "base")
    assert tensor_hash(other) == tensor_hash(net)


def test_weights_go_to_a_file_and_back(tmp_path: Path) -> None:
    shape, config = Shape(2, 1, 40), arch(SMALL, side=32)
    pipeline = build(config, shape)
    header = Header(
        system="classifier",
        config={"arch": SMALL, "side": 32},
        classes=2,
        channels=1,
        size=40,
        dataset="faces@40",
        data="0" * 64,
        images=4,
        epochs={"base": 1},
        base=tensor_hash(pipeline.base),
        base_config={"arch": SMALL, "side": 32},
    )
    save_weights(tmp_path / "weights.safetensors", pipeline, header)
    assert header.kind() == DataKind("faces@40", shape)
    again = untrained(header)
    load_weights(tmp_path / "weights.safetensors", again)
    x = torch.rand(2, 1, 40, 40)
    assert torch.equal(again.eval()(x), pipeline.eval()(x))


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("torchvision:resnet5", "torchvision has no classifier called 'resnet5'", "torchvision:resnet50"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classifier called", "It has"),
        ("torchvision:ResNet18", "no classifier called", "torchvision:resnet18"),
        ("torchvision:inception_v3", "does not take images of 3 x 32 x 32 pixels", "side"),
        ("torchvision:maxvit_t", "does not take images", "side"),
        ("timm:rsenet18", "timm has no classifier", "timm:resnet18"),
        ("timm:resnet18.a1_in1k", "names trained weights", "Write timm:resnet18."),
        ("timm:hf-hub:someone/something", "timm has no classifier", "It has"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(name: str, said: str, hint: str) -> None:
    with pytest.raises(RefusalError) as caught:
        arch(name).resolved(Shape(2, 3, 32))
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_a_check_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check(SMALL, 2, 3, 32)
    assert torch.equal(torch.rand(2), expected)


def test_without_timm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RefusalError, match="timm cannot be imported") as caught:
        arch("timm:test_resnet").resolved(Shape(2, 3, 32))
    assert 'pip install "ismn-cli[timm]"' in caught.value.hint


@pytest.mark.parametrize(
    ("name", "meant"),
    [("resnet-18", "did you mean 'resnet18'"), ("timm:", "timm:NAME"), ("keras:vgg16", "Known are"), ("", "Known are")],
)
def test_unknown_names_are_a_problem_of_the_settings(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"arch: there is no '{name}'") as caught:
        arch(name)
    assert meant in caught.value.message


def test_the_names_are_those_that_can_be_built() -> None:
    assert set(ARCHS) == set(ARCHITECTURES)


def test_settings_are_read_without_torch() -> None:
    code = (
        "import sys; from ismn_models.classifiers.config import ClassifierConfig, known_arch; "
        "known_arch('timm:resnet18'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
