"""Any network of timm that has `forward_intermediates`, with timm's own keys; an optional dependency.

`timm:NAME` is built for the images' own size, where it takes any size; a network of a fixed size (most vision
transformers) resizes the images to its own. `timm:NAME@SIDE` is built for SIDE x SIDE images and resizes to
it. Weights are never downloaded: a network starts as timm draws it, or from a file.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import ON_REQUEST, Needs
from cdkd.models.names import TIMM_NAME

MAPS = 4
# of torch's messages, where a convolution or a pooling has less to read than its kernel takes
TOO_SMALL = ("can't be greater than actual input size", "Output size is too small")


def timm_network(network: str, classes: int, channels: int) -> nn.Module:
    """timm:NAME or timm:NAME@SIDE.

    Raises BadParams for a name that timm does not have, or a network that cannot give its maps or that size.
    """
    import timm  # 2 s, paid only where such a network is built

    match = TIMM_NAME.fullmatch(network)
    assert match is not None
    name, side = match[1], None if match[2] is None else int(match[2])
    if not timm.is_model(name):
        beginnings = (name[:end] for end in range(len(name), 2, -1))
        near: list[str] = next(
            (found for begin in beginnings if (found := timm.list_models(f"{begin}*"))), []
        )
        meant = f" (did you mean 'timm:{near[0]}'?)" if near else ""
        raise BadParams(f"network {network!r}: timm has no {name!r}{meant}")
    net = _created(network, name, classes, channels, side)
    kind = type(net)
    if not all(
        hasattr(net, method) for method in ("forward_intermediates", "forward_head", "get_classifier")
    ):
        raise BadParams(f"network {network!r}: timm's {kind.__name__} does not give its intermediate maps")
    _replace_adaptive_pooling(net)
    net.__class__ = type(kind.__name__, (TimmNetwork, kind), {})
    net.cdkd_name, net.cdkd_side = network, side or _fixed_side(net)
    net.cdkd_indices = _indices(net)
    made: nn.Module = net
    return made


class TimmNetwork:
    """A subclass is made of this and a timm class: its forward returns `Features`, all else stays timm's.

    Maps, NCHW, from timm's `forward_intermediates`: its last four, or of a network whose maps are all of one
    size (a vision transformer) four evenly spaced ones. last_map: what timm's head reads, without class
    tokens; a head that pools by a token does not average it. A network that does not end with one linear
    layer (deit's distilled ones) has no `classifier`. No network has a stem, or maps before an activation.
    """

    cdkd_name: str
    cdkd_side: int | None
    cdkd_indices: list[int]
    forward_intermediates: Any  # timm's
    forward_head: Any
    get_classifier: Any

    def forward(self, x: Tensor, needs: Needs = Needs.NOTHING) -> Features:
        """Raises BadParams where `needs` asks for the stem or for preactivations, or images are too small."""
        if needs & ON_REQUEST:
            asked = " and ".join(flag.name.lower() for flag in needs & ON_REQUEST if flag.name)
            raise BadParams(
                f"network {self.cdkd_name!r}: a loss asks for its {asked}, which timm does not give"
            )
        if self.cdkd_side is not None and x.shape[2:] != (self.cdkd_side, self.cdkd_side):
            x = F.interpolate(x, (self.cdkd_side, self.cdkd_side), mode="bilinear", antialias=True)
        try:
            last, maps = self.forward_intermediates(x, indices=self.cdkd_indices, output_fmt="NCHW")
        except RuntimeError as error:
            if not any(words in str(error) for words in TOO_SMALL):
                raise
            side, plain = "x".join(map(str, x.shape[2:])), self.cdkd_name.partition("@")[0]
            raise BadParams(
                f"network {self.cdkd_name!r}: images of {side} are too small for it; expected larger ones, or"
                f" {plain}@SIDE, which resizes them"
            ) from None
        pooled = self.forward_head(last, pre_logits=True).flatten(1)
        head = self.get_classifier()
        last_map = self._last_map(last, maps[-1])
        if isinstance(head, nn.Linear):
            return Features(tuple(maps), pooled, head(pooled), last_map, classifier=(head.weight, head.bias))
        return Features(tuple(maps), pooled, self.forward_head(last), last_map)

    def _last_map(self, last: Tensor, like: Tensor) -> Tensor:
        """NCHW of what the head reads; like: the last map, for the height and width of tokens."""
        if last.dim() == 3:  # [B, tokens, D]
            tokens = last[:, getattr(self, "num_prefix_tokens", 0) :]
            return tokens.transpose(1, 2).reshape(len(tokens), -1, *like.shape[2:])
        if last.shape[1:3] == like.shape[2:] and last.shape[2:] != like.shape[2:]:  # [B, H, W, D]
            return last.permute(0, 3, 1, 2)
        return last


class MeanPool(nn.Module):
    """[B, C, H, W] -> [B, C, 1, 1]; unlike AdaptiveAvgPool2d deterministic on CUDA, backward too."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


def _created(network: str, name: str, classes: int, channels: int, side: int | None) -> Any:
    import timm

    given: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": channels}
    try:
        if side is None:
            return timm.create_model(name, **given)
        try:
            return timm.create_model(name, **given, img_size=side)
        except TypeError:  # a convolutional network, which takes any size
            return timm.create_model(name, **given)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadParams(f"network {network!r}: timm cannot build it: {what}") from None


def _fixed_side(net: Any) -> int | None:
    """The side of the only images that the network takes; None where it takes others too."""
    settings = net.pretrained_cfg
    return int(settings["input_size"][-1]) if settings.get("fixed_input_size") else None


def _indices(net: Any) -> list[int]:
    """Which of timm's intermediate maps are given."""
    reductions = (
        [stage["reduction"] for stage in net.feature_info] if isinstance(net.feature_info, list) else None
    )
    if reductions is None:
        reductions = list(net.feature_info.reduction())
    count = len(reductions)
    if len(set(reductions)) == 1 and count > MAPS:
        return [count * (place + 1) // MAPS - 1 for place in range(MAPS)]
    return list(range(max(0, count - MAPS), count))


def _replace_adaptive_pooling(net: nn.Module) -> None:
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                setattr(parent, name, MeanPool())
