"""Differences between our recipe and that of a published result, and the known effect of each difference.

explain.yaml has the published recipes and known effects with their sources. They are compared with params.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdkd.config.params import Params
from cdkd.config.schema import Normalisation, Published, Training
from cdkd.report.collect import TEACHER
from cdkd.report.explain_losses import NOTHING, as_text, losses
from cdkd.report.published import Reference, find
from cdkd.report.published_recipes import (
    Recipe,
    dataset,
    knowledge,
    nearest,
    recipe_of,
    recipe_without_number,
)
from cdkd.report.summary import Row
from cdkd.report.wording import decimals, mean_std, plural

UNKNOWN = "not known"


@dataclass(frozen=True)
class Difference:
    """One value that differs from the published recipe."""

    what: str  # as in params.yaml where it is one of its values
    ours: str
    theirs: str
    worth: str  # points of top-1 accuracy, or "not known"
    source: str


def explain(
    params: Params, method: str, row: Row | None = None, teacher: Row | None = None
) -> list[Difference]:
    """The differences to the published result of this method and pair, or of the nearest known pair.

    Empty where nothing is published that could be compared.
    row: our results of the method, means over its seeds; teacher: the teacher's
    Raises `BadParams` for a method that params do not have.
    """
    terms = params.method(method)
    pair = params.report.published
    name = (pair.methods if pair else {}).get(method) or knowledge()["names"].get(method, method)
    there, near = find(pair, method), None
    if there is None:
        near = nearest(params, method, name)
        there = find(near, method)
    recipe = recipe_of(near or pair, there)
    remarks = list(_remarks(name, recipe))
    if there is None:
        recipe = recipe_without_number(params, name)
        if recipe is None:
            return remarks
        found = [_no_number(params, row, recipe)]
        remarks = list(dict.fromkeys((*remarks, *_remarks(name, recipe))))
    else:
        found = [_result(params, row, there, near)]
    if recipe is not None and name in recipe.get("copied", {}):
        copied = f"copied from {recipe['copied'][name]}: another code base and another recipe"
        found.append(Difference("recipe", params.recipe(method).recipe, copied, UNKNOWN, recipe["cite"]))
    elif recipe is not None:
        if there is not None:
            found += _teachers(params, near or pair, recipe, teacher)
            found += _reporting(params, recipe, row)
        found += [
            _with_worth(what, ours, theirs, recipe, name)
            for what, ours, theirs in (
                *_recipes(params, params.recipe(method), recipe),
                *losses(terms, name, recipe, params.student.network),
            )
        ]
    return found + remarks


def lines(params: Params, method: str, differences: Sequence[Difference]) -> list[str]:
    """A table for a terminal, its sources numbered below."""
    if not differences:
        pair = f"{params.data.source}, {params.teacher.network} → {params.student.network}"
        return [
            f"No published result of {method} on {pair}, or on a similar pair, is known: nothing to compare."
        ]
    sources = list(dict.fromkeys(one.source for one in differences))
    cells = [
        ("", "here", "published", "known effect, points of top-1"),
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


def _ours(row: Row | None) -> str:
    if row is None or row.top1.mean is None:
        return "no run yet"
    return f"{mean_std(row.top1)} % ({_seeds(row)}, last epoch)"


def _no_number(params: Params, row: Row | None, recipe: Recipe) -> Difference:
    text = "in no source of this project; what follows compares the recipe"
    if recipe["data"] != dataset(params):
        text += f", which is for {recipe['data']}"
    return Difference("top-1 error", _ours(row), text, NOTHING, recipe["cite"])


def _result(params: Params, row: Row | None, there: Reference, near: Published | None) -> Difference:
    ours = row.top1.mean if row else None
    here = _ours(row)
    published = f"{there.top1_error:.2f} % ({there.protocol})"
    asked = params.report.published
    if near is None:
        gap = NOTHING if ours is None else f"{decimals(ours - there.top1_error, sign=True)} of error: the gap"
        return Difference("top-1 error", here, published, gap, there.source)
    if asked is not None and _pair(near) == _pair(asked):
        text = f"not published under this name; {next(iter(near.methods.values()))}: {published}"
        return Difference("top-1 error", here, text, "another method: see its losses below", there.source)
    pair = f"{params.data.source}, {params.teacher.network} → {params.student.network}"
    text = (
        f"not published for this pair; nearest {near.dataset}, {near.teacher} → {near.student}: {published}"
    )
    return Difference(
        "top-1 error",
        f"{here}; {pair}",
        text,
        "another pair: the recipes can be compared, the errors cannot",
        there.source,
    )


def _pair(published: Published) -> tuple[str, str, str]:
    return published.dataset, published.teacher, published.student


def _seeds(row: Row) -> str:
    return f"seed {row.runs[0].seed}" if len(row.runs) == 1 else f"mean over {plural(row.top1.n, 'seed')}"


def _teachers(
    params: Params, pair: Published | None, recipe: Recipe, teacher: Row | None
) -> Iterator[Difference]:
    there = find(pair, TEACHER)
    ours = teacher.top1.mean if teacher else None
    if there is not None and (ours is None or abs(ours - there.top1_error) >= 0.005):
        here = "not trained yet" if ours is None else f"{ours:.2f} %"
        yield Difference("teacher's top-1 error", here, f"{there.top1_error:.2f} %", UNKNOWN, there.source)
    if params.teacher.batchnorm != recipe["teacher_mode"]:
        there_mode = f"{recipe['teacher_mode']} mode"
        yield Difference(
            "teacher's BatchNorm", f"{params.teacher.batchnorm} mode", there_mode, UNKNOWN, recipe["cite"]
        )


def _reporting(params: Params, recipe: Recipe, row: Row | None) -> Iterator[Difference]:
    """Which epoch is reported, and of how many runs."""
    if recipe["reported"] != "last epoch":
        yield _with_worth("the number reported", "last epoch", recipe["reported"], recipe, "")
        if row and row.top1.mean is not None and row.best.mean is not None:
            last, best = row.top1.mean, row.best.mean
            worth = f"{last - best:.2f}, measured"
            yield Difference(
                "best epoch against last",
                f"best {best:.2f} %, last {last:.2f} %",
                NOTHING,
                worth,
                f"our own runs, {_seeds(row)}",
            )
    if str(recipe["runs"]).split()[0] != str(len(params.seeds)):
        yield _with_worth(
            "runs",
            f"{len(params.seeds)} seeds" if len(params.seeds) > 1 else "1 seed",
            str(recipe["runs"]),
            recipe,
            "",
        )


def _recipes(params: Params, own: Training, recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """What, ours, theirs: of the values of a training recipe."""
    training = own.model_dump()
    for what, theirs in [*recipe["training"].items(), ("precision", "float32")]:
        if _plain(training[what]) != _plain(theirs):
            yield what, as_text(training[what]), as_text(theirs)
    for what, theirs in recipe["augmentation"].items():
        ours = training["augmentation"][what]
        if ours != theirs and not (
            what == "padding" and not training["augmentation"]["pad"]
        ):  # without padding its kind is irrelevant
            yield f"augmentation.{what}", as_text(ours), as_text(theirs)
    statistics = recipe.get("normalisation")
    if statistics and not _close(params.data.normalisation, statistics):
        ours = params.data.normalisation
        yield (
            "normalisation",
            ours if isinstance(ours, str) else f"mean {as_text(ours.mean)}",
            f"mean {as_text(statistics['mean'])}, std {as_text(statistics['std'])}",
        )
    if params.data.train_images:  # the validation split of a search is trained on in the end
        yield "training images", f"{params.data.train_images} kept", str(recipe["training_images"])
    if params.data.size and not params.data.uncropped and "cut_from" in recipe:
        yield "crops are cut from", f"a centre square of {params.data.size} pixels", str(recipe["cut_from"])


def _with_worth(what: str, ours: str, theirs: str, recipe: Recipe, name: str) -> Difference:
    fits = (
        one
        for one in knowledge()["worth"]
        if one["item"] == what and one.get("recipe", recipe["name"]) == recipe["name"]
    )
    known = next((one for one in fits if one.get("method", name) == name), None)
    if known is None:
        return Difference(what, ours, theirs, UNKNOWN, recipe["cite"])
    return Difference(what, ours, theirs, str(known["worth"]), f"{recipe['cite']}; effect: {known['source']}")


def _remarks(name: str, recipe: Recipe | None) -> Iterator[Difference]:
    here = None if recipe is None else recipe["name"]
    for one in knowledge()["remarks"]:
        if name in one["methods"] and one.get("recipe", here) == here:
            yield Difference(one["what"], one["ours"], one["theirs"], str(one["worth"]), one["source"])


def _close(ours: Any, theirs: Mapping[str, Sequence[float]]) -> bool:
    """Equal up to the number of digits written."""
    if not isinstance(ours, Normalisation):
        return False
    pairs = [
        pair for name in ("mean", "std") for pair in zip(getattr(ours, name), theirs[name], strict=False)
    ]
    return len(ours.mean) == len(theirs["mean"]) and all(abs(mine - their) < 5e-4 for mine, their in pairs)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
