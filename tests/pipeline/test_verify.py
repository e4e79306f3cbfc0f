"""`cdkd verify`: a finished run is bit-identical when trained again; changed files are found."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load, save

from cdkd.pipeline.verify import environment_diff, first_difference
from cdkd.runs import source_archive
from cdkd.runs.predictions import KEY, predictions_file
from cdkd.runs.record import Record, read
from tests.clone import Clone, snapshot
from tests.pipeline.test_doctor import (
    copied,
    entry,
    finished_checkout,
    flip,
    replace_in,
    reseal,
    with_environment,
    workspace,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return finished_checkout(tmp_path_factory)


@pytest.fixture
def clone(finished: Clone, tmp_path: Path) -> Clone:
    return copied(finished, tmp_path)


def test_a_student_comes_out_again(finished: Clone) -> None:
    """Alone, where it was trained together with another; and nothing of the checkout is touched."""
    before = snapshot(finished)
    record = finished.record("kd")
    assert record["circumstances"]["cohort"] == ["student", "kd"]
    text = finished.run("cdkd", "verify", "kd")
    assert (
        text == "kd seed 0: bit-identical: 2 epochs and weights with sha256 "
        f"{record['result']['weights_sha256'][:12]}...\n"
    )
    assert snapshot(finished) == before


def test_a_run_is_drawn_at_random(finished: Clone) -> None:
    drawn, *lines = finished.run("cdkd", "verify").splitlines()
    run, _, rest = drawn.partition(": ")
    assert rest == "drawn from 2 finished runs"
    assert run in ("student seed 0", "kd seed 0")
    assert lines[0].startswith(f"{run}: bit-identical")
    assert "also expected a METHOD" in finished.run("cdkd", "verify", "--seed", "0", code=2)


def test_the_source_of_each_run_is_kept(finished: Clone) -> None:
    folder, record = finished.folder / ".cdkd" / "code", finished.record
    assert "cdkd/losses/kd.py" in source_archive.unpacked(folder / f"{record('kd')['code']}.zip")
    assert "cdkd/losses/kd.py" not in source_archive.unpacked(folder / f"{record('student')['code']}.zip")
    codes = {record(method)["code"] for method in ("teacher", "student", "kd")}
    assert {path.stem for path in folder.iterdir()} == codes


def test_the_teacher_comes_out_again_with_the_threads_of_its_record(finished: Clone) -> None:
    """Other threads than then would be an environment that differs."""
    words = ["cdkd", "verify", "teacher", "--seed", "0"]
    environment = finished.environment | {
        "OMP_NUM_THREADS": str(finished.record("teacher")["circumstances"]["environment"]["threads"] + 1)
    }
    done = subprocess.run(
        words, cwd=finished.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("teacher seed 0: bit-identical: 1 epochs")
    assert len(done.stdout.splitlines()) == 1


def test_altered_and_sealed_it_parts_from_what_is_trained_again(clone: Clone) -> None:
    """By somebody who knows how a record is sealed: a nicer epoch, and weights that go with it."""

    def better(record: Record) -> Record:
        history = [
            record.history[0],
            record.history[1] | {"losses": record.history[1]["losses"] | {"kd": 0.125}},
        ]
        result = record.result | {
            "last": history[1],
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        return with_environment(processor="another")(replace(record, history=history, result=result))

    weights = workspace(clone, "kd").with_suffix(".safetensors")
    tensors = load(weights.read_bytes())
    first = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[first].view(-1)[0] += 0.5
    weights.write_bytes(save(tensors))
    reseal(workspace(clone, "kd"), better)
    text = clone.run("cdkd", "verify", "kd", code=1)
    here = clone.record("student")["circumstances"]["environment"]
    loss = read(entry(clone, "kd") / "record.json").history[1]["losses"]["kd"]
    assert text.splitlines() == [
        "kd seed 0: trained again, it differs from runs/digits/kd/seed-0.json:",
        f"  epoch 1 is the first that differs: losses.kd 0.125 -> {loss!r}",
        f"  its result differs: result.last.losses.kd 0.125 -> {loss!r}",
        f"  its weights differ: 1 of {len(tensors)} tensors; the first, {first}, by up to 0.5",
        "  the environments differ, so that equality was not promised: "
        f"processor another -> {here['processor']}",
    ]


def test_a_record_from_before_predictions_were_kept_comes_out_again(clone: Clone) -> None:
    def older(record: Record) -> Record:
        return replace(record, result={key: one for key, one in record.result.items() if key != KEY})

    for path in (workspace(clone, "kd"), entry(clone, "kd") / "record.json"):
        reseal(path, older)
        predictions_file(path).unlink()
    assert "bit-identical" in clone.run("cdkd", "verify", "kd")
    assert "of 2 runs: as recorded; 1 run without" in clone.run("cdkd", "doctor", "--quick")


def other_seed(record: Record) -> Record:
    return replace(record, config=record.config | {"seed": 1})


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (
            lambda clone: replace_in(workspace(clone, "kd"), '"test_loss": ', '"test_loss": 1'),
            "runs/digits/kd/seed-0.json: its digest does not fit its content",
        ),
        (
            lambda clone: replace_in(entry(clone, "kd") / "record.json", '"test_loss": ', '"test_loss": 1'),
            "record.json: its digest does not fit its content",
        ),
        (
            lambda clone: reseal(workspace(clone, "kd"), other_seed),
            "its fingerprint is not its configuration's",
        ),
        (
            lambda clone: reseal(entry(clone, "kd") / "record.json", other_seed),
            "its fingerprint is not its configuration's",
        ),
        (
            lambda clone: flip(workspace(clone, "kd").with_suffix(".safetensors")),
            "its digest is not the record's",
        ),
        (lambda clone: flip(entry(clone, "kd") / "weights.safetensors"), "its digest is not the record's"),
        (
            lambda clone: shutil.copy(workspace(clone, "student"), entry(clone, "kd") / "record.json"),
            "its digest is not the record's",
        ),
        (lambda clone: workspace(clone, "kd").unlink(), "missing; `cdkd distill kd` trains the runs"),
        (
            lambda clone: shutil.rmtree(entry(clone, "teacher")),
            "does not have the teacher of the run",
        ),
        (
            lambda clone: replace_in(
                clone.folder / "cdkd/losses/kd.py",
                "teacher.logits, self.temperature)",
                "teacher.logits, 2 * self.temperature)",
            ),
            "trained with other code than today's",
        ),
        (lambda clone: shutil.rmtree(clone.folder / "data"), "run `cdkd prepare` first"),
    ],
)
def test_what_cannot_be_trusted_or_trained_again_is_refused(
    clone: Clone, do: Callable[[Clone], None], message: str
) -> None:
    do(clone)
    before = snapshot(clone)
    text = clone.run("cdkd", "verify", "kd", code=2)
    assert message in text
    assert len(text.splitlines()) == 1
    assert snapshot(clone) == before


def test_other_data_are_refused(clone: Clone) -> None:
    clone.params((clone.folder / "params.yaml").read_text().replace("train_images: 300", "train_images: 299"))
    clone.run("cdkd", "prepare")
    assert "other data than kd seed 0 was trained on" in clone.run("cdkd", "verify", "kd", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kb"], "did you mean 'kd'"),
        (["kd", "--seed", "7"], "seed-7.json: missing"),
        (["teacher", "--seed", "7"], "`cdkd teacher`"),
    ],
)
def test_runs_that_cannot_be_meant(finished: Clone, words: list[str], message: str) -> None:
    assert message in finished.run("cdkd", "verify", *words, code=2)


def test_a_teacher_from_a_file_is_not_trained_again(clone: Clone) -> None:
    digest = clone.record("teacher")["result"]["weights_sha256"]
    shutil.copy(entry(clone, "teacher") / "weights.safetensors", clone.folder / "t.safetensors")
    named = f"network: resnet14, weights: t.safetensors, sha256: {digest}"
    clone.params((clone.folder / "params.yaml").read_text().replace("network: resnet14", named))
    clone.run("cdkd", "teacher")
    assert "came from a file" in clone.run("cdkd", "verify", "teacher", code=2)
    assert "teacher        top-1 error" in clone.run(
        "cdkd", "doctor"
    )  # measured again, it is what its record says


def test_the_first_place_where_values_part() -> None:
    assert first_difference({"a": {"b": 1.0}, "c": 2}, {"a": {"b": 1}, "c": 2}) is None
    assert first_difference({"a": {"b": 1.0, "c": 2}}, {"a": {"b": 1.5, "c": 3}}) == "a.b 1.0 -> 1.5"
    assert first_difference({"a": {"b": 1}}, {"a": None}, "row") == "row.a {'b': 1} -> None"
    assert first_difference({}, {"epoch": 3}) == "epoch None -> 3"
    assert environment_diff({"threads": 1, "torch": "2"}, {"threads": 2, "torch": "2"}) == "threads 1 -> 2"


def test_the_scratch_place_goes_again(finished: Clone, tmp_path: Path) -> None:
    done = subprocess.run(
        ["cdkd", "verify", "student"],
        cwd=finished.folder,
        env=finished.environment | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "bit-identical" in done.stdout
    assert os.listdir(tmp_path) == []
