"""SGD with momentum, and AdamW, fused, as torch computes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from cdkd.core.schedule import Recipe


class Optimiser(ABC):
    """torch's own functions without its `Optimizer`, whose first step imports torch's compiler: 2 s.

    A parameter without a gradient is left as it is, or with `decay_inactive` has a gradient of zero, so that
    weight decay and momentum act on it. With the recipe's `clip` the gradients of a step are multiplied by
    min(1, clip / (norm + 1e-6)), norm being that of all of them together. The rate is a tensor on the
    parameters' device, so that a recorded CUDA graph follows the schedule; so is all other state.
    """

    def __init__(self, parameters: Iterable[Tensor], recipe: Recipe, *, decay_inactive: bool = False) -> None:
        self.parameters = list(parameters)
        first = self.parameters[0]
        # a number of float64 keeps its digits; CUDA's kernels read a rate of float32 alone
        exact = first.dtype == torch.float64 and first.device.type == "cpu"
        self.rate = torch.zeros((), dtype=torch.float64 if exact else torch.float32, device=first.device)
        self.recipe, self.decay_inactive = recipe, decay_inactive
        self.state: dict[str, list[Tensor]] = {}  # a tensor for each parameter

    def _zeros(self) -> list[Tensor]:
        """Of the parameters' layout in memory, as the fused kernels ask."""
        return [torch.zeros_like(parameter) for parameter in self.parameters]

    def step(self) -> None:
        if self.decay_inactive:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        moving = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        parameters = [self.parameters[index] for index in moving]
        if self.recipe.clip:
            clip_grad_norm_(parameters, self.recipe.clip)
        gradients: list[Tensor] = [parameter.grad for parameter in parameters]  # type: ignore[misc]
        state = {name: [values[index] for index in moving] for name, values in self.state.items()}
        self._update(parameters, gradients, state)

    @abstractmethod
    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], state: dict[str, list[Tensor]]
    ) -> None:
        """One step of these parameters, by their gradients and state."""

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def reset(self) -> None:
        """Set the state, such as the momentum, to zero."""
        for values in self.state.values():
            for value in values:
                value.zero_()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, values in self.state.items():
            for value, kept in zip(values, state[name], strict=True):
                value.copy_(kept)


class SGD(Optimiser):
    """Stochastic gradient descent with momentum.

    g = gradient + weight_decay · w
    m = momentum · m + g
    w = w − rate · (g + momentum · m  if nesterov, else m)
    """

    def __init__(self, parameters: Iterable[Tensor], recipe: Recipe, *, decay_inactive: bool = False) -> None:
        super().__init__(parameters, recipe, decay_inactive=decay_inactive)
        self.state = {"momenta": self._zeros()}

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], state: dict[str, list[Tensor]]
    ) -> None:
        sgd(
            parameters,
            gradients,
            state["momenta"],  # type: ignore[arg-type]
            fused=True,
            weight_decay=self.recipe.weight_decay,
            momentum=self.recipe.momentum,
            lr=self.rate,
            dampening=0.0,
            nesterov=self.recipe.nesterov,
            maximize=False,
        )


class AdamW(Optimiser):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, arXiv 1711.05101).

        w = w − rate · weight_decay · w
        m = β₁ m + (1 − β₁) gradient;  v = β₂ v + (1 − β₂) gradient²
        w = w − rate · m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + epsilon)

    t counts the updates of each parameter by itself, from 1.
    """

    def __init__(self, parameters: Iterable[Tensor], recipe: Recipe, *, decay_inactive: bool = False) -> None:
        super().__init__(parameters, recipe, decay_inactive=decay_inactive)
        counts = [torch.zeros((), device=parameter.device) for parameter in self.parameters]
        self.state = {"means": self._zeros(), "squares": self._zeros(), "steps": counts}

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], state: dict[str, list[Tensor]]
    ) -> None:
        beta1, beta2 = self.recipe.betas
        adamw(
            parameters,
            gradients,
            state["means"],
            state["squares"],
            [],
            state["steps"],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=self.rate,
            weight_decay=self.recipe.weight_decay,
            eps=self.recipe.epsilon,
            maximize=False,
        )


KINDS: dict[str, type[Optimiser]] = {"sgd": SGD, "adamw": AdamW}


def optimiser_of(parameters: Iterable[Tensor], recipe: Recipe, *, decay_inactive: bool = False) -> Optimiser:
    """The recipe's."""
    return KINDS[recipe.optimiser](parameters, recipe, decay_inactive=decay_inactive)
