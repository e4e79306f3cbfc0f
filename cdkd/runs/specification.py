"""What is to be trained: each run's decisive configuration and the fingerprint that names it. Needs no torch."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdkd.core.schedule import Method, Recipe, Term, Weight
from cdkd.data.prepared import Meta
from cdkd.models import names
from cdkd.runs.record import Record
from cdkd.storage.files import digest

if TYPE_CHECKING:  # a plan is carried out where the schema's library need not be
    from cdkd.config.params import Params
    from cdkd.config.schema import Training

PACKAGE = Path(__file__).parents[1]
TEACHER = "teacher"

# What every run's result depends on; the files of its networks and losses come to it, and no others.
DECISIVE = (
    "core/features.py",
    "core/randomness.py",
    "core/schedule.py",
    "data/batches.py",
    "losses/base.py",
    "models/forward.py",
    "training/evaluation.py",
    "training/loop.py",
    "training/objective.py",
    "training/optimiser.py",
    "training/teacher.py",
)


@dataclass(frozen=True)
class RunPlan:
    """One run before it is trained: one method (or the teacher's own training) with one seed.

    `config` holds every value that decides the result, and nothing else; the fingerprint is its digest. Cadence of
    logs and checkpoints, device, worker count and names stay out.
    """

    experiment: str
    method: str
    seed: int
    config: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return digest(self.config)

    @property
    def recipe(self) -> Recipe:
        return Recipe.of(self.config["training"])

    @property
    def terms(self) -> Method:
        return {
            loss: Term(
                Weight(**{**term["weight"], "milestones": tuple(term["weight"]["milestones"])}),
                term["options"],
            )
            for loss, term in self.config["method"].items()
        }


def teacher_plan(params: Params, data: Meta) -> RunPlan:
    """The teacher's training is a run like any other: one network that minimises cross-entropy, with no teacher."""
    teacher = params.teacher
    config = _config(data, teacher.network, teacher.seed, teacher.training, {"ce": Term(Weight(1.0), {})})
    if teacher.weights is not None:
        config |= {"training": None, "weights_sha256": teacher.sha256}
    return RunPlan(params.experiment, TEACHER, teacher.seed, config | {"teacher": None})


def student_plan(params: Params, data: Meta, teacher: Record, method: str, seed: int) -> RunPlan:
    return variant_plan(params, data, teacher, method, params.method(method), params.recipe(method), seed)


def variant_plan(
    params: Params,
    data: Meta,
    teacher: Record,
    name: str,
    method: Method,
    training: Training,
    seed: int,
    judged_on: str = "test",
) -> RunPlan:
    """A student of a method or recipe that params.yaml does not name: a search's."""
    config = _config(data, params.student.network, seed, training, method)
    config["data"]["judged_on"] = judged_on
    of = {
        "network": params.teacher.network,
        "weights_sha256": teacher.result["weights_sha256"],
        "batchnorm": params.teacher.batchnorm,
    }
    return RunPlan(params.experiment, name, seed, config | {"teacher": of})


def student_plans(params: Params, data: Meta, teacher: Record, seed: int) -> Iterator[RunPlan]:
    """Every method of one seed: what may be trained as one cohort."""
    for method in params.methods:
        yield student_plan(params, data, teacher, method, seed)


def _config(data: Meta, network: str, seed: int, training: Training, method: Method) -> dict[str, Any]:
    return {
        "data": {
            "digest": data.digest,
            "classes": len(data.classes),
            "image": list(data.image),
            "judged_on": "test",
        },
        "network": network,
        "seed": seed,
        "training": training.model_dump(mode="json", exclude={"recipe"}),
        "method": {
            loss: {"weight": asdict(method[loss].weight), "options": dict(method[loss].options)}
            for loss in sorted(method)
        },
        "code": code_digest(network, tuple(sorted(method))),
    }


@cache
def code_digest(network: str, losses: tuple[str, ...]) -> str:
    """Digest of the code that decides a result. Comments, docstrings and layout do not count, nor other networks and losses."""
    files = [*DECISIVE, f"models/{names.family(network)}.py", *(f"losses/{loss}.py" for loss in losses)]
    return digest({file: meaning((PACKAGE / file).read_text(encoding="utf-8")) for file in files})


@cache
def meaning(source: str) -> str:
    """Digest of what Python code does, as its syntax tree without docstrings: the same on every Python from 3.11 on."""

    def plain(node: Any) -> Any:
        if isinstance(node, ast.AST):
            # empty fields are left out: newer Pythons add fields, which older code leaves empty
            fields = {name: plain(value) for name, value in ast.iter_fields(node) if name != "type_comment"}
            return {"": type(node).__name__} | {
                name: value for name, value in fields.items() if value not in (None, [])
            }
        if isinstance(node, list):
            return [plain(item) for item in node if not _is_docstring(item)]
        return repr(node) if isinstance(node, bytes | complex | float) or node is Ellipsis else node

    return hashlib.sha256(digest(plain(ast.parse(source))).encode()).hexdigest()


def _is_docstring(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
