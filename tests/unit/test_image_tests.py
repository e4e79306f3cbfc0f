"""Tests over images as well as seeds, in the report: from predictions on the disk to the table."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdkd.report.crossed import Crossed
from cdkd.report.image_tests import image_tests
from cdkd.report.summary import rows
from cdkd.runs.predictions import KEY, Predictions, predictions_file, sha256_of
from tests.unit.test_report import CE, KD, Folder, a_record, keep

IMAGES = 400
CD = {**CE}


def put(folder: Folder, method: str, seed: int, wrong: np.ndarray) -> Path:
    """A run with predictions whose wrong images are these."""
    label = np.arange(IMAGES, dtype=np.uint8) % 10
    kept = Predictions(label, np.where(wrong, (label + 1) % 10, label), np.full(IMAGES, 0.5, "f2"))
    record = a_record(method, seed, 100 * float(wrong.mean()))
    keep(folder.runs, replace(record, result=record.result | {KEY: sha256_of(kept.content())}))
    path = predictions_file(folder.runs / method / f"seed-{seed}.json")
    path.write_bytes(kept.content())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """kd is wrong on a tenth of the images, and cd on half of these."""
    made = Folder(tmp_path, {"student": CE, "kd": KD, "cd": CD})
    generator = np.random.default_rng(0)
    for seed in (0, 1, 2):
        kd = generator.random(IMAGES) < 0.1
        put(made, "kd", seed, kd)
        put(made, "cd", seed, kd & (generator.random(IMAGES) < 0.5))
        keep(made.runs, a_record("student", seed))  # an older run, without predictions
    return made


def test_the_table_has_three_intervals_and_says_what_each_is_over(folder: Folder) -> None:
    folder.render()
    (test,) = image_tests(tuple(rows(folder.params, folder.found()).values()), "kd")
    assert (test.method, test.seeds, test.images, test.verdict) == ("cd", (0, 1, 2), IMAGES, "fewer errors")
    found = rows(folder.params, folder.found())
    table = 100.0 * np.array(
        [found["cd"].wrong[seed].astype(float) - found["kd"].wrong[seed] for seed in (0, 1, 2)]
    )
    assert test.mean == pytest.approx(found["cd"].minus["kd"].mean)
    assert test.intervals["both"] == Crossed(table).interval("both")
    seeds = test.intervals["rows"]
    assert seeds is not None
    assert (seeds.low, seeds.high) == pytest.approx(
        (found["cd"].minus["kd"].low, found["cd"].minus["kd"].high)
    )
    assert all(p < 0.05 for p in test.mcnemar)
    text = folder.text("report.md")
    assert "Differences to KD, over seeds and images" in text
    assert "networks trained again, judged on other images" in text
    (line,) = csv.DictReader(folder.text("images.csv").splitlines())
    assert float(line["both_low"]) < float(line["mean"]) < float(line["both_high"]) < 0


def test_one_seed_is_compared_over_images_alone(tmp_path: Path) -> None:
    made = Folder(tmp_path, {"student": CE, "kd": KD, "cd": CD}, seeds=(0,))
    kd = np.arange(IMAGES) < 40
    put(made, "kd", 0, kd)
    put(made, "cd", 0, kd & (np.arange(IMAGES) % 2 == 0))
    keep(made.runs, a_record("student", 0))
    made.render()
    (test,) = image_tests(tuple(rows(made.params, made.found()).values()), "kd")
    assert (test.seeds, test.intervals["rows"], test.intervals["both"], test.holm) == ((0,), None, None, None)
    assert test.verdict == "one seed: of these networks only"
    images = test.intervals["columns"]
    assert images is not None
    assert test.mean == pytest.approx(-5)
    assert images.low < -5 < images.high < 0
    assert test.mcnemar == (pytest.approx(2 * 0.5**20),)  # 20 images of 20
    assert "one seed: of these networks only" in made.text("report.md")


def test_runs_without_predictions_are_named_and_left_out(folder: Folder) -> None:
    folder.render()
    assert "not in the tests over images: student seeds 0, 1, 2" in folder.text("report.md")
    predictions_file(folder.runs / "cd" / "seed-1.json").write_bytes(b"damaged")
    found = rows(folder.params, folder.found())
    (test,) = image_tests(tuple(found.values()), "kd")
    assert test.seeds == (0, 2)
    assert "cd/seed-1.predictions.safetensors: damaged" in found["cd"].unreadable[1]


def test_older_runs_alone_have_no_such_table(tmp_path: Path) -> None:
    made = Folder(tmp_path, {"student": CE, "kd": KD})
    keep(made.runs, *(a_record(name, seed) for name in ("student", "kd") for seed in (0, 1, 2)))
    made.render()
    assert "over seeds and images" not in made.text("report.md")
    assert "Without predictions" not in made.text("report.md")
    assert not (made.target / "images.csv").exists()
