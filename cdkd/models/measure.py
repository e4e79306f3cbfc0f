"""How large a network is, measured on the network itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def parameters(model: nn.Module) -> int:
    """Number of learned numbers; BatchNorm's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(
    model: nn.Module, image: tuple[int, int, int], run: Callable[[Tensor], object] | None = None
) -> int:
    """Multiply-adds of the convolutions and linear layers in one forward pass of one image.

    Every number that an nn.Conv2d or nn.Linear puts out costs the weights of one output channel. Biases,
    BatchNorm, ReLU, pooling and the sums of shortcuts are not counted, as in the papers' tables; where a
    multiplication and an addition are two FLOP, FLOP are twice this. (torch's own FlopCounterMode gives
    exactly that, and imports the compiler: 5 s.)

    image: (H, W, C); run: the pass, where it is not a call of the model. The model stays on its device and in
        its modes, and its running statistics are left alone.
    """
    height, width, channels = image
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.get_parameter("weight")[0].numel()

    modes = [(module, module.training) for module in model.modules()]
    hooks = [
        module.register_forward_hook(add)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    like = next(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            (run or model)(torch.zeros(1, channels, height, width, device=like.device, dtype=like.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return total
