"""What a search leaves behind, sealed: its trials, what they came to, and the setting that was best. Needs no optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdkd.core.errors import BadRecord
from cdkd.storage import sealed_json

FORMAT = 1


@dataclass(frozen=True)
class Trial:
    """One setting, tried. Steps of the curve count epochs over all seeds of a trial, one seed after the other.

    state: finished | pruned | failed; value: mean top-1 error in percent on the validation split at the last epoch, over the
    study's seeds; curve: the error after each epoch
    """

    number: int
    setting: Mapping[str, float | int | str]
    state: str
    value: float | None
    curve: tuple[float, ...]
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """A study. name: as in params.yaml; key: digest of everything that decides its trials; decisive: that, written out;
    trials are those that are over, planned all that were asked for; importance: share of each parameter in the spread of
    values (fANOVA), empty where it cannot be said
    """

    experiment: str
    name: str
    key: str
    decisive: Mapping[str, Any]
    base: str
    method: str | None
    epochs: int
    seeds: tuple[int, ...]
    planned: int
    trials: tuple[Trial, ...]
    importance: Mapping[str, float]

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

    def lines(self) -> list[str]:
        """For a terminal."""
        own = next((trial for trial in self.trials if trial.number == 0), None)
        gone = {state: sum(trial.state == state for trial in self.trials) for state in ("pruned", "failed")}
        lines = [
            f"{self.name}: {len(self.trials)} of {self.planned} trials over, {gone['pruned']} given up early, {gone['failed']} failed"
        ]
        lines += [
            f"  trial {trial.number}: {trial.value:.2f} % on validation: {setting_text(trial.setting)}"
            for trial in self.finished[:3]
        ]
        if own is not None and own.value is not None:
            lines.append(f"  {self.base} itself (trial 0): {own.value:.2f} %")
        if self.importance:
            lines.append(
                "  share in the spread: "
                + ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.importance.items())
            )
        return lines

    def write(self, path: Path) -> None:
        sealed_json.write(path, {"format": FORMAT} | asdict(self))


def setting_text(setting: Mapping[str, float | int | str]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in setting.items()
    )


def read(path: Path) -> Result:
    """A study's file, trusted only if its digest fits; raises `BadRecord` naming it."""
    body = sealed_json.read(path, "a study", FORMAT)
    try:
        trials = tuple(Trial(**{**trial, "curve": tuple(trial["curve"])}) for trial in body["trials"])
        return Result(
            **{key: value for key, value in body.items() if key != "format"}
            | {"trials": trials, "seeds": tuple(body["seeds"])}
        )
    except (KeyError, TypeError) as error:
        raise BadRecord(f"{path}: not a study ({type(error).__name__}: {error})") from None
