"""What a student and a teacher could give to a loss, without networks."""

import torch

from cdkd.core.batch import Batch
from cdkd.core.features import Features

SIZES = [(8, 8), (4, 4), (2, 2)]


def features(channels, sizes, classes=10, batch=4, seed=0, dtype=torch.float32):
    """Maps behind a ReLU, of which no two are the same tensor; pooled as wide as the last map."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw).to(dtype)

    maps = tuple(normal(batch, c, *size).relu() for c, size in zip(channels, sizes, strict=True))
    return Features(
        maps,
        maps[-1].mean((2, 3)),
        normal(batch, classes),
        last_map=normal(batch, channels[-1], *sizes[-1]).relu(),
        stem=normal(batch, channels[0], *sizes[0]).relu(),
        preactivations=tuple(normal(*one.shape) for one in maps),
        classifier=(normal(classes, channels[-1]), normal(classes)),
    )


def pair(batch=4, dtype=torch.float32, wide=2):
    """A student's and a teacher's, which has `wide` times the channels."""
    return features((16, 32, 64), SIZES, batch=batch, seed=1, dtype=dtype), features(
        (16 * wide, 32 * wide, 64 * wide), SIZES, batch=batch, seed=2, dtype=dtype
    )


def batch_of(labels, epoch=0, step=0):
    count = len(labels)
    return Batch((torch.zeros(count, 3, 8, 8),), labels, torch.arange(count), epoch=epoch, step=step)


def tensors(given):
    """Every tensor that depends on the images."""
    return [*given.maps, given.pooled, given.logits, given.last_map, given.stem, *given.preactivations]


def with_tensors(given, changed):
    """The same features with other tensors, in the order of `tensors`."""
    stages = len(given.maps)
    maps, (pooled, logits, last_map, stem), before = (
        changed[:stages],
        changed[stages : stages + 4],
        changed[stages + 4 :],
    )
    return Features(tuple(maps), pooled, logits, last_map, stem, tuple(before), given.classifier)


def mapped(given, function):
    """Features whose tensors went through a function."""
    made = with_tensors(given, [function(one) for one in tensors(given)])
    return made._replace(classifier=tuple(function(one) for one in given.classifier))


def wanting_gradients(given):
    return with_tensors(given, [one.detach().clone().requires_grad_() for one in tensors(given)])
