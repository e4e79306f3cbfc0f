"""A training recipe as values on top of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        if name not in own and choice in own and own[choice] not in readers:
            merged.pop(name, None)
    if isinstance(own.get("augmentation"), dict):
        merged["augmentation"] = base.get("augmentation", {}) | own["augmentation"]
    return merged
