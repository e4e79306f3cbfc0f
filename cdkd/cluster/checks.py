"""Checks of a plan or record from another machine: types and bounds. Needs no library.

Each check raises `ValueError` in one line: place, value, what was expected. Its caller names the file.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cdkd.core.group import Group
from cdkd.core.names import EXPECTED, is_name
from cdkd.core.run_spec import method_of
from cdkd.core.schedule import Augmentation, Curve, Inactive, Recipe, Rise, Term
from cdkd.losses import signature
from cdkd.runs.predictions import KEY
from cdkd.runs.record import Record

SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_EPOCHS, MAX_BATCH, MAX_PIXELS, MAX_SEED = 100_000, 65_536, 2048, 2**32 - 1
MAX_CLASSES, MAX_RANKS = 1_000_000, 1024
# as `config` bounds them
MAX_WEIGHT, MAX_DECAY, LARGEST, MAX_TEXT, MAX_SHARE = 1e12, 1000, 1_000_000_000, 200, 0.9
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
    largest = sys.float_info.max  # an int may be larger
    plain = isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest
    if not plain or not low <= value <= high:
        bounds = "" if math.isinf(high) else f" from {low:g} to {high:g}"
        raise ValueError(f"{place} {_shown(value)}; expected a number{bounds}")


def section(place: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{place} {_shown(value)}; expected a section")


def boolean(place: str, value: Any) -> None:
    _choice(place, value, (True, False))


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
    sha256("data.digest", data["digest"])
    _choice("data.judged_on", data["judged_on"], ("test", "validation"))
    _text("network", config["network"])
    integer("seed", config["seed"], 0, MAX_SEED)
    if config["training"] is None and teacher:
        sha256("weights_sha256", config.get("weights_sha256"))
    else:
        recipe(config["training"])
    if not teacher:
        section("teacher", config["teacher"])
        _text("teacher.network", config["teacher"]["network"])
        _choice("teacher.batchnorm", config["teacher"]["batchnorm"], ("eval", "train"))
    elif config["teacher"] is not None:
        raise ValueError(f"teacher {_shown(config['teacher'])}; expected nothing for the teacher's own run")
    if "start" in config:
        section("start", config["start"])
        _text("start.network", config["start"]["network"])
        sha256("start.sha256", config["start"]["sha256"])
    section("method", config["method"])
    found = method_of(config)
    _choice("inactive", found.inactive, get_args(Inactive))
    for key, term in found.items():
        name("method", key)
        _term(f"method.{key}", term)
    if found.group is not None:
        _group(found.group)


def _term(place: str, term: Term) -> None:
    weight = term.weight
    number(f"{place}.weight", weight.value, 0, MAX_WEIGHT)
    number(f"{place}.decay", weight.decay, 0, MAX_DECAY)
    integer(f"{place}.start", weight.start, 0, MAX_EPOCHS)
    for milestone in weight.milestones:
        integer(f"{place}.milestones", milestone, 0, MAX_EPOCHS)
    for key in ("stop", "over", "rise"):
        if getattr(weight, key) is not None:
            integer(f"{place}.{key}", getattr(weight, key), 1, MAX_EPOCHS)
    _choice(f"{place}.curve", weight.curve, get_args(Curve))
    _choice(f"{place}.rise_curve", weight.rise_curve, get_args(Rise))
    integer(f"{place}.rise_from", weight.rise_from, 0, 1)
    for network in term.of or ():
        name(f"{place}.of", network)
    name(f"{place}.from", term.source)
    section(f"{place}.options", term.options)
    known = signature.options(term.loss) if signature.exists(term.loss) else term.options
    for key, value in term.options.items():
        if key not in known:
            raise ValueError(f"{place}.{key}; expected an option of {term.loss}")
        _plain(f"{place}.{key}", value)


def _group(group: Group) -> None:
    for key, network in group.networks.items():
        name("group.networks", key)
        _text(f"group.networks.{key}", network)
    _choice("group.deployed", group.deployed, tuple(group.networks))
    integer("group.views", group.views, 1, max(1, len(group.networks)))
    if group.shared is not None:
        integer("group.shared", group.shared, 0, 100)
    if group.ema is not None:
        number("group.ema", group.ema, 0, 1)
    for key, hint in get_type_hints(Group).items():
        if get_origin(hint) is Literal:
            _choice(f"group.{key}", getattr(group, key), get_args(hint))


def _plain(place: str, value: Any) -> None:
    """An option's value: a number within bounds, a text, true or false, nothing, or a list of such."""
    if isinstance(value, list):
        for one in value:
            _plain(place, one)
    elif isinstance(value, str):
        _text(place, value)
    elif value is not None and not isinstance(value, bool):
        number(place, value, -LARGEST, LARGEST)


def _text(place: str, value: Any, most: int = MAX_TEXT) -> None:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= most:
        raise ValueError(f"{place} {_shown(value)}; expected a text of 1 to {most} characters")


def source(data: Any) -> None:
    """The section `data` of params.yaml."""
    section("data", data)
    _text("data.source", data["source"])
    if not isinstance(data["paths"], list):
        raise ValueError(f"data.paths {_shown(data['paths'])}; expected a list")
    for path in data["paths"]:
        _text("data.paths", path, 500)
    for key, most in (("size", MAX_PIXELS), ("train_images", LARGEST)):
        if data[key] is not None:
            integer(f"data.{key}", data[key], 1, most)
    for key in ("test", "validation"):
        if data[key] is not None or key == "validation":
            number(f"data.{key}", data[key], 0, MAX_SHARE)
    boolean("data.uncropped", data["uncropped"])
    integer("data.seed", data["seed"], 0, MAX_SEED)
    if data["normalisation"] != "measured":
        section("data.normalisation", data["normalisation"])
        for key in ("mean", "std"):
            for value in data["normalisation"][key]:
                number(f"data.normalisation.{key}", value, 0, 1)


def recipe(values: Any) -> None:
    section("training", values)
    found = Recipe.of(values)
    integer("training.epochs", found.epochs, 1, MAX_EPOCHS)
    integer("training.batch", found.batch, 2, MAX_BATCH)
    integer("training.warmup", found.warmup, 0, MAX_EPOCHS)
    integer("training.ranks", found.ranks, 1, MAX_RANKS)
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
    for key in ("weights_sha256", KEY):
        if key in result:
            sha256(f"result.{key}", result[key])
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
