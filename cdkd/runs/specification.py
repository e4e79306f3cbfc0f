"""The runs of an experiment: a specification of each, from checked params and prepared data.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cdkd.core.run_spec import RunSpec, networks_of, plain_method
from cdkd.core.schedule import TEACHER, Method, Term, Weight
from cdkd.data.prepared import Meta
from cdkd.runs.code_digest import code_digest
from cdkd.runs.record import Record

if TYPE_CHECKING:  # a worker may lack the library of the schema
    from cdkd.config.params import Params
    from cdkd.config.schema import Training


def teacher_plan(params: Params, data: Meta) -> RunSpec:
    """The teacher's training is a run as well: one network, cross-entropy, no teacher.

    Without a training it is evaluated alone: its weights come from a file, or are the initial ones.
    """
    teacher = params.teacher
    method = Method({"ce": Term(Weight(1.0))})
    config = _config(data, teacher.network, teacher.seed, teacher.training, method) | {"teacher": None}
    if teacher.weights is not None:
        config |= {"training": None, "weights_sha256": teacher.sha256}
    elif teacher.untrained:
        config |= {"training": None}
    return RunSpec(
        params.experiment, TEACHER, teacher.seed, config, code_digest((teacher.network,), method.losses)
    )


def student_plan(params: Params, data: Meta, teacher: Record, method: str, seed: int) -> RunSpec:
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
) -> RunSpec:
    """A student of a method or recipe that a search tries, and that params.yaml does not name."""
    group = method.group
    own = params.student.network if group is None else group.networks[group.deployed]
    config = _config(data, own, seed, training, method)
    config["data"]["judged_on"] = judged_on
    config["teacher"] = {
        "network": params.teacher.network,
        "weights_sha256": teacher.result["weights_sha256"],
        "batchnorm": params.teacher.batchnorm,
    }
    kinds = (own,) if group is None else group.networks.values()
    if params.student.weights is not None and params.student.network in kinds:
        config["start"] = {"network": params.student.network, "sha256": params.student.sha256}
    networks = networks_of(own, method, config["teacher"])
    code = code_digest(networks, method.losses, **({} if group is None else {"group": True}))
    return RunSpec(params.experiment, name, seed, config, code)


def student_plans(params: Params, data: Meta, teacher: Record, seed: int) -> Iterator[RunSpec]:
    """Every method of one seed and one teacher: what may be trained as one cohort.

    params: a view of one teacher (see `config.teachers`)
    """
    for method in params.methods:
        yield student_plan(params, data, teacher, method, seed)


def code_of(spec: RunSpec) -> str:
    """The digest of this checkout's code for a run. Raises KeyError for an unknown loss or network."""
    group = {"group": True} if spec.terms.group is not None else {}
    return code_digest(spec.networks, spec.losses, **group)


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
        "training": training.resolved.values(),
        **plain_method(method),
    }
