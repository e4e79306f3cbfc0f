"""The ResNet50 of the CRD benchmark: Bottleneck blocks and four stages for CIFAR, RepDistiller's `ResNet50`.

The arithmetic is that of `resnet50-cifar`; the names of shortcuts and of the classifier are RepDistiller's,
so that its released teacher loads, and so is the order in which weights are drawn.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.models.staged import ResidualBlock, Stage, Staged, he_fan_out, residual_stage

EXPANSION = 4
BLOCKS = (3, 4, 6, 3)


def resnet50_crd(network: str, classes: int, channels: int) -> ResNet50:
    return ResNet50(classes, channels)


class ResNet50(Staged):
    """He et al. 2016 with a 3x3 stem and no max-pooling: 32x32 gives maps of 32, 16, 8 and 4."""

    STEM, STAGES = ("conv1", "bn1"), ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(BLOCKS[0], 64, 64, stride=1)
        self.layer2 = _stage(BLOCKS[1], 256, 128, stride=2)
        self.layer3 = _stage(BLOCKS[2], 512, 256, stride=2)
        self.layer4 = _stage(BLOCKS[3], 1024, 512, stride=2)
        self.linear = nn.Linear(2048, classes)
        he_fan_out(self)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return x, x

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        return residual_stage(self.modules_of(index), x, preactivation)


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the 3x3 convolution carries the stride."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(EXPANSION * width)
        self.shortcut = nn.Sequential()  # empty: the identity
        if stride != 1 or width_in != EXPANSION * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, EXPANSION * width, 1, stride, bias=False),
                nn.BatchNorm2d(EXPANSION * width),
            )

    def total(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return self.bn3(self.conv3(y)) + self.shortcut(x)  # type: ignore[no-any-return]


def _stage(blocks: int, width_in: int, width: int, stride: int) -> nn.Sequential:
    first = Bottleneck(width_in, width, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)))
