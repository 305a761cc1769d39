"""CelebANet: the classifier of LAD (Zhou, Tsang and Yin 2019, arXiv 1907.07001; zhouxiaowei1120/LADDER).

VGG11's convolutions with batch normalisation, 128x128 faces to 512 maps of 4x4, then 8192-4096-2048-1. One logit for
one attribute; here it answers as [0, z], so that softmax and cross-entropy over two classes are the sigmoid and the
binary cross-entropy of z. The name is Haque and Kang's (Table 4); it is a classifier, not a defence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.classifiers.resnet import Normalise
from ismn_models.refusal import RefusalError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet: the published net starts from features that were trained there."""
LAYERS = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
"""VGG11 (Simonyan and Zisserman 2015, configuration A)."""
SIDE = 4
IMAGENET = "https://download.pytorch.org/models/vgg11_bn-6002323d.pth"
"""torchvision's weights of VGG11 with batch normalisation."""


class CelebANet(nn.Module):
    """51,177,217 weights with one logit (two classes); K logits for K > 2 classes."""

    def __init__(self, num_classes: int = 2, channels: int = 3) -> None:
        super().__init__()
        grey = channels != len(MEAN)
        self.normalise = Normalise((0.5,) * channels, (0.25,) * channels) if grey else Normalise(MEAN, STD)
        self.features = nn.Sequential(*_layers(channels))
        self.pool = nn.AdaptiveAvgPool2d(SIDE)
        self.latent = nn.Linear(512 * SIDE * SIDE, 4096)
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 2048),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(2048, 1 if num_classes == 2 else num_classes),
        )

    def embed(self, x: Tensor) -> Tensor:
        """Return the latent z [N, 4096] that LAD works on: the first dense layer's output, before its ReLU."""
        h = self.features(self.normalise(x))
        if h.shape[-2:] != (SIDE, SIDE):
            h = self.pool(h)
        latent: Tensor = self.latent(h.flatten(1))
        return latent

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K] for x [N, C, H, W] in [0, 1]; two classes are [0, z]."""
        z: Tensor = self.head(self.embed(x))
        return torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 else z


def load_imagenet(net: nn.Module) -> None:
    """Give the CelebANet in ``net`` the features of torchvision's VGG11 with batch normalisation, trained on ImageNet.

    Raises RefusalError where they can be neither downloaded nor found in torch's cache.
    """
    (celebanet,) = (module for module in net.modules() if isinstance(module, CelebANet))
    try:
        state = torch.hub.load_state_dict_from_url(
            IMAGENET, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no network; a file that is not the one that was published
        raise RefusalError(
            f"The pretrained features of celebanet cannot be had ({error}).",
            "Leave pretrained out to begin with random ones, or connect this machine to the internet.",
        ) from error
    prefix = "features."
    features = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    celebanet.features.load_state_dict(features)


def _layers(channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in LAYERS:
        if isinstance(width, int):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    return layers
