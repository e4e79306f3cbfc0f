"""Several teachers and controls, trained: each student learns from its own teacher; the report has all."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdkd.config.params import Params, load
from cdkd.core.errors import BadData, BadRecord
from cdkd.pipeline import bundles, reports, stages, submit
from cdkd.pipeline.controls import controls
from cdkd.pipeline.queries import todays_runs
from cdkd.pipeline.verify import at_random, verify
from cdkd.runs.record import read
from cdkd.runs.store import Store
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

TEXT = """\
experiment: small
data: {source: digits, train_images: 100, validation: 0.3}
teacher:
  network: resnet8
  TEACHER
  training: {epochs: 2}
  others: {blank: {untrained: true}}
student: {network: resnet8}
training: {epochs: 1, batch: 32, learning_rate: 0.05}
seeds: [0, 1]
methods:
  student: {ce: {weight: 1}}
  kd: {ce: {weight: 0.1}, kd: {weight: 0.9, temperature: 4}}
  kd_blank: {teacher: blank, ce: {weight: 0.1}, kd: {weight: 0.9, temperature: 4}}
  longer: {epochs: 2, ce: {weight: 1, label_smoothing: 0.1}}
"""


def fresh(folder: Path, teacher: str = "seeds: [0, 3]") -> Params:
    """A project whose data are prepared."""
    folder.mkdir()
    (folder / "params.yaml").write_text(TEXT.replace("TEACHER", teacher))
    params = load(folder / "params.yaml")
    stages.prepare(params)
    return params


def trained(folder: Path, teacher: str) -> Params:
    params = fresh(folder, teacher)
    stages.teacher(params)
    for method in params.methods:
        stages.distill(params, method)
    return params


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Params:
    return trained(tmp_path_factory.mktemp("teachers") / "several", "seeds: [0, 3]")


def test_every_teacher_has_students_of_its_own(several: Params) -> None:
    runs = several.root / "runs" / "small"
    teachers = {seed: read(runs / "teacher" / f"seed-{seed}.json") for seed in (0, 3)}
    blank = {seed: read(runs / "teacher" / "blank" / f"seed-{seed}.json") for seed in (0, 3)}
    assert len({one.result["weights_sha256"] for one in (*teachers.values(), *blank.values())}) == 4
    assert all(not one.history for one in blank.values())
    for method, source in (("kd", teachers), ("kd_blank", blank)):
        for teacher, record in source.items():
            for seed in (0, 1):
                student = read(runs / method / f"teacher-{teacher}" / f"seed-{seed}.json")
                assert student.config["teacher"]["weights_sha256"] == record.result["weights_sha256"]
                assert student.circumstances["teacher_seed"] == teacher
    assert len(read(runs / "longer" / "teacher-0" / "seed-0.json").history) == 2
    assert len(todays_runs(several)) == 4 + 4 * 4
    assert not reports.missing(several)


def test_a_lone_seed_gives_the_same_bits(several: Params, tmp_path: Path) -> None:
    alone = trained(tmp_path / "alone", "seed: 3")
    theirs = {run.fingerprint: run for run in todays_runs(several)}
    store, other = Store(several.root), Store(alone.root)
    for run in todays_runs(alone):
        assert run.fingerprint in theirs
        one, two = store.get(run.fingerprint), other.get(run.fingerprint)
        assert one is not None
        assert two is not None
        assert (one.history, one.result["last"]) == (two.history, two.result["last"])
        assert one.result.get("weights_sha256") == two.result.get("weights_sha256")


def test_the_report_is_over_teachers_and_seeds(several: Params) -> None:
    reports.report(several)
    folder = several.root / "reports" / "small"
    lines = list(csv.DictReader((folder / "teachers.csv").open()))
    assert {(line["method"], line["minus"]) for line in lines} >= {("student", "kd"), ("kd", "student")}
    text = (folder / "report.md").read_text()
    assert "over teachers and seeds" in text
    assert "learns from the teacher blank (resnet8, untrained, top-1 error" in text
    assert json.loads((folder / "metrics" / "kd.json").read_text())["n"] == 4
    runs = list(csv.DictReader((folder / "runs.csv").open()))
    assert {line["teacher"] for line in runs if line["method"] == "kd"} == {"0", "3"}
    assert not (folder / "images.csv").exists()


def test_the_numbers_of_controls_are_printed(several: Params) -> None:
    one, four, student, whole = controls(several)
    assert "temperature 1:" in one
    assert "temperature 4:" in four
    smoothing = [float(line.split()[1]) for line in (one, four)]
    assert 0 < smoothing[0] < smoothing[1] < 1
    # teacher and student are the same network here: 1 epoch of 3 + 1 passes, and 2 epochs of 3 passes
    assert student.startswith("epochs: 1 ")
    assert whole.startswith("epochs: 3 ")


def results(params: Params) -> dict[str, tuple[str, str]]:
    """Of each run of params that the store has: weights and history."""
    store = Store(params.root)
    found = {run.fingerprint: store.get(run.fingerprint) for run in todays_runs(params)}
    return {
        key: (record.result["weights_sha256"], str(record.history))
        for key, record in found.items()
        if record is not None
    }


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_task_trains_its_seed_for_every_teacher(several: Params, tmp_path: Path) -> None:
    params = fresh(tmp_path / "tasks")
    asked = submit.Submission(params.root)
    assert [step.what for step in asked.steps({})] == ["teacher", "students", "report"]
    assert asked.pending == {0: 8, 1: 8}
    command(params.root, "cdkd", "work", "--task", "1")
    asked = submit.Submission(params.root)
    assert asked.taught
    assert asked.pending == {0: 8, 1: 0}
    assert [step.job.array for step in asked.steps({})] == [(0,), None]
    assert "top-1" in command(params.root, "cdkd", "teacher")
    command(params.root, "cdkd", "work", "--task", "0")
    assert results(params) == results(several)
    command(params.root, "cdkd", "work", "--task", "report")
    assert not reports.missing(params)
    assert not list(submit.Submission(params.root).steps({}))
    for place in (
        "teacher/seed-3",
        "teacher/blank/seed-3",
        "kd/teacher-3/seed-1",
        "kd_blank/teacher-0/seed-0",
    ):
        assert (params.root / "runs" / "small" / f"{place}.json").is_file()


def test_runs_are_printed_with_their_teacher(several: Params) -> None:
    names = [line.partition(":")[0] for line in command(several.root, "cdkd", "teacher").splitlines()]
    assert [name for name in names if name.startswith("teacher")] == [
        "teacher seed 0", "teacher blank seed 0", "teacher seed 3", "teacher blank seed 3"
    ]  # fmt: skip
    names = [line.partition(":")[0] for line in command(several.root, "cdkd", "distill", "kd").splitlines()]
    assert names == [f"kd seed {seed} of teacher seed {teacher}" for teacher in (0, 3) for seed in (0, 1)]


def test_the_runs_of_every_teacher_can_be_verified(several: Params) -> None:
    for method, seed, teacher, name in (
        ("kd", 1, "3", "kd seed 1 of teacher seed 3"),
        ("kd_blank", None, "3", "kd_blank seed 0 of teacher seed 3"),
        ("teacher", 3, None, "teacher seed 3"),
    ):
        same, lines = verify(several, method, seed, teacher)
        assert same, lines
        assert lines[0].startswith(f"{name}: bit-identical")
    with pytest.raises(BadRecord, match=r"blank/seed-3\.json: the teacher's weights are the initial ones"):
        verify(several, "teacher", 3, "blank")
    drawn = {at_random(several)[2] for _ in range(60)}
    assert drawn == {"0", "3"}


def test_the_runs_of_every_teacher_are_shared_and_imported(several: Params, tmp_path: Path) -> None:
    lines = bundles.share(several, tmp_path / "bundle")
    assert lines[0].startswith(f"{tmp_path / 'bundle'}: 20 runs of small")
    params = fresh(tmp_path / "other")
    assert bundles.import_results(params, tmp_path / "bundle")[0] == "small: 20 runs imported"
    assert results(params) == results(several)
    assert bundles.plan(params, None)[0] == "teacher seed 0:"
    assert all("none pending" in line for line in bundles.plan(params, None) if line.startswith("  seed"))
    one, other = Store(params.root), Store(several.root)
    for key in results(several):
        assert one.weights(key).read_bytes() == other.weights(key).read_bytes()


def test_every_teacher_has_a_plan_for_the_worker(several: Params, tmp_path: Path) -> None:
    params = fresh(tmp_path / "planned")
    with pytest.raises(BadData, match="`cdkd teacher` does it, and then the plan can be exported"):
        bundles.plan(params, tmp_path / "plan.json")
    lines = bundles.plan(params, None)
    assert lines[0] == "teacher seed 0:"
    assert "teacher blank seed 3:" in lines
    stages.teacher(params)
    lines = bundles.plan(params, tmp_path / "plan.json")
    ends = ("teacher-seed-0", "teacher-blank-seed-0", "teacher-seed-3", "teacher-blank-seed-3")
    plans = [tmp_path / f"plan-{end}.json" for end in ends]
    before = results(params)
    for plan in plans[2:]:
        weights = next(line for line in lines if str(plan) in line).rpartition("--teacher ")[2]
        out = tmp_path / plan.stem
        words = ("cdkd.cluster.worker", str(plan), "--out", str(out), "--teacher", weights)
        assert command(tmp_path, *words).splitlines()[-1] == "complete"
        bundles.import_results(params, out)
    ours = results(params)
    assert len(ours) == len(before) + 8
    assert ours.items() <= results(several).items()
