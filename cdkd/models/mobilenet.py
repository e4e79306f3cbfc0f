"""MobileNetV2 for CIFAR as in the CRD benchmark: expansion 6, half width, RepDistiller's `MobileNetV2`.

Its stem has stride 2. Tables that use another MobileNetV2 (HSAKD's) cannot be compared with it.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from cdkd.models.staged import Stage, Staged

EXPANSION = 6
STEM, LAST = 16, 1280  # channels; 1280 is not halved
# Groups of blocks: expansion, channels (halved), number of blocks, stride of the first.
GROUPS = (
    (1, 8, 1, 1),
    (EXPANSION, 12, 2, 1),
    (EXPANSION, 16, 3, 2),
    (EXPANSION, 32, 4, 2),
    (EXPANSION, 48, 3, 1),
    (EXPANSION, 80, 3, 2),
    (EXPANSION, 160, 1, 1),
)
STAGES_OF_GROUPS = ((0, 1), (2,), (3, 4), (5, 6))


def mobilenetv2(network: str, classes: int, channels: int) -> MobileNetV2:
    return MobileNetV2(classes, channels)


class MobileNetV2(Staged):
    """Sandler et al. 2018. Maps: block outputs, which no activation follows; preactivations are the same.

    32x32 gives maps of 16, 8, 4 and 2 with 12, 16, 48 and 160 channels; last_map has 1280, of 2x2.
    """

    STEM, STAGES = (), ("blocks",) * 4

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = _activated(channels, STEM, 3, stride=2)
        self.blocks = nn.ModuleList()
        width_in = STEM
        for expansion, width, count, stride in GROUPS:
            first = InvertedResidual(width_in, width, stride, expansion)
            rest = (InvertedResidual(width, width, 1, expansion) for _ in range(count - 1))
            self.blocks.append(nn.Sequential(first, *rest))
            width_in = width
        self.conv2 = _activated(width_in, LAST, 1, stride=1)
        self.classifier = nn.Sequential(nn.Linear(LAST, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                area = module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / (area * module.out_channels)))
        nn.init.normal_(self.head.weight, 0.0, 0.01)
        nn.init.zeros_(self.head.bias)

    @property
    def head(self) -> nn.Linear:
        return self.classifier[0]  # type: ignore[return-value]

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv1(x)
        return x, x

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        for group in STAGES_OF_GROUPS[index]:
            x = self.blocks[group](x)
        return Stage(x, x if preactivation else None, x)

    def last_map(self, x: Tensor) -> Tensor:
        return self.conv2(x)  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, 3x3 convolution of each, 1x1 convolution back, no activation."""

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.residual = stride == 1 and width_in == width
        self.conv = nn.Sequential(
            *_activated(width_in, inner, 1, stride=1),
            *_activated(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def _activated(width_in: int, width: int, size: int, stride: int, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    convolution = nn.Conv2d(width_in, width, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
