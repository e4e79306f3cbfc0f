"""The comparison: the reference and this project's variants, interleaved, as a table and a CSV.

    python -m benchmarks.run             # K = 1 to 8, bf16, a warm cache, batch 128; half an hour
    python -m benchmarks.run --quick     # K = 1, 4; two or three minutes
    python -m benchmarks.run --shapes    # small networks, small batches, 8 and 224 pixels; half an hour
    python -m benchmarks.run --full      # two pairs, two batches, growth with images and seeds; two hours

With `--repdistiller CLONE` the reference is RepDistiller's own loop where the images have 32 pixels, and
`benchmarks.reference` elsewhere.

Each measurement is a process of its own with one thread. Variants take turns, round after round, so that what
else the machine does falls on all of them alike; numbers are medians over the rounds, ratios are to the
median of the float32 reference with the same pair, side and batch in the same run. Where the processor has
bf16 arithmetic the reference also runs under one line of autocast.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.options import clone_of_repdistiller
from cdkd.core.host import bf16_arithmetic, host
from cdkd.runs.record import git_state
from cdkd.storage.files import write_atomically
from cdkd.storage.progress import Progress

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RATE = "images_per_second_per_student"
SIDE = 32  # of the images; the only one that RepDistiller's networks take
EMULATED = "emulated: this processor has no bfloat16 arithmetic"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
WHAT = ("variant", "pair", "side", "batch", "K", "methods", "precision", "engine", "cache", "images", "seeds")
HOW_FAST = (RATE, "slowest", "fastest", "ratio", "rounds", "evaluation_images_per_second", "peak_mb")
WHERE = ("threads", "pixels", "machine", "python", "torch", "commit", "date", "note")

# What each mode measures where the options do not say.
MODES: dict[str, dict[str, Any]] = {
    "quick": {
        "students": [1, 4],
        "precisions": ["float32"],
        "caches": ["off"],
        "pairs": ["resnet32x4:resnet8x4"],
        "batches": [64],
        "rounds": 2,
        "steps": 2,
    },
    "default": {
        "students": [1, 2, 4, 7, 8],
        "precisions": ["float32", "bf16"],
        "caches": ["off", "warm"],
        "pairs": ["resnet32x4:resnet8x4"],
        "batches": [64, 128],
        "rounds": 3,
        "steps": 2,
    },
    "shapes": {
        "students": [1],
        "precisions": ["float32", "bf16"],
        "caches": ["off"],
        "pairs": [],
        "batches": [],
        "rounds": 3,
        "steps": 2,
    },
    "full": {
        "students": [1, 2, 4, 8],
        "precisions": ["float32", "bf16"],
        "caches": ["off", "warm"],
        "pairs": ["resnet32x4:resnet8x4", "resnet56:resnet20"],
        "batches": [64, 128],
        "rounds": 5,
        "steps": 5,
    },
}
# --shapes: teacher, student, side of the images, batch, students
SHAPES: tuple[tuple[str, str, int, int, tuple[int, ...]], ...] = (
    ("resnet20", "resnet8", 32, 64, (1, 11)),
    ("resnet20", "resnet8", 32, 8, (1,)),
    ("resnet20", "resnet8", 8, 64, (1, 11)),
    ("resnet34-imagenet", "resnet18-imagenet", 224, 32, (1,)),
    ("resnet34-imagenet", "resnet18-imagenet", 224, 8, (1,)),
)
GROWN_IMAGES, GROWN_SEEDS = (1_000, 10_000, 50_000), (3,)


@dataclass(frozen=True)
class Variant:
    loop: str  # the module that measures it: reference, repdistiller or ours
    teacher: str
    student: str
    batch: int
    students: int = 1
    precision: str = "float32"
    engine: str = "eager"
    cache: str = "off"
    images: int | None = None
    seeds: int = 1
    side: int = SIDE  # of the images

    @property
    def name(self) -> str:
        if self.loop != "ours":
            own = "RepDistiller" if self.loop == "repdistiller" else "reference"
            return own if self.precision == "float32" else f"{own}, autocast"
        odd = [
            value for value, usual in ((self.precision, "float32"), (self.engine, "eager")) if value != usual
        ]
        odd += [f"{self.cache} cache"] if self.cache != "off" else []
        odd += [f"{self.images:,} images"] if self.images else []
        odd += [f"{self.seeds} seeds"] if self.seeds > 1 else []
        return ", ".join([f"K = {self.students}", *odd])

    def is_reference_of(self, other: Variant) -> bool:
        """Whether the other's ratio is to this one."""
        same = all(
            getattr(self, key) == getattr(other, key) for key in ("teacher", "student", "batch", "side")
        )
        return same and self.loop != "ours" and self.precision == "float32"

    def command(self, options: argparse.Namespace) -> list[str]:
        """The child that measures it once."""
        words = [
            sys.executable,
            "-m",
            f"benchmarks.{self.loop}",
            "--teacher",
            self.teacher,
            "--student",
            self.student,
            "--batch",
            str(self.batch),
            "--side",
            str(self.side),
            "--precision",
            self.precision,
        ]
        words += [
            "--steps",
            str(options.steps),
            "--warmup",
            str(options.warmup),
            "--evaluate",
            str(options.evaluate),
            "--pixels",
            options.pixels,
        ]
        if self.loop == "repdistiller":
            return [*words, str(options.repdistiller)]
        if self.loop == "reference":
            return [*words, "--workers", str(options.workers)]
        words += ["--images", str(self.images)] if self.images else []
        return words + [
            word
            for name in ("students", "engine", "cache", "seeds")
            for word in (f"--{name}", str(getattr(self, name)))
        ]

    def guess(self, options: argparse.Namespace) -> float:
        """Its time to that of others, before any is known: a start, and a teacher pass that costs about two
        students' steps.
        """
        steps: int = options.steps + options.warmup
        return 3 + steps * self.seeds * self.batch / 64 * (self.side / 32) ** 2 * (2 + self.students)


def variants(options: argparse.Namespace) -> Iterator[Variant]:
    """The whole grid at the first batch; at the others the reference, the fewest and the most students; then
    what grows.
    """
    for pair in options.pairs:
        teacher, _, student = pair.partition(":")
        for batch in options.batches:
            yield from _references(options, teacher, student, batch)
            if batch == options.batches[0]:
                yield from _grid(options, teacher, student, batch)
            else:
                for count in sorted({options.students[0], options.students[-1]}):
                    yield Variant("ours", teacher, student, batch, count)
    if options.shapes:
        for teacher, student, side, batch, counts in SHAPES:
            yield from _references(options, teacher, student, batch, side)
            for precision in _fast(options.precisions):
                for count in counts:
                    yield Variant("ours", teacher, student, batch, count, precision, side=side)
    if options.full:
        teacher, _, student = options.pairs[0].partition(":")
        for images in GROWN_IMAGES:
            yield Variant("ours", teacher, student, options.batches[0], options.students[-1], images=images)
        for seeds in GROWN_SEEDS:
            yield Variant("ours", teacher, student, options.batches[0], options.students[0], seeds=seeds)


def _fast(precisions: Sequence[str]) -> list[str]:
    """Those that this processor has the arithmetic for."""
    return [precision for precision in precisions if precision != "bf16" or bf16_arithmetic()]


def _references(
    options: argparse.Namespace, teacher: str, student: str, batch: int, side: int = SIDE
) -> Iterator[Variant]:
    """As it is, and under one line of autocast."""
    theirs = options.repdistiller is not None and side == SIDE
    for precision in dict.fromkeys(("float32", *_fast(options.precisions))):
        loop = "repdistiller" if theirs else "reference"
        yield Variant(loop, teacher, student, batch, precision=precision, side=side)


def _grid(options: argparse.Namespace, teacher: str, student: str, batch: int) -> Iterator[Variant]:
    for precision in options.precisions:
        emulated = precision == "bf16" and not bf16_arithmetic()
        for engine in options.engines[:1] if emulated else options.engines:
            for cache in options.caches[:1] if emulated else options.caches:
                # a warm cache makes every student cost the same: the fewest and the most show it
                ends = sorted({options.students[0], options.students[-1]})
                for count in (
                    options.students[:1] if emulated else options.students if cache == "off" else ends
                ):
                    yield Variant("ours", teacher, student, batch, count, precision, engine, cache)


class Measurements:
    """What was measured so far: each variant's measurements, one a round, or why it has none."""

    def __init__(self, chosen: Sequence[Variant]) -> None:
        self.found: dict[Variant, list[dict[str, Any]]] = {variant: [] for variant in chosen}
        self.faults: dict[Variant, str] = {}

    def rate(self, variant: Variant) -> float | None:
        rates: list[float] = [measured[RATE] for measured in self.found.get(variant, [])]
        return statistics.median(rates) if rates else None

    def reference_rate(self, variant: Variant) -> float | None:
        return next((self.rate(other) for other in self.found if other.is_reference_of(variant)), None)

    def row(self, variant: Variant) -> dict[str, Any]:
        measured = self.found[variant]
        own = {
            "variant": variant.name,
            "pair": f"{variant.teacher}->{variant.student}",
            "side": variant.side,
            "batch": variant.batch,
            "K": variant.students,
        }
        own |= {name: getattr(variant, name) for name in ("precision", "engine", "cache", "images", "seeds")}
        own |= {
            "rounds": len(measured),
            "note": self.faults.get(
                variant, EMULATED if variant.precision == "bf16" and not bf16_arithmetic() else ""
            ),
        }
        rate, reference = self.rate(variant), self.reference_rate(variant)
        if rate is None:
            return own
        rates = [each[RATE] for each in measured]
        own |= {
            RATE: f"{rate:.5g}",
            "slowest": f"{min(rates):.5g}",
            "fastest": f"{max(rates):.5g}",
            "ratio": f"{rate / reference:.4g}" if reference else "",
        }
        own["peak_mb"] = round(max(each["peak_mb"] for each in measured))
        evaluated = [
            each["evaluation_images"] / each["evaluation_seconds"]
            for each in measured
            if "evaluation_seconds" in each
        ]
        if evaluated:
            own["evaluation_images_per_second"] = f"{statistics.median(evaluated):.5g}"
        return own | {name: measured[0][name] for name in ("threads", "pixels", "images", "methods")}


def measure(variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    """One child's measurement; raises RuntimeError with its last words."""
    done = subprocess.run(
        variant.command(options),
        cwd=ROOT,
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    measured: dict[str, Any] = json.loads(lines[-1])
    return measured


def measure_all(options: argparse.Namespace, keep: Callable[[Measurements], None]) -> Measurements:
    """Round after round, every other one backwards; a variant that fails is left out from then on.

    keep: is given what there is after each round; Ctrl-C ends with what there is.
    """
    results = Measurements(list(dict.fromkeys(variants(options))))
    seconds: dict[Variant, float] = {}  # of a variant's last child
    begun = time.monotonic()
    with Progress("measuring") as progress:
        try:
            for number in range(options.rounds):
                turn = list(results.found) if number % 2 == 0 else list(results.found)[::-1]
                for variant in turn:
                    if variant in results.faults:
                        continue
                    started = time.monotonic()
                    try:
                        results.found[variant].append(measure(variant, options))
                    except RuntimeError as error:
                        results.faults[variant] = str(error)
                    seconds[variant] = time.monotonic() - started
                    gone = time.monotonic() - begun
                    left = remaining(results, seconds, options)
                    progress.count(
                        gone, gone + left, f", round {number + 1}/{options.rounds}, {variant.name}"
                    )
                keep(results)
        except KeyboardInterrupt:
            print("\ninterrupted; the table holds what was measured until then", file=sys.stderr)
    return results


def remaining(results: Measurements, seconds: dict[Variant, float], options: argparse.Namespace) -> float:
    """Seconds that the children to come will take: as long as they took last, or as their guess says in the
    measure of those that ran.
    """
    valid = [variant for variant in seconds if variant not in results.faults]
    pace = sum(seconds[variant] for variant in valid) / max(
        1e-9, sum(variant.guess(options) for variant in valid)
    )
    left = {
        variant: options.rounds - len(found)
        for variant, found in results.found.items()
        if variant not in results.faults
    }
    return sum(
        (count * seconds.get(variant, pace * variant.guess(options)) for variant, count in left.items()), 0.0
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal, a block for each pair and batch."""
    width = max(len(row["variant"]) for row in rows)
    lines = []
    blocks = dict.fromkeys((row["pair"], row["side"], row["batch"]) for row in rows)
    for block in blocks:
        pair, side, batch = block
        lines += [
            "",
            f"{pair}, {side} pixels, batch {batch}, images/s per student by processor time, one thread",
        ]
        lines.append(
            f"{'':{width}}  {'images/s':>8}  {'ratio':>6}  {'lowest - highest':>16}  {'eval/s':>7}  "
            f"{'peak MB':>7}"
        )
        for row in rows:
            if (row["pair"], row["side"], row["batch"]) != block:
                continue
            if RATE not in row:
                lines.append(f"{row['variant']:{width}}  {row['note']}")
                continue
            numbers = (
                f"{float(row[RATE]):8.1f}  {row['ratio']:>6}  {row['slowest'] + ' - ' + row['fastest']:>16}"
            )
            evaluated = row.get("evaluation_images_per_second")
            numbers += f"  {float(evaluated):7.0f}" if evaluated else f"  {'':7}"
            lines.append(f"{row['variant']:{width}}  {numbers}  {row['peak_mb']:7}  {row['note']}".rstrip())
    return "\n".join(lines).lstrip("\n")


def rows(results: Measurements) -> list[dict[str, Any]]:
    """One for each variant, with what is known of the circumstances."""
    git, machine = git_state(ROOT), host()
    around = {
        "machine": f"{machine['processor']}, {machine['cores']} cores",
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "commit": (git["commit"] or "")[:12] + ("+changes" if git["dirty"] else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return [results.row(variant) | around for variant in results.found]


def to_csv(found: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, (*WHAT, *HOW_FAST, *WHERE), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    options = argparse.ArgumentParser(description="the reference and this project, interleaved")
    mode = options.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="K = 1 and 4, two rounds")
    mode.add_argument("--shapes", action="store_true", help="small networks, small batches, 8 and 224 pixels")
    mode.add_argument(
        "--full",
        action="store_true",
        help="two pairs and batches, bf16, warm cache, growth with images and seeds, five rounds",
    )

    def several(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    def numbers(text: str) -> list[int]:
        return sorted(int(word) for word in several(text))

    options.add_argument(
        "--repdistiller",
        type=clone_of_repdistiller,
        metavar="CLONE",
        help="a clone of RepDistiller, whose own loop is then the reference for 32-pixel images",
    )
    options.add_argument("--students", type=numbers, metavar="K,K", help="students of a cohort")
    options.add_argument("--precisions", type=several, metavar="P,P", help="float32, bf16")
    options.add_argument("--engines", type=several, metavar="E,E", help="eager, compile", default=["eager"])
    options.add_argument(
        "--caches", type=several, metavar="C,C", help="of the teacher's outputs: off, cold, warm"
    )
    options.add_argument("--pairs", type=several, metavar="T:S,T:S", help="teacher:student")
    options.add_argument("--batches", type=numbers, metavar="B,B")
    options.add_argument("--rounds", type=int, metavar="R")
    options.add_argument("--steps", type=int, help="steps of a measurement")
    options.add_argument("--warmup", type=int, default=1, help="steps before them")
    options.add_argument("--evaluate", type=int, default=128, help="images of an evaluation")
    options.add_argument("--workers", type=int, default=2, help="of the reference's DataLoader")
    options.add_argument("--pixels", choices=["auto", "cifar100", "random"], default="auto")
    options.add_argument(
        "--out", type=Path, help="the CSV; without it, results/<quick, default or full>.csv here"
    )
    found = options.parse_args(words)
    name = next((mode for mode in MODES if getattr(found, mode, False)), "default")
    for key, value in MODES[name].items():
        if getattr(found, key) is None:
            setattr(found, key, value)
    found.out = found.out or RESULTS / f"{name}.csv"
    return found


def main(words: Sequence[str] | None = None) -> int:
    options = parsed(words)
    results = measure_all(options, lambda so_far: write_atomically(options.out, to_csv(rows(so_far))))
    found = rows(results)
    write_atomically(options.out, to_csv(found))
    print(table(found))
    print(f"\n{options.out}")
    return 0 if any(RATE in row for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
