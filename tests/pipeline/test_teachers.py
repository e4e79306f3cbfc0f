"""Several teachers and controls, trained: each student learns from its own teacher; the report has all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cdkd.config.params import Params, load
from cdkd.pipeline import reports, stages
from cdkd.pipeline.controls import controls
from cdkd.pipeline.queries import todays_runs
from cdkd.runs.record import read
from cdkd.runs.store import Store

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


def trained(folder: Path, teacher: str) -> Params:
    folder.mkdir()
    (folder / "params.yaml").write_text(TEXT.replace("TEACHER", teacher))
    params = load(folder / "params.yaml")
    stages.prepare(params)
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
