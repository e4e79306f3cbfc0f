"""A training recipe: values on top of others, and what goes with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdkd.config.faults import Faults, Place, show
from cdkd.config.schema import Training

# a value of a recipe -> the choice that decides whether anything reads it, and with which it is read
READ_WITH: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimiser", ("sgd",)),
    "nesterov": ("optimiser", ("sgd",)),
    "betas": ("optimiser", ("adamw",)),
    "epsilon": ("optimiser", ("adamw",)),
    "milestones": ("schedule", ("step",)),
    "decay": ("schedule", ("step",)),
    "momentum_at_milestones": ("schedule", ("step",)),
    "start_factor": ("schedule", ("one_cycle",)),
    "end_factor": ("schedule", ("cosine", "linear", "one_cycle")),
}


def layered(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with own values on top of another's.

    Where an own optimiser or schedule is another than the base's, what only the base's reads is left out.
    """
    merged: dict[str, Any] = {**base, **own}
    for name, (choice, readers) in READ_WITH.items():
        chosen = own.get(choice, Training.model_fields[choice].default)
        if name not in own and choice in own and chosen not in readers:
            merged.pop(name, None)
    if isinstance(own.get("augmentation"), dict):
        merged["augmentation"] = base.get("augmentation", {}) | own["augmentation"]
    return merged


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
    if {"schedule", "warmup", "epochs"} & set(written):  # what a teacher inherits is listed with training
        _check_warmup(training, place, faults)


def _check_warmup(training: Training, place: Place, faults: Faults) -> None:
    schedule, warmup = training.schedule, training.warmup
    if schedule == "one_cycle" and not 0 < warmup < training.epochs:
        what = "the epochs in which the rate rises, at least 1 and fewer than all, or a share such as 0.3"
        faults.add((*place, "warmup"), f"{warmup} with schedule one_cycle; expected {what}")
    elif schedule != "step" and warmup >= training.epochs:
        what = f"fewer than the {training.epochs} epochs of the training"
        faults.add((*place, "warmup"), f"{warmup} with schedule {schedule}; expected {what}")
