"""The MLflow view, on real SQLite files and with real processes."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks import tracking as benchmark
from cdkd import tracking
from cdkd.core.errors import CdkdError
from cdkd.core.run_spec import RunSpec
from cdkd.runs.record import Record
from cdkd.tracking import experiment_page, fields, server
from tests.waiting import PATIENCE, wait_until

CIRCUMSTANCES = {
    "environment": {"device": "cpu", "threads": 2, "torch": "2.15.0"},
    "git": {"commit": "abc123", "dirty": True},
    "cohort": ["kd", "cd"],
}
STARTED, START_MS = "2026-01-02T03:04:05+00:00", 1767323045000
EPOCHS = 5


def plan(method: str, seed: int = 0, **more: Any) -> RunSpec:
    weight = {"value": 6.0, "start": 0, "stop": None, "milestones": [2], "decay": 0.9}
    of = (
        None
        if method == "teacher"
        else {"network": "resnet20", "weights_sha256": "f" * 64, "batchnorm": "eval"}
    )
    config = {
        "data": {"digest": "d" * 64, "classes": 10},
        "seed": seed,
        "training": {"epochs": EPOCHS, "learning_rate": 0.05},
        "teacher": of,
    }
    terms = {"method": {method: {"weight": weight, "options": {}}}}
    return RunSpec("digits", method, seed, config | terms | more, "c" * 64)


def row(epoch: int) -> dict[str, Any]:
    errors = {
        "train_top1_error": 50 / (1 + epoch),
        "test_top1_error": 60 / (1 + epoch),
        "test_top5_error": 9.0,
        "test_loss": 1.5,
    }
    return {
        "epoch": epoch,
        "learning_rate": 0.05,
        "weights": {"ce": 1.0, "cd": 6.0},
        "losses": {"ce": 2.0, "cd": 0.25},
    } | errors


def record(run: RunSpec, epochs: int = EPOCHS, status: str = "finished") -> Record:
    rows = [row(epoch) for epoch in range(epochs)]
    result = (
        {
            "weights_sha256": "e" * 64,
            "parameters": 78000,
            "multiply_adds": 12_000_000,
            "last": rows[-1],
            "best": rows[-1],
        }
        if status == "finished"
        else {}
    )
    circumstances = CIRCUMSTANCES | {"started": STARTED, "seconds": 50.0, "images_per_second": 900.0}
    reason = None if status == "finished" else "loss ce is nan in epoch 5"
    return Record(
        run.fingerprint,
        run.experiment,
        run.method,
        run.seed,
        status,
        dict(run.config),
        rows,
        result,
        circumstances,
        reason,
        run.code,
    )


# Where compiled Python is not kept, an import of MLflow takes nine seconds instead of two: keep it here.
COMPILED = str(Path(tempfile.gettempdir()) / f"cdkd-pycache-{os.getuid()}")


def child_environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": COMPILED} if sys.dont_write_bytecode else kept


@pytest.fixture(scope="session", autouse=True)
def _mlflow_imported() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    before = sys.dont_write_bytecode, sys.pycache_prefix
    if sys.dont_write_bytecode:
        sys.dont_write_bytecode, sys.pycache_prefix = False, COMPILED
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    sys.dont_write_bytecode, sys.pycache_prefix = before


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables, which take seconds to create."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    root = tmp_path_factory.mktemp("template")
    tracking.experiment_id(root, "Default")
    return root / ".cdkd" / "mlflow" / "mlflow.db"


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return fresh(template, tmp_path / "project")


def fresh(template: Path, root: Path) -> Path:
    (root / ".cdkd" / "mlflow").mkdir(parents=True)
    shutil.copy(template, root / ".cdkd" / "mlflow" / "mlflow.db")
    return root


def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.uri(root))


def runs(root: Path, experiment: str = "digits") -> dict[str, Any]:
    """By name; fails where a name stands twice."""
    mlflow = client(root)
    found = mlflow.search_runs([mlflow.get_experiment_by_name(experiment).experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def steps(root: Path, name: str, metric: str = "test_top1_error") -> list[int]:
    return sorted(
        point.step for point in client(root).get_metric_history(runs(root)[name].info.run_id, metric)
    )


def live(root: Path, plans: list[RunSpec], **more: Any) -> tracking.Tracker:
    return tracking.Tracker(
        root, "digits", plans[0].seed, [(one, CIRCUMSTANCES) for one in plans], **{"every": 0.05} | more
    )


def everything(root: Path) -> list[tuple[Any, ...]]:
    """The content of the database."""
    with contextlib.closing(sqlite3.connect(root / ".cdkd" / "mlflow" / "mlflow.db")) as connection:
        tables = ("runs", "metrics", "params", "tags", "latest_metrics", "experiments", "experiment_tags")
        return [
            (table, *line)
            for table in tables
            for line in sorted(connection.execute(f"select * from {table}"), key=repr)
        ]


@contextlib.contextmanager
def locked_database(root: Path):
    """Another process holds the database exclusively."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
    code += "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(root / ".cdkd" / "mlflow" / "mlflow.db")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "locked\n"
        yield
        assert other.stdin
        other.stdin.close()


def test_runs_are_grouped_by_method_beside_the_teacher(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "distill@kd")
    plans = [plan("kd"), plan("cd_gkd_edt")]
    with live(root, [plan("teacher")]) as tracker:
        tracker.finish(record(plan("teacher")))
    with live(root, plans, extras=lambda record: {"curves.png": b"picture"}) as tracker:
        for epoch in range(EPOCHS):
            for one in plans:
                tracker.epoch(one.fingerprint, row(epoch) | {"images_per_second": 100.0 + epoch})
        for one in plans:
            tracker.finish(record(one))

    found = runs(root)
    groups = {"kd · all seeds", "cd_gkd_edt · all seeds"}
    assert set(found) == {"teacher · seed 0", "kd · seed 0", "cd_gkd_edt · seed 0"} | groups
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    run = found["cd_gkd_edt · seed 0"]
    assert run.data.tags["mlflow.parentRunId"] == found["cd_gkd_edt · all seeds"].info.run_id
    assert (
        "method" not in found["kd · all seeds"].data.tags
    )  # means over the tag would count the group itself
    assert "mlflow.parentRunId" not in found["teacher · seed 0"].data.tags
    expected = {
        "cdkd.fingerprint": plans[1].fingerprint,
        "method": "cd_gkd_edt",
        "seed": "0",
        "current": "yes",
        "data.digest": "d" * 64,
        "teacher.digest": "f" * 64,
    }
    expected |= {
        "git.commit": "abc123",
        "git.dirty": "true",
        "mlflow.source.name": "cdkd distill cd_gkd_edt",
        "device": "cpu",
        "env.torch": "2.15.0",
        "cdkd.status": "finished",
    }
    assert expected.items() <= run.data.tags.items()
    assert run.data.params["training.learning_rate"] == "0.05"
    assert run.data.params["method.cd_gkd_edt.weight.milestones"] == "[2]"
    assert steps(root, run.info.run_name) == list(range(EPOCHS)) == steps(root, run.info.run_name, "loss.cd")
    assert run.data.metrics["weight.cd"] == 6.0
    assert run.data.metrics["images_per_second"] == 104.0
    assert run.data.metrics["best.test_top1_error"] == pytest.approx(12.0)
    assert run.data.metrics["multiply_adds"] == 12_000_000
    place = root / ".cdkd" / "mlflow" / "artifacts" / run.info.run_id / "artifacts"
    assert (place / "record.json").read_text() == record(plans[1]).text()
    assert (place / "curves.png").read_bytes() == b"picture"
    assert len((place / "history.csv").read_text().splitlines()) == 1 + EPOCHS
    assert tracking.rebuild(root, [record(one) for one in [plan("teacher"), *plans]]) == (0, 0)


def test_rebuild_makes_the_view_from_records_once(root: Path) -> None:
    plans = [plan(method, seed) for seed in (0, 1) for method in ("kd", "cd")]
    records = [record(plan("teacher")), *map(record, plans[:3]), record(plans[3], status="diverged")]
    asked: list[str] = []
    extras = lambda one: asked.append(one.method) or {"curves.png": b"x"}  # noqa: E731
    assert tracking.rebuild(root, records, extras) == (5, 0)
    before = everything(root)
    assert tracking.rebuild(root, records, extras) == (0, 0)
    assert everything(root) == before
    assert len(asked) == 5
    found = runs(root)
    assert (found["kd · seed 1"].info.start_time, found["kd · seed 1"].info.end_time) == (
        START_MS,
        START_MS + 50_000,
    )
    assert found["kd · all seeds"].info.end_time == START_MS + 50_000
    assert (
        found["kd · all seeds"].info.start_time > found["cd · all seeds"].info.start_time
    )  # the cohort's order, newest first
    assert found["cd · seed 1"].info.status == "FAILED"
    assert found["cd · seed 1"].data.tags["cdkd.reason"] == "loss ce is nan in epoch 5"
    assert {run.info.status for name, run in found.items() if name != "cd · seed 1"} == {"FINISHED"}


def test_a_run_that_another_replaced_is_current_no_more(root: Path) -> None:
    old, new = plan("kd"), plan("kd", note="changed")
    with live(root, [old]) as tracker:
        tracker.finish(record(old))
    with live(root, [new]) as tracker:
        tracker.finish(record(new))
    assert current(root) == {old.fingerprint: "no", new.fingerprint: "yes"}
    assert tracking.rebuild(root, [record(old), record(new)]) == (
        0,
        0,
    )  # params went back: the workspace holds the first again
    assert current(root) == {old.fingerprint: "yes", new.fingerprint: "no"}


def current(root: Path) -> dict[str, str]:
    mlflow = client(root)
    found = mlflow.search_runs([mlflow.get_experiment_by_name("digits").experiment_id], "tags.method = 'kd'")
    return {run.data.tags["cdkd.fingerprint"]: run.data.tags["current"] for run in found}


def test_a_view_that_was_grouped_by_seed_is_grouped_anew(root: Path) -> None:
    plans = [plan("kd"), plan("cd")]
    tracking.rebuild(root, map(record, plans))
    mlflow, found = client(root), runs(root)
    old = mlflow.create_run(
        found["kd · all seeds"].info.experiment_id, run_name="seed 0", tags={"cdkd.group": "seed 0"}
    ).info.run_id
    for name in ("kd · seed 0", "cd · seed 0"):
        mlflow.set_tag(found[name].info.run_id, "mlflow.parentRunId", old)
    for name in ("kd · all seeds", "cd · all seeds"):
        mlflow.delete_run(found[name].info.run_id)
    assert tracking.rebuild(root, map(record, plans)) == (0, 0)
    found = runs(root)
    assert set(found) == {"kd · all seeds", "cd · all seeds", "kd · seed 0", "cd · seed 0"}
    assert found["kd · seed 0"].data.tags["mlflow.parentRunId"] == found["kd · all seeds"].info.run_id


def test_the_page_opens_on_current_runs_grouped_by_method(root: Path) -> None:
    with live(root, [plan("kd"), plan("cd")]):
        pass
    with live(root, [plan("at", 1)]):
        pass
    tags = client(root).get_experiment(tracking.experiment_id(root, "digits")).tags
    view = experiment_page.read_view(tags["mlflow.sharedViewState.story"])
    assert view["groupsExpanded"] == {"tag.method.at": False, "tag.method.cd": False, "tag.method.kd": False}
    assert {"test_top1_error", "loss.cd", "weight.cd"} <= {
        chart["metricKey"] for chart in view["compareRunCharts"]
    }


@pytest.mark.slow
def test_forty_methods_two_hundred_classes_and_every_loss_fit(root: Path) -> None:
    letters = random.Random(0)
    names = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz0123456789_-", k=63)) for _ in range(39)]
    methods = ["kd", *(f"m{name}" for name in names)]
    many = {"data": {"digest": "d" * 64, "classes": 200, "names": [f"class number {n}" for n in range(200)]}}
    result = {"confusion": [",".join(["0"] * 200)] * 200}
    rows = {"losses": dict.fromkeys(methods, 0.5), "weights": dict.fromkeys(methods, 1.0)}
    kept = [record(plan(method, **many), epochs=1) for method in methods]
    for one in kept:
        one.result["examined"] = result
        one.history[0].update(rows)
        one.circumstances["cohort"] = methods
    assert tracking.rebuild(root, kept) == (40, 0)
    tags = client(root).get_experiment(tracking.experiment_id(root, "digits")).tags
    assert experiment_page.methods(tags["mlflow.sharedViewState.story"]) == set(methods)
    assert tracking.rebuild(root, kept) == (0, 0)


def test_a_view_of_any_number_of_methods_fits_and_others_views_are_no_fault() -> None:
    letters = random.Random(0)
    names = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=64)) for _ in range(1000)]
    assert len(experiment_page.view(names)) <= experiment_page.LONGEST_NOTE
    for other in ("", "{", "[]", "deflate;", "deflate;AAAA", "deflate;é", '{"groupsExpanded": 3}'):
        assert experiment_page.methods(other) == set()
    assert experiment_page.methods('{"groupsExpanded": {"tag.method.kd": false}}') == {"kd"}


def test_a_teacher_from_a_file_has_no_history(root: Path) -> None:
    one = plan("teacher", training=None)
    measured = {"epoch": None, "test_top1_error": 3.0, "test_top5_error": 0.5, "test_loss": 0.1}
    result = {
        "weights_sha256": "e" * 64,
        "parameters": 1,
        "multiply_adds": 2,
        "last": measured,
        "best": measured,
    }
    kept = Record(
        one.fingerprint, "digits", "teacher", 0, "finished", dict(one.config), [], result, CIRCUMSTANCES
    )
    assert tracking.rebuild(root, [kept]) == (1, 0)
    assert tracking.rebuild(root, [kept]) == (0, 0)
    assert runs(root)["teacher · seed 0"].data.metrics["test_top1_error"] == 3.0


@pytest.mark.parametrize("how", ["killed", "left RUNNING"])
def test_an_interrupted_run_is_reopened_and_each_epoch_logged_once(root: Path, how: str) -> None:
    one = plan("kd")
    tracker = live(root, [one])
    for epoch in range(3):
        tracker.epoch(one.fingerprint, row(epoch))
    tracker.close("KILLED")
    assert {run.info.status for run in runs(root).values()} == {"KILLED"}
    if how == "left RUNNING":
        for run in runs(root).values():
            client(root).update_run(run.info.run_id, status="RUNNING")
    with live(root, [one]) as tracker:  # the checkpoint was older than the view: epochs 1 and 2 come again
        for epoch in range(1, EPOCHS):
            tracker.epoch(one.fingerprint, row(epoch))
        tracker.finish(record(one))
    assert steps(root, "kd · seed 0") == list(range(EPOCHS))
    assert {run.info.status for run in runs(root).values()} == {"FINISHED"}


def test_what_a_crash_lost_is_completed_and_runs_without_a_record_are_left(root: Path) -> None:
    one, other = plan("kd"), plan("cd")
    tracker = live(root, [one, other])
    for epoch in (0, 2):
        tracker.epoch(one.fingerprint, row(epoch))
    tracker.close("KILLED")
    client(root).update_run(runs(root)["cd · seed 0"].info.run_id, status="RUNNING")
    assert tracking.rebuild(root, [record(one)]) == (0, 1)
    before = everything(root)
    assert tracking.rebuild(root, [record(one)]) == (0, 0)
    assert everything(root) == before
    assert steps(root, "kd · seed 0") == list(range(EPOCHS))
    assert runs(root)["cd · seed 0"].info.status == "RUNNING"


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (RuntimeError, "FAILED")]
)
def test_leaving_by_an_exception_ends_the_runs(root: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), live(root, [plan("kd")]):
        raise error
    assert runs(root)["kd · seed 0"].info.status == status


def train_something(root: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged. No call waits for MLflow: the writing thread is the only one to open it."""
    one, opened = plan("kd"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        client = tracking.tracker.View.__init__

        def noted(self: Any, *words: Any, **more: Any) -> None:
            opened.append(threading.current_thread().name)
            client(self, *words, **more)

        patch.setattr(tracking.tracker.View, "__init__", noted)
        tracker = live(root, [one])
        for epoch in range(EPOCHS):
            tracker.epoch(one.fingerprint, row(epoch))
            time.sleep(0.25)
        tracker.finish(record(one))
        tracker.close("FINISHED")
    assert set(opened) == {"cdkd-tracking"}
    return [each.getMessage() for each in caplog.records]


def test_a_locked_database_costs_a_warning_and_nothing_else(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with locked_database(root):
        output = train_something(root, caplog)
        with pytest.raises(CdkdError, match="locked"):
            tracking_impatient(root)
    assert len(output) == 1
    assert "cdkd track" in output[0]
    assert tracking.rebuild(root, [record(plan("kd"))]) == (1, 0)
    assert steps(root, "kd · seed 0") == list(range(EPOCHS))


def tracking_impatient(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdkd.tracking.records.PATIENCE", 0.2)
        tracking.rebuild(root, [record(plan("kd"))])


def test_a_lock_that_goes_is_written_after(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = plan("kd")
    with locked_database(root):
        tracker = live(root, [one])
        tracker.epoch(one.fingerprint, row(0))
        wait_until(lambda: caplog.records)
    for epoch in range(1, EPOCHS):
        tracker.epoch(one.fingerprint, row(epoch))
    tracker.finish(record(one))
    tracker.close("FINISHED")
    assert steps(root, "kd · seed 0") == list(range(EPOCHS))
    assert len(caplog.records) == 1


def test_a_dead_server_costs_a_warning_and_nothing_else(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    output = train_something(root, caplog)
    assert len(output) == 1
    with pytest.raises(CdkdError, match=r"^MLflow at http://127\.0\.0\.1:9: "):
        tracking.rebuild(root, [record(plan("kd"))])


@pytest.mark.slow
def test_a_slow_end_is_waited_for(root: Path) -> None:
    """A busy machine once needed more than the patience for all runs together, which then stayed RUNNING."""
    plans = [plan("kd", seed) for seed in (0, 1)]

    def slow(record: Record) -> dict[str, bytes]:
        time.sleep(7)
        return {}

    tracker = live(root, plans, patience=12, extras=slow)
    for one in plans:
        tracker.finish(record(one))
    tracker.close("FINISHED")
    assert {run.info.status for name, run in runs(root).items() if "seed" in name} == {"FINISHED"}


PROCESS = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from tests.pipeline.test_tracking import EPOCHS, live, plan, record, row
one = plan("kd", int(sys.argv[3]))
with live(pathlib.Path(sys.argv[2]), [one], patience=100) as tracker:
    for epoch in range(EPOCHS):
        tracker.epoch(one.fingerprint, row(epoch))
    tracker.finish(record(one))
"""


@pytest.mark.slow
def test_four_processes_may_open_a_fresh_database_at_once(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PROCESS, str(Path(__file__).parents[2]), str(tmp_path)]
    others = [
        subprocess.Popen([*words, str(seed)], stderr=subprocess.PIPE, text=True, env=child_environment())
        for seed in range(4)
    ]
    assert [(other.communicate()[1], other.returncode) for other in others] == [("", 0)] * 4
    assert len(runs(tmp_path)) == 5  # and their group
    assert all(steps(tmp_path, f"kd · seed {seed}") == list(range(EPOCHS)) for seed in range(4))
    with contextlib.closing(sqlite3.connect(tmp_path / ".cdkd" / "mlflow" / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.slow
def test_a_creation_that_was_killed_leaves_no_half_made_database(tmp_path: Path) -> None:
    place = tmp_path / ".cdkd" / "mlflow"
    code = "import sys, pathlib; from cdkd import tracking; "
    code += "tracking.experiment_id(pathlib.Path(sys.argv[1]), 'digits')"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=child_environment()) as other:
        while not (place / "mlflow.db.new").exists():
            assert other.poll() is None
            time.sleep(0.01)
        other.kill()
    assert other.returncode == -signal.SIGKILL
    assert not (place / "mlflow.db").exists()
    assert tracking.rebuild(tmp_path, [record(plan("kd"))]) == (1, 0)
    assert not (place / "mlflow.db.new").exists()


@pytest.mark.parametrize("name", ["a b", "a#b", "100%", "a%20b", "what?x=1&y", "Дистилляция ü", "a:b@c;d+e"])
def test_odd_characters_in_the_path(template: Path, tmp_path: Path, name: str) -> None:
    root = fresh(template, tmp_path / name)
    with live(root, [plan("kd")], extras=lambda record: {"curves.png": b"x"}) as tracker:
        tracker.finish(record(plan("kd")))
    run = runs(root)["kd · seed 0"]
    assert (
        root / ".cdkd" / "mlflow" / "artifacts" / run.info.run_id / "artifacts" / "curves.png"
    ).read_bytes() == b"x"
    assert "curves.png" in {file.path for file in client(root).list_artifacts(run.info.run_id)}
    assert [path.name for path in tmp_path.iterdir()] == [name]  # and nothing else
    assert any(line[0] == "runs" and plan("kd").method in line[2] for line in everything(root))


def test_a_server_named_by_the_environment_is_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert tracking.uri(root) == "http://elsewhere:5000"


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on a real PostgreSQL, its address."""
    pytest.importorskip(
        "pgserver", reason="pgserver, which brings a PostgreSQL, has no package for this Python or machine"
    )
    with benchmark.mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.mark.slow
def test_runs_on_a_server_with_postgresql(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    records = [record(plan(method, seed)) for method in ("teacher", "kd", "cd") for seed in (0, 1)]
    records += [record(plan("at"), status="diverged")]
    assert tracking.rebuild(tmp_path, records, lambda one: {"curves.png": b"picture"}) == (7, 0)
    assert tracking.rebuild(tmp_path, records) == (0, 0)
    found = runs(tmp_path)
    assert {"teacher · seed 1", "kd · seed 0", "cd · seed 1", "at · seed 0"} < found.keys()
    assert steps(tmp_path, "kd · seed 0") == list(range(EPOCHS))
    one = found["kd · seed 0"]
    assert one.info.status == "FINISHED"
    assert one.data.tags["mlflow.parentRunId"] == found[fields.group_name("kd")].info.run_id
    assert one.data.params.items() >= fields.params(plan("kd"))[0].items()
    assert one.data.metrics.items() >= fields.final_metrics(records[2]).items()
    assert "curves.png" in {file.path for file in client(tmp_path).list_artifacts(one.info.run_id)}
    assert found["at · seed 0"].info.status == "FAILED"
    server.serve(tmp_path, "digits")  # returns: there is nothing to serve
    key = one.info.experiment_id
    assert f"{mlflow_server}/#/experiments/{key}/runs" in capsys.readouterr().out


@pytest.mark.slow
def test_hosts_that_create_an_experiment_at_once_get_the_same(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    together = threading.Barrier(4)

    def host(number: int, name: str) -> str:
        together.wait(PATIENCE)
        return tracking.experiment_id(tmp_path / str(number), name)  # a lock of its own, as on another host

    with ThreadPoolExecutor(4) as pool:
        for name in ("one", "two", "three"):
            assert len(set(pool.map(host, range(4), [name] * 4))) == 1


def test_importing_imports_no_mlflow() -> None:
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, cdkd.tracking, cdkd.tracking.server as s; "
            "assert not {'mlflow', 'torch', 'sqlalchemy'} & sys.modules.keys()",
        ],
        check=True,
    )


def test_what_is_not_finite_is_not_sent(root: Path) -> None:
    one = plan("kd")
    with live(root, [one]) as tracker:
        odd = row(0) | {"losses": {"ce": float("inf"), "cd": float("nan")}, "test_loss": float("-inf")}
        tracker.epoch(one.fingerprint, odd | {"a(b)?": 1.0})
    sent = runs(root)["kd · seed 0"].data.metrics
    assert not {"loss.ce", "loss.cd", "test_loss"} & sent.keys()
    assert sent["a_b__"] == 1.0


def test_a_long_param_becomes_a_file(root: Path) -> None:
    one = plan("kd", names=["x" * 10] * 1000)
    with live(root, [one]):
        pass
    run = runs(root)["kd · seed 0"]
    assert run.data.params["names"] == "in the artifact params/names.json"
    assert (
        len((root / ".cdkd/mlflow/artifacts" / run.info.run_id / "artifacts/params/names.json").read_text())
        > fields.LONGEST_PARAM
    )


def test_many_epochs_go_in_several_batches_none_split(root: Path) -> None:
    assert tracking.rebuild(root, [record(plan("kd"), epochs=240)]) == (1, 0)
    assert steps(root, "kd · seed 0") == list(range(240)) == steps(root, "kd · seed 0", "weight.cd")


def test_the_experiment_is_described_and_comes_back_when_deleted(root: Path) -> None:
    key = tracking.experiment_id(root, "digits")
    assert "reports/digits/report.html" in client(root).get_experiment(key).tags["mlflow.note.content"]
    metrics = {
        "teacher": {"top1_error": 1.0, "std": None, "n": 1},
        "kd": {"top1_error": 2.434, "std": 0.4, "n": 3},
        "cd_gkd": {"top1_error": 2.0, "std": None, "n": 1},
    }
    tracking.describe(
        root,
        "digits",
        "# title\n\n| table |\n\n![a\\]b](c.svg)\n\nCaption.\n\n![d](e.svg)\n\n## End",
        metrics | {"at": {"top1_error": None, "std": None, "n": 0}},
    )
    output = client(root).get_experiment(key).tags["mlflow.note.content"]
    assert output.startswith("**Top-1 error (%): lowest cd\\_gkd 2.00 (n = 1), kd 2.43 ± 0.40 (n = 3)**. ")
    assert "| table |" in output
    assert "## End" in output
    assert "svg" not in output  # MLflow would ask its own server for it
    assert "Caption" not in output
    tracking.describe(root, "digits", "paragraph\n\n" * 2000)
    assert (
        client(root)
        .get_experiment(key)
        .tags["mlflow.note.content"]
        .endswith("paragraph\n\nShortened; the full report is in `reports/digits`.")
    )
    client(root).delete_experiment(key)
    assert tracking.experiment_id(root, "digits") == key


def test_a_forked_child_and_a_closed_tracker_write_nothing(root: Path) -> None:
    one = plan("kd")
    tracker = live(root, [one])
    if (child := os.fork()) == 0:
        tracker.epoch(one.fingerprint, row(0))
        tracker.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    tracker.close()
    tracker.epoch(one.fingerprint, row(1))
    tracker.close()
    assert steps(root, "kd · seed 0") == []


def test_a_run_names_its_data_and_holds_its_network_without_pickled_code(root: Path) -> None:
    import mlflow
    import numpy as np
    import torch
    from safetensors.torch import save

    from cdkd.models.build import build
    from cdkd.runs.store import Store

    torch.manual_seed(1)
    network = build("resnet8", 10, 1).eval()
    weights = save(network.state_dict())
    data = {"digest": "d" * 64, "classes": 10, "image": [8, 8, 1], "judged_on": "test"}
    one = record(plan("kd", network="resnet8", data=data))
    one.result["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    Store(root).put(one, weights)
    assert tracking.rebuild(root, [one]) == (1, 0)
    assert tracking.rebuild(root, [one]) == (0, 0)

    run = runs(root)["kd · seed 0"]
    (found,) = run.inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("digits", "d" * 36)
    assert json.loads(found.dataset.source) == {"uri": "data/digits"}
    (logged,) = run.outputs.model_outputs
    model = client(root).get_logged_model(logged.model_id)
    assert (model.name, model.status, model.source_run_id) == ("kd-seed-0", "READY", run.info.run_id)
    assert model.params["network"] == "resnet8"
    last = next(metric for metric in model.metrics if metric.key == "test_top1_error")
    assert (last.value, last.step) == (one.result["last"]["test_top1_error"], EPOCHS - 1)
    assert (last.dataset_name, last.dataset_digest) == ("digits", "d" * 36)
    points = client(root).get_metric_history(run.info.run_id, "test_top1_error")
    assert [point.step for point in points] == list(range(EPOCHS))  # each once
    place = Path(urllib.request.url2pathname(urlsplit(model.artifact_location).path))
    assert place.is_relative_to(root)
    assert {path.name for path in place.iterdir()} == {"MLmodel", "model.safetensors"}  # nothing pickled
    assert (place / "model.safetensors").read_bytes() == weights
    mlflow.set_tracking_uri(tracking.uri(root))
    loaded = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    images = torch.randn(3, 1, 8, 8)
    with torch.inference_mode():
        expected = network(images).logits.numpy()
    np.testing.assert_array_equal(loaded.predict(images.numpy()), expected)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        loaded.predict(images[:, :, :4].numpy())


def test_a_run_without_weights_has_no_model(root: Path) -> None:
    assert tracking.rebuild(root, [record(plan("kd"))]) == (1, 0)
    assert not runs(root)["kd · seed 0"].outputs or not runs(root)["kd · seed 0"].outputs.model_outputs


SERVER = """
import sys, pathlib
from cdkd.tracking import server
server.serve(pathlib.Path(sys.argv[1]), 'digits', int(sys.argv[2]))
"""


@pytest.mark.slow
def test_the_pages_are_served_and_no_process_is_left(template: Path, tmp_path: Path) -> None:
    root = fresh(template, tmp_path / "a b#%?")
    tracking.rebuild(root, [record(plan("kd"))])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = [sys.executable, "-c", SERVER, str(root)]
        pipes = {"stdout": subprocess.PIPE, "text": True, "env": child_environment()}
        signals = (signal.SIGINT, signal.SIGKILL)
        servers = [
            subprocess.Popen([*words, str(port if number == signal.SIGINT else port + 100)], **pipes)
            for number in signals
        ]
        for server, number in zip(servers, signals, strict=True):
            with server:
                if number == signal.SIGINT:
                    assert f"port {port} is taken; using " in server.stdout.readline()
                address = server.stdout.readline().split()[1]
                assert "/runs?workflowType=machine_learning" in address
                with urllib.request.urlopen(
                    address.split("/#")[0]
                    + "/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=digits"
                ) as answer:
                    assert answer.status == 200
                group = int(Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()[0])
                server.send_signal(number)
                assert server.wait(PATIENCE) == (0 if number == signal.SIGINT else -number)
            wait_until(lambda group=group: has_ended(group))  # the server does not outlive the command


def asked(port: int, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    """Status and text of a request whose headers are as given; Host is right unless it is given."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    given = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json"} | headers
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        if value:
            connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


def hostile(port: int) -> list[dict[str, str]]:
    """Headers of requests that other sites can make a browser send, or that no browser of ours would."""
    origins = ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}", f"https://127.0.0.1:{port}")
    hosts = (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1:{port + 1}",
        "127.0.0.1",
        "",
        f"127.0.0.1:{port}@x",
    )
    return [{"Host": host} for host in hosts] + [{"Origin": origin} for origin in origins]


@pytest.mark.slow
def test_mlflow_answers_requests_to_itself_only(template: Path, tmp_path: Path) -> None:
    root = fresh(template, tmp_path / "project")
    key = tracking.experiment_id(root, "digits")
    port = server.free_port(5600)
    words = [sys.executable, "-c", SERVER, str(root), str(port)]
    delete, body = "/api/2.0/mlflow/experiments/delete", json.dumps({"experiment_id": key})
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=child_environment()) as process:
        try:
            assert process.stdout
            assert f"127.0.0.1:{port}" in process.stdout.readline()
            for headers in hostile(port):
                for method, path in (("POST", delete), ("GET", "/"), ("GET", "/health")):
                    status, text = asked(port, method, path, body, **headers)
                    assert (status, text[:8]) in ((403, "refused:"), (400, "Invalid ")), headers
            assert client(root).get_experiment(key).lifecycle_stage == "active"
            for headers in ({}, {"Origin": f"http://127.0.0.1:{port}"}, {"Host": f"localhost:{port}"}):
                assert (
                    asked(port, "GET", f"/api/2.0/mlflow/experiments/get?experiment_id={key}", **headers)[0]
                    == 200
                )
            assert asked(port, "POST", delete, body, Origin=f"http://localhost:{port}")[0] == 200
            assert client(root).get_experiment(key).lifecycle_stage == "deleted"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def test_a_copied_checkout_writes_nothing_into_the_original(root: Path, tmp_path: Path) -> None:
    tracking.rebuild(root, [record(plan("kd"))], lambda one: {"curves.png": b"picture"})
    copy = tmp_path / "copy of it"
    shutil.copytree(root, copy)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert tracking.rebuild(copy, [record(plan("kd")), record(plan("cd"))], lambda one: {"x.png": b"x"}) == (
        1,
        0,
    )
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    shutil.rmtree(root)  # a moved checkout is a copy whose original was removed
    for name, picture in (("kd · seed 0", "curves.png"), ("cd · seed 0", "x.png")):
        run = runs(copy)[name]
        assert run.info.artifact_uri.startswith((copy / ".cdkd" / "mlflow" / "artifacts").as_uri() + "/")
        assert picture in {file.path for file in client(copy).list_artifacts(run.info.run_id)}
    with live(copy, [plan("at")]) as tracker:
        tracker.finish(record(plan("at")))
    assert not root.exists()


def test_a_damaged_view_is_one_line_or_completed(root: Path, tmp_path: Path) -> None:
    records = [record(plan(method, seed)) for method in ("kd", "cd") for seed in (0, 1)]
    tracking.rebuild(root, records)
    path, whole = root / ".cdkd" / "mlflow" / "mlflow.db", tmp_path / "whole.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("update latest_metrics set value = 0.5 where key = 'test_top1_error'")
        connection.commit()
    assert tracking.rebuild(root, records) == (0, 4)  # the records are right, and MLflow is not
    assert runs(root)["kd · seed 0"].data.metrics["test_top1_error"] == row(EPOCHS - 1)["test_top1_error"]
    with (
        contextlib.closing(sqlite3.connect(path)) as one,
        contextlib.closing(sqlite3.connect(whole)) as other,
    ):
        one.backup(other)
    content, draw, refused = whole.read_bytes(), random.Random(0), []
    texts = {"text": b"no database\n" * 99, "half": content[: len(content) // 2]}
    for count in range(10):
        flipped = bytearray(content)
        for place in draw.sample(range(100, len(content)), 8 << count):
            flipped[place] ^= 1 << draw.randrange(8)
        texts[f"flipped{count}"] = bytes(flipped)
    for name, text in texts.items():
        file = fresh(whole, tmp_path / name) / ".cdkd" / "mlflow" / "mlflow.db"
        file.write_bytes(text)
        try:
            tracking.rebuild(tmp_path / name, records)
        except CdkdError as fault:
            refused.append((name, str(fault)))
    assert {"text", "half"} < {name for name, _ in refused}
    assert all("\n" not in text and name in text for name, text in refused), refused


def has_ended(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_no_free_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "bind", lambda self, place: (_ for _ in ()).throw(OSError("taken")))
    with pytest.raises(CdkdError, match="no free port from 5000 to 5019"):
        server.free_port(5000)
