"""Footnotes: which form of each method ran, which runs do not count, and what is mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cdkd.config.params import Params
from cdkd.config.schema import Training
from cdkd.core.group import Group
from cdkd.core.schedule import Term
from cdkd.report.collect import TEACHER, FoundRun, label, number
from cdkd.report.published_recipes import unpublished
from cdkd.report.summary import Row
from cdkd.report.wording import join_names, plural
from cdkd.runs.adopted import trained_by, unverified_code
from cdkd.runs.teacher_quality import fault

UNVERIFIED = (
    "Unverified: today's fingerprint of the run is not known here (no prepared data, or no teacher trained "
    "for these "
    "params); excluded from the means"
)
STALE = "Stale: trained with other params, data, teacher or code than today's; excluded from the means"
TRAIN_MODE = (
    "The teacher ran in train mode: BatchNorm used the statistics of the batch and its running statistics "
    "changed, as "
    "in the released code of CD; usually the teacher is frozen in eval mode"
)
RKD = (
    "The loss rkd is Relational KD (Park et al., 2019); the row “RKD” in the tables of CD is Residual KD + "
    "AT (arXiv "
    "2002.09168), another method, copied from there"
)


def excluded(runs: Iterable[FoundRun]) -> str:
    """Seeds that do not count, for a row's cell: "missing seed 2; seed 1 diverged in epoch 3 (kd)"."""
    grouped: dict[str, list[int]] = {}
    for run in runs:
        state = run.state if run.teacher is None else f"{run.state}, teacher {run.teacher}:"
        if run.state == "diverged":
            grouped.setdefault(f"{run.label} diverged {run.brief}", [])
        elif run.state != "ok":
            grouped.setdefault(state, []).append(run.seed)
    return "; ".join(f"{state} {_seeds(seeds)}" if seeds else state for state, seeds in grouped.items())


def table_notes(params: Params, rows: Iterable[Row]) -> list[str]:
    """The footnotes of a table, one sentence each."""
    shown = list(rows)
    runs = [run for row in shown for run in row.runs]
    notes = [f"{run.method} {run.label} {run.state}: {run.detail}" for run in runs if run.detail]
    notes += [sentence for row in shown if (sentence := useless_teacher(row))]
    notes += [
        f"{row.name} {label(key)}: its error analysis cannot be read ({why})"
        for row in shown
        for key, why in row.unreadable.items()
    ]
    notes += [
        f"{row.name}: no search has produced this method yet; `cdkd search` runs it"
        for row in shown
        if row.name not in (TEACHER, *params.methods)
    ]
    notes += _without_predictions(runs)
    notes += [f"{row.title}: {row.tuned}" for row in shown if row.tuned]
    notes += _sources(shown)
    own = {name: one for name in params.methods if (one := params.recipe(name)) != params.training}
    notes += [
        f"{row.title} was trained with a recipe of its own: {recipe(own[row.name])}"
        for row in shown
        if row.name in own
    ]
    if lost := unpublished(row.name for row in shown):
        notes.append(f"No published number of {join_names(lost)} can be reached, so none is shown")
    states = {run.state for run in runs}
    notes += [text for state, text in (("stale", STALE), ("unverified", UNVERIFIED)) if state in states]
    counted = [run for run in runs if run.ok]
    notes += _environments([run for run in counted if run.method != TEACHER])  # a digest pins the teacher
    inexact = [run for run in counted if run.record and run.record.circumstances.get("exact") is False]
    if inexact:
        notes.append(
            "Resumed in another environment than it was started in, so that the last bits may differ from "
            "those of an "
            f"uninterrupted run: {_names(inexact, counted)}"
        )
    notes += _of_other_code(counted)
    teachers = (params.teacher, *params.teacher.others.values())
    notes += [TRAIN_MODE] if any(teacher.batchnorm == "train" for teacher in teachers) else []
    losses = {term.loss or name for row in shown for name, term in params.methods.get(row.name, {}).items()}
    return notes + ([RKD] if "rkd" in losses else [])


def _of_other_code(runs: Sequence[FoundRun]) -> list[str]:
    """The runs that count without having been trained again with today's code."""
    found = [run for run in runs if run.record and unverified_code(run.record)]
    codes = dict.fromkeys(trained_by(run.record)[:12] for run in found if run.record)
    return [
        f"Trained with other code than today's ({join_names(list(codes))}) and not verified with it: "
        f"{_names(found, list(runs))}; `cdkd verify --adopt METHOD` trains one seed again and compares the "
        "bits"
    ] * bool(found)


def _sources(rows: Iterable[Row]) -> list[str]:
    """The other teachers that methods learn from."""
    found = {row.title: dict.fromkeys(run.source for run in row.runs if run.source) for row in rows}
    return [f"{title} learns from the teacher {' and '.join(each)}" for title, each in found.items() if each]


def useless_teacher(row: Row) -> str | None:
    """That students could learn nothing of this teacher; None where they could, and of other rows."""
    record = row.runs[0].ok if row.name == TEACHER else None
    error = None if record is None else number(record, "last", "test_top1_error")
    if record is None or error is None or not row.classes:
        return None
    sizes = [
        int(count) for analysis in row.analyses.values() for count in analysis.confusion.sum(axis=1).tolist()
    ]
    found = fault(error, number(record, "last", "test_loss"), row.classes, sizes)
    return None if found is None else f"{found[:1].upper()}{found[1:]}; no student can learn from it"


def _without_predictions(runs: Iterable[FoundRun]) -> list[str]:
    """Named where some runs have predictions: then a statistic over images leaves the others out."""
    counted = [run for run in runs if run.ok and run.method != TEACHER]
    lacking = [run for run in counted if run.wrong is None]
    if not lacking or len(lacking) == len(counted):
        return []
    return [
        f"Without predictions for each image, so not in the tests over images: {_names(lacking, counted)}"
    ]


def git_notes(rows: Iterable[Row]) -> list[str]:
    """Runs whose commit does not identify their code. The code digest does, so no number is affected."""
    counted = [run for row in rows for run in row.runs if run.ok]
    dirty = [run for run in counted if _git(run).get("dirty")]
    outside = [run for run in counted if _git(run).get("commit") is None]
    notes = [f"Trained from a git tree with uncommitted changes: {_names(dirty, counted)}"] if dirty else []
    if outside:
        notes.append(
            f"Trained outside a git repository, so no commit names the code: {_names(outside, counted)}"
        )
    return notes


def legend(params: Params, rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Every method of a table written out in full."""
    return [
        (
            row.title if row.title == row.name else f"{row.title} ({row.name})",
            formula(params.methods[row.name]),
        )
        for row in rows
        if row.name in params.methods
    ]


def formula(method: Mapping[str, Term]) -> str:
    """The sum that a method minimises: "1 ce (from epoch 60) + 6 cd ×0.9 at 59, 159"; epochs count from 0."""
    text = " + ".join(_term(name, term) for name, term in method.items())
    if (group := getattr(method, "group", None)) is not None:
        text += f"; {group_text(group)}"
    if getattr(method, "inactive", "untouched") == "decayed":
        text += (
            "; parameters without an active term still undergo weight decay and momentum (inactive: decayed)"
        )
    return text


def group_text(group: Group) -> str:
    """The networks that are trained together, with what is not at its default, and the deployed one."""
    average = "'s moving average" if group.evaluate == "ema" else ""
    return f"networks: {networks_text(group)}; deployed: {group.deployed}{average}"


def networks_text(group: Group) -> str:
    """ "3 resnet8, stem and 2 stages in common"."""
    counts = Counter(group.networks.values())
    networks = " and ".join(f"{count} {kind}" if count > 1 else kind for kind, count in counts.items())
    shared = group.shared
    common = "stem" if shared == 0 else f"stem and {plural(shared or 0, 'stage')}"
    parts = [] if shared is None else [f"{common} in common"]
    parts += ["the common part takes the mean gradient"] if group.gradient == "mean" else []
    if group.update == "alternate":
        fresh = ", each on a batch of its own" if group.batches == "fresh" else ""
        parts.append(f"updated one after the other{fresh}")
    parts += [f"{group.views} views"] if group.views > 1 else []
    parts += [f"moving averages {group.ema:g}"] if group.ema is not None else []
    parts += ["equal first classifiers"] if group.classifiers == "equal" else []
    return ", ".join([networks, *parts])


def recipe(training: Training) -> str:
    crop = training.augmentation
    optimiser = {"sgd": "SGD", "adamw": "AdamW"}[training.optimiser]
    parts = [
        f"{training.epochs} epochs",
        f"batch {training.batch}",
        f"{optimiser} {training.learning_rate:g}",
    ]
    parts += _schedule(training)
    if training.optimiser == "sgd":
        parts.append(f"momentum {training.momentum:g}{' (Nesterov)' if training.nesterov else ''}")
    else:
        parts.append(f"betas {training.betas[0]:g}, {training.betas[1]:g}")
    parts.append(f"weight decay {training.weight_decay:g}")
    parts += [f"{training.ranks} ranks"] if training.ranks > 1 else []
    parts += [f"gradient's norm at most {training.clip:g}"] if training.clip else []
    parts += [f"pad {crop.pad} ({crop.padding})"] if crop.pad else []
    parts += [f"resized crop {crop.resized_crop}"] if crop.resized_crop else []
    parts += ["flip"] if crop.flip else []
    parts += ["bf16"] if training.precision == "bf16" else []
    parts += ["compiled"] if training.engine == "compile" else []
    return ", ".join(parts)


def _schedule(training: Training) -> list[str]:
    """The rate over time."""
    parts = []
    if training.milestones:
        parts.append(f"×{training.decay:g} at {', '.join(map(str, training.milestones))}")
    if training.schedule == "one_cycle":
        parts.append(f"one cycle from ×{training.start_factor:g} to ×{training.end_factor:g}")
    elif training.schedule != "step":
        parts.append(f"{training.schedule} to ×{training.end_factor:g}")
    parts += [f"warm-up {training.warmup}"] if training.warmup else []
    parts += ["by steps"] if training.rate_per == "step" else []
    return parts


def _term(name: str, term: Term) -> str:
    weight = term.weight
    brackets = [f"loss {term.loss}"] if term.loss not in ("", name) else []
    brackets += [f"of {', '.join(term.of)}"] if term.of else []
    brackets += [f"from {term.source}"] if term.source != TEACHER else []
    brackets += [f"{option} {_value(value)}" for option, value in term.options.items() if value is not None]
    brackets += [f"from epoch {weight.start}"] if weight.start else []
    brackets += [f"before epoch {weight.stop}"] if weight.stop is not None else []
    brackets += [f"rises for {plural(weight.rise, 'epoch')}"] if weight.rise else []
    decay = ""
    if weight.over is not None and weight.decay != 1:
        decay = f" {weight.curve} to ×{weight.decay:g} over {plural(weight.over, 'epoch')}"
    elif weight.milestones and weight.decay != 1:
        decay = f" ×{weight.decay:g} at {', '.join(map(str, weight.milestones))}"
    return f"{weight.value:g} {name}{decay}" + (f" ({', '.join(brackets)})" if brackets else "")


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _git(run: FoundRun) -> Mapping[str, Any]:
    git = run.record.circumstances.get("git") if run.record else None
    return git if isinstance(git, dict) else {}


def _environments(runs: list[FoundRun]) -> list[str]:
    """Where the runs' environments differ, and which runs have the rarer values."""
    flat = [_flat((run.record.circumstances if run.record else {}).get("environment")) for run in runs]
    differences = []
    for key in sorted({key for environment in flat for key in environment}):
        holders: dict[str, list[FoundRun]] = {}
        for run, environment in zip(runs, flat, strict=True):
            holders.setdefault(environment.get(key, "not recorded"), []).append(run)
        if len(holders) > 1:
            by_count = sorted(holders.items(), key=lambda item: (-len(item[1]), item[0]))
            rarer = [f"{value} ({_names(those, runs)})" for value, those in by_count[1:]]
            differences.append(f"{key} {by_count[0][0]}, but {', '.join(rarer)}")
    return [f"The environments of these runs differ: {'; '.join(differences)}"] if differences else []


def _flat(node: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(node, dict):
        return {
            key: value
            for name in node
            for key, value in _flat(node[name], f"{prefix} {name}".strip()).items()
        }
    return {prefix: str(node)} if prefix else {}


def _names(runs: list[FoundRun], among: list[FoundRun]) -> str:
    if len(runs) == len(among):
        return "all runs"
    by_method: dict[str, list[int]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run.seed)
    return "; ".join(
        method if method == TEACHER else f"{method} {_seeds(seeds)}" for method, seeds in by_method.items()
    )


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
