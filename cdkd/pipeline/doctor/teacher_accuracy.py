"""The teacher's accuracy: whether it is above chance, and measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdkd.config.params import Params
from cdkd.config.paths import data_folder, runs_folder
from cdkd.core.schedule import TEACHER
from cdkd.pipeline.doctor.site import NOTHING, Fault, Site, Verdict, environment_of
from cdkd.pipeline.verify import environment_diff
from cdkd.runs.record import Record
from cdkd.runs.teacher_quality import useless


def teacher_error(site: Site) -> Verdict:
    """Whether the teacher, as recorded, knows anything that students could learn."""
    if site.teacher is None:
        return NOTHING
    if (what := useless(site.teacher)) is None:
        return Verdict("its error on the test split is below chance", [])
    hint = "look at its curve in the report, or at the file that teacher.weights names; then train another"
    return Verdict("", [Fault("warn", f"{what}; no student can learn from it", hint)])


def teacher(site: Site) -> Verdict:
    """Evaluate the teacher again. On the machine and versions of its record the bits are the same."""
    if site.params is None or site.data is None:
        return NOTHING
    record = site.teacher
    if record is None:
        return Verdict("", [Fault("warn", "not trained for these params and this code", "`cdkd teacher`")])
    if (weights := _weights(site, record)) is None:
        return Verdict("cannot be measured here: its weights stayed on another machine", [])
    found, environment = _measured(site.params, record, weights)
    then = {key: record.result["last"][key] for key in found}
    if found == then:
        return Verdict(f"top-1 error {found['test_top1_error']:.2f} %, the same bits as in its record", [])
    text = "measured again it is not its record's: " + ", ".join(
        f"{key} {then[key]!r} -> {found[key]!r}" for key in found if found[key] != then[key]
    )
    if difference := environment_diff(environment_of(record), environment):
        return Verdict(
            "",
            [
                Fault(
                    "warn",
                    f"{text}; the environments differ: {difference}",
                    "`rm -f .venv/installed && make env`, on the machine of the record",
                )
            ],
        )
    return Verdict(
        "", [Fault("BAD", text, "`cdkd verify teacher` trains it again and names the first difference")]
    )


def _weights(site: Site, record: Record) -> Path | None:
    if site.params is None:
        return None
    places = (
        site.store.weights(record.fingerprint),
        runs_folder(site.params) / TEACHER / f"seed-{record.seed}.safetensors",
    )
    return next((path for path in places if path.is_file()), None)


def _measured(params: Params, record: Record, weights: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Errors and loss on the test split, with as many threads as in the record; and the environment."""
    import torch

    from cdkd.core.schedule import Recipe
    from cdkd.runs.measure import measure
    from cdkd.training.environment import choose_device, environment

    threads = environment_of(record).get("threads")
    if isinstance(threads, int) and threads > 0:
        torch.set_num_threads(threads)
    training = record.config["training"]
    recipe = params.teacher.training.resolved if training is None else Recipe.of(training)
    sha256 = record.result["weights_sha256"]
    row = measure(data_folder(params), record.config["network"], weights, sha256, recipe)
    return row, environment(choose_device())
