"""ResNets (resnet20, resnet32x4) and Wide ResNets (wrn-40-2) for CIFAR, which most distillation tables use.

The networks are those of RepDistiller (Tian et al., ICLR 2020), weight for weight: a 3x3 stem without pooling
and three stages, of which the second and third halve the map. Images of 4x4 and more; 32x32 gives maps of 32,
16 and 8.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.models.staged import ResidualBlock, Stage, Staged, he_fan_out, normalised, residual_stage


def resnet(network: str, classes: int, channels: int) -> ResNet:
    """resnet{depth}; with x4, the stages are four times and the stem twice as wide."""
    depth, _, wide = network.removeprefix("resnet").partition("x")
    return ResNet((int(depth) - 2) // 6, (32, 64, 128, 256) if wide else (16, 16, 32, 64), classes, channels)


def wide_resnet(network: str, classes: int, channels: int) -> WideResNet:
    """wrn-{depth}-{width}."""
    depth, width = (int(number) for number in network.split("-")[1:])
    return WideResNet((depth - 4) // 6, width, classes, channels)


class ResNet(Staged):
    """He et al. 2016, section 4.2, with 1x1 convolutions as shortcuts. Maps: after each stage's last ReLU.

    depth = 6 * blocks + 2, the name's number: stem, classifier, and two convolutions in each block.
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
        he_fan_out(self)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return x, x

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        return residual_stage(self.modules_of(index), x, preactivation)


class Basic(ResidualBlock):
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

    def total(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return y + self.downsample(x)  # type: ignore[no-any-return]


class WideResNet(Staged):
    """Zagoruyko and Komodakis 2016, without dropout.

    depth = 6 * blocks + 4, the name's first number; width: the second, a factor on the stages' 16, 32, 64
    channels. Maps: the stages' raw sums, before the BatchNorm and ReLU that the next stage begins with, and
    so of either sign (RepDistiller's default maps). Preactivations: after that BatchNorm (RepDistiller's
    `preact` list, whose second pass through the BatchNorm also moves its running statistics; ours does not).
    Stem: the first convolution's output.
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
                area = module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / (area * module.out_channels)))
        nn.init.zeros_(self.fc.bias)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv1(x)
        return x, x

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        x = self.modules_of(index)(x)
        if not preactivation:
            return Stage(x, None, x)
        bn = self.bn1 if index == 2 else self.modules_of(index + 1)[0].bn1
        assert isinstance(bn, nn.BatchNorm2d)
        return Stage(x, normalised(bn, x), x)

    def last_map(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(x), inplace=True)


class PreActivation(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions.

    Where the shape changes, the shortcut starts after the first ReLU.
    """

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
