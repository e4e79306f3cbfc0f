"""How long `cdkd track` takes to write finished runs to an MLflow server with PostgreSQL.

    python -m benchmarks.tracking                # 37 runs (a teacher, 12 methods x 3 seeds) of 30 epochs
    python -m benchmarks.tracking --seeds 1 --epochs 2

Starts a PostgreSQL and an MLflow server of its own on this machine, and writes the runs as `cdkd track` does:
params, metrics of every epoch, curves, weights. Then once more, where there is nothing to write. Needs
pgserver.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdkd.core.host import host
from cdkd.core.local_server import free_port
from cdkd.runs.record import Record
from cdkd.runs.store import Store

PATIENCE = 120.0  # seconds until the server must answer


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A real MLflow server on a real PostgreSQL; its address."""
    import pgserver

    postgres = pgserver.get_server(folder / "data", cleanup_mode="delete")
    port = free_port(5700)
    store = postgres.get_uri().replace("postgresql://", "postgresql+psycopg://")
    words = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            postgres.cleanup()


def _wait(address: str) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"{address}: no answer for {PATIENCE:.0f} s")


def records(store: Store, methods: int, seeds: int, epochs: int) -> list[Record]:
    """Runs of random weights, put into the store: a teacher, then each method with each seed."""
    import torch
    from safetensors.torch import save

    from cdkd.models.build import build

    weights = save(build("resnet8", 10, 1).state_dict())
    torch.manual_seed(0)
    runs = [
        ("teacher", 0),
        *((f"method{number}", seed) for number in range(methods) for seed in range(seeds)),
    ]
    made = [_record(method, seed, epochs, weights) for method, seed in runs]
    for one in made:
        store.put(one, weights)
    return made


def _record(method: str, seed: int, epochs: int, weights: bytes) -> Record:
    numbers = ("train_top1_error", "test_top1_error", "test_top5_error", "test_loss")
    rows: list[dict[str, Any]] = [
        {
            "epoch": epoch,
            "learning_rate": 0.05,
            "weights": {"ce": 1.0, "kd": 0.9},
            "losses": {"ce": 2.0, "kd": 0.5},
        }
        | dict.fromkeys(numbers, 50 / (1 + epoch))
        for epoch in range(epochs)
    ]
    config = {
        "data": {"digest": "d" * 64, "classes": 10, "image": [8, 8, 1], "judged_on": "test"},
        "network": "resnet8",
        "seed": seed,
        "training": {"epochs": epochs, "learning_rate": 0.05, "batch": 64},
        "teacher": None if method == "teacher" else {"network": "resnet20", "weights_sha256": "f" * 64},
        "method": {name: {"weight": {"value": 1.0, "start": 0}, "options": {}} for name in ("ce", "kd")},
    }
    result = {
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "parameters": 78_000,
        "multiply_adds": 12_000_000,
        "last": rows[-1],
        "best": rows[-1],
    }
    circumstances = {
        "environment": {"device": "cpu", "threads": 1, "torch": "0"},
        "git": {"commit": "0" * 40, "dirty": False},
        "cohort": [method],
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 60.0,
        "images_per_second": 900.0,
    }
    fingerprint = hashlib.sha256(f"{method} {seed}".encode()).hexdigest()
    return Record(
        fingerprint, "digits", method, seed, "finished", config, rows, result, circumstances, code="c" * 64
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    from cdkd import tracking
    from cdkd.report.figures import run_pictures

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        made = records(Store(root), arguments.methods, arguments.seeds, arguments.epochs)
        with mlflow_server(root) as address:
            os.environ["MLFLOW_TRACKING_URI"] = address
            machine = f"{host()['processor']}, {host()['cores']} cores"
            print(f"{machine}; {len(made)} runs of {arguments.epochs} epochs")
            for what in ("written", "looked at again"):
                wall, processor = time.monotonic(), time.process_time()
                created, completed = tracking.rebuild(root, made, run_pictures)
                wall, processor = time.monotonic() - wall, time.process_time() - processor
                assert (created, completed) == (len(made) if what == "written" else 0, 0)
                print(f"{what}: {wall:.1f} s, of which {processor:.1f} s of this process's processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
