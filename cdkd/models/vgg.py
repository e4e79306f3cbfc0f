"""VGG for small images with BatchNorm and one linear layer (Simonyan and Zisserman 2015): RepDistiller's."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.models.staged import Stage, Staged

WIDTHS = {  # of each convolution, block by block
    "vgg8": ((64,), (128,), (256,), (512,), (512,)),
    "vgg11": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg13": ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


def vgg(network: str, classes: int, channels: int) -> VGG:
    return VGG(WIDTHS[network], classes, channels)


class VGG(Staged):
    """Five blocks of 3x3 convolutions, with 2x2 max-pooling after each of the first three.

    Images of 64x64 and more are pooled after the fourth too (RepDistiller: of 64x64 exactly). The smallest
    image is 8x8; 32x32 gives maps of 16, 8, 4 and 4.

    Maps: the outputs of blocks two to five after their last ReLU, before pooling. Preactivations: after their
    last BatchNorm. Stem: the first block's output, as in RepDistiller's list. The convolutions keep a bias in
    front of their BatchNorm, as RepDistiller's do: parameter counts agree.
    """

    STEM, STAGES = ("block0",), ("block1", "block2", "block3", "block4")

    def __init__(self, widths: tuple[tuple[int, ...], ...], classes: int, channels: int) -> None:
        super().__init__()
        ends = (channels, *(block[-1] for block in widths))
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _block(width_in, block) for width_in, block in zip(ends, widths, strict=False)
        )
        self.classifier = nn.Linear(ends[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                area = module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / (area * module.out_channels)))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def head(self) -> nn.Linear:
        return self.classifier

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.block0(x)
        return x, F.max_pool2d(x, 2)

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        block = self.modules_of(index)
        before = block[:-1](x) if preactivation else None
        x = block(x) if before is None else F.relu(before)
        pooled = index < 2 or (index == 2 and x.shape[2] >= 8)  # the third map has 8 rows if the image has 64
        return Stage(x, before, F.max_pool2d(x, 2) if pooled else x)


def _block(width_in: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        width_in = width
    return nn.Sequential(*layers)
