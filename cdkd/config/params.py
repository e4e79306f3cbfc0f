"""params.yaml: read, checked as a whole, and resolved into the values that everything else uses.

Needs neither torch nor any other large library: `cdkd check` answers in milliseconds, unless a method has a
group, whose networks it builds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cdkd.config import sections
from cdkd.config.epochs import MAX_EPOCHS, resolved_method
from cdkd.config.every_study import with_every
from cdkd.config.faults import Faults, suggest
from cdkd.config.groups import with_student
from cdkd.config.methods import check_name, epochs_of, methods_of
from cdkd.config.presets import expanded
from cdkd.config.reading import read
from cdkd.config.schema import SOURCES, Data, Report, Student, Teacher, Training
from cdkd.config.search_space import Space
from cdkd.config.seeds import SeedsRule, seeds_of
from cdkd.config.studies import methods_given, studies_of
from cdkd.config.teachers import teachers_of
from cdkd.core import own_code
from cdkd.core.errors import BadParams
from cdkd.core.schedule import Method
from cdkd.losses import signature
from cdkd.models.names import NETWORKS

REQUIRED = ("experiment", "data", "teacher", "student", "training", "seeds", "methods")
KEYS = (*REQUIRED, "search", "report")

# of a method with a group, the teacher's network and the recipe: what does not fit, or None
Misfit = Callable[[Method, str, Training], str | None]


class Params(BaseModel):
    """One experiment, resolved: every number of every run.

    seeds: all that may be trained; `pipeline.queries.full` gives those that a rule has asked for so far
    rule: that adds seeds until the planned comparisons are decided
    methods: by name, in the order of the tables' rows
    search: what each study may choose
    tuned: the methods that a search found, and their recipes
    recipes: of methods with a number of epochs of their own
    teacher_of: the methods that learn from one of `teacher.others`, and its name
    taught_by: of a view of one teacher (see `config.teachers`): the teacher's name, empty of the main one
    root: the folder of params.yaml, from which every relative path starts
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    experiment: str
    data: Data
    teacher: Teacher
    student: Student
    training: Training
    seeds: tuple[int, ...]
    rule: SeedsRule | None = None
    methods: dict[str, Any]  # of Method, which pydantic would copy
    search: dict[str, Space]
    tuned: dict[str, Training] = {}
    recipes: dict[str, Training] = {}
    teacher_of: dict[str, str] = {}
    taught_by: str | None = None
    report: Report
    root: Path

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds after which the rule may end them; none without a rule."""
        return () if self.rule is None else self.rule.looks

    @property
    def runs(self) -> int:
        """The number of students' runs: of all methods, seeds and teachers."""
        return len(self.methods) * len(self.seeds) * len(self.teacher.all_seeds)

    @property
    def seeds_text(self) -> str:
        """ "3 seeds", or "4 to 20 seeds"."""
        most = f"{len(self.seeds)} seed{'s' * (len(self.seeds) != 1)}"
        return most if self.rule is None else f"{self.rule.at_least} to {most}"

    def recipe(self, method: str) -> Training:
        return self.tuned.get(method) or self.recipes.get(method, self.training)

    def method(self, name: str) -> Method:
        if name not in self.methods:
            known = f"{', '.join(self.methods)}{suggest(name, self.methods)}"
            raise BadParams(f"no method {name!r} in params.yaml; expected one of {known}")
        found: Method = self.methods[name]
        return found


def load(path: str | Path, text: str | None = None, misfit: Misfit | None = None) -> Params:
    """Read, check and resolve one experiment. Raises `BadParams` with all faults at once.

    text: what to read instead of the file, which faults still name; misfit: a further check of groups
    """
    path = Path(path)
    use_project_of(path)
    raw, lines = read(path, text)
    faults = Faults(path, lines)
    params = _resolved(raw, faults, path.resolve().parent, misfit)
    faults.raise_if_any()
    if params is None:
        raise BadParams(f"{path}: a section could not be read")
    return params


def use_project_of(path: Path) -> None:
    """Use the losses, networks and sources next to this params.yaml, or above its folder experiments/."""
    folders = path.resolve().parents[:2]  # a template is a folder deeper
    own_code.use(next((one.parent for one in folders if one.name == "experiments"), folders[0]))
    own_code.check(own_code.LOSSES, signature.built_in())
    own_code.check(own_code.NETWORKS, list(NETWORKS))
    own_code.check(own_code.SOURCES, list(SOURCES))


def _resolved(raw: dict[str, Any], faults: Faults, root: Path, misfit: Misfit | None) -> Params | None:
    """Read every section, each with the values that it needs of earlier ones."""
    _check_keys(raw, faults)
    experiment = check_name(raw["experiment"], ("experiment",), faults) if "experiment" in raw else ""
    recipe = expanded(raw.get("training"))
    training = sections.training_of(recipe, raw["training"], faults) if "training" in raw else None
    teacher = None
    if "teacher" in raw:
        teacher = sections.teacher_of(raw["teacher"], training, recipe, faults)
    student = sections.student_of(raw["student"], faults) if "student" in raw else None
    data = sections.data_of(raw["data"], training, faults) if "data" in raw else None
    epochs = sections.epochs_of(recipe)
    written = with_student(raw.get("methods"), None if student is None else student.network)
    methods = methods_of(written, epochs, faults) if "methods" in raw else {}
    if misfit is not None and teacher is not None and training is not None:
        _check_groups(methods, teacher.network, training, misfit, faults)
    studies = with_every(raw.get("search", {}), written, training, faults)
    rows = None
    if isinstance(written, dict):
        rows = [*map(str, written), *methods_given(studies)]
        written = {
            name: resolved_method(terms, epochs_of(terms, epochs) or MAX_EPOCHS)
            for name, terms in written.items()
        }
    compared = list(map(str, written)) if isinstance(written, dict) else None
    seeds, rule = seeds_of(raw["seeds"], compared, faults) if "seeds" in raw else ((), None)
    if rule is not None and teacher is not None and (teacher.others or len(teacher.all_seeds) > 1):
        faults.add(("seeds",), "a rule handles one teacher, and there are several; expected a list of seeds")
    recipes = {} if training is None else sections.recipes_of(written, recipe, faults)
    teacher_of = teachers_of(written, teacher, faults)
    search = studies_of(studies, written, training, faults, recipes)
    if search and data is not None and data.validation == 0:
        what = "0; the studies of search compare their trials on it: expected more"
        faults.add(("data", "validation"), what)
    report = sections.report_of(raw.get("report", {}), rows, faults)
    if (
        faults.found
        or data is None
        or teacher is None
        or student is None
        or training is None
        or report is None
    ):
        return None
    return Params(
        experiment=experiment,
        data=data,
        teacher=teacher,
        student=student,
        training=training,
        seeds=seeds,
        rule=rule,
        methods=methods,
        search=search,
        recipes=recipes,
        teacher_of=teacher_of,
        report=report,
        root=root,
    )


def _check_groups(
    methods: Mapping[str, Method], teacher: str, training: Training, misfit: Misfit, faults: Faults
) -> None:
    """Whether networks and losses fit together, of the groups that have no other fault."""
    faulty = {place[1] for place, _ in faults.places if place[0] == "methods" and len(place) > 1}
    for name, method in methods.items():
        if method.group is None or name in faulty:
            continue
        if (found := misfit(method, teacher, training)) is not None:
            part, _, what = found.partition(": ")
            terms = [key for key, term in method.items() if term.loss == part]
            faults.add(("methods", name, *([part] if part == "group" else terms[:1])), what)


def _check_keys(raw: dict[str, Any], faults: Faults) -> None:
    for key in raw:
        if key not in KEYS:
            faults.add((key,), f"unknown section{suggest(str(key), KEYS)}; expected one of {', '.join(KEYS)}")
    for key in REQUIRED:
        if key not in raw:
            faults.add((key,), "missing")
