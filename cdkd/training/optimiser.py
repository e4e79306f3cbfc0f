"""SGD with momentum, fused, as torch computes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from cdkd.core.schedule import Recipe


class SGD:
    """torch's own function without its `Optimizer` around it, whose first step imports torch's compiler: 2 s.

        g = gradient + weight_decay · w
        m = momentum · m + g
        w = w − rate · (g + momentum · m  if nesterov, else m)

    A parameter without a gradient is left as it is, or with `decay_inactive` has a gradient of zero, so that
    weight decay and momentum act on it. The rate is a tensor on the parameters' device, so that a recorded
    CUDA graph follows the schedule.
    """

    def __init__(self, parameters: Iterable[Tensor], recipe: Recipe, *, decay_inactive: bool = False) -> None:
        self.parameters = list(parameters)
        # of the same layout in memory, as the fused kernel asks
        self.momenta = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.rate = torch.zeros((), device=self.parameters[0].device)
        self.recipe, self.decay_inactive = recipe, decay_inactive

    def step(self) -> None:
        if self.decay_inactive:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        moving = [
            (parameter, momentum)
            for parameter, momentum in zip(self.parameters, self.momenta, strict=True)
            if parameter.grad is not None
        ]
        sgd(
            [parameter for parameter, _ in moving],
            [parameter.grad for parameter, _ in moving],  # type: ignore[misc]
            [momentum for _, momentum in moving],
            fused=True,
            weight_decay=self.recipe.weight_decay,
            momentum=self.recipe.momentum,
            lr=self.rate,
            dampening=0.0,
            nesterov=self.recipe.nesterov,
            maximize=False,
        )

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def reset(self) -> None:
        """Set the momentum to zero."""
        for momentum in self.momenta:
            momentum.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"momenta": self.momenta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for momentum, kept in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(kept)
