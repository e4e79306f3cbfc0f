"""What a run is judged by. The rows of a history name their metrics `<split>_<metric>`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """headline: the metric that best epochs and searches go by (lower is better); train: the one that training logs"""

    name: str
    headline: str
    train: str


CLASSIFICATION = Task("classification", headline="top1_error", train="train_top1_error")
