"""The sections of params.yaml except methods, search and seeds: one function reads and checks each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdkd.config.epochs import MAX_EPOCHS, check_milestones, resolved_recipe
from cdkd.config.faults import Faults, Place, show, suggest
from cdkd.config.layers import layered
from cdkd.config.presets import PRESET, expanded
from cdkd.config.recipe import check_recipe
from cdkd.config.schema import (
    Data,
    Normalisation,
    Report,
    Student,
    Teacher,
    Training,
)


def epochs_of(training: Any) -> int | None:
    """The number of epochs, also if other values of the recipe are faulty; None if it is faulty itself."""
    epochs: Any = training.get("epochs") if isinstance(training, dict) else None
    integer = isinstance(epochs, int) and not isinstance(epochs, bool)
    return epochs if integer and 0 < epochs <= MAX_EPOCHS else None


def training_of(value: Any, written: Any, faults: Faults) -> Training | None:
    """value: the section with its preset written out; written: as params.yaml has it"""
    training: Training | None = faults.section(Training, _recipe(value, ("training",), faults), ("training",))
    check_recipe(training, written, ("training",), faults)
    return training


def teacher_of(value: Any, training: Training | None, written: Any, faults: Faults) -> Teacher | None:
    """The teacher, whose recipe is the students' except for what `teacher.training` sets.

    With a preset of its own it has nothing of the students' recipe.
    training: the students', None where it is faulty; written: the same as params.yaml writes it, its preset
        written out
    """
    if not isinstance(value, dict):
        faults.add(("teacher",), f"{show(value)}; expected a section with network, seed, training")
        return None
    place = ("teacher", "training")
    own = value.get("training", {})
    if not isinstance(own, dict):
        faults.add(place, f"{show(own)}; expected the part of the recipe that differs from training")
        return None
    recipe = _recipe(_merged(own, written if training is not None else None), place, faults)
    teacher: Teacher | None = faults.section(Teacher, value | {"training": recipe}, ("teacher",))
    if teacher is None:
        return None
    check_recipe(teacher.training, own, place, faults)
    _check_weights(teacher, "teacher", faults)
    return teacher


def student_of(value: Any, faults: Faults) -> Student | None:
    student: Student | None = faults.section(Student, value, ("student",))
    if student is not None:
        _check_weights(student, "student", faults)
    return student


def _check_weights(section: Teacher | Student, name: str, faults: Faults) -> None:
    if (section.weights is None) != (section.sha256 is None):
        faults.add((name,), "weights and sha256 go together: the file, and the digest it must have")
    if section.weights is not None and not section.weights.endswith(".safetensors"):
        hint = f"`cdkd {name} --from FILE` converts others"
        faults.add((name, "weights"), f"{show(section.weights)}; expected a .safetensors file; {hint}")


def data_of(value: Any, training: Training | None, faults: Faults) -> Data | None:
    data: Data | None = faults.section(Data, value, ("data",))
    if data is None:
        return None
    if data.source == "folder" and not data.paths:
        what = "nothing; expected the directories or zip archives that source folder reads"
        faults.add(("data", "paths"), what)
    if data.source != "folder" and data.paths:
        faults.add(("data", "paths"), f"{list(data.paths)}; only source folder reads paths")
    if data.source != "folder" and data.test is not None:
        faults.add(("data", "test"), f"{data.test}; {data.source} has a test split, remove it")
    if data.uncropped and data.source != "folder":
        faults.add(("data", "uncropped"), f"true; the images of {data.source} are of one size, remove it")
    if data.uncropped and data.size is None:
        faults.add(("data", "uncropped"), "true; also set data.size, the shorter side in evaluation")
    if data.uncropped and training is not None and training.augmentation.resized_crop is None:
        what = "true; also set training.augmentation.resized_crop, the side of the crops"
        faults.add(("data", "uncropped"), what)
    norm = data.normalisation
    if isinstance(norm, Normalisation) and len(norm.mean) != len(norm.std):
        what = f"{len(norm.mean)} means and {len(norm.std)} standard deviations; expected as many of each"
        faults.add(("data", "normalisation"), what)
    return data


def report_of(value: Any, rows: list[str] | None, faults: Faults) -> Report | None:
    """rows: the names that a table may list; None where they are not known."""
    report: Report | None = faults.section(Report, value, ("report",))
    if rows is not None and isinstance(value, dict):
        for table in ("ablation", "comparison"):
            listed = value.get(table)
            for index, row in enumerate(listed if isinstance(listed, list) else ()):
                if isinstance(row, str) and row not in rows:
                    faults.add(("report", table, index), f"no method {show(row)}{suggest(row, rows)}")
    return report


def _merged(own: dict[str, Any], written: Any) -> dict[str, Any]:
    """The teacher's own part of the recipe on top of the students', shares still as they are written."""
    if PRESET in own:
        return dict(expanded(own))
    if written is None:  # its own faults are listed already; check what can be checked of the teacher's
        return {"epochs": MAX_EPOCHS} | own
    return layered(written, own)


def _recipe(value: Any, place: Place, faults: Faults) -> Any:
    """A recipe with whole epochs in place of shares, and the faults of its milestones."""
    epochs = epochs_of(value)
    if not isinstance(value, Mapping) or epochs is None:
        return value
    check_milestones(value.get("milestones"), epochs, (*place, "milestones"), faults)
    return resolved_recipe(value, epochs)
