"""CIFAR ResNets of Bottleneck blocks: those of the papers on online distillation.

ONE calls [18, 18, 18] blocks `resnet110`; OKDDip, PCL and CSS call [12, 12, 12] so; CSS calls [6, 6, 6]
`resnet56`. The names here add the blocks of a stage: `resnet110-b18`, `resnet110-b12`, `resnet56-b6`.
OKDDip's `wide_resnet20_8` is here `wrn-20-8`: two blocks a stage whose inner 3x3 convolution is eight times
as wide. It is not a network of Zagoruyko and Komodakis. State-dict keys are those of the released code, which
are torchvision's.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.models.staged import ResidualBlock, Stage, Staged, he_fan_out, residual_stage

EXPANSION = 4  # output channels of a block, as a multiple of the stage's 16, 32 or 64


def bottleneck_resnet(network: str, classes: int, channels: int) -> BottleneckResNet:
    """resnet{depth}-b{blocks of a stage}, or wrn-20-8."""
    if network == "wrn-20-8":
        return BottleneckResNet(2, 8, classes, channels)
    return BottleneckResNet(int(network.rpartition("-b")[2]), 1, classes, channels)


class BottleneckResNet(Staged):
    """He et al. 2016 for CIFAR. Maps: after each stage's last ReLU, of 64, 128 and 256 channels.

    blocks: of each stage; inner: width of the 3x3 convolutions as a multiple of the stage's 16, 32, 64
    """

    STEM, STAGES = ("conv1", "bn1"), ("layer1", "layer2", "layer3")

    def __init__(self, blocks: int, inner: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, inner, stride=1)
        self.layer2 = _stage(blocks, 64, 32, inner, stride=2)
        self.layer3 = _stage(blocks, 128, 64, inner, stride=2)
        self.fc = nn.Linear(64 * EXPANSION, classes)
        he_fan_out(self)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return x, x

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        return residual_stage(self.modules_of(index), x, preactivation)


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the 3x3 convolution carries the stride."""

    def __init__(self, width_in: int, width: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential()  # empty: the identity
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def total(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return self.bn3(self.conv3(y)) + self.downsample(x)  # type: ignore[no-any-return]


def _stage(blocks: int, width_in: int, base: int, inner: int, stride: int) -> nn.Sequential:
    width = base * EXPANSION
    first = Bottleneck(width_in, width, base * inner, stride)
    return nn.Sequential(first, *(Bottleneck(width, width, base * inner, 1) for _ in range(blocks - 1)))
