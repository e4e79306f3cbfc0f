"""One network's forward pass, in a precision and by an engine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import ON_REQUEST, Needs
from cdkd.core.schedule import Recipe


class Forward:
    """Weights stay in float32; with bf16 the convolutions and products run in it, by autocast.

    With the engine `compile`, batches of the recipe's size go through torch.compile; an epoch's last batch
    and the evaluation do not, so that one shape is compiled and no more.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        compilers = (os.environ.get("CXX", "g++"), "clang++")
        if recipe.engine == "compile" and not any(shutil.which(name) for name in compilers):
            needed = "a C++ compiler (g++ or clang++, or the one that CXX names)"
            raise BadParams(f"training.engine: compile; it needs {needed}, and there is none")
        self._compiled: Callable[..., Features] = model
        if recipe.engine == "compile":
            self._compiled = torch.compile(model, dynamic=False)

    def __call__(self, images: Tensor, needs: Needs = Needs.NOTHING) -> Features:
        """needs: what losses read; the network computes the optional parts of it on request"""
        model = self._compiled if len(images) == self.recipe.batch else self.model
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            return asked(model, images, needs)

    def eager_float32(self, images: Tensor, needs: Needs = Needs.NOTHING) -> Features:
        """For the shapes of features."""
        return asked(self.model, images, needs)


def asked(model: Callable[..., Features], images: Tensor, needs: Needs) -> Features:
    """The features; of `needs`, the network receives only what it computes on request."""
    wanted = needs & ON_REQUEST
    return model(images, wanted) if wanted else model(images)
