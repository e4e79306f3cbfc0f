"""What searches found, as a section of the report: their trials, what mattered, what tuning gained, and whether EDT matters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdkd.config.params import Params
from cdkd.config.search_space import label_of
from cdkd.core.schedule import Method, Term, Weight
from cdkd.report.phrases import fixed, interval, verdict
from cdkd.report.pictures.trials import history, pareto, slices
from cdkd.report.statistics import Paired, compare
from cdkd.report.style import both, style
from cdkd.report.summary import Row, differences
from cdkd.runs.study_record import Result, Trial
from cdkd.runs.study_text import importance_text, setting_text

PARTS = {
    "decay": "the decay of CD's weight",
    "gate": "the gate (CD alone in the first epochs)",
    "both": "both together",
}


@dataclass
class Found:
    """A section; see `compose.SearchSection`."""

    title: str
    paragraphs: list[str]
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None
    pictures: list[tuple[str, bytes, bytes, str]]


def section(params: Params, studies: Mapping[str, Result], rows: Mapping[str, Row]) -> Found | None:
    """None where no study is finished and EDT has no arms to compare."""
    paragraphs: list[str] = []
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    pictures: list[tuple[str, bytes, bytes, str]] = []
    for name, study in studies.items():
        paragraphs += _told(study, params, rows)
        if (paired := _switches(study)) is not None:
            paragraphs += paired
        if study.method is not None and study.finished:
            decile = _decile(study)
            numbers = list(study.trials[0].setting)
            lines = [
                [
                    str(trial.number),
                    fixed(trial.value),
                    *(_shown(trial.setting[number]) for number in numbers),
                ]
                for trial in decile
            ]
            table = table or (["Trial", "Top-1 error on validation (%)", *numbers], lines)
        captions = {
            "history": f"Study {name}: every trial's error on the validation split, and the best so far; trial 0 is {study.base} itself",
            "slices": f"Study {name}: error on validation against each number, the most telling first; darker: later trials; triangles: beyond the picture",
        }
        pictures += [
            (f"search-{name}-{what}", *drawn, captions[what]) for what, drawn in pictures_of(study).items()
        ]
    for base, several in _budgets(studies).items():
        paragraphs.append(_dearer(base, several))
        with style():
            if (figure := pareto(several)) is not None:
                caption = f"Studies {', '.join(several)}: error on validation against the epochs that a trial cost; steps: the best for its cost"
                pictures.append((f"search-budgets-{base}", *both(figure), caption))
    paragraphs += edt_sentence(params, rows)
    return Found("Search", paragraphs, table, pictures) if paragraphs else None


def pictures_of(study: Result) -> dict[str, tuple[bytes, bytes]]:
    """SVG and PNG of a study's pictures, by what they show."""
    with style():
        figures = {"history": history(study), "slices": slices(study)}
        return {what: both(figure) for what, figure in figures.items() if figure is not None}


def tuned_sentences(studies: Mapping[str, Result]) -> dict[str, str]:
    """For the footnotes of the methods that came out of studies."""
    return {
        study.method: f"tuned from {study.base} by {len(study.trials)} trials on the validation split: {setting_text(study.best.setting)}"
        for study in studies.values()
        if study.method is not None and study.best is not None
    }


def _told(study: Result, params: Params, rows: Mapping[str, Row]) -> Iterator[str]:
    states = [trial.state for trial in study.trials]
    spent = sum(len(trial.curve) for trial in study.trials)
    runs = spent / params.training.epochs
    how = f"sampler {study.config['sampler']}, generations of {study.config['generation']}"
    yield (
        f"Study {study.name} tried {len(study.trials)} of {study.planned} settings around {study.base}, each for {study.epochs} epochs with "
        f"seed{'s' * (len(study.seeds) > 1)} {', '.join(map(str, study.seeds))}, "
        f"trained without the validation split and judged on it, never on the test split ({how}): "
        f"{states.count('finished')} to their end, {states.count('pruned')} given up early, {states.count('failed')} failed; "
        f"{spent} epochs in all, as many as {runs:.3g} runs."
    )
    best, own = study.best, next((trial for trial in study.trials if trial.number == 0), None)
    if best is None:
        return
    gain = (
        f" {study.base}'s own numbers (trial 0): {fixed(own.value)} %."
        if own is not None and own.value is not None
        else ""
    )
    yield f"Best on validation: trial {best.number} with {fixed(best.value)} %: {setting_text(best.setting)}.{gain}"
    if study.importance:
        shares = importance_text(study)
        yield f"Share of each number in the variance of the finished trials ({study.evaluator}): {shares}."
    if study.method is not None and study.method in rows and study.base in rows:
        paired = compare({"tuned": differences(rows[study.method], rows[study.base])})["tuned"]
        if paired.mean is not None:
            yield (
                f"The best of many trials is lucky as well as good. Trained anew on the whole training set, {study.method} minus {study.base} is "
                f"{_difference(paired)} on the test split: {verdict(paired, study.base)}."
            )
    decile = _decile(study)
    if len(decile) > 1:
        ranges = "; ".join(_spread(name, decile) for name in best.setting)
        yield f"The best {len(decile)} trials ({fixed(decile[0].value)} to {fixed(decile[-1].value)} %) have {ranges}."


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


def _dearer(base: str, several: Mapping[str, Result]) -> str:
    """What more training of a trial brought, whose best was found for how much."""
    said = [
        f"{_epochs(study)} epochs a trial ({name}): best {fixed(study.best.value)} %, {base} itself {fixed(study.trials[0].value)} %, "
        f"{sum(len(trial.curve) for trial in study.trials)} epochs in all"
        for name, study in sorted(several.items(), key=lambda item: _epochs(item[1]))
        if study.best is not None
    ]
    return f"Around {base}, by what a trial costs: {'; '.join(said)}."


def _decile(study: Result) -> list[Trial]:
    """The best tenth of the finished trials; three at least, so that there is a spread to see."""
    return study.finished[: max(3, math.ceil(len(study.finished) / 10))]


def _spread(name: str, trials: Sequence[Trial]) -> str:
    values = [trial.setting[name] for trial in trials]
    if any(isinstance(value, str) for value in values):
        return f"{name} {', '.join(sorted({str(value) for value in values}))}"
    low, high = min(float(value) for value in values), max(float(value) for value in values)
    return f"{name} {low:.3g}" + (f" to {high:.3g}" if high > low else "")


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _difference(paired: Paired) -> str:
    return f"{fixed(paired.mean, sign=True)} points (95 % interval {interval(paired, sign=True)}, n = {paired.n})"


def _switches(study: Result) -> list[str] | None:
    """A grid of switches: what each does, over all pairs of settings that differ in it alone; None of another study."""
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
    # settings and seeds are crossed: pairs of one seed share its chance, so that the seeds' means are what is compared
    seeds = len(study.seeds)
    means = {
        key: [sum(values[seed::seeds]) / len(values[seed::seeds]) for seed in range(seeds)]
        for key, values in effects.items()
    }
    found = compare(means)
    return [
        f"{study.name}: {name} from {before} to {after} changes the error on validation by {_difference(paired)}, "
        f"over {len(effects[name, before, after]) // seeds} pairs of settings that differ in nothing else: {verdict(paired, before)}."
        for (name, before, after), paired in found.items()
    ]


def _by_seed(study: Result, trial: Trial) -> list[float]:
    return [trial.curve[(place + 1) * study.epochs - 1] for place in range(len(study.seeds))]


def edt_sentence(params: Params, rows: Mapping[str, Row]) -> list[str]:
    """Does EDT matter here, which part of it, and how sure are we: from the methods that differ in their schedules alone."""
    found = []
    for plain, arms in _arms(params.methods).items():
        pairs = compare(
            {
                part: differences(rows[arm], rows[plain])
                for part, arm in arms.items()
                if arm in rows and plain in rows
            }
        )
        said = [
            f"{PARTS[part]} ({arms[part]}) {_difference(paired)}, {verdict(paired, plain)}"
            for part, paired in pairs.items()
            if paired.mean is not None
        ]
        if not said:
            continue
        moves = {
            verb: [PARTS[part] for part, paired in pairs.items() if paired.verdict == word]
            for word, verb in (("lower", "lower"), ("higher", "raise"))
        }
        told = [
            f"{' and '.join(parts)} {verb}{'s' * (len(parts) == 1)} the error"
            for verb, parts in moves.items()
            if parts
        ]
        answer = f"yes: {'; '.join(told)}" if told else "not by these seeds: no part's difference is settled"
        found.append(
            f"Does EDT matter here? {answer[0].upper()}{answer[1:]}. Top-1 error on the test split, minus {plain}'s: {'; '.join(said)}."
        )
    return found


def _arms(methods: Mapping[str, Method]) -> dict[str, dict[str, str]]:
    """Method without any schedule -> part of EDT -> the method that has that part alone (or both) besides."""
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
