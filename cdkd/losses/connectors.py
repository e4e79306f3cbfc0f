"""Learned layers between a student's map and a teacher's."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from cdkd.core.errors import BadParams


class BatchNorm(nn.BatchNorm2d):
    """torch's, which in training refuses a batch of one with a map of 1×1: a single value has no variance.

    Here the running statistics normalise it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            mean, variance = self.running_mean, self.running_var
            return functional.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def conv_bn(channels: int, out: int, kernel: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, without a bias, which BatchNorm would cancel; and BatchNorm."""
    return nn.Sequential(nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False), BatchNorm(out))


def conv_bn_relu(channels: int, out: int) -> nn.Sequential:
    """1×1. The ReLU makes the ranges agree where the teacher's map is behind one too."""
    return nn.Sequential(*conv_bn(channels, out), nn.ReLU())


def regressor(loss: str, student: Tensor, teacher: Tensor) -> nn.Sequential:
    """A convolution that takes the student's map to the teacher's shape, and BatchNorm.

    Equal sizes: 1×1. Twice the teacher's: 3×3 with stride 2. Half of it: transposed 4×4 with stride 2. Larger
    otherwise: (1+H_s−H_t)×(1+W_s−W_t) without padding. The released convolution has a bias, which BatchNorm
    cancels; this one has none.

    Raises BadParams where the student's map is smaller in another way; `loss` is named there.

    Source: RepDistiller, `models/util.py`.
    """
    channels, out = student.shape[1], teacher.shape[1]
    ours, theirs = tuple(student.shape[2:]), tuple(teacher.shape[2:])
    convolution: nn.Module
    if ours == tuple(2 * side for side in theirs):
        convolution = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
    elif tuple(2 * side for side in ours) == theirs:
        convolution = nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=False)
    elif ours[0] >= theirs[0] and ours[1] >= theirs[1]:
        convolution = nn.Conv2d(channels, out, (1 + ours[0] - theirs[0], 1 + ours[1] - theirs[1]), bias=False)
    else:
        sizes = " and the teacher's ".join(f"{height}×{width}" for height, width in (ours, theirs))
        raise BadParams(
            f"{loss}: the student's map is {sizes};"
            " expected the student's to be half as large, as large or larger"
        )
    return nn.Sequential(convolution, BatchNorm(out))


def he_fan_out(layers: nn.Module) -> nn.Module:
    """Convolutions drawn anew from N(0, 2 / (kernel area · output channels))."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            area = layer.kernel_size[0] * layer.kernel_size[1]
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / (area * layer.out_channels)))
    return layers
