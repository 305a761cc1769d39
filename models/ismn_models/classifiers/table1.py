"""Table 1's classifier (Haque and Kang 2021), completed where the print is silent.

    Conv128-ReLU-Conv256-ReLU-MaxPool2-BN-Conv128-ReLU-Conv64-ReLU-Dense1024-ReLU-Dense(K)

The paper has no class layer (its softmax would act on 1,024 units): Dense(K) is added. Padding is 'valid', the
default of the printed notation. An adaptive pool before Dense(1024) makes the net size-free; at 32x32 it is the
identity. Input is centred inside, a fixed affine map that the first convolution could absorb.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

PADDINGS: dict[str, tuple[int, int]] = {"valid": (0, 10), "same": (1, 16)}
"""padding -> (pixels, side of the map that Dense(1024) sees)"""


class Table1(nn.Module):
    """7,232,970 weights for 10 classes with 'valid' padding, 17,456,586 with 'same'."""

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, padding: Literal["valid", "same"] = "valid"
    ) -> None:
        super().__init__()
        pad, side = PADDINGS[padding]
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 128, 3, padding=pad),
            nn.ReLU(),
            nn.Conv2d(128, 256, 3, padding=pad),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(256),
            nn.Conv2d(256, 128, 3, padding=pad),
            nn.ReLU(),
            nn.Conv2d(128, 64, 3, padding=pad),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.side = side
        self.dense = nn.Linear(64 * side * side, 1024)
        self.output = nn.Linear(1024, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights of convolutions and dense layers afresh (He et al. 2015), the class layer's near zero."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.output.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K] for x [N, C, H, W] in [0, 1]."""
        h = self.features((x - 0.5) * 4)
        if h.shape[-2:] != (self.side, self.side):
            h = self.pool(h)
        logits: Tensor = self.output(self.dense(h.flatten(1)).relu())
        return logits
