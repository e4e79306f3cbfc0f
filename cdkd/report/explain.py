"""What differs between our recipe and the one behind a published number, and what each difference is known to be worth.

The knowledge is explain.yaml, with its sources; here it is only compared with params.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cdkd.config.faults import Faults
from cdkd.config.reading import read
from cdkd.config.methods import method_of
from cdkd.config.params import Params
from cdkd.config.schema import Normalisation, Published, Training
from cdkd.core.schedule import Method, Term
from cdkd.report.collect import TEACHER, number
from cdkd.report.notes import written_out
from cdkd.report.published import Reference, find, table
from cdkd.runs.record import Record

KNOWLEDGE = Path(__file__).with_name("explain.yaml")
UNKNOWN = "not known"
NOTHING = "–"
Recipe = Mapping[str, Any]  # one of explain.yaml's recipes


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was where the published number was made."""

    what: str  # in the words of params.yaml where it is one of its values
    ours: str
    theirs: str
    worth: str  # points of top-1 accuracy, or "not known"
    source: str


def explain(
    params: Params, method: str, record: Record | None, teacher: Record | None = None
) -> list[Difference]:
    """The differences to the published row of this method and pair; where there is none, to the nearest pair's that is known.

    record: a run of the method, whose result stands beside the published one; teacher: the teacher's run
    Raises `BadParams` for a method that params do not have.
    """
    terms = params.method(method)
    pair = params.report.published
    name = (pair.methods if pair else {}).get(method) or knowledge()["names"].get(method, method)
    row, near = find(pair, method), None
    if row is None:
        near = _nearest(params, method, name)
        row = find(near, method)
    recipe = _recipe(near or pair, row)
    found = [_result(params, method, record, row, near)]
    if recipe is not None and name in recipe.get("copied", {}):
        there = f"copied from {recipe['copied'][name]}: another code base and another recipe"
        found.append(Difference("recipe", params.recipe(method).recipe, there, UNKNOWN, recipe["cite"]))
    elif recipe is not None and row is not None:
        found += _teachers(params, near or pair, recipe, teacher)
        found += _reporting(params, recipe, record)
        found += [
            _valued(what, ours, theirs, recipe, name)
            for what, ours, theirs in (
                *_recipes(params, params.recipe(method), recipe),
                *_losses(terms, name, recipe),
            )
        ]
    return found + list(_remarks(name, recipe))


def lines(differences: Sequence[Difference]) -> list[str]:
    """A table for a terminal, its sources numbered below."""
    sources = list(dict.fromkeys(one.source for one in differences))
    cells = [
        ("", "here", "published", "worth, points of top-1"),
        *((d.what, d.ours, d.theirs, f"{d.worth} [{sources.index(d.source) + 1}]") for d in differences),
    ]
    widths = [
        min(most, max(len(row[column]) for row in cells)) for column, most in enumerate((26, 36, 40, 52))
    ]
    found: list[str] = []
    for row in cells:
        wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
        for at in range(max(map(len, wrapped))):
            found.append(
                "  ".join(
                    (part[at] if at < len(part) else "").ljust(width)
                    for part, width in zip(wrapped, widths, strict=True)
                ).rstrip()
            )
    return [*found, "", *(f"[{number}] {source}" for number, source in enumerate(sources, 1))]


@cache
def knowledge() -> dict[str, Any]:
    return read(KNOWLEDGE)[0]


def _nearest(params: Params, method: str, name: str) -> Published | None:
    """Another pair on the same images whose row of this method was made by a recipe that is known; one network shared if possible."""
    there = params.report.published
    data = there.dataset if there else knowledge()["datasets"].get(params.data.source)
    known = [one for one in knowledge()["recipes"] if one["data"] == data and name in one["methods"]]
    sources = tuple(one["source"] for one in known)
    rows = (
        [
            row
            for row in table()
            if row["dataset"] == data and row["method"] == name and row["source"].startswith(sources)
        ]
        if sources
        else []
    )
    rows.sort(
        key=lambda row: (row["student"] != params.student.network, row["teacher"] != params.teacher.network)
    )
    if not rows:
        return None
    first = rows[0]
    source = first["source"].partition("@")[0]
    return Published(
        dataset=first["dataset"],
        teacher=first["teacher"],
        student=first["student"],
        source=source,
        methods={method: name, TEACHER: TEACHER},
    )


def _recipe(pair: Published | None, row: Reference | None) -> Recipe | None:
    """What the row was made by; without a row, what the others of the pair were."""
    origin = row.source if row else pair.source if pair else ""
    return next(
        (
            one
            for one in knowledge()["recipes"]
            if pair and one["data"] == pair.dataset and origin.startswith(one["source"])
        ),
        None,
    )


def _result(
    params: Params, method: str, record: Record | None, row: Reference | None, near: Published | None
) -> Difference:
    ours = number(record, "last", "test_top1_error") if record else None
    here = f"{ours:.2f} % (last epoch, seed {record.seed})" if record and ours is not None else "no run yet"
    pair = f"{params.data.source}, {params.teacher.network} → {params.student.network}"
    if row is None:
        return Difference(
            "top-1 error",
            here,
            f"no published row for {method} on {pair}",
            "nothing to explain",
            "published.csv",
        )
    there = f"{row.top1_error:.2f} % ({row.protocol})"
    asked = params.report.published
    if (
        near is not None
        and asked is not None
        and (near.dataset, near.teacher, near.student) == (asked.dataset, asked.teacher, asked.student)
    ):
        return Difference(
            "top-1 error",
            here,
            f"no row of its own; {near.methods[method]}: {there}",
            "another method: see the losses below",
            row.source,
        )
    if near is not None:
        there = f"no row for this pair; nearest {near.dataset}, {near.teacher} → {near.student}: {there}"
        return Difference(
            "top-1 error",
            f"{here}; {pair}",
            there,
            "another pair: the recipes can be compared, the numbers cannot",
            row.source,
        )
    gap = NOTHING if ours is None else f"{ours - row.top1_error:+.2f} of error: the gap".replace("-", "−")
    return Difference("top-1 error", here, there, gap, row.source)


def _teachers(
    params: Params, pair: Published | None, recipe: Recipe, teacher: Record | None
) -> Iterator[Difference]:
    there = find(pair, TEACHER)
    ours = number(teacher, "last", "test_top1_error") if teacher else None
    if there is not None and (ours is None or abs(ours - there.top1_error) >= 0.005):
        here = "not trained yet" if ours is None else f"{ours:.2f} %"
        yield Difference("teacher's top-1 error", here, f"{there.top1_error:.2f} %", UNKNOWN, there.source)
    if params.teacher.batchnorm != recipe["teacher_mode"]:
        there_mode = f"{recipe['teacher_mode']} mode"
        yield Difference(
            "teacher's BatchNorm", f"{params.teacher.batchnorm} mode", there_mode, UNKNOWN, recipe["cite"]
        )


def _reporting(params: Params, recipe: Recipe, record: Record | None) -> Iterator[Difference]:
    """Which number is the number: best or last epoch, and of how many runs."""
    if recipe["reported"] != "last epoch":
        yield _valued("the number reported", "last epoch", recipe["reported"], recipe, "")
        last, best = (number(record, row, "test_top1_error") if record else None for row in ("last", "best"))
        if record and last is not None and best is not None:
            worth = f"{last - best:.2f}, measured"
            yield Difference(
                "best epoch against last",
                f"best {best:.2f} %, last {last:.2f} %",
                NOTHING,
                worth,
                f"our own run, seed {record.seed}",
            )
    if str(recipe["runs"]).split()[0] != str(len(params.seeds)):
        yield _valued(
            "runs",
            f"{len(params.seeds)} seeds" if len(params.seeds) > 1 else "1 seed",
            str(recipe["runs"]),
            recipe,
            "",
        )


def _recipes(params: Params, own: Training, recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """What, ours, theirs: of the values that decide a training."""
    training = own.model_dump()
    for what, theirs in [*recipe["training"].items(), ("precision", "float32")]:
        if _plain(training[what]) != _plain(theirs):
            yield what, _shown(training[what]), _shown(theirs)
    for what, theirs in recipe["augmentation"].items():
        ours = training["augmentation"][what]
        if ours != theirs and not (
            what == "padding" and not training["augmentation"]["pad"]
        ):  # of no padding there is no kind
            yield f"augmentation.{what}", _shown(ours), _shown(theirs)
    statistics = recipe.get("normalisation")
    if statistics and not _close(params.data.normalisation, statistics):
        ours = params.data.normalisation
        yield (
            "normalisation",
            ours if isinstance(ours, str) else f"mean {_shown(ours.mean)}",
            f"mean {_shown(statistics['mean'])}, std {_shown(statistics['std'])}",
        )
    if params.data.train_images:  # what a search holds out is trained on too
        yield "training images", f"{params.data.train_images} kept", str(recipe["training_images"])
    if params.data.size and "cut_from" in recipe:
        yield "crops are cut from", f"a centre square of {params.data.size} pixels", str(recipe["cut_from"])


def _losses(ours: Method, name: str, recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    if name not in recipe["methods"]:
        yield "losses", written_out(ours), "not stated in what this project carries"
        return
    faults = Faults(KNOWLEDGE, {})
    theirs = method_of(recipe["methods"][name], ("methods", name), None, faults)
    faults.raise_if_any()
    for loss in dict.fromkeys((*theirs, *ours)):
        if loss not in ours or loss not in theirs:
            mine, their = (
                written_out(Method({loss: terms[loss]})) if loss in terms else "none"
                for terms in (ours, theirs)
            )
            yield f"loss {loss}", mine, their
            continue
        values = zip(_values(ours[loss]).items(), _values(theirs[loss]).values(), strict=True)
        yield from ((f"{what} of {loss}", mine, their) for (what, mine), their in values if mine != their)


def _values(term: Term) -> dict[str, str]:
    """What a term says, as it is shown; the same keys for every term of one loss."""
    weight = term.weight
    decay = (
        f"×{weight.decay:g} at {_shown(weight.milestones)}"
        if weight.milestones and weight.decay != 1
        else "none"
    )
    decay = decay if weight.over is None else f"{weight.curve} to ×{weight.decay:g} over {weight.over}"
    options = {option: _shown(value) for option, value in sorted(term.options.items())}
    return {
        "weight": _shown(weight.value),
        "start": _shown(weight.start),
        "stop": _shown(weight.stop),
        "decay": decay,
    } | options


def _valued(what: str, ours: str, theirs: str, recipe: Recipe, name: str) -> Difference:
    fits = (
        one
        for one in knowledge()["worth"]
        if one["item"] == what and one.get("recipe", recipe["name"]) == recipe["name"]
    )
    known = next((one for one in fits if one.get("method", name) == name), None)
    if known is None:
        return Difference(what, ours, theirs, UNKNOWN, recipe["cite"])
    return Difference(
        what, ours, theirs, str(known["worth"]), f"{recipe['cite']}; the worth: {known['source']}"
    )


def _remarks(name: str, recipe: Recipe | None) -> Iterator[Difference]:
    for one in knowledge()["remarks"]:
        if (
            recipe is not None
            and name in one["methods"]
            and one.get("recipe", recipe["name"]) == recipe["name"]
        ):
            yield Difference(one["what"], one["ours"], one["theirs"], str(one["worth"]), one["source"])


def _close(ours: Any, theirs: Mapping[str, Sequence[float]]) -> bool:
    """The same statistics, however many digits of them were written."""
    if not isinstance(ours, Normalisation):
        return False
    pairs = [
        pair for name in ("mean", "std") for pair in zip(getattr(ours, name), theirs[name], strict=False)
    ]
    return len(ours.mean) == len(theirs["mean"]) and all(abs(mine - their) < 5e-4 for mine, their in pairs)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
