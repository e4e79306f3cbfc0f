"""How large a network is, measured on the network itself."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """Number of learned numbers; BatchNorm's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, image: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolutions and linear layers in one forward pass of one picture.

    image: (H, W, C). BatchNorm, ReLU, pooling and the sums of shortcuts are not counted, as in the papers' tables; a FLOP
    count where a multiplication and an addition are two is twice this. The pass has shapes and no numbers (the meta
    device), so it takes milliseconds for any network and touches neither the model's weights nor its statistics.
    """
    height, width, channels = image
    tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in chain(model.named_parameters(), model.named_buffers())}
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # BatchNorm refuses to take statistics of one picture of 1x1
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(model, tensors, (torch.empty(1, channels, height, width, device="meta"),))
    finally:
        for module, training in modes:
            module.training = training
    return int(counter.get_total_flops()) // 2
