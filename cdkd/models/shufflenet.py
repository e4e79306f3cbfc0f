"""ShuffleNet V1 and V2 for CIFAR as in the CRD benchmark: RepDistiller's `ShuffleV1` and `ShuffleV2`.

Both have a 1x1 stem of 24 channels without stride, and three stages that halve the map: 32x32 gives 16, 8 and
4. Weights start as torch draws them by default.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.models.staged import ResidualBlock, Stage, Staged, residual_stage

STEM = 24


def shufflenetv1(network: str, classes: int, channels: int) -> ShuffleNetV1:
    return ShuffleNetV1(classes, channels)


def shufflenetv2(network: str, classes: int, channels: int) -> ShuffleNetV2:
    return ShuffleNetV2(classes, channels)


class ShuffleNetV1(Staged):
    """Zhang et al. 2018, 3 groups. Maps: after each stage's last ReLU, of 240, 480 and 960 channels."""

    STEM, STAGES = ("conv1", "bn1"), ("layer1", "layer2", "layer3")

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage_v1(STEM, 240, blocks=4)
        self.layer2 = _stage_v1(240, 480, blocks=8)
        self.layer3 = _stage_v1(480, 960, blocks=4)
        self.linear = nn.Linear(960, classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return x, x

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        return residual_stage(self.modules_of(index), x, preactivation)


class UnitV1(ResidualBlock):
    """1x1 convolution in groups, shuffle, 3x3 convolution of each channel, 1x1 convolution in groups.

    With stride 2 the averaged input is appended to the output's channels; else it is added.
    """

    GROUPS = 3

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        out = width - width_in if stride == 2 else width
        inner = out // 4
        self.groups = 1 if width_in == STEM else self.GROUPS
        self.conv1 = nn.Conv2d(width_in, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, groups=self.GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(out)

    def total(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(shuffled(y, self.groups))), inplace=True)
        y = self.bn3(self.conv3(y))
        return torch.cat((y, F.avg_pool2d(x, 3, 2, padding=1)), 1) if self.stride == 2 else y + x


class ShuffleNetV2(Staged):
    """Ma et al. 2018, width 1. Maps: the stages' outputs, of 116, 232 and 464 channels; last_map has 1024.

    Preactivations are RepDistiller's: the last unit's two halves before its ReLU and before the shuffle.
    """

    STEM, STAGES = ("conv1", "bn1"), ("layer1", "layer2", "layer3")

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage_v2(STEM, 116, units=3)
        self.layer2 = _stage_v2(116, 232, units=7)
        self.layer3 = _stage_v2(232, 464, units=3)
        self.conv2 = nn.Conv2d(464, 1024, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return x, x

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        units = self.modules_of(index)
        if not preactivation:
            x = units(x)
            return Stage(x, None, x)
        last = units[-1]
        assert isinstance(last, UnitV2)
        kept, changed = last.halves(units[:-1](x))
        x = shuffled(torch.cat((kept, F.relu(changed)), 1), 2)
        return Stage(x, torch.cat((kept, changed), 1), x)

    def last_map(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


class UnitV2(nn.Module):
    """Half of the channels stay; 1x1, 3x3 (of each channel) and 1x1 convolutions change the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The half that stays, and the other before its last ReLU."""
        kept, changed = x.chunk(2, 1)
        y = F.relu(self.bn1(self.conv1(changed)), inplace=True)
        return kept, self.bn3(self.conv3(self.bn2(self.conv2(y))))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.halves(x)
        return shuffled(torch.cat((kept, F.relu(changed, inplace=True)), 1), 2)


class DownV2(nn.Module):
    """Halves the map; each of two branches gives half of the output's channels."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(width_in, width_in, 3, 2, padding=1, groups=width_in, bias=False)
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv2 = nn.Conv2d(width_in, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(width_in, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))), inplace=True)
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))), inplace=True)
        return shuffled(torch.cat((left, right), 1), 2)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """The channels, seen as [groups, C / groups], transposed: the next groups read from all of these."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


def _stage_v1(width_in: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(UnitV1(width_in, width, 2), *(UnitV1(width, width, 1) for _ in range(blocks - 1)))


def _stage_v2(width_in: int, width: int, units: int) -> nn.Sequential:
    return nn.Sequential(DownV2(width_in, width), *(UnitV2(width) for _ in range(units)))
