"""Maps of different sizes: the larger one is average-pooled to the smaller one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cdkd.losses.base import at_least_float32

Size = tuple[int, int]


def smaller_size(first: Tensor, second: Tensor) -> Size:
    """The smaller height and the smaller width of two maps [B, C, H, W]."""
    return min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])


def pool(features: Tensor, size: Size) -> Tensor:
    """Average pooling of [B, C, H, W] to [B, C, *size], in float32 at least.

    Output i of n averages the inputs from floor(i·H/n) to ceil((i+1)·H/n) − 1, as in PyTorch's adaptive
    pooling. That one has no deterministic backward on CUDA; a fixed window (where the ratio is whole) and a
    product of matrices have.
    """
    features = at_least_float32(features)
    height, width = features.shape[2:]
    if (height, width) == size:
        return features
    if height % size[0] == 0 and width % size[1] == 0:
        return functional.avg_pool2d(features, (height // size[0], width // size[1]))
    return _windows(height, size[0], features) @ features @ _windows(width, size[1], features).mT


def pool_to_match(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller of their two sizes. Channels may differ."""
    size = smaller_size(student_map, teacher_map)
    return pool(student_map, size), pool(teacher_map, size)


def _windows(length: int, count: int, like: Tensor) -> Tensor:
    """[count, length]: row i holds the weights of output i. Made on the device, for CUDA graphs."""
    output = torch.arange(count, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)[None]
    inside = (place >= output * length // count) & (place < ((output + 1) * length + count - 1) // count)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)
