"""One network's forward pass, in a precision and by an engine."""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor, nn

from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.schedule import Recipe


class Forward:
    """Weights stay in float32; with bf16 the convolutions and products run in it, by autocast.

    With the engine `compile`, batches of the recipe's size go through torch.compile; an epoch's last batch and the
    evaluation do not, so that one shape is compiled and no more.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        if recipe.engine == "compile" and not any(
            shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")
        ):
            raise BadParams(
                "training.engine: compile; it needs a C++ compiler (g++ or clang++, or the one that CXX names), and there is none"
            )
        self._compiled = torch.compile(model, dynamic=False) if recipe.engine == "compile" else model

    def __call__(self, images: Tensor) -> Features:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            features: Features = (self._compiled if len(images) == self.recipe.batch else self.model)(images)
        return features
