"""The teachers of an experiment: the main one with one seed or several, and others that methods may name.

A view is the params of one teacher: its network, one seed, and the methods that learn from it. Where only
`teacher.seed` is given and no method names another teacher, there is one view, with all methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cdkd.config.faults import Faults, show, suggest
from cdkd.config.schema import Teacher
from cdkd.core.errors import BadParams
from cdkd.core.schedule import TEACHER

if TYPE_CHECKING:
    from cdkd.config.params import Params

Key = int | tuple[int, int]
MAIN = ""  # the name of the experiment's own teacher among its teachers


def views(params: Params) -> tuple[Params, ...]:
    """A view for each teacher and seed, the main teacher's first; a view has itself as its only view."""
    if params.taught_by is not None:
        return (params,)
    return tuple(
        _view(params, name, seed)
        for seed in params.teacher.all_seeds
        for name in (MAIN, *params.teacher.others)
    )


def views_of(params: Params, method: str) -> tuple[Params, ...]:
    """The views in which a method is trained."""
    return tuple(view for view in views(params) if method in view.methods)


def key_of(view: Params, method: str, seed: int) -> tuple[str, Key]:
    """A run among those of all teachers; with one teacher simply method and seed.

    Of a student of several teachers (teacher's seed, seed); of another teacher's own training its name.
    """
    if method == TEACHER:
        return f"{TEACHER} {view.taught_by or MAIN}".strip(), seed
    return method, (view.teacher.seed, seed) if len(view.teacher.all_seeds) > 1 else seed


def run_name(view: Params, method: str, seed: int) -> str:
    """Of a run, for messages: "kd seed 0", and where there are several teachers which one it has or is."""
    several = method != TEACHER and len(view.teacher.all_seeds) > 1
    of = f" of teacher seed {view.teacher.seed}" if several else ""
    return f"{key_of(view, method, seed)[0]} seed {seed}{of}"


def view_of(params: Params, method: str, teacher: str | None) -> Params:
    """The view of a run that a user names. Raises `BadParams`.

    teacher: which of several: for a student the teacher's seed, for a teacher its name; None: the first
    """
    found = views(params) if method == TEACHER else views_of(params, method)
    by = {
        (str(view.teacher.seed) if method != TEACHER else view.taught_by or TEACHER): view
        for view in found[::-1]
    }
    if teacher is None:
        return found[0]
    if teacher not in by:
        raise BadParams(f"{method}: no teacher {teacher!r}; expected one of {', '.join(reversed(by))}")
    return by[teacher]


def _view(params: Params, name: str, seed: int) -> Params:
    def mine(method: str) -> bool:
        return params.teacher_of.get(method, MAIN) == name

    main = params.teacher
    other = {} if name == MAIN else dict(main.others[name])
    others = {method for method in params.teacher_of if not mine(method)}
    rows = {
        table: tuple(
            row for row in getattr(params.report, table) if (row not in others if name == MAIN else mine(row))
        )
        for table in ("ablation", "comparison")
    }
    return params.model_copy(
        update={
            "taught_by": name,
            "teacher": main.model_copy(update={**other, "seed": seed}),
            "methods": {method: one for method, one in params.methods.items() if mine(method)},
            "tuned": {method: one for method, one in params.tuned.items() if mine(method)},
            "search": {key: one for key, one in params.search.items() if mine(one.study.base)},
            "report": params.report.model_copy(update=rows),
        }
    )


def check_seeds(teacher: Teacher, written: Mapping[str, Any], faults: Faults) -> Teacher:
    """Of `seed` and `seeds` one is given; the seed of several is the first."""
    if not teacher.seeds:
        return teacher
    if "seed" in written:
        faults.add(("teacher", "seed"), f"{teacher.seed} together with seeds; expected one of the two")
    for index, seed in enumerate(teacher.seeds):
        if seed in teacher.seeds[:index]:
            faults.add(("teacher", "seeds", index), f"{seed} again; expected each seed once")
    if teacher.weights is not None:
        faults.add(("teacher", "seeds"), "together with weights, which are one teacher; expected seed")
    return teacher.model_copy(update={"seed": teacher.seeds[0]})


def teachers_of(methods: Any, teacher: Teacher | None, faults: Faults) -> dict[str, str]:
    """Method -> the teacher that it names; methods as params.yaml writes them."""
    found: dict[str, str] = {}
    known = () if teacher is None else tuple(teacher.others)
    for name, terms in methods.items() if isinstance(methods, dict) else ():
        if not isinstance(terms, dict) or "teacher" not in terms:
            continue
        wanted = terms["teacher"]
        if wanted in known:
            found[str(name)] = wanted
        elif teacher is not None:
            listed = ", ".join(known) or "none: teacher.others is empty"
            what = f"no such teacher {show(wanted)}{suggest(str(wanted), known)}; teacher.others has {listed}"
            faults.add(("methods", name, "teacher"), what)
    return found
