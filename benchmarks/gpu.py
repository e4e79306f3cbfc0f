"""One script for a machine with one GPU: is it right there, and how fast is it?

    python -m benchmarks.gpu --minutes 8 --out DIR --data cifar100-1.zip cifar100-2.zip

First what must hold (losses and steps against float64 on the CPU; the same bits twice, alone and in company,
replayed and unrecorded), then a matrix product's rate as the ceiling, then variants of the targets' cohorts,
the most telling first, until the time is over. Every finding is appended to DIR/gpu.csv at once; a variant
that fails is a finding too. Needs torch, torchvision, NumPy and safetensors. Without --data the images are
noise, which costs the same.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

# read when cuBLAS and OpenMP begin, so before torch is imported: without the first, deterministic products
# are refused
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import gpu_checks as checks
from benchmarks.gpu_time import (
    PAIRS,
    TINY,
    Device,
    Source,
    Variant,
    copy_gbs,
    matmul_tflops,
    measure,
    variants,
)

KEYS = ("pair", "batch", "students", "precision", "engine", "graphs", "streams", "deterministic")
NUMBERS = (
    "images_per_second_per_student", "stream_images_per_second", "milliseconds_per_step", "tflops",
    "utilisation", "peak_gb",
    "evaluation_seconds", "first_steps_seconds", "projected_minutes",
)  # fmt: skip
COLUMNS = ("part", "name", "state", *KEYS, "error", *NUMBERS, "spent_seconds", "note", "device", "date")


class OutOfTime(BaseException):
    """A piece was cut off; no `Exception`, so that nothing on the way takes it for a fault of its own."""


class Findings:
    """Rows, each in the file before the next piece begins; pieces that fail or take too long are rows as
    well.
    """

    def __init__(self, path: Path, device: Device, minutes: float) -> None:
        self.path, self.device = path, device
        self.end = time.monotonic() + 60 * minutes
        self.rows: list[dict[str, Any]] = []
        self.constant = {"device": device.described, "date": datetime.now(UTC).isoformat(timespec="seconds")}
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def add(self, part: str, name: str, piece: Callable[[], dict[str, Any]], **keys: Any) -> dict[str, Any]:
        """The row of one piece: what it returned, or why it returned nothing."""
        begin = time.monotonic()
        try:
            with limited(self.left):
                found = {"state": "ok"} | piece()
        except OutOfTime:
            found = {"state": "out of time", "note": "cut off" if begin < self.end - 1 else "not begun"}
        except Exception as error:  # whatever goes wrong in one variant must not take the others' time
            found = {
                "state": "failed",
                "note": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
            }
        row = (
            {"part": part, "name": name, "spent_seconds": time.monotonic() - begin}
            | keys
            | found
            | self.constant
        )
        self.rows.append(row)
        self._write(row)
        print(f"{part} {name}: {row['state']} {described(row)}", flush=True)
        return row

    def _write(self, row: dict[str, Any]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(
                {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()}
            )
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `OutOfTime` inside after so many seconds (a kernel that runs is waited for)."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    if seconds <= 1:
        raise OutOfTime
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def described(row: dict[str, Any]) -> str:
    numbers = [f"{key} {row[key]:.4g}" for key in ("error", *NUMBERS) if isinstance(row.get(key), float)]
    return ", ".join([*numbers, *([row["note"]] if row.get("note") else [])])


def check(findings: Findings, *, tiny: bool) -> None:
    device = findings.device.torch
    for loss in checks.LOSSES:
        findings.add(
            "check",
            f"loss {loss}",
            lambda loss=loss: judged(checks.loss_error(loss, device), checks.LIMITS["loss"]),
        )  # type: ignore[misc]
    findings.add(
        "check", "steps of a cohort", lambda: judged(checks.steps_error(device), checks.LIMITS["steps"])
    )
    for precision in ("float32",) if tiny else ("float32", "bf16"):
        for name in checks.WAYS:
            for strict in (True,) if tiny else (True, False):  # without it: does it hold all the same?

                def exact(
                    name: str = name, strict: bool = strict, precision: str = precision
                ) -> dict[str, Any]:
                    with checks.deterministic(strict):
                        other = checks.differing(*checks.exact(name, device, precision=precision))
                    return {
                        "state": "wrong" if other else "ok",
                        "note": f"other bits: {other}" if other else "",
                    }

                findings.add("check", name, exact, precision=precision, deterministic=strict)


def judged(error: float, limit: float) -> dict[str, Any]:
    return {
        "state": "ok" if error < limit else "wrong",
        "error": error,
        "note": f"relative, to be below {limit:g}",
    }


def clock(findings: Findings, source: Source, *, tiny: bool) -> None:
    """Ceilings, and then every variant that the time allows."""
    device = findings.device
    side, dtype, seconds = (128, torch.float32, 0.05) if tiny else (8192, torch.bfloat16, 1.0)
    kind = str(dtype).removeprefix("torch.")
    product = findings.add(
        "ceiling", f"matmul {side}, {kind}", lambda: {"tflops": matmul_tflops(device, side, dtype, seconds)}
    )
    findings.add(
        "ceiling",
        "copy",
        lambda: {"note": f"{copy_gbs(device, 10 if tiny else 4000, seconds):.0f} GB/s, read and written"},
    )
    ceiling = product.get("tflops", float("nan"))
    for variant in variants(TINY if tiny else PAIRS, tiny=tiny):
        findings.add(
            "time",
            str(variant.pair),
            lambda v=variant: measured(v, source, device, 0.1 if tiny else 2.0, ceiling),
            **keys(variant),
        )  # type: ignore[misc]


def measured(
    variant: Variant, source: Source, device: Device, seconds: float, ceiling: float
) -> dict[str, Any]:
    try:
        return measure(variant, source, device, seconds, ceiling)
    finally:
        if variant.engine == "compile":
            # else the next variant's networks count against this one's limit of recompilations
            torch._dynamo.reset()


def keys(variant: Variant) -> dict[str, Any]:
    return {name: getattr(variant, name) for name in KEYS[2:]} | {
        "pair": str(variant.pair),
        "batch": variant.pair.batch,
    }


def table(findings: Findings) -> str:
    """The findings for a reader: what is wrong, and the variants by pair."""
    rows, lines = findings.rows, [findings.constant["device"]]
    wrong = [row for row in rows if row["part"] == "check" and row["state"] != "ok"]
    lines.append(f"checks: {sum(row['part'] == 'check' for row in rows) - len(wrong)} ok, {len(wrong)} not")
    lines += [
        f"  {row['name']} ({row.get('precision', '')} deterministic {row.get('deterministic', '')}): "
        f"{row['state']} {described(row)}"
        for row in wrong
    ]
    lines += [f"{row['part']} {row['name']}: {described(row)}" for row in rows if row["part"] == "ceiling"]
    head = (
        f"{'K':>3} precision engine  graphs streams determ. "
        "img/s/student  ms/step    use     GB eval s  minutes"
    )
    timed = [row for row in rows if row["part"] == "time"]
    for pair in dict.fromkeys(row["pair"] for row in timed):
        lines += ["", pair, head]
        for row in sorted(
            (row for row in timed if row["pair"] == pair and row["state"] == "ok"),
            key=lambda row: -row["images_per_second_per_student"],
        ):
            lines.append(
                f"{row['students']:3} {row['precision']:9} {row['engine']:7} {row['graphs']!s:6} "
                f"{row['streams']:7} {row['deterministic']!s:7}"
                f" {row['images_per_second_per_student']:13,.0f} {row['milliseconds_per_step']:8.2f} "
                f"{100 * row['utilisation']:5.1f}% {row['peak_gb']:6.1f}"
                f" {row['evaluation_seconds']:6.2f} {row['projected_minutes']:8.1f} {row['note']}"
            )
        lines += [
            f"    {label(row)}: {row['state']} {row['note']}"
            for row in timed
            if row["pair"] == pair and row["state"] == "failed"
        ]
    skipped = sum(row["state"] == "out of time" for row in timed)
    return "\n".join([*lines, "", *([f"{skipped} variants had no time"] if skipped else [])])


def label(row: dict[str, Any]) -> str:
    return " ".join(f"{name} {row[name]}" for name in KEYS[2:])


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="right and fast on a GPU? one script, one table"
    )
    options.add_argument("--minutes", type=float, default=8.0, help="it ends within them; %(default)s")
    options.add_argument(
        "--out", type=Path, default=Path("gpu"), metavar="DIR", help="for gpu.csv and gpu.txt; %(default)s"
    )
    options.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="ZIP",
        help="archives of <split>/<class>/<image>; without them: noise",
    )
    options.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="%(default)s; cpu is for trying the script"
    )
    options.add_argument(
        "--tiny", action="store_true", help="the smallest networks and few images: for trying the script"
    )
    return options.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = parsed(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device: torch sees none; --device cpu --tiny tries the script without one",
            file=sys.stderr,
        )
        return 2
    torch.backends.cudnn.allow_tf32 = False  # as in a campaign: float32 is float32
    findings = Findings(options.out / "gpu.csv", Device(options.device), options.minutes)
    check(findings, tiny=options.tiny)
    noise = Source.noise(64, 32) if options.tiny else Source.noise(10_000, 10_000)
    source = noise
    if options.data:

        def read() -> dict[str, Any]:
            nonlocal source
            source = Source.of(options.data, 10_000)
            return {"note": f"{len(source.train.labels)} training and {len(source.test.labels)} test images"}

        findings.add("data", "images", read)
    clock(findings, source, tiny=options.tiny)
    text = table(findings)
    (options.out / "gpu.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
