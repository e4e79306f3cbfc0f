"""The record of a search, sealed: its trials, their results, and the best setting. Needs no Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdkd.core.errors import BadRecord
from cdkd.storage import sealed_json

FORMAT = 2


@dataclass(frozen=True)
class Trial:
    """One setting that was tried. Steps of the curve count epochs over all seeds, one seed after the other.

    state: finished | pruned | failed
    value: mean top-1 error in percent on the validation split at the last epoch, over the study's seeds
    curve: the error after each epoch
    """

    number: int
    setting: Mapping[str, float | int | str]
    state: str
    value: float | None
    curve: tuple[float, ...]
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """A study.

    name: as in params.yaml; config: everything that affects its trials; key: digest of config
    trials: those that have ended; planned: how many the study has in all
    importance, importance_std: each parameter's share of the variance of the values, mean and standard
        deviation over the forests of the evaluator; empty where the values do not vary
    """

    experiment: str
    name: str
    key: str
    config: Mapping[str, Any]
    base: str
    method: str | None
    epochs: int
    seeds: tuple[int, ...]
    planned: int
    trials: tuple[Trial, ...]
    importance: Mapping[str, float]
    importance_std: Mapping[str, float]
    evaluator: str  # of importance, such as "fANOVA, 8 forests"

    @property
    def best(self) -> Trial | None:
        return next(iter(self.finished), None)

    @property
    def finished(self) -> list[Trial]:
        """Best first; of equal ones the earlier."""
        return sorted(
            (trial for trial in self.trials if trial.value is not None),
            key=lambda trial: (trial.value or 0.0, trial.number),
        )

    def write(self, path: Path) -> None:
        sealed_json.write(path, {"format": FORMAT} | asdict(self))


def read(path: Path) -> Result:
    """A study's file, trusted only if its digest matches; raises `BadRecord` naming it."""
    body = sealed_json.read(path, "a study", FORMAT)
    try:
        trials = tuple(Trial(**{**trial, "curve": tuple(trial["curve"])}) for trial in body["trials"])
        return Result(
            **{key: value for key, value in body.items() if key != "format"}
            | {"trials": trials, "seeds": tuple(body["seeds"])}
        )
    except (KeyError, TypeError) as error:
        raise BadRecord(f"{path}: not a study ({type(error).__name__}: {error})") from None
