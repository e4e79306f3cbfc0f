"""VGG for small pictures: RepDistiller's, after Simonyan and Zisserman 2015, with BatchNorm and one linear layer."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.core.features import Features

WIDTHS = {  # of each convolution, block by block
    "vgg8": ((64,), (128,), (256,), (512,), (512,)),
    "vgg11": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg13": ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


def vgg(network: str, classes: int, channels: int) -> VGG:
    return VGG(WIDTHS[network], classes, channels)


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions; 2x2 max-pooling after each of the first three, and after the fourth for pictures of 64 and more.

    (RepDistiller pools a fourth time for 64 exactly.) The smallest picture is 8x8; 32x32 gives maps of 16, 8, 4 and 4.
    Maps: the outputs of blocks two to five after their last ReLU, before pooling. RepDistiller's list has the first
    block's too, in the place where a ResNet's list has the stem's, and its losses skip it like the stem: so it is left out.
    The convolutions keep a bias beside their BatchNorm, as RepDistiller's do: parameter counts agree.
    """

    def __init__(self, widths: tuple[tuple[int, ...], ...], classes: int, channels: int) -> None:
        super().__init__()
        ends = (channels, *(block[-1] for block in widths))
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _block(width_in, block) for width_in, block in zip(ends, widths, strict=False)
        )
        self.classifier = nn.Linear(ends[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(
                    module.weight,
                    0.0,
                    math.sqrt(2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels)),
                )
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Features:
        large = x.shape[2] >= 64
        x = self.block0(x)
        first = self.block1(F.max_pool2d(x, 2))
        second = self.block2(F.max_pool2d(first, 2))
        third = self.block3(F.max_pool2d(second, 2))
        fourth = self.block4(F.max_pool2d(third, 2) if large else third)
        pooled = fourth.mean((2, 3))
        return Features((first, second, third, fourth), pooled, self.classifier(pooled))


def _block(width_in: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        width_in = width
    return nn.Sequential(*layers)
