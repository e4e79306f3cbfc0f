"""On a GPU: the losses' values, and the same bits twice, alone and in company, replayed and unrecorded.

And the script that times it, tried on a CPU.
"""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # read when cuBLAS begins; without it deterministic products are refused
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the package

import torch  # noqa: E402

from benchmarks import gpu, gpu_checks, gpu_time  # noqa: E402
from cdkd.core.errors import CdkdError  # noqa: E402
from cdkd.training.cuda_graph import StreamPool  # noqa: E402

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@needs_cuda
@pytest.mark.parametrize("loss", gpu_checks.LOSSES)
def test_a_loss_on_cuda_is_that_on_the_cpu(loss: str) -> None:
    assert gpu_checks.loss_error(loss, CUDA) < gpu_checks.LIMITS["loss"]


@needs_cuda
def test_steps_on_cuda_are_those_on_the_cpu() -> None:
    assert gpu_checks.steps_error(CUDA) < gpu_checks.LIMITS["steps"]


@needs_cuda
@pytest.mark.parametrize(
    ("precision", "engine"), [("float32", "eager"), ("bf16", "eager"), ("bf16", "compile")]
)
@pytest.mark.parametrize("way", gpu_checks.WAYS)
def test_bits_on_cuda(way: str, precision: str, engine: str) -> None:
    with gpu_checks.deterministic(True):
        one, other = gpu_checks.exact(way, CUDA, precision=precision, engine=engine)
    assert gpu_checks.differing(one, other) == ""


@needs_cuda
def test_a_step_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were nothing replayed, its equality with what is not would hold for nothing."""
    replayed = []
    monkeypatch.setattr(
        torch.cuda.CUDAGraph,
        "replay",
        lambda graph, replay=torch.cuda.CUDAGraph.replay: replayed.append(1) or replay(graph),
    )
    gpu_checks.trained(CUDA, ["kd"])
    assert len(replayed) > 5
    count = len(replayed)
    gpu_checks.trained(CUDA, ["kd"], replayed=False)
    assert len(replayed) == count


@needs_cuda
def test_students_run_on_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were there but one stream, the equality of one with four would hold for nothing."""
    seen: set[int] = set()
    monkeypatch.setenv("CDKD_STREAMS", "4")
    pool = StreamPool(CUDA)
    pool([lambda: seen.add(torch.cuda.current_stream().cuda_stream)] * 6)
    assert len(seen) == 4
    assert torch.cuda.current_stream().cuda_stream not in seen


def test_pieces_on_a_cpu_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setenv("CDKD_STREAMS", "4")
    StreamPool(CPU)([partial(seen.append, place) for place in range(6)])
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("text", ["", "0", "-1", "four", "2.5", "65", "٤"])
def test_a_number_of_streams_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CDKD_STREAMS", text)
    with pytest.raises(CdkdError, match=f"CDKD_STREAMS: {text!r}; expected a number of streams, 1 to 64"):
        StreamPool(CPU)


def test_the_checks_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    short = gpu_checks.trained(CPU, ["student", "kd"], epochs=1, milestones=())
    other = gpu_checks.trained(CPU, ["student", "kd"], epochs=1, milestones=(), learning_rate=0.05001)
    assert gpu_checks.differing(short, other) == "student, kd"
    assert gpu.judged(1e-3, 1e-4)["state"] == "wrong"
    assert gpu.judged(math.nan, 1e-4)["state"] == "wrong"
    monkeypatch.setattr(gpu_checks, "build", lambda *words: Wrong())
    assert gpu_checks.loss_error("kd", CPU) > gpu_checks.LIMITS["loss"]


class Wrong(torch.nn.Module):
    """A loss that is imprecise on the device that it was moved to, and there alone."""

    shift = 0.0

    def to(self, *words: Any, **named: Any) -> Wrong:
        self.shift = 1e6
        return super().to(*words, **named)

    def forward(self, student: Any, teacher: Any, labels: torch.Tensor) -> torch.Tensor:
        return ((student.logits + self.shift) - self.shift).square().sum()


def test_every_variant_is_tried_once_and_the_most_telling_first() -> None:
    found = gpu_time.variants(gpu_time.PAIRS, tiny=False)
    assert (
        len(found) == len(set(found)) == 2 * 3 * 2 * 2 * 2 * 2 + 2 * 2
    )  # and ten students on four and ten streams
    assert [(one.pair.batch, one.students, one.precision, one.graphs) for one in found[:2]] == [
        (64, 10, "bf16", True),
        (128, 10, "bf16", True),
    ]
    assert [(one.students, one.streams) for one in found[:8:2]] == [(10, 1), (1, 1), (10, 4), (5, 1)]
    assert len({len(method) for method in gpu_time.TEN[:5]}) > 1
    assert len(gpu_time.TEN) == 10


def test_projections_are_of_the_whole_table() -> None:
    pair = gpu_time.Pair("t", "s", 64, 240, 10)
    found = gpu_time._numbers(
        gpu_time.Variant(pair, 5), a_step=0.064, tested=2.0, madds=(10**9, 10**8), ceiling=0.01
    )
    assert found["stream_images_per_second"] == pytest.approx(1000)
    assert found["images_per_second_per_student"] == pytest.approx(5000)
    assert found["tflops"] == pytest.approx(2 * (1 + 3 * 5 * 0.1))
    assert found["utilisation"] == pytest.approx(500)
    assert found["projected_minutes"] == pytest.approx(2 * 240 * (50 + 5 * 2) / 60)
    assert math.isnan(
        gpu_time._numbers(gpu_time.Variant(pair, 11), 0.1, 1.0, (1, 1), 1.0)["projected_minutes"]
    )


def test_a_failure_and_the_end_of_the_time_are_findings(tmp_path: Path) -> None:
    findings = gpu.Findings(tmp_path / "deep" / "gpu.csv", gpu_time.Device("cpu"), minutes=0.03)

    def breaks() -> dict[str, Any]:
        raise RuntimeError("an\nerror")

    def hangs() -> dict[str, Any]:
        while True:
            try:
                sum(range(1000))
            except Exception:  # what a compiler does with everything it meets
                continue

    findings.add("time", "breaks", breaks, students=1)
    findings.add("time", "hangs", hangs)
    findings.add("time", "late", dict)
    rows = list(csv.DictReader(findings.path.open()))
    assert [(row["name"], row["state"], row["note"]) for row in rows] == [
        ("breaks", "failed", "RuntimeError: an error"),
        ("hangs", "out of time", "cut off"),
        ("late", "out of time", "not begun"),
    ]


def script(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *map(str, words)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_without_cuda_it_says_so(tmp_path: Path) -> None:
    done = script("--out", tmp_path / "out", code=2)
    assert done.stderr.startswith("no CUDA device")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_script_on_a_cpu(tmp_path: Path) -> None:
    done = script("--device", "cpu", "--tiny", "--out", tmp_path)
    rows = list(csv.DictReader((tmp_path / "gpu.csv").open()))
    assert {(row["part"], row["state"]) for row in rows} == {
        ("check", "ok"),
        ("ceiling", "ok"),
        ("time", "ok"),
    }, done.stdout
    timed = [row for row in rows if row["part"] == "time"]
    assert [(row["students"], row["precision"]) for row in timed] == [
        ("1", "float32"),
        ("1", "bf16"),
        ("2", "float32"),
        ("2", "bf16"),
    ]
    for row in timed:
        assert all(
            float(row[name]) > 0
            for name in (
                "images_per_second_per_student",
                "utilisation",
                "evaluation_seconds",
                "projected_minutes",
            )
        )
        assert row["note"] == ""
    text = (tmp_path / "gpu.txt").read_text()
    assert text in done.stdout
    assert f"checks: {len(gpu_checks.LOSSES) + 1 + len(gpu_checks.WAYS)} ok, 0 not" in text
