"""The benchmarks measure what they say, in the smallest real runs. No test asks how long anything took."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import online
from cdkd.config.params import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = "--teacher resnet14 --student resnet8 --batch 8 --steps 2 --warmup 1 --evaluate 8 --pixels random"
MEASURED = (
    "images_per_second_per_student",
    "wall_images_per_second_per_student",
    "evaluation_seconds",
    "evaluation_wall_seconds",
    "peak_mb",
)


def output_of(module: str, words: str, *, code: int = 0) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"benchmarks.{module}", *words.split()]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if "no cache: on this processor" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def told(module: str, words: str) -> dict[str, Any]:
    """What a module prints: one line of JSON and nothing else."""
    (line,) = output_of(module, words).splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def test_the_reference() -> None:
    found = told("reference", f"{TINY} --workers 2")
    assert all(positive(found[name]) for name in (*MEASURED, "workers_seconds", "workers_images_per_second"))
    assert (found["students"], found["images"], found["pixels"], found["threads"]) == (1, 24, "random", 1)


def test_the_reference_goes_through_epochs_without_workers() -> None:
    found = told("reference", f"{TINY} --workers 0 --images 16 --steps 4 --side 16 --precision bf16")
    assert all(positive(found[name]) for name in MEASURED)
    assert found["workers_seconds"] == 0
    assert math.isfinite(found["last_loss"])


@pytest.mark.parametrize(
    ("words", "methods"),
    [
        ("", ["kd"]),
        ("--students 3 --precision bf16", ["kd", "cd", "cd_gkd"]),
        ("--methods student,fitnets --seeds 2 --side 16", ["student", "fitnets"]),
        ("--students 7 --cache warm", ["kd", "cd", "cd_gkd", "cd_gkd_edt", "rkd", "student", "kd"]),
    ],
)
def test_ours(words: str, methods: list[str]) -> None:
    found = told("ours", f"{TINY} {words}")
    assert all(positive(found[name]) for name in MEASURED)
    assert found["students"] == len(methods)
    assert found["methods"] == ",".join(methods)
    per_student, stream = found["images_per_second_per_student"], found["stream_images_per_second"]
    assert per_student == pytest.approx(len(methods) * stream, rel=1e-3)


def test_each_loss_alone() -> None:
    small = "--teacher resnet14 --student resnet8 --batch 4 --side 8 --rounds 1"
    rows = [line.split() for line in output_of("losses", f"kd cd at {small}").splitlines()[2:]]
    assert {name for name, *_ in rows} == {"kd", "cd", "at", "(student)", "(teacher)"}
    assert all(float(own) + float(teachers) > 0 for _, own, teachers in rows)
    assert "expected some of" in output_of("losses", f"wrong {small}", code=2)


def test_an_epoch_in_parts() -> None:
    found = told("ours", f"{TINY} --methods cd --parts")
    assert sum(found["shares"].values()) == pytest.approx(1, abs=0.01)
    assert positive(found["epoch_seconds"])
    assert positive(found["tracking_seconds"])
    for part in (
        "batches",
        "teacher pass",
        "student forward + backward",
        "losses",
        "optimiser",
        "evaluation",
        "checkpoint",
    ):
        assert positive(found["seconds"][part]), part


def test_what_cannot_be_measured_is_refused() -> None:
    text = output_of("ours", f"{TINY} --methods kb", code=2)
    assert "expected" in text
    assert "Traceback" not in text


def test_a_folder_that_is_no_clone_of_repdistiller_is_refused(tmp_path: Path) -> None:
    for words in (str(tmp_path), f"--repdistiller {tmp_path}"):
        text = output_of("run" if "--" in words else "repdistiller", words, code=2)
        assert "expected helper/loops.py" in text
        assert "Traceback" not in text
    text = output_of("repdistiller_steps", f"{tmp_path} resnet20 resnet8", code=2)
    assert "expected helper/loops.py" in text
    assert "Traceback" not in text


def test_the_comparison_and_its_picture(tmp_path: Path) -> None:
    """Two rounds of the reference, one variant that can be measured and one that cannot and is reported."""
    path = tmp_path / "tiny.csv"
    grid = "--pairs resnet14:resnet8 --batches 8 --students 2 --caches off,lukewarm"
    text = output_of(
        "run", f"--quick {grid} --rounds 2 --steps 1 --evaluate 8 --workers 0 --pixels random --out {path}"
    )
    *rows, faulty = csv.DictReader(path.open())
    assert [(row["variant"], row["K"], row["rounds"]) for row in rows] == [
        ("reference", "1", "2"),
        ("K = 2", "2", "2"),
    ]
    for row in rows:
        assert all(
            positive(float(row[name]))
            for name in ("images_per_second_per_student", "ratio", "evaluation_images_per_second", "peak_mb")
        )
        assert float(row["slowest"]) <= float(row["images_per_second_per_student"]) <= float(row["fastest"])
        assert all(row[name] for name in ("methods", "machine", "python", "torch", "date"))
        assert row["variant"] in text
    assert float(rows[0]["ratio"]) == 1
    assert (faulty["ratio"], faulty["rounds"]) == ("", "0")
    assert "lukewarm" in faulty["note"]
    assert faulty["note"] in text

    output_of("picture", str(path))
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "cost.svg").stat().st_size > 5000


def test_the_overhead() -> None:
    rows = json.loads(output_of("overhead", "--repeats 1 --json"))
    assert len(rows) == 8
    assert all(positive(row["wall"]) and positive(row["processor"]) for row in rows)
    assert {row["what"] for row in rows} >= {
        "cdkd check",
        "cdkd distill kd: restored",
        "dvc repro: nothing to do",
    }


def test_groups_are_held_against_their_multiply_adds() -> None:
    words = "one pcl dml ctkd --experiment digits-online --side 8 --batch 8 --rounds 1"
    _, *lines = output_of("groups", words).splitlines()
    expected = {name: float(ratio.rstrip("x")) for name, _, _, ratio, _ in map(str.split, lines)}
    assert list(expected) == ["student", "one", "pcl", "dml", "ctkd"]
    assert expected["student"] == 1
    assert 1 < expected["one"] < expected["dml"] < expected["pcl"]
    assert expected["pcl"] == pytest.approx(4, abs=0.05)  # three views that learn, and as many averages
    assert "no group of digits-online" in output_of("groups", "kd --experiment digits-online", code=1)


def test_ranks() -> None:
    words = "--teacher resnet14 --student resnet8 --batch 8 --rounds 2 --steps 1 --warmup 1"
    machine, _, one, two, found = output_of("ranks", words).splitlines()
    assert "resnet14 -> resnet8, kd, batch 8" in machine
    spread = r"\d+ \(\d+ to \d+\)"
    assert re.fullmatch(rf"1 rank x 2 threads: wall {spread}, processor {spread}", one)
    assert re.fullmatch(rf"2 ranks x 1 thread: wall {spread}, processor {spread}", two)
    assert re.fullmatch(r"two ranks take [+-][\d.]+ % wall and [+-][\d.]+ % processor time", found)


@pytest.mark.parametrize("name", online.EXPERIMENTS)
def test_online_experiments_keep_their_epochs_but_for_a_trial(name: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    whole = load(path, online.text_of(name, [], None))
    assert whole.training.epochs == (200 if name == "ctkd-cifar100" else 300)
    trial = load(path, online.text_of(name, [tmp_path / "a.zip", tmp_path / "b.zip"], 1))
    assert (trial.training.epochs, trial.teacher.training.resolved.epochs) == (1, 1)
    assert trial.data.paths == (str(tmp_path / "a.zip"), str(tmp_path / "b.zip"))
    assert set(trial.methods) == set(whole.methods)


def test_online_experiments_in_a_small_real_run(tmp_path: Path) -> None:
    online.run(
        tmp_path,
        """\
experiment: e
data: {source: digits, train_images: 64}
teacher: {network: resnet8, training: {epochs: 1, milestones: []}}
student: {network: resnet8}
training: {epochs: 1, batch: 32, learning_rate: 0.05, milestones: [], augmentation: {pad: 1}}
seeds: [0]
methods:
  one: {group: {branches: 3, after: 2}, ce: {weight: 1}, one: {weight: 1, rise: 1}}
""",
    )
    assert "ONE" in (tmp_path / "reports/e/report.md").read_text()


def test_runs_are_written_to_a_server_once() -> None:
    pytest.importorskip("pgserver", reason="pgserver has no package for this Python or machine")
    first, *lines = output_of("tracking", "--methods 1 --seeds 2 --epochs 2").splitlines()
    assert first.endswith("3 runs of 2 epochs")
    assert [line.partition(":")[0] for line in lines] == ["written", "looked at again"]
