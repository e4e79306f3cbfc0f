"""DenseNet-BC for CIFAR as in the papers on online distillation: OKDDip's `densenetd40k12`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.models.staged import Stage, Staged, normalised

GROWTH, LAYERS = 12, 6  # channels that a layer adds; layers of each block
INNER = 4 * GROWTH  # channels between a layer's 1x1 and 3x3 convolutions


def densenet(network: str, classes: int, channels: int) -> DenseNet:
    """densenet-40-12."""
    return DenseNet(classes, channels)


class DenseNet(Staged):
    """Huang et al. 2017: three blocks of six layers, growth 12, transitions that halve channels and map.

    32x32 gives maps of 32, 16 and 8 with 96, 120 and 132 channels: the blocks' outputs before the BatchNorm
    and ReLU that follow, of either sign. Preactivations: after that BatchNorm. Stem: the first convolution's
    output, 24 channels. Convolutions are drawn with the fan-in, as the released code does.
    """

    STEM, STAGES = (), ("denseblock1", "denseblock2", "denseblock3")

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.features = nn.Module()
        width = 2 * GROWTH
        self.features.conv0 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        for number in (1, 2, 3):
            self.features.add_module(f"denseblock{number}", _block(width))
            width += LAYERS * GROWTH
            if number < 3:
                self.features.add_module(f"transition{number}", _transition(width))
                width //= 2
        self.features.norm_final = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    @property
    def head(self) -> nn.Linear:
        return self.classifier

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features.get_submodule("conv0")(x)
        return x, x

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        x = self.features.get_submodule(f"denseblock{index + 1}")(x)
        last = index + 1 == len(self.STAGES)
        norm = self.features.get_submodule("norm_final" if last else f"transition{index + 1}.norm")
        assert isinstance(norm, nn.BatchNorm2d)
        before = normalised(norm, x) if preactivation else None
        return Stage(x, before, x if last else self.features.get_submodule(f"transition{index + 1}")(x))

    def last_map(self, x: Tensor) -> Tensor:
        return F.relu(self.features.get_submodule("norm_final")(x), inplace=True)


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution, and the same with 3x3; the output is appended to the input."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, INNER, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(INNER)
        self.conv2 = nn.Conv2d(INNER, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        return torch.cat((x, y), 1)


def _block(width: int) -> nn.Sequential:
    block = nn.Sequential()
    for number in range(LAYERS):
        block.add_module(f"denselayer{number + 1}", DenseLayer(width + number * GROWTH))
    return block


def _transition(width: int) -> nn.Sequential:
    block = nn.Sequential()
    block.add_module("norm", nn.BatchNorm2d(width))
    block.add_module("relu", nn.ReLU(inplace=True))
    block.add_module("conv", nn.Conv2d(width, width // 2, 1, bias=False))
    block.add_module("pool", nn.AvgPool2d(2, 2))
    return block
