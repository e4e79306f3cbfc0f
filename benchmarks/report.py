"""Processor time and peak memory of a report of many records: `python benchmarks/report.py [RUNS] [EPOCHS]`.

The records are synthetic: ten methods, as many seeds as RUNS asks for, 100 classes, everything that a record
may hold.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cdkd.config.params import load
from cdkd.runs.record import Record

CLASSES, BINS = 100, 15


def record(method: str, seed: int, epochs: int, losses: tuple[str, ...]) -> Record:
    chance = random.Random(f"{method} {seed}")
    final = 30 + 2 * chance.random()
    history = [
        {
            "epoch": epoch,
            "learning_rate": 0.05 * 0.1 ** (3 * epoch // epochs),
            "weights": dict.fromkeys(losses, 1.0),
            "losses": {loss: chance.random() for loss in losses},
            "train_top1_error": final * chance.uniform(0.5, 0.6),
            "test_top1_error": final + 60 * (1 - (epoch + 1) / epochs) * chance.uniform(0.9, 1.1),
            "test_top5_error": final / 4,
            "test_loss": chance.random(),
            "alignment": [chance.random() for _ in range(3)],
        }
        for epoch in range(epochs)
    ]
    confusion = [[0] * CLASSES for _ in range(CLASSES)]
    for true in range(CLASSES):
        for _ in range(100):
            right = chance.random() > final / 100
            confusion[true][true if right else chance.randrange(CLASSES)] += 1
    images, right = 100 * CLASSES, sum(confusion[true][true] for true in range(CLASSES))
    examined = {
        "images": images,
        "confusion": [" ".join(map(str, row)) for row in confusion],
        "reliability": {
            "count": [0] * (BINS - 1) + [images],
            "confidence": [0.0] * (BINS - 1) + [0.97 * images],
            "right": [0] * (BINS - 1) + [right],
        },
    }
    if method != "teacher":
        part = {"images": images // 2, "errors": 1000}
        examined |= {
            "agreement": 80.0,
            "kl": 0.2,
            "teacher_right": part,
            "teacher_wrong": part | {"same_mistake": 9},
        }
    result = {"weights_sha256": "ab" * 32, "parameters": 78_042, "multiply_adds": 12_300_000}
    result |= {
        "last": history[-1],
        "best": min(history, key=lambda row: row["test_top1_error"]),
        "examined": examined,
    }
    circumstances = {
        "environment": {"torch": "2.10.0", "device": "cpu"},
        "git": {"commit": "c0ffee" * 6, "dirty": False},
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 100.0,
        "images_per_second": 1000.0,
        "latency_ms": 2.0,
        "cohort": [method],
    }
    config = {"data": {"digest": "d", "classes": CLASSES}, "teacher": {"weights_sha256": "ab" * 32}}
    name = f"{method}-{seed}"
    return Record(name, "large", method, seed, "finished", config, history, result, circumstances)


def prepare(root: Path, runs: int, epochs: int) -> None:
    import yaml

    project = Path(__file__).parents[1]
    body = yaml.safe_load((project / "experiments" / "digits.yaml").read_text(encoding="utf-8"))
    methods = dict(list(body["methods"].items())[:10])
    body |= {"experiment": "large", "methods": methods, "search": {}, "report": {}}
    body["seeds"] = list(range(-(-runs // len(methods))))
    (root / "params.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    for method, terms in {"teacher": ["ce"], **methods}.items():
        (root / "runs" / method).mkdir(parents=True)
        for seed in body["seeds"] if method != "teacher" else [0]:
            text = record(method, seed, epochs, tuple(terms)).text()
            (root / "runs" / method / f"seed-{seed}.json").write_text(text, encoding="utf-8")


def render(root: Path) -> None:
    from cdkd.report.collect import collect
    from cdkd.report.render import render as write

    params = load(root / "params.yaml")
    expected = {(method, seed): f"{method}-{seed}" for method in params.methods for seed in params.seeds}
    found = collect(params, expected | {("teacher", 0): "teacher-0"}, root / "runs")
    collected = time.process_time()
    write(params, found, root / "report")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    runs = sum(map(len, found.values()))
    total = time.process_time()
    print(
        f"{runs} records: {total:.1f} s of processor time, {collected:.1f} s until read; peak {peak:.0f} MB"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--render"]:
        render(Path(sys.argv[2]))
    else:
        given = [int(word) for word in sys.argv[1:3]]
        runs, epochs = (*given, *(1000, 240)[len(given) :])
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), runs, epochs)
            subprocess.run([sys.executable, __file__, "--render", folder], check=True)
