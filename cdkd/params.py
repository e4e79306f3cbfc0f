"""params.yaml: its schema, checked whole, and resolved into values that everything else takes as given.

Needs neither torch nor any other heavy friend: `cdkd` reads params.yaml in milliseconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cdkd.errors import BadParams
from cdkd.faults import Faults, read, show, suggest
from cdkd.losses import signature
from cdkd.models import names
from cdkd.schedule import Method, Term, Weight
from cdkd.schema import Data, Normalisation, Report, Schedule, Student, Teacher, Training, term_model

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
RESERVED = ("teacher",)  # the teacher's runs lie beside the methods'


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
    report: Report
    root: Path  # the folder of params.yaml, which every relative path starts from

    def method(self, name: str) -> Method:
        if name not in self.methods:
            raise BadParams(f"no method {name!r} in params.yaml; expected one of {', '.join(self.methods)}{suggest(name, self.methods)}")
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


TOP = ("experiment", "data", "teacher", "student", "training", "seeds", "methods", "report")


def _resolve(raw: dict[str, Any], faults: Faults, root: Path) -> Params | None:
    for key in raw:
        if key not in TOP:
            faults.add((key,), f"unknown section{suggest(str(key), TOP)}; expected one of {', '.join(TOP)}")
    for key in TOP[:-1]:
        if key not in raw:
            faults.add((key,), "missing")
    experiment = _name(raw.get("experiment", "x"), ("experiment",), faults)
    training_raw = raw.get("training")
    training = faults.section(Training, training_raw, ("training",)) if "training" in raw else None
    data = faults.section(Data, raw["data"], ("data",)) if "data" in raw else None
    student = faults.section(Student, raw["student"], ("student",)) if "student" in raw else None
    teacher = _teacher(raw["teacher"], training, faults) if "teacher" in raw else None
    report = faults.section(Report, raw.get("report", {}), ("report",))
    seeds = _seeds(raw.get("seeds", [0]), faults)
    methods = _methods(raw["methods"], _epochs(training_raw), faults) if "methods" in raw else {}

    for place, section in ((("training",), training), (("teacher", "training"), teacher.training if teacher else None)):
        if section is not None:
            _milestones(section.milestones, section.epochs, (*place, "milestones"), faults)
            if section.nesterov and section.momentum == 0:
                faults.add((*place, "nesterov"), "true with momentum 0; expected a momentum above 0")
            if section.batch < 2:
                faults.add((*place, "batch"), f"{section.batch}; expected at least 2 (BatchNorm needs company)")
    for place, section in ((("teacher", "network"), teacher), (("student", "network"), student)):
        if section is not None and section.network not in names.NETWORKS:
            hint = suggest(section.network, names.NETWORKS)
            faults.add(place, f"unknown network {show(section.network)}{hint}; expected one of {', '.join(names.NETWORKS)}")
    if data is not None:
        if data.source == "folder" and not data.paths:
            faults.add(("data", "paths"), "nothing; expected the directories or zip archives that source folder reads")
        if data.source != "folder" and data.paths:
            faults.add(("data", "paths"), f"{list(data.paths)}; only source folder reads paths")
        norm = data.normalisation
        if isinstance(norm, Normalisation) and len(norm.mean) != len(norm.std):
            faults.add(("data", "normalisation"), f"{len(norm.mean)} means and {len(norm.std)} standard deviations; expected as many of each")
    if report is not None and isinstance(raw.get("methods"), dict):
        for table in ("ablation", "comparison"):
            for index, row in enumerate(getattr(report, table)):
                if row not in raw["methods"]:
                    faults.add(("report", table, index), f"no method {show(row)}{suggest(row, raw['methods'])}")
    if faults.found or data is None or teacher is None or student is None or training is None:
        return None
    return Params(experiment=experiment, data=data, teacher=teacher, student=student, training=training, seeds=seeds, methods=methods, report=report, root=root)


def _name(value: Any, place: tuple[Any, ...], faults: Faults) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value) or value in RESERVED:
        faults.add(place, f"{show(value)} is no name; expected lower-case letters, digits, '_', '.', '-', at most 64, and not {RESERVED[0]!r}")
    return str(value)


def _teacher(value: Any, training: Training | None, faults: Faults) -> Teacher | None:
    """The teacher's recipe is the students' but for what `teacher.training` says."""
    if not isinstance(value, dict):
        faults.add(("teacher",), f"{show(value)}; expected a section with network, seed, training")
        return None
    own = value.get("training", {})
    if not isinstance(own, dict):
        faults.add(("teacher", "training"), f"{show(own)}; expected the part of the recipe that differs from training")
        return None
    if training is None:  # its own faults are listed already; check what can be checked of the teacher's
        base: dict[str, Any] = {"epochs": own.get("epochs", 1 << 30)}
    else:
        base = training.model_dump()
    merged = base | own
    if isinstance(own.get("augmentation"), dict) and training is not None:
        merged["augmentation"] = training.augmentation.model_dump() | own["augmentation"]
    teacher: Teacher | None = faults.section(Teacher, value | {"training": merged}, ("teacher",))
    if teacher is not None and (teacher.weights is None) != (teacher.sha256 is None):
        faults.add(("teacher",), "weights and sha256 go together: the file, and the digest it must have")
    if teacher is not None and teacher.weights is not None and not teacher.weights.endswith(".safetensors"):
        faults.add(("teacher", "weights"), f"{show(teacher.weights)}; expected a .safetensors file (nothing from outside is unpickled)")
    return teacher


def _epochs(training: Any) -> int | None:
    """The length that schedules are checked against, even where the rest of the recipe is faulty."""
    epochs = training.get("epochs") if isinstance(training, dict) else None
    return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) and epochs > 0 else None


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


def _milestones(milestones: tuple[int, ...], epochs: int, place: tuple[Any, ...], faults: Faults) -> None:
    if list(milestones) != sorted(set(milestones)):
        faults.add(place, f"{list(milestones)}; expected rising epochs, each once")
    if late := [m for m in milestones if m >= epochs]:
        faults.add(place, f"{late} beyond the last epoch; training has epochs 0 to {epochs - 1}")


def _methods(value: Any, epochs: int | None, faults: Faults) -> dict[str, Method]:
    if not isinstance(value, dict) or not value:
        faults.add(("methods",), f"{show(value)}; expected named methods, such as kd: {{ce: {{weight: 0.1}}, kd: {{weight: 0.9}}}}")
        return {}
    return {str(name): _method(name, terms, epochs, faults) for name, terms in value.items()}


def _method(name: Any, terms: Any, epochs: int | None, faults: Faults) -> Method:
    place = ("methods", name)
    _name(name, place, faults)
    if not isinstance(terms, dict) or not terms:
        faults.add(place, f"{show(terms)}; expected losses with their weights, such as {{ce: {{weight: 1}}}}")
        return {}
    method: dict[str, Term] = {}
    losses = signature.names()
    for loss, term in terms.items():
        if loss not in losses:
            faults.add((*place, loss), f"no such loss{suggest(str(loss), losses)}; expected one of {', '.join(losses)}")
            continue
        built = faults.section(term_model(loss), term, (*place, loss))
        if built is not None:
            method[loss] = _term(built, (*place, loss), epochs, faults)
    if epochs is not None and len(method) == len(terms):
        silent = [e for e in range(epochs) if not any(term.weight.at(e) > 0 for term in method.values())]
        if silent:
            faults.add(place, f"no loss has a weight above 0 in epochs {_ranges(silent)}; nothing would be trained there")
    return method


def _term(built: Any, place: tuple[Any, ...], epochs: int | None, faults: Faults) -> Term:
    weight = Weight(built.weight, built.start, built.stop, built.milestones, built.decay, built.curve, built.over)
    if weight.over is not None and weight.milestones:
        faults.add((*place, "over"), f"{weight.over} beside milestones; expected one of the two")
    if weight.over is None and weight.curve != "step":
        faults.add((*place, "curve"), f"{weight.curve} needs over, the epochs until weight * decay is reached")
    if weight.decay == 0 and weight.curve not in ("linear", "cosine"):
        faults.add((*place, "decay"), "0; expected more than 0, but for a linear or cosine curve")
    if weight.stop is not None and weight.stop <= weight.start:
        faults.add((*place, "stop"), f"{weight.stop}; expected more than start, {weight.start}")
    if epochs is not None:
        _milestones(weight.milestones, epochs, (*place, "milestones"), faults)
        for field in ("start", "stop"):
            epoch = getattr(weight, field)
            if epoch is not None and epoch > epochs - (field == "start"):
                faults.add((*place, field), f"{epoch} beyond the last epoch; training has epochs 0 to {epochs - 1}")
    return Term(weight, {key: value for key, value in built.model_dump().items() if key not in Schedule.model_fields})


def _ranges(epochs: list[int]) -> str:
    """[0, 1, 2, 7] as "0-2, 7"."""
    parts: list[list[int]] = []
    for epoch in epochs:
        if parts and epoch == parts[-1][-1] + 1:
            parts[-1].append(epoch)
        else:
            parts.append([epoch])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
