"""A study in words, for a terminal and for reports."""

from __future__ import annotations

from collections.abc import Mapping

from cdkd.runs.study_record import Result

SHOWN = 3  # of the best trials


def study_lines(study: Result) -> list[str]:
    states = [trial.state for trial in study.trials]
    lines = [
        f"{study.name}: {len(states)} of {study.planned} trials ended, "
        f"{states.count('pruned')} pruned, {states.count('failed')} failed"
    ]
    lines += [
        f"  trial {trial.number}: {trial.value:.2f} % on validation: {setting_text(trial.setting)}"
        for trial in study.finished[:SHOWN]
    ]
    first = next((trial for trial in study.trials if trial.number == 0), None)
    if first is not None and first.value is not None:
        lines.append(f"  {study.base} itself (trial 0): {first.value:.2f} %")
    if study.importance:
        lines.append(f"  share of the variance ({study.evaluator}): {importance_text(study)}")
    return lines


def importance_text(study: Result) -> str:
    """ "cd.weight 62 ± 3 %, gate 20 ± 2 %": mean and standard deviation over the evaluator's forests."""
    return ", ".join(
        f"{name} {100 * share:.0f} ± {100 * study.importance_std[name]:.0f} %"
        for name, share in study.importance.items()
    )


def setting_text(setting: Mapping[str, float | int | str]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in setting.items()
    )
