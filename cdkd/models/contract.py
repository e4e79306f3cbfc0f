"""The checks that every network must pass; `cdkd test network NAME` runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdkd.core.checks import Failed, Result, require, results
from cdkd.core.features import Features
from cdkd.models import names
from cdkd.models.build import build

CLASSES = 7


class Made(NamedTuple):
    """A network by its name, and the side of the images it is given."""

    name: str
    side: int

    def model(self, channels: int = 3, classes: int = CLASSES, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build(self.name, classes, channels)

    def images(self, count: int = 4, channels: int = 3) -> Tensor:
        return torch.randn(count, channels, self.side, self.side, generator=torch.Generator().manual_seed(1))


def check(name: str, side: int = 32) -> Iterator[Result]:
    """Run every check on the network, with images of side x side. Raises Failed for an unknown network."""
    if (fault := names.fault(name)) is not None:
        raise Failed(fault)
    return results(CHECKS, Made(name, side))


def _built(it: Made) -> None:
    model = it.model()
    require(isinstance(model, nn.Module), f"{type(model).__name__}; expected a torch.nn.Module")
    require(model.training, "in evaluation mode; expected train mode")


def _features(it: Made) -> None:
    found = it.model()(it.images())
    require(isinstance(found, Features), f"forward gives {type(found).__name__}; expected Features")


def _logits(it: Made) -> None:
    for classes in (CLASSES, 2):
        shape = tuple(it.model(classes=classes)(it.images()).logits.shape)
        require(shape == (4, classes), f"logits {shape}; expected {(4, classes)}")


def _maps(it: Made) -> None:
    maps = it.model()(it.images()).maps
    require(isinstance(maps, tuple) and maps, "no maps; expected a tuple of one map a stage")
    for index, one in enumerate(maps):
        require(one.ndim == 4 and len(one) == 4, f"map {index}: {tuple(one.shape)}; expected [B, C, H, W]")


def _pooled(it: Made) -> None:
    shape = tuple(it.model()(it.images()).pooled.shape)
    require(len(shape) == 2 and shape[0] == 4, f"pooled {shape}; expected [B, D]")


def _last_map(it: Made) -> None:
    found = it.model().eval()(it.images())
    if found.last_map is not None:
        mean = found.last_map.mean((2, 3))
        require(torch.allclose(mean, found.pooled, atol=1e-5), "pooled is not the mean of last_map")


def _classifier(it: Made) -> None:
    found = it.model().eval()(it.images())
    if found.classifier is not None:
        logits = nn.functional.linear(found.pooled, *found.classifier)
        require(torch.allclose(logits, found.logits, atol=1e-4), "logits are not the classifier's of pooled")


def _seed(it: Made) -> None:
    one, same, other = (it.model(seed=seed).state_dict() for seed in (0, 0, 1))
    require(all(torch.equal(one[key], same[key]) for key in one), "one seed gives two initialisations")
    require(any(not torch.equal(one[key], other[key]) for key in one), "two seeds give one initialisation")


def _repeatable(it: Made) -> None:
    model = it.model().eval()
    require(
        torch.equal(model(it.images()).logits, model(it.images()).logits), "two outputs for the same images"
    )


def _alone(it: Made) -> None:
    model = it.model().eval()
    together, alone = model(it.images()).logits[:1], model(it.images()[:1]).logits
    require(
        torch.allclose(together, alone, atol=1e-4),
        "in eval mode, the output for an image depends on the others",
    )


def _gradients(it: Made) -> None:
    model = it.model()
    model(it.images()).logits.square().mean().backward()
    idle = [key for key, one in model.named_parameters() if one.grad is None]
    require(not idle, f"no gradient in {', '.join(idle[:5])}")
    gradients = {key: one.grad for key, one in model.named_parameters() if one.grad is not None}
    broken = [key for key, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    require(not broken, f"a gradient that is not finite in {', '.join(broken[:5])}")


def _state(it: Made) -> None:
    model, other = it.model().eval(), it.model(seed=1).eval()
    other.load_state_dict(model.state_dict())
    images = it.images()
    require(torch.equal(model(images).logits, other(images).logits), "a state dict does not restore it")


def _shared(it: Made) -> None:
    places = [one.data_ptr() for one in it.model().state_dict().values() if one.numel()]
    require(len(places) == len(set(places)), "two entries of the state dict share their memory")


def _channels(it: Made) -> None:
    shape = tuple(it.model(channels=1)(it.images(channels=1)).logits.shape)
    require(shape == (4, CLASSES), f"logits {shape} for grey images")


CHECKS: dict[str, Callable[[Made], None]] = {
    "it is built as an nn.Module in train mode": _built,
    "its forward returns Features": _features,
    "logits are [B, classes]": _logits,
    "maps are a tuple of [B, C, H, W], one a stage": _maps,
    "pooled is [B, D]": _pooled,
    "pooled is the mean of last_map": _last_map,
    "logits are the classifier applied to pooled": _classifier,
    "equal seeds give equal weights, other seeds others": _seed,
    "the same images give the same output": _repeatable,
    "in eval mode the output for an image does not depend on the other images": _alone,
    "every weight gets a finite gradient": _gradients,
    "a state dict restores the network": _state,
    "the entries of the state dict share no memory": _shared,
    "it accepts images of one channel": _channels,
}
