"""What is logged of a run: its name, tags, params, metrics and files. Needs no MLflow."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol

from cdkd.core.schedule import TEACHER
from cdkd.runs.record import Record

FINGERPRINT, GROUP, STATUS, PARENT = "cdkd.fingerprint", "cdkd.group", "cdkd.status", "mlflow.parentRunId"
CURRENT = (
    "current"  # yes | no: a run whose params or code changed is replaced by another of its method and seed
)
LONGEST_PARAM = 6000  # characters, MLflow's own limit
MOST_METRICS = 1000  # of one log_batch
LONGEST_DIGEST = 36  # characters of a data set's digest
TEACHER_SEED = "teacher_seed"  # of a run's circumstances, where params have several teachers
MODEL = "cdkd.model"  # the id of the run's model

Row = Mapping[str, Any]
Rows = list[tuple[Row, int]]  # a row of the history and its time in milliseconds


class Named(Protocol):
    """What the specification and the record of a run have in common."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def experiment(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def config(self) -> Mapping[str, Any]: ...


def name(run: Named, circumstances: Mapping[str, Any]) -> str:
    teacher = circumstances.get(TEACHER_SEED)
    return f"{run.method} · seed {run.seed}" + ("" if teacher is None else f" · teacher {teacher}")


def group_name(method: str) -> str:
    return f"{method} · all seeds"


def command(run: Named) -> str:
    """The command that gives this run, whichever command trained it."""
    return "cdkd teacher" if run.method == TEACHER else f"cdkd distill {run.method}"


def tags(run: Named, circumstances: Mapping[str, Any]) -> dict[str, str]:
    """Runs are found by these, grouped (method, seed) and traced to their inputs."""
    git, environment = circumstances.get("git") or {}, circumstances.get("environment") or {}
    found = {
        FINGERPRINT: run.fingerprint,
        "method": run.method,
        "seed": run.seed,
        "teacher.seed": circumstances.get(TEACHER_SEED),
        "data.digest": (run.config.get("data") or {}).get("digest"),
        "teacher.digest": (run.config.get("teacher") or {}).get("weights_sha256"),
        "git.commit": git.get("commit"),
        "git.dirty": git.get("dirty"),
        "cdkd.cohort": ", ".join(circumstances.get("cohort") or ()) or None,
        "device": environment.get("device"),
        "mlflow.source.name": command(run),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git.get("commit"),
    }
    found |= {f"env.{key}": value for key, value in environment.items() if key != "device"}
    return {
        key: (str(value).lower() if isinstance(value, bool) else str(value))
        for key, value in found.items()
        if value is not None
    }


def dataset(run: Named) -> dict[str, str]:
    """The data that a run is trained and evaluated on, as MLflow's data sets are described."""
    data = run.config.get("data") or {}
    profile = {key: data[key] for key in ("classes", "image", "judged_on") if key in data}
    return {
        "name": run.experiment,
        "digest": str(data.get("digest", ""))[:LONGEST_DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": f"data/{run.experiment}"}),
        "profile": json.dumps(profile),
    }


def params(run: Named) -> tuple[dict[str, str], dict[str, str]]:
    """The configuration as dotted params, and as files what is too long for one."""
    flat = {
        clean(key): value if isinstance(value, str) else json.dumps(value)
        for key, value in _leaves(run.config)
    }
    files = {
        f"params/{key.replace('/', '_')}.json": value
        for key, value in flat.items()
        if len(value) > LONGEST_PARAM
    }
    return {
        key: value if len(value) <= LONGEST_PARAM else f"in the artifact params/{key.replace('/', '_')}.json"
        for key, value in flat.items()
    }, files


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif node is not None:
        yield path, node


PARTS = (("loss", "losses"), ("weight", "weights"), ("peer", "peers"), ("ensemble", "ensembles"))


def metrics(row: Row) -> dict[str, float]:
    """A row of the history as metrics. What is not finite is left out: MLflow would store inf as 1.8e308."""
    flat = {key: value for key, value in row.items() if key not in ("epoch", "weights", "losses")}
    flat |= {f"{prefix}.{loss}": value for prefix, part in PARTS for loss, value in row.get(part, {}).items()}
    return {
        clean(key): float(value)
        for key, value in flat.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def clean(key: str) -> str:
    """The key, of characters that MLflow allows everywhere."""
    return re.sub(r"[^\w\-. /:]", "_", key)[:250]


def final_metrics(record: Record) -> dict[str, float]:
    """Numbers of the whole run. The last epoch's errors are the last points of the curves."""
    result, circumstances = record.result, record.circumstances
    best = {
        f"best.{key}": result["best"][key]
        for key in ("epoch", "test_top1_error", "test_top5_error", "test_loss")
        if key in result.get("best", {})
    }
    size = {key: result[key] for key in ("parameters", "multiply_adds") if key in result}
    pace = {key: circumstances[key] for key in ("seconds", "images_per_second") if key in circumstances}
    alone = {} if record.history else result.get("last", {})  # weights from a file: measured, never trained
    return metrics(alone | best | size | pace)


def files(record: Record, extras: Mapping[str, bytes]) -> dict[str, bytes]:
    return {"record.json": record.text().encode(), "history.csv": _table(record).encode(), **extras}


def _table(record: Record) -> str:
    rows = [{"epoch": row["epoch"]} | metrics(row) for row in record.history]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def times(record: Record) -> tuple[int | None, int | None]:
    """Start and end in milliseconds, where they are known."""
    started = record.circumstances.get("started")
    if started is None:
        return None, None
    start = round(1000 * datetime.fromisoformat(started).timestamp())
    return start, start + round(1000 * record.circumstances.get("seconds", 0))


def group_start(method: str, circumstances: Mapping[str, Any], start: int | None) -> int | None:
    """When a method's group starts. MLflow lists the newest first: earlier methods start later."""
    cohort = list(circumstances.get("cohort") or ())
    return start + len(cohort) - cohort.index(method) if start is not None and method in cohort else start


def timed(record: Record, now: int) -> Rows:
    """The history with times: a record keeps none, so its epochs are spread evenly between start and end."""
    start, end = times(record)
    if start is None or end is None:
        return [(row, now) for row in record.history]
    return [
        (row, start + (end - start) * (count + 1) // len(record.history))
        for count, row in enumerate(record.history)
    ]
