"""The CIFAR family that distillation tables are made of: ResNet (resnet20, resnet32x4) and Wide ResNet (wrn-40-2).

The networks are those of RepDistiller (Tian et al., ICLR 2020), weight for weight: three stages, of which the second and
third halve the map; a 3x3 stem without pooling. Pictures may have any size from 4x4; 32x32 gives maps of 32, 16 and 8.
The average over height and width is `mean`: on CUDA the backward pass of AdaptiveAvgPool2d is not deterministic.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.core.features import Features
from cdkd.models.staged import Staged


def resnet(network: str, classes: int, channels: int) -> ResNet:
    """resnet{depth}, or with x4 its version with stages four times and a stem two times as wide."""
    depth, _, wide = network.removeprefix("resnet").partition("x")
    return ResNet((int(depth) - 2) // 6, (32, 64, 128, 256) if wide else (16, 16, 32, 64), classes, channels)


def wide_resnet(network: str, classes: int, channels: int) -> WideResNet:
    """wrn-{depth}-{width}."""
    depth, width = (int(number) for number in network.split("-")[1:])
    return WideResNet((depth - 4) // 6, width, classes, channels)


class ResNet(Staged):
    """He et al. 2016, section 4.2, with 1x1 convolutions as shortcuts. Maps: the three stages' outputs after their last ReLU.

    depth = 6 * blocks + 2, the name's number: it counts the stem, two convolutions a block and the classifier.
    widths: channels of the stem and of the three stages.
    """

    STEM, STAGES = ("conv1", "bn1"), ("layer1", "layer2", "layer3")

    def __init__(self, blocks: int, widths: tuple[int, int, int, int], classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(Basic, blocks, widths[0], widths[1], stride=1)
        self.layer2 = _stage(Basic, blocks, widths[1], widths[2], stride=2)
        self.layer3 = _stage(Basic, blocks, widths[2], widths[3], stride=2)
        self.fc = nn.Linear(widths[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)), inplace=True)

    def head(self, maps: tuple[Tensor, ...]) -> Features:
        pooled = maps[-1].mean((2, 3))
        return Features(maps, pooled, self.fc(pooled), maps[-1])


class Basic(nn.Module):
    """Two 3x3 convolutions around a shortcut; the sum's ReLU closes the block."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential()  # empty: the identity
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x), inplace=True)


class WideResNet(Staged):
    """Zagoruyko and Komodakis 2016, without dropout.

    depth = 6 * blocks + 4, the name's first number; width: the second, a factor on the stages' 16, 32, 64 channels.
    Maps: the three stages' raw sums, before the BatchNorm and ReLU that the next stage begins with, and so of either
    sign (RepDistiller's default taps; its `preact` list puts that BatchNorm on). Pooled: after the final BatchNorm and ReLU.
    """

    STEM, STAGES = ("conv1",), ("block1", "block2", "block3")

    def __init__(self, blocks: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _stage(PreActivation, blocks, 16, 16 * width, stride=1)
        self.block2 = _stage(PreActivation, blocks, 16 * width, 32 * width, stride=2)
        self.block3 = _stage(PreActivation, blocks, 32 * width, 64 * width, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(
                    module.weight,
                    0.0,
                    math.sqrt(2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels)),
                )
        nn.init.zeros_(self.fc.bias)

    def stem(self, x: Tensor) -> Tensor:
        return self.conv1(x)  # type: ignore[no-any-return]

    def head(self, maps: tuple[Tensor, ...]) -> Features:
        last = F.relu(self.bn1(maps[-1]), inplace=True)
        pooled = last.mean((2, 3))
        return Features(maps, pooled, self.fc(pooled), last)


class PreActivation(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions; where the shape changes, the shortcut starts after the first ReLU."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x), inplace=True)
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = F.relu(self.bn2(self.conv1(y)), inplace=True)
        return x + self.conv2(y)  # type: ignore[no-any-return]


def _stage(
    block: type[Basic] | type[PreActivation], blocks: int, width_in: int, width: int, stride: int
) -> nn.Sequential:
    return nn.Sequential(block(width_in, width, stride), *(block(width, width, 1) for _ in range(blocks - 1)))
