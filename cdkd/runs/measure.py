"""Weights measured again on the test split, and whether a record's numbers are theirs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cdkd.core.errors import BadRecord
from cdkd.core.schedule import Recipe
from cdkd.data.prepared import read_meta
from cdkd.models.weights import load_weights
from cdkd.runs.record import Record
from cdkd.training.environment import choose_device
from cdkd.training.evaluation import Evaluation, Row
from cdkd.training.setup import network, split

FEW = 2  # images that another machine may classify otherwise
SHARE = {"float32": 0.002, "bf16": 0.01}  # of the test images, where that is more


def measure(folder: Path, name: str, weights: Path, sha256: str, recipe: Recipe) -> Row:
    """Errors in percent and loss of a network on the test split. folder: of the prepared data"""
    device, meta = choose_device(), read_meta(folder)
    model = network(name, {"classes": len(meta.classes), "image": meta.image}, 0, device)
    load_weights(model, weights, sha256)
    return Evaluation(split(folder, meta, device, "test"), recipe).row(model)


def check_measured(record: Record, weights: bytes, folder: Path, recipe: Recipe) -> None:
    """Raises `BadRecord` where the weights of a finished run do not have its last epoch's error.

    recipe: of the evaluation, for a run without training
    """
    config, result = record.config, record.result
    recipe = recipe if config["training"] is None else Recipe.of(config["training"])
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(weights)
        file.flush()
        row = measure(folder, config["network"], Path(file.name), result["weights_sha256"], recipe)
    found, said = row["test_top1_error"], result["last"]["test_top1_error"]
    images = read_meta(folder).counts["test"]
    if abs(found - said) * images / 100 > max(FEW, SHARE[recipe.precision] * images) + 0.5:
        raise BadRecord(
            f"{record.method} seed {record.seed}: its weights, measured here, have a top-1 error of "
            f"{found:.2f} % on the test split; its record says {said:.2f} %"
        )
