"""Checks of a plan or record from another machine: types and bounds. Needs no library.

Each check raises `ValueError` in one line: place, value, what was expected. Its caller names the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from cdkd.core.names import EXPECTED, is_name
from cdkd.core.run_spec import method_of
from cdkd.core.schedule import Augmentation, Recipe
from cdkd.runs.record import Record

SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_EPOCHS, MAX_BATCH, MAX_PIXELS, MAX_SEED = 100_000, 65_536, 2048, 2**32 - 1
MAX_CLASSES = 1_000_000
NUMBERS: Mapping[str, tuple[float, float]] = {  # of a recipe, as `config.schema.Training` bounds them
    "learning_rate": (0, 100),
    "momentum": (0, 1),
    "weight_decay": (0, 10),
    "decay": (0, 1),
    "epsilon": (0, 1),
    "start_factor": (0, 1),
    "end_factor": (0, 1),
    "clip": (0, 1e6),
}
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "precision": ("float32", "bf16"),
    "engine": ("eager", "compile"),
    "momentum_at_milestones": ("kept", "reset"),
    "optimiser": ("sgd", "adamw"),
    "schedule": ("step", "cosine", "linear", "one_cycle"),
    "rate_per": ("epoch", "step"),
}


def name(place: str, value: Any) -> None:
    if not is_name(value):
        raise ValueError(f"{place} {_shown(value)}; expected {EXPECTED}")


def integer(place: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{place} {_shown(value)}; expected a whole number from {low} to {high}")


def number(place: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not plain or not low <= value <= high:
        bounds = "" if math.isinf(high) else f" from {low:g} to {high:g}"
        raise ValueError(f"{place} {_shown(value)}; expected a number{bounds}")


def section(place: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{place} {_shown(value)}; expected a section")


def sha256(place: str, value: Any) -> None:
    if not isinstance(value, str) or SHA256.fullmatch(value) is None:
        raise ValueError(f"{place} {_shown(value)}; expected a sha256 of 64 hexadecimal digits")


def configuration(config: Any, *, teacher: bool) -> None:
    """Check a run's configuration.

    teacher: whether it is the teacher's, which may be weights without a training
    """
    section("config", config)
    data = config["data"]
    section("data", data)
    integer("data.classes", data["classes"], 2, MAX_CLASSES)
    if not isinstance(data["image"], list) or len(data["image"]) != 3:
        raise ValueError(f"data.image {_shown(data['image'])}; expected height, width and channels")
    for size in data["image"]:
        integer("data.image", size, 1, MAX_PIXELS)
    if not isinstance(config["network"], str):
        raise ValueError(f"network {_shown(config['network'])}; expected a name")
    integer("seed", config["seed"], 0, MAX_SEED)
    if config["training"] is None and teacher:
        sha256("weights_sha256", config.get("weights_sha256"))
    else:
        recipe(config["training"])
    if not teacher:
        section("teacher", config["teacher"])
    section("method", config["method"])
    for term, value in method_of(config).items():
        name("method", term)
        number(f"method.{term}.weight", value.weight.value)


def recipe(values: Any) -> None:
    section("training", values)
    found = Recipe.of(values)
    integer("training.epochs", found.epochs, 1, MAX_EPOCHS)
    integer("training.batch", found.batch, 2, MAX_BATCH)
    integer("training.warmup", found.warmup, 0, MAX_EPOCHS)
    for milestone in found.milestones:
        integer("training.milestones", milestone, 0, MAX_EPOCHS)
    for beta in found.betas:
        number("training.betas", beta, 0, 1)
    for key, bounds in NUMBERS.items():
        number(f"training.{key}", getattr(found, key), *bounds)
    for key, choices in CHOICES.items():
        _choice(f"training.{key}", getattr(found, key), choices)
    _choice("training.nesterov", found.nesterov, (True, False))
    augmentation: Augmentation = found.augmentation
    integer("training.augmentation.pad", augmentation.pad, 0, MAX_PIXELS)
    _choice("training.augmentation.padding", augmentation.padding, ("zeros", "reflect"))
    _choice("training.augmentation.flip", augmentation.flip, (True, False))
    if augmentation.resized_crop is not None:
        integer("training.augmentation.resized_crop", augmentation.resized_crop, 1, MAX_PIXELS)


def record(found: Record) -> None:
    """Check names, that the history has all rows, and that the result belongs to the history."""
    name("method", found.method)
    name("experiment", found.experiment)
    integer("seed", found.seed, 0, MAX_SEED)
    section("circumstances", found.circumstances)
    section("result", found.result)
    if not isinstance(found.history, list):
        raise ValueError("history; expected a list of rows")
    for epoch, row in enumerate(found.history):
        _row(f"history[{epoch}]", row)
        if row.get("epoch") != epoch:
            raise ValueError(f"history[{epoch}].epoch {_shown(row.get('epoch'))}; expected {epoch}")
    if found.status == "finished":
        _result(found)
    elif found.result:
        raise ValueError("a result of a run that diverged; expected none")


def _result(found: Record) -> None:
    result = found.result
    missing = [
        key for key in ("weights_sha256", "parameters", "multiply_adds", "last", "best") if key not in result
    ]
    if missing:
        raise ValueError(f"result without {', '.join(missing)}")
    sha256("result.weights_sha256", result["weights_sha256"])
    for key in ("parameters", "multiply_adds"):
        integer(f"result.{key}", result[key], 1, 10**18)
    for key in ("last", "best"):
        _row(f"result.{key}", result[key])
        number(f"result.{key}.test_top1_error", result[key].get("test_top1_error"), 0, 100)
    if found.history:
        lowest = min(row["test_top1_error"] for row in found.history)
        if result["last"] != found.history[-1]:
            raise ValueError("result.last; expected the last row of its history")
        if result["best"] not in found.history or result["best"]["test_top1_error"] != lowest:
            raise ValueError("result.best; expected the row of its history with the lowest test_top1_error")


def _row(place: str, row: Any) -> None:
    section(place, row)
    for key, value in row.items():
        if key.endswith("_error"):
            number(f"{place}.{key}", value, 0, 100)
        elif key in ("test_loss", "learning_rate"):
            number(f"{place}.{key}", value)


def _choice(place: str, value: Any, choices: tuple[Any, ...]) -> None:
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{place} {_shown(value)}; expected {' or '.join(map(str, choices))}")


def _shown(value: Any) -> str:
    """In one short line; control characters are escaped."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
