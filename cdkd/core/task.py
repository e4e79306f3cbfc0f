"""The metrics of a task. The rows of a history name them `<split>_<metric>`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A task and its metrics.

    headline: selects the best epoch, and is what a search minimises
    train: logged during training
    """

    name: str
    headline: str
    train: str


CLASSIFICATION = Task("classification", headline="top1_error", train="train_top1_error")
