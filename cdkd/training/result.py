"""The result of a trained network: its size, its last and best epoch, and an analysis of its errors."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import nn

from cdkd.core.task import CLASSIFICATION
from cdkd.models.measure import multiply_adds, parameters
from cdkd.training.evaluation import Evaluation, Row


def result_of(
    weights: bytes, model: nn.Module, image: tuple[int, int, int], history: list[Row], evaluation: Evaluation
) -> dict[str, Any]:
    """See `Record.result`. image: (H, W, C); history: at least one row"""
    headline = f"{evaluation.name}_{CLASSIFICATION.headline}"
    return {
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "parameters": parameters(model),
        "multiply_adds": multiply_adds(model, image),
        "last": history[-1],
        "best": min(history, key=lambda row: row[headline]),
        "examined": evaluation.final_metrics(model),
    }
