"""The plan of an experiment as one file, for a machine without its params, its store and its libraries.

A student's fingerprint depends on its teacher's weights. Where the teacher is not trained yet, the
file leaves `weights_sha256` open in the students' configurations, and the worker fills it in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdkd.cluster import checks
from cdkd.core.errors import BadRecord
from cdkd.core.names import EXPECTED, is_name
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import Meta
from cdkd.runs.record import Record
from cdkd.runs.specification import code_of, student_plans, teacher_plan
from cdkd.runs.store import Store
from cdkd.storage import sealed_json

if TYPE_CHECKING:
    from cdkd.config.params import Params

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """Every run of an experiment.

    data: what `cdkd.data.prepare.prepare` takes; data_digest: of the prepared data
    weights_sha256: of the finished teacher; None while it is still to be trained
    students: every method of every seed, seed by seed
    stored: fingerprints of the runs that need no training any more
    """

    experiment: str
    data: Mapping[str, Any]
    data_digest: str
    teacher: RunSpec
    weights_sha256: str | None
    students: tuple[RunSpec, ...]
    stored: frozenset[str]

    @property
    def seeds(self) -> dict[int, list[RunSpec]]:
        """The students that may be trained as one cohort, by their seed."""
        found: dict[int, list[RunSpec]] = {}
        for student in self.students:
            found.setdefault(student.seed, []).append(student)
        return found

    def with_teacher(self, weights_sha256: str) -> Plan:
        """The same plan with a teacher that is trained."""
        students = tuple(
            replace(
                run,
                config={**run.config, "teacher": {**run.config["teacher"], "weights_sha256": weights_sha256}},
            )
            for run in self.students
        )
        return replace(self, weights_sha256=weights_sha256, students=students)

    def write(self, path: Path) -> None:
        students = [self._plain(run, known=self.weights_sha256 is not None) for run in self.students]
        body = {
            "format": FORMAT,
            "experiment": self.experiment,
            "data": dict(self.data),
            "data_digest": self.data_digest,
        }
        sealed_json.write(
            path,
            body
            | {
                "teacher": self._plain(self.teacher, known=True),
                "weights_sha256": self.weights_sha256,
                "students": students,
            },
        )

    def _plain(self, run: RunSpec, *, known: bool) -> dict[str, Any]:
        fingerprint = run.fingerprint if known else None
        return {
            "method": run.method,
            "seed": run.seed,
            "fingerprint": fingerprint,
            "stored": fingerprint in self.stored,
            "code": run.code,
            "config": dict(run.config),
        }


def make(params: Params, data: Meta, teacher: Record | None, store: Store) -> Plan:
    """The plan of an experiment whose data are prepared; teacher: its record, where it is finished."""
    plan = teacher_plan(params, data)
    sha256 = None if teacher is None else teacher.result["weights_sha256"]
    stand_in = teacher or Record(
        plan.fingerprint,
        plan.experiment,
        plan.method,
        plan.seed,
        "finished",
        {},
        [],
        {"weights_sha256": None},
        {},
    )
    students = tuple(run for seed in params.seeds for run in student_plans(params, data, stand_in, seed))
    runs = [plan, *(students if teacher else ())]
    stored = frozenset(run.fingerprint for run in runs if store.get(run.fingerprint) is not None)
    return Plan(
        params.experiment, params.data.model_dump(mode="json"), data.digest, plan, sha256, students, stored
    )


def read(path: Path) -> Plan:
    """A plan from its file. Raises `BadRecord` if it is damaged or of other code than this checkout's."""
    body = sealed_json.read(path, "a plan", FORMAT)
    try:
        experiment, weights_sha256 = body["experiment"], body["weights_sha256"]
        if not is_name(experiment):
            raise ValueError(f"experiment {experiment!r}; expected {EXPECTED}")
        teacher = _run(experiment, body["teacher"])
        students = tuple(_run(experiment, run) for run in body["students"])
        checks.source(body["data"])
        checks.sha256("data_digest", body["data_digest"])
        if any(run.config["data"]["digest"] != body["data_digest"] for run in (teacher, *students)):
            raise ValueError("data_digest; expected the data's digest in every run")
        if not students:
            raise ValueError("no students")
        if any(run.config["teacher"]["weights_sha256"] != weights_sha256 for run in students):
            raise ValueError("students of more than one teacher")
        stored = frozenset(
            run["fingerprint"] for run in (body["teacher"], *body["students"]) if run["stored"]
        )
        plan = Plan(experiment, body["data"], body["data_digest"], teacher, weights_sha256, students, stored)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadRecord(f"{path}: not a plan ({type(error).__name__}: {error})") from None
    _check_code(path, plan)
    return plan


def _run(experiment: str, body: Mapping[str, Any]) -> RunSpec:
    if not is_name(body["method"]):
        raise ValueError(f"method {body['method']!r}; expected {EXPECTED}")
    try:
        checks.integer("seed", body["seed"], 0, checks.MAX_SEED)
        checks.configuration(body["config"], teacher=body["method"] == TEACHER)
        checks.boolean("stored", body["stored"])
        if body["config"]["seed"] != body["seed"]:
            raise ValueError(f"config.seed {body['config']['seed']}; expected {body['seed']}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{body['method']} seed {body['seed']!r}: {error}") from None
    run = RunSpec(experiment, body["method"], body["seed"], body["config"], body["code"])
    if body["fingerprint"] not in (None, run.fingerprint):
        raise ValueError(f"{run.method} seed {run.seed}: its fingerprint is not its configuration's")
    return run


def _check_code(path: Path, plan: Plan) -> None:
    other = [run for run in (plan.teacher, *plan.students) if run.code != _code(run)]
    if other:
        first = f"{other[0].method} seed {other[0].seed}, {other[0].config['network']}"
        count = len(plan.students) + 1
        raise BadRecord(
            f"{path}: {len(other)} of {count} runs were planned with other code than this checkout's (the "
            f"first: {first}); export it again here"
        )


def _code(run: RunSpec) -> str | None:
    try:
        return code_of(run)
    except KeyError:  # a loss or a network that this checkout does not have
        return None


def summary(plan: Plan, weights: Path) -> Iterator[str]:
    """What is finished and what is pending, line by line; weights: where the teacher's would be."""
    epochs = {run.config["training"]["epochs"] for run in plan.students}
    methods = len(plan.students) // len(plan.seeds)
    yield (
        f"{plan.experiment}: {plan.teacher.config['network']} -> {plan.students[0].config['network']},"
        f" {methods} methods x {len(plan.seeds)} seeds = {len(plan.students)} runs of {max(epochs)} epochs"
    )
    if plan.weights_sha256 is None:
        training = plan.teacher.config["training"]
        yield (
            f"teacher: pending, {training['epochs']} epochs"
            if training
            else "teacher: pending, its file is to be measured"
        )
    else:
        yield (
            f"teacher: in the store, {'with' if weights.is_file() else 'without'} its weights (sha256 "
            f"{plan.weights_sha256[:12]})"
        )
    for seed, runs in plan.seeds.items():
        pending = [
            run.method for run in runs if plan.weights_sha256 is None or run.fingerprint not in plan.stored
        ]
        cohort = f"one cohort of {len(pending)} pending: {', '.join(pending)}" if pending else "none pending"
        yield f"seed {seed}: {len(runs) - len(pending)} in the store, {cohort}"
