"""A run's predictions for every test image, so that a later statistic needs no retraining.

A finished run keeps them together with its weights: 4 bytes for an image of up to 256 classes. The record has
the file's digest. Reading needs no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdkd.core.errors import BadCheckpoint
from cdkd.runs.record import Record

if TYPE_CHECKING:  # a stage that only copies runs needs no numpy
    import numpy as np
    from torch import nn

    from cdkd.training.evaluation import Evaluation

KEY = "predictions_sha256"  # in the record's result
RECORD, PREDICTIONS = "record.json", "predictions.safetensors"  # names in the store


@dataclass(frozen=True)
class Predictions:
    """Of the last epoch, on the test split in the order in which it was prepared; each an array of length N.

    label: the true class; predicted: the class with the largest logit (both uint8, or uint16 above 256
        classes, or uint32)
    probability: of the true class, after the softmax (float16)
    """

    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """Whether each image is classified wrongly (bool)."""
        different: np.ndarray = self.predicted != self.label
        return different

    def content(self) -> bytes:
        """As a safetensors file: equal predictions give equal bytes."""
        from safetensors.numpy import save

        content: bytes = save(
            {"label": self.label, "predicted": self.predicted, "probability": self.probability}
        )
        return content


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def predict(model: nn.Module, evaluation: Evaluation) -> Predictions:
    """The network's predictions for the evaluation's split, in eval mode."""
    import numpy as np
    import torch

    from cdkd.data.batches import evaluation as batches_of
    from cdkd.models.forward import Forward

    model.eval()
    forward = Forward(model, evaluation.recipe)
    label, predicted, probability = [], [], []
    with torch.inference_mode():
        for batch in batches_of(evaluation.split, evaluation.recipe.augmentation):
            logits = forward(batch.images).logits.float()
            label.append(batch.labels)
            predicted.append(logits.argmax(1))
            probability.append(logits.softmax(1).gather(1, batch.labels[:, None])[:, 0].half())
    classes = logits.shape[1]
    kind = np.uint8 if classes <= 2**8 else np.uint16 if classes <= 2**16 else np.uint32

    def integers(parts: list[torch.Tensor]) -> np.ndarray:
        return torch.cat(parts).cpu().numpy().astype(kind)

    return Predictions(integers(label), integers(predicted), torch.cat(probability).cpu().numpy())


def read_predictions(path: Path, record: Record) -> Predictions | None:
    """The predictions of a run; None where it has none: older records, and runs that diverged.

    path: of its record, in the store or in the workspace. Raises `BadCheckpoint` for a damaged file.
    """
    file = predictions_file(path)
    if not has_predictions(record) or not file.is_file():
        return None
    return parse(file.read_bytes(), record, str(file))


def predictions_file(record_file: Path) -> Path:
    """The file of a run's predictions: record.json has predictions.safetensors, and seed-0.json has
    seed-0.predictions.safetensors.
    """
    if record_file.name == RECORD:
        return record_file.with_name(PREDICTIONS)
    return record_file.with_suffix(f".{PREDICTIONS}")


def has_predictions(record: Record) -> bool:
    """Whether the run's predictions were kept when it was trained."""
    return KEY in record.result


def parse(content: bytes, record: Record, origin: str) -> Predictions:
    """Raises `BadCheckpoint`; origin: what to call the content in an error."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if sha256_of(content) != record.result[KEY]:
        raise BadCheckpoint(f"{origin}: damaged: its digest is not the record's")
    try:
        return Predictions(**load(content))
    except (SafetensorError, TypeError) as error:
        raise BadCheckpoint(f"{origin}: not a run's predictions ({error})") from None
