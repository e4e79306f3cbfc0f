"""A training recipe: what goes with what."""

from __future__ import annotations

from typing import Any

from cdkd.config.faults import Faults, Place, show
from cdkd.config.layers import READ_WITH
from cdkd.config.schema import Training


def check_recipe(training: Training | None, written: Any, place: Place, faults: Faults) -> None:
    """The faults of values that do not go together; written: the section as params.yaml has it"""
    if training is None:
        return
    for name, (choice, readers) in READ_WITH.items():
        chosen = getattr(training, choice)
        if name in written and chosen not in readers:
            with_it = f"expected it with {choice} {' or '.join(readers)} only"
            faults.add((*place, name), f"{show(written[name])} with {choice} {chosen}; {with_it}")
    if training.optimiser == "sgd" and training.nesterov and training.momentum == 0:
        faults.add((*place, "nesterov"), "true with momentum 0; expected a momentum above 0")
    if {"ranks", "batch", "engine"} & set(written):
        _check_ranks(training, place, faults)
    if {"schedule", "warmup", "epochs"} & set(written):  # what a teacher inherits is listed with training
        _check_warmup(training, place, faults)


def _check_ranks(training: Training, place: Place, faults: Faults) -> None:
    ranks, batch = training.ranks, training.batch
    if batch % ranks or batch < 2 * ranks:
        what = f"{ranks} with batch {batch}; expected a number that divides it into two images or more a rank"
        faults.add((*place, "ranks"), what)
    elif ranks > 1 and training.engine == "compile":
        faults.add((*place, "ranks"), f"{ranks} with engine compile; expected engine eager, or 1 rank")


def _check_warmup(training: Training, place: Place, faults: Faults) -> None:
    schedule, warmup = training.schedule, training.warmup
    if schedule == "one_cycle" and not 0 < warmup < training.epochs:
        what = "the epochs in which the rate rises, at least 1 and fewer than all, or a share such as 0.3"
        faults.add((*place, "warmup"), f"{warmup} with schedule one_cycle; expected {what}")
    elif schedule != "step" and warmup >= training.epochs:
        what = f"fewer than the {training.epochs} epochs of the training"
        faults.add((*place, "warmup"), f"{warmup} with schedule {schedule}; expected {what}")
