"""The options that both sides of a comparison take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

LEAST = {"batch": 2, "side": 8, "steps": 1, "warmup": 0, "threads": 1, "evaluate": 1}


def parser(description: str) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--teacher", default="resnet32x4", help="%(default)s")
    options.add_argument("--student", default="resnet8x4", help="%(default)s")
    options.add_argument("--batch", type=int, default=64, help="%(default)s")
    options.add_argument("--side", type=int, default=32, help="of the images; %(default)s")
    options.add_argument("--steps", type=int, default=4, help="steps that are measured; %(default)s")
    options.add_argument("--warmup", type=int, default=1, help="steps before them; %(default)s")
    options.add_argument("--threads", type=int, default=1, help="%(default)s")
    options.add_argument(
        "--images", type=int, help="in the training split; without it, as many as the steps need"
    )
    options.add_argument(
        "--evaluate", type=int, default=128, metavar="N", help="images in the test split; %(default)s"
    )
    options.add_argument(
        "--pixels",
        choices=["auto", "cifar100", "random"],
        default="auto",
        help="auto, as it comes: CIFAR-100 where it is at hand, else noise",
    )
    return options


def parse(options: argparse.ArgumentParser, words: Sequence[str] | None) -> argparse.Namespace:
    parsed = options.parse_args(words)
    for name, least in LEAST.items():
        if getattr(parsed, name) < least:
            options.error(f"--{name} {getattr(parsed, name)}: expected at least {least}")
    parsed.images = parsed.images or parsed.batch * (parsed.steps + parsed.warmup)
    if parsed.images < parsed.batch:
        options.error(f"--images {parsed.images}: expected at least a batch, {parsed.batch}")
    return parsed


def clone_of_repdistiller(text: str) -> Path:
    """The folder's whole path."""
    folder = Path(text).resolve()
    if not (folder / "helper" / "loops.py").is_file():
        raise argparse.ArgumentTypeError(f"{text}: no clone of RepDistiller; expected helper/loops.py in it")
    return folder
