"""params.yaml: its schema, checked whole, and resolved into values that everything else takes as given.

Needs neither torch nor any other heavy friend: `cdkd` reads params.yaml in milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cdkd.config.faults import Faults, read, show, suggest
from cdkd.config.methods import check_name, methods_of, milestones_rise
from cdkd.config.schema import MOST_EPOCHS, Data, Normalisation, Report, Student, Study, Teacher, Training
from cdkd.config.search_space import Space
from cdkd.config.search_space_checks import space_of
from cdkd.core.errors import BadParams
from cdkd.core.schedule import Method
from cdkd.models import names


class Params(BaseModel):
    """One experiment, resolved: every number of every run."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    experiment: str
    data: Data
    teacher: Teacher
    student: Student
    training: Training
    seeds: tuple[int, ...]
    methods: dict[str, Any]  # name -> Method, in the order of the tables' rows
    search: dict[str, Space]  # study -> what it may choose
    tuned: dict[str, Training] = {}  # of the methods, those that a search gave, and their recipes
    report: Report
    root: Path  # the folder of params.yaml, which every relative path starts from

    def recipe(self, method: str) -> Training:
        return self.tuned.get(method, self.training)

    def method(self, name: str) -> Method:
        if name not in self.methods:
            raise BadParams(
                f"no method {name!r} in params.yaml; expected one of {', '.join(self.methods)}{suggest(name, self.methods)}"
            )
        found: Method = self.methods[name]
        return found


def load(path: Path) -> Params:
    """Read, check and resolve one experiment; raises `BadParams` with all faults at once."""
    raw, lines = read(path)
    faults = Faults(path, lines)
    params = _resolve(raw, faults, path.resolve().parent)
    faults.raise_if_any()
    if params is None:
        raise BadParams(f"{path}: a section could not be read")
    return params


TOP = ("experiment", "data", "teacher", "student", "training", "seeds", "methods", "search", "report")


def _resolve(raw: dict[str, Any], faults: Faults, root: Path) -> Params | None:
    for key in raw:
        if key not in TOP:
            faults.add((key,), f"unknown section{suggest(str(key), TOP)}; expected one of {', '.join(TOP)}")
    for key in TOP[:-2]:
        if key not in raw:
            faults.add((key,), "missing")
    experiment = check_name(raw.get("experiment", "x"), ("experiment",), faults)
    training_raw = raw.get("training")
    training = faults.section(Training, training_raw, ("training",)) if "training" in raw else None
    data = faults.section(Data, raw["data"], ("data",)) if "data" in raw else None
    student = faults.section(Student, raw["student"], ("student",)) if "student" in raw else None
    teacher = _teacher(raw["teacher"], training, faults) if "teacher" in raw else None
    report = faults.section(Report, raw.get("report", {}), ("report",))
    seeds = _seeds(raw.get("seeds", [0]), faults)
    methods = methods_of(raw["methods"], _epochs(training_raw), faults) if "methods" in raw else {}
    search = _search(raw.get("search", {}), raw.get("methods"), training, faults)

    for place, section in (
        (("training",), training),
        (("teacher", "training"), teacher.training if teacher else None),
    ):
        if section is not None:
            milestones_rise(section.milestones, section.epochs, (*place, "milestones"), faults)
            if section.nesterov and section.momentum == 0:
                faults.add((*place, "nesterov"), "true with momentum 0; expected a momentum above 0")
            if section.batch < 2:
                faults.add(
                    (*place, "batch"), f"{section.batch}; expected at least 2 (BatchNorm needs company)"
                )
    for place, section in ((("teacher", "network"), teacher), (("student", "network"), student)):
        if section is not None and section.network not in names.NETWORKS:
            hint = suggest(section.network, names.NETWORKS)
            faults.add(
                place,
                f"unknown network {show(section.network)}{hint}; expected one of {', '.join(names.NETWORKS)}",
            )
    if data is not None:
        if data.source == "folder" and not data.paths:
            faults.add(
                ("data", "paths"),
                "nothing; expected the directories or zip archives that source folder reads",
            )
        if data.source != "folder" and data.paths:
            faults.add(("data", "paths"), f"{list(data.paths)}; only source folder reads paths")
        norm = data.normalisation
        if isinstance(norm, Normalisation) and len(norm.mean) != len(norm.std):
            faults.add(
                ("data", "normalisation"),
                f"{len(norm.mean)} means and {len(norm.std)} standard deviations; expected as many of each",
            )
    if report is not None and isinstance(raw.get("methods"), dict):
        given = _given(raw.get("search"))
        for table in ("ablation", "comparison"):
            for index, row in enumerate(getattr(report, table)):
                known = [*raw["methods"], *given]
                if row not in known:
                    faults.add(("report", table, index), f"no method {show(row)}{suggest(row, known)}")
    if faults.found or data is None or teacher is None or student is None or training is None:
        return None
    sections = {"data": data, "teacher": teacher, "student": student, "training": training, "report": report}
    return Params(experiment=experiment, seeds=seeds, methods=methods, search=search, root=root, **sections)


def _teacher(value: Any, training: Training | None, faults: Faults) -> Teacher | None:
    """The teacher's recipe is the students' but for what `teacher.training` says."""
    if not isinstance(value, dict):
        faults.add(("teacher",), f"{show(value)}; expected a section with network, seed, training")
        return None
    own = value.get("training", {})
    if not isinstance(own, dict):
        faults.add(
            ("teacher", "training"),
            f"{show(own)}; expected the part of the recipe that differs from training",
        )
        return None
    if training is None:  # its own faults are listed already; check what can be checked of the teacher's
        base: dict[str, Any] = {"epochs": own.get("epochs", MOST_EPOCHS)}
    else:
        base = training.model_dump()
    merged = base | own
    if isinstance(own.get("augmentation"), dict) and training is not None:
        merged["augmentation"] = training.augmentation.model_dump() | own["augmentation"]
    teacher: Teacher | None = faults.section(Teacher, value | {"training": merged}, ("teacher",))
    if teacher is not None and (teacher.weights is None) != (teacher.sha256 is None):
        faults.add(("teacher",), "weights and sha256 go together: the file, and the digest it must have")
    if teacher is not None and teacher.weights is not None and not teacher.weights.endswith(".safetensors"):
        faults.add(
            ("teacher", "weights"),
            f"{show(teacher.weights)}; expected a .safetensors file (nothing from outside is unpickled)",
        )
    return teacher


def _given(studies: Any) -> list[str]:
    """The methods that studies say they give, faulty or not."""
    found = studies.values() if isinstance(studies, dict) else ()
    return [str(study["method"]) for study in found if isinstance(study, dict) and "method" in study]


def _search(value: Any, methods: Any, training: Training | None, faults: Faults) -> dict[str, Space]:
    if not isinstance(value, dict):
        faults.add(("search",), f"{show(value)}; expected named studies")
        return {}
    found: dict[str, Space] = {}
    taken = set(methods) if isinstance(methods, dict) else set()
    for name, section in value.items():
        place = ("search", name)
        check_name(name, place, faults)
        study: Study | None = faults.section(Study, section, place)
        if study is None:  # what can be checked of the rest is
            study = (
                Faults().section(
                    Study, {key: section[key] for key in ("base", "method", "space") if key in section}, ()
                )
                if isinstance(section, dict)
                else None
            )
        if study is None:
            continue
        if study.method is not None:
            check_name(study.method, (*place, "method"), faults)
            if study.method in taken:
                faults.add((*place, "method"), f"{show(study.method)} is another method's name")
            taken.add(study.method)
        if training is not None and isinstance(methods, dict):
            space = space_of(study, place, methods, training, faults)
            if space is not None:
                found[name] = space
    return found


def _epochs(training: Any) -> int | None:
    """The length that schedules are checked against, even where the rest of the recipe is faulty."""
    epochs = training.get("epochs") if isinstance(training, dict) else None
    return (
        epochs
        if isinstance(epochs, int) and not isinstance(epochs, bool) and 0 < epochs <= MOST_EPOCHS
        else None
    )


def _seeds(value: Any, faults: Faults) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        faults.add(("seeds",), f"{show(value)}; expected a list of whole numbers, such as [0, 1, 2]")
        return ()
    for index, seed in enumerate(value):
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
            faults.add(("seeds", index), f"{show(seed)}; expected a whole number from 0 to 2**32 - 1")
        elif seed in value[:index]:
            faults.add(("seeds", index), f"{seed} again; a seed counts once")
    return tuple(value)
