"""The sections of params.yaml except methods, search and seeds: one function reads and checks each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from cdkd.config.epochs import MAX_EPOCHS, check_milestones, resolved_recipe
from cdkd.config.faults import Faults, Place, show, suggest
from cdkd.config.layers import layered
from cdkd.config.methods import check_name
from cdkd.config.presets import PRESET, expanded
from cdkd.config.recipe import check_recipe
from cdkd.config.schema import (
    Data,
    Normalisation,
    OtherTeacher,
    Report,
    Student,
    Teacher,
    Training,
)
from cdkd.config.teachers import check_seeds

Made = TypeVar("Made", bound=OtherTeacher)


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


def recipes_of(methods: Any, written: Any, faults: Faults) -> dict[str, Training]:
    """The recipes of methods with a number of epochs of their own: the students', with other epochs.

    methods: as params.yaml writes them; written: `training` with its preset written out, which has no fault
    """
    found: dict[str, Training] = {}
    for name, terms in methods.items() if isinstance(methods, dict) else ():
        if not isinstance(terms, dict) or "epochs" not in terms:
            continue
        epochs, inner = terms["epochs"], Faults()
        training = training_of({**written, "epochs": epochs}, written, inner)
        if training is None or inner.found:
            what = f"{show(epochs)}: makes {'.'.join(map(str, inner.places[0][0]))} {inner.places[0][1]}"
            whole = isinstance(epochs, int) and not isinstance(epochs, bool)
            faults.add(
                ("methods", name, "epochs"),
                what if whole else f"{show(epochs)}; expected a whole number of epochs",
            )
        else:
            found[str(name)] = training
    return found


def teacher_of(value: Any, training: Training | None, written: Any, faults: Faults) -> Teacher | None:
    """The teacher, whose recipe is the students' except for what `teacher.training` sets.

    With a preset of its own it has nothing of the students' recipe.
    training: the students', None where it is faulty; written: the same as params.yaml writes it, its preset
        written out
    """
    if not isinstance(value, dict):
        faults.add(("teacher",), f"{show(value)}; expected a section with network, seed, training")
        return None
    named = value.get("others", {})
    own = {key: one for key, one in value.items() if key != "others"}
    teacher = _teacher(Teacher, own, training, written, ("teacher",), faults)
    if not isinstance(named, dict):
        faults.add(("teacher", "others"), f"{show(named)}; expected named teachers")
        return teacher
    others: dict[str, OtherTeacher] = {}
    for name, section in named.items():
        place = ("teacher", "others", name)
        check_name(name, place, faults)
        whole = {"network": value.get("network"), **section} if isinstance(section, dict) else section
        other = _teacher(OtherTeacher, whole, training, written, place, faults)
        if other is not None:
            others[str(name)] = other
    if teacher is None:
        return None
    return check_seeds(teacher, value, faults).model_copy(update={"others": others})


def _teacher(
    kind: type[Made], value: Any, training: Training | None, written: Any, section: Place, faults: Faults
) -> Made | None:
    """A teacher at its place in params.yaml."""
    if not isinstance(value, dict):
        faults.add(section, f"{show(value)}; expected a section with network, untrained, training")
        return None
    place = (*section, "training")
    own = value.get("training", {})
    if not isinstance(own, dict):
        faults.add(place, f"{show(own)}; expected the part of the recipe that differs from training")
        return None
    recipe = _recipe(_merged(own, written if training is not None else None), place, faults)
    teacher: Made | None = faults.section(kind, value | {"training": recipe}, section)
    if teacher is None:
        return None
    check_recipe(teacher.training, own, place, faults)
    _check_weights(teacher, section, faults)
    if teacher.untrained and teacher.weights is not None:
        faults.add((*section, "untrained"), "true together with weights; expected one of the two")
    return teacher


def student_of(value: Any, faults: Faults) -> Student | None:
    student: Student | None = faults.section(Student, value, ("student",))
    if student is not None:
        _check_weights(student, ("student",), faults)
    return student


def _check_weights(section: OtherTeacher | Student, place: Place, faults: Faults) -> None:
    if (section.weights is None) != (section.sha256 is None):
        faults.add(place, "weights and sha256 go together: the file, and the digest it must have")
    if section.weights is not None and not section.weights.endswith(".safetensors"):
        hint = f"`cdkd {place[0]} --from FILE` converts others"
        faults.add((*place, "weights"), f"{show(section.weights)}; expected a .safetensors file; {hint}")


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
