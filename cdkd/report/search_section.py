"""The section on searches: trials, importance of parameters, gain from tuning, effect of EDT."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdkd.config.every_study import EVERY
from cdkd.config.params import Params
from cdkd.config.search_space import label_of
from cdkd.core.schedule import Method, Term, Weight
from cdkd.report.over_teachers import compare_runs
from cdkd.report.pictures.trials import history, pareto, slices
from cdkd.report.statistics import Paired, compare
from cdkd.report.style import style, svg_and_png
from cdkd.report.summary import Row, differences
from cdkd.report.wording import decimals, interval_text, verdict
from cdkd.runs.study_record import Result, Trial
from cdkd.runs.study_text import importance_text, setting_text

PARTS = {
    "decay": "the decay of CD's weight",
    "gate": "the gate (CD alone in the first epochs)",
    "both": "both together",
}


@dataclass
class FoundSection:
    """See `sections.SearchSection`."""

    title: str
    paragraphs: list[str]
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None
    pictures: list[tuple[str, bytes, bytes, str]]


def section(params: Params, studies: Mapping[str, Result], rows: Mapping[str, Row]) -> FoundSection | None:
    """None where no study is finished and EDT has no arms to compare."""
    paragraphs: list[str] = []
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    pictures: list[tuple[str, bytes, bytes, str]] = []
    for name, study in studies.items():
        paragraphs += _study_paragraphs(study, params, rows)
        if (paired := _switch_paragraphs(study)) is not None:
            paragraphs += paired
        if study.method is not None and study.finished:
            best_trials = _top_trials(study)
            numbers = list(study.trials[0].setting)
            lines = [
                [
                    str(trial.number),
                    decimals(trial.value),
                    *(_text(trial.setting[number]) for number in numbers),
                ]
                for trial in best_trials
            ]
            table = table or (["Trial", "Top-1 error on validation (%)", *numbers], lines)
        if name.startswith(f"{EVERY}_"):  # a dozen pictures of one kind say little
            continue
        captions = {
            "history": f"Study {name}: every trial's error on the validation split, and the best so far; "
            "trial 0 "
            f"is {study.base} as it is in params.yaml",
            "slices": f"Study {name}: error on validation against each parameter, the most important first; "
            "darker: later trials; triangles: above the axis",
        }
        pictures += [
            (f"search-{name}-{what}", *drawn, captions[what]) for what, drawn in pictures_of(study).items()
        ]
    for base, several in _budgets(studies).items():
        paragraphs.append(_cost_paragraph(base, several))
        with style():
            if (figure := pareto(several)) is not None:
                caption = (
                    f"Studies {', '.join(several)}: error on validation against the epochs of a trial; "
                    "steps: the lowest error for at most so many epochs"
                )
                pictures.append((f"search-budgets-{base}", *svg_and_png(figure), caption))
    paragraphs += edt_sentences(params, rows)
    return FoundSection("Search for hyperparameters", paragraphs, table, pictures) if paragraphs else None


def pictures_of(study: Result) -> dict[str, tuple[bytes, bytes]]:
    """SVG and PNG of a study's figures, by their kind."""
    with style():
        figures = {"history": history(study), "slices": slices(study)}
        return {what: svg_and_png(figure) for what, figure in figures.items() if figure is not None}


def tuned_sentences(studies: Mapping[str, Result]) -> dict[str, str]:
    """For the footnotes of the methods that searches produced."""
    return {
        study.method: f"tuned from {study.base} by {len(study.trials)} trials on the validation split: "
        + setting_text(study.best.setting)
        for study in studies.values()
        if study.method is not None and study.best is not None
    }


def _study_paragraphs(study: Result, params: Params, rows: Mapping[str, Row]) -> Iterator[str]:
    states = [trial.state for trial in study.trials]
    spent = sum(len(trial.curve) for trial in study.trials)
    runs = spent / params.training.epochs
    how = f"sampler {study.config['sampler']}, generations of {study.config['generation']}"
    yield (
        f"Study {study.name} tried {len(study.trials)} of {study.planned} settings of {study.base}, each for "
        f"{study.epochs} epochs with "
        f"seed{'s' * (len(study.seeds) > 1)} {', '.join(map(str, study.seeds))}, "
        f"trained without the validation split and evaluated on it, never on the test split ({how}): "
        f"{states.count('finished')} finished, {states.count('pruned')} pruned, {states.count('failed')} "
        "failed; "
        f"{spent} epochs in total, as many as {runs:.3g} runs."
    )
    best, own = study.best, next((trial for trial in study.trials if trial.number == 0), None)
    if best is None:
        return
    gain = (
        f" {study.base} as it is in params.yaml (trial 0): {decimals(own.value)} %."
        if own is not None and own.value is not None
        else ""
    )
    setting = setting_text(best.setting)
    yield f"Best on validation: trial {best.number} with {decimals(best.value)} %: {setting}.{gain}"
    if study.importance:
        yield (
            "Importance of each parameter, its share in the variance of the finished trials' errors, mean ± "
            "standard "
            f"deviation over random forests ({study.evaluator}): {importance_text(study)}."
        )
    if study.method is not None and study.method in rows and study.base in rows:
        tuned = {"tuned": differences(rows[study.method], rows[study.base])}
        paired = compare_runs(tuned, params.looks)["tuned"]
        if paired.mean is not None:
            yield (
                "The validation error of the best trial is too optimistic, since it was selected. Trained "
                f"again on the whole training set, {study.method} minus {study.base} is "
                f"{_difference(paired)} on the test split: {verdict(paired, study.base)}."
            )
    best_trials = _top_trials(study)
    if len(best_trials) > 1:
        ranges = "; ".join(_spread(name, best_trials) for name in best.setting)
        errors = f"{decimals(best_trials[0].value)} to {decimals(best_trials[-1].value)} %"
        yield f"The best {len(best_trials)} trials ({errors}) have {ranges}."


def _budgets(studies: Mapping[str, Result]) -> dict[str, dict[str, Result]]:
    """Base -> its studies, where they are of more than one length."""
    found: dict[str, dict[str, Result]] = {}
    for name, study in studies.items():
        if study.best is not None:
            found.setdefault(study.base, {})[name] = study
    return {
        base: several
        for base, several in found.items()
        if len({_epochs(study) for study in several.values()}) > 1
    }


def _epochs(study: Result) -> int:
    return study.epochs * len(study.seeds)


def _cost_paragraph(base: str, several: Mapping[str, Result]) -> str:
    """The best error of studies whose trials are of different lengths."""
    parts = [
        f"{_epochs(study)} epochs a trial ({name}): best {decimals(study.best.value)} %, {base} unchanged "
        f"{decimals(study.trials[0].value)} %, "
        f"{sum(len(trial.curve) for trial in study.trials)} epochs in total"
        for name, study in sorted(several.items(), key=lambda item: _epochs(item[1]))
        if study.best is not None
    ]
    return f"Studies of {base} by the length of a trial: {'; '.join(parts)}."


def _top_trials(study: Result) -> list[Trial]:
    """The best tenth of the finished trials, at least three."""
    return study.finished[: max(3, math.ceil(len(study.finished) / 10))]


def _spread(name: str, trials: Sequence[Trial]) -> str:
    values = [trial.setting[name] for trial in trials]
    if any(isinstance(value, str) for value in values):
        return f"{name} {', '.join(sorted({str(value) for value in values}))}"
    low, high = min(float(value) for value in values), max(float(value) for value in values)
    return f"{name} {low:.3g}" + (f" to {high:.3g}" if high > low else "")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _difference(paired: Paired) -> str:
    interval = f"95 % interval {interval_text(paired, sign=True)}, n = {paired.n}"
    return f"{decimals(paired.mean, sign=True)} points ({interval})"


def _switch_paragraphs(study: Result) -> list[str] | None:
    """Of a grid of switches: the effect of each, over all pairs of settings that differ in it alone."""
    if study.config["sampler"] != "grid":
        return None
    settings = {tuple(trial.setting.items()): trial for trial in study.trials if trial.state == "finished"}
    effects: dict[tuple[str, str, str], list[float]] = {}
    for name, parameter in study.config["space"].items():
        labels = [label_of(value) for value in parameter["choices"] or ()]
        for setting, trial in settings.items():
            here = dict(setting)
            for after in labels[labels.index(str(here[name])) + 1 :] if here[name] in labels else ():
                other = settings.get(tuple((here | {name: after}).items()))
                if other is not None:
                    moved = [
                        there - then
                        for then, there in zip(_by_seed(study, trial), _by_seed(study, other), strict=True)
                    ]
                    effects.setdefault((name, str(here[name]), after), []).extend(moved)
    # pairs of one seed are not independent of each other, so the means of the seeds are compared
    seeds = len(study.seeds)
    means = {
        key: [sum(values[seed::seeds]) / len(values[seed::seeds]) for seed in range(seeds)]
        for key, values in effects.items()
    }
    found = compare(means)
    return [
        f"{study.name}: {name} from {before} to {after} changes the error on validation by "
        f"{_difference(paired)}, "
        f"over {len(effects[name, before, after]) // seeds} pairs of settings that differ in nothing else: "
        f"{verdict(paired, before)}."
        for (name, before, after), paired in found.items()
    ]


def _by_seed(study: Result, trial: Trial) -> list[float]:
    return [trial.curve[(place + 1) * study.epochs - 1] for place in range(len(study.seeds))]


def edt_sentences(params: Params, rows: Mapping[str, Row]) -> list[str]:
    """The effect of EDT and of its parts, from methods that differ in their schedules alone."""
    found = []
    for plain, arms in _arms(params.methods).items():
        pairs = compare_runs(
            {
                part: differences(rows[arm], rows[plain])
                for part, arm in arms.items()
                if arm in rows and plain in rows
            },
            params.looks,
        )
        parts = [
            f"{PARTS[part]} ({arms[part]}) {_difference(paired)}, {verdict(paired, plain)}"
            for part, paired in pairs.items()
            if paired.mean is not None
        ]
        if not parts:
            continue
        moves = {
            verb: [PARTS[part] for part, paired in pairs.items() if paired.verdict == word]
            for word, verb in (("lower", "lower"), ("higher", "raise"))
        }
        effects = [
            f"{' and '.join(parts)} {verb}{'s' * (len(parts) == 1)} the error"
            for verb, parts in moves.items()
            if parts
        ]
        answer = f"yes: {'; '.join(effects)}" if effects else "undecided: no part's difference is significant"
        found.append(
            f"Does EDT matter here? {answer[0].upper()}{answer[1:]}. Top-1 error on the test split minus "
            f"that of {plain}: {'; '.join(parts)}."
        )
    return found


def _arms(methods: Mapping[str, Method]) -> dict[str, dict[str, str]]:
    """Method without any schedule -> part of EDT -> the method that adds that part alone (or both)."""
    found: dict[str, dict[str, str]] = {}
    plain = {
        _stripped(method): name for name, method in methods.items() if "cd" in method and _part(method) == ""
    }
    for name, method in methods.items():
        part = _part(method)
        if part and _stripped(method) in plain:
            found.setdefault(plain[_stripped(method)], {}).setdefault(part, name)
    return found


def _part(method: Method) -> str:
    if "cd" not in method:
        return ""
    weight = method["cd"].weight
    decays = weight.decay != 1 and bool(weight.milestones or weight.over)
    gated = any(term.weight.start > 0 for loss, term in method.items() if loss != "cd")
    return "both" if decays and gated else "decay" if decays else "gate" if gated else ""


def _stripped(method: Method) -> str:
    return repr(
        {loss: Term(Weight(term.weight.value), dict(term.options)) for loss, term in sorted(method.items())}
    )
