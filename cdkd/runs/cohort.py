"""From plans to finished runs in the store: builds a cohort, trains it, records what it leaves behind."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from safetensors.torch import save as to_safetensors

from cdkd.cluster import worker
from cdkd.core.errors import CdkdError
from cdkd.core.schedule import Recipe
from cdkd.data.batches import Batches, evaluation
from cdkd.data.prepared import Meta, read_meta
from cdkd.losses.base import Needs
from cdkd.models.measure import multiply_adds, parameters
from cdkd.runs.record import Record, git_state, host
from cdkd.runs.specification import TEACHER, RunPlan
from cdkd.runs.store import Store
from cdkd.storage.progress import Progress
from cdkd.training import checkpoint
from cdkd.training.evaluation import Examination, Row, latency
from cdkd.training.loop import Run, network, train
from cdkd.training.setup import examination, load_weights, split, teacher_of, training_cache, training_split
from cdkd.training.teacher import Teacher

CHECKPOINT_SECONDS = 30.0


Prune = Callable[[RunPlan, Sequence[Row]], bool]  # of a plan and its history so far


class Watcher(Protocol):
    """Who is told how a cohort comes along; it must neither wait nor fail."""

    def epoch(self, fingerprint: str, row: Mapping[str, Any], /) -> None: ...
    def finish(self, record: Record, /) -> None: ...


Watch = Callable[
    [Sequence[RunPlan], Mapping[str, Any]], contextlib.AbstractContextManager[Watcher]
]  # of plans and their circumstances


@contextlib.contextmanager
def nobody(plans: Sequence[RunPlan], circumstances: Mapping[str, Any]) -> Iterator[Watcher]:
    class Nobody:
        def epoch(self, fingerprint: str, row: Mapping[str, Any], /) -> None: ...
        def finish(self, record: Record, /) -> None: ...

    yield Nobody()


def train_cohort(
    root: Path,
    store: Store,
    plans: Sequence[RunPlan],
    data_folder: Path,
    teacher_weights: Path | None,
    *,
    cache: float = 0.0,
    watch: Watch = nobody,
    stop: Callable[[], bool] = lambda: False,
    prune: Prune = lambda plan, history: False,
) -> None:
    """Train these plans side by side (one seed, and recipes that differ in the optimiser's numbers at most) and put each into the
    store as it is finished; of those judged on the validation split, the records alone.

    root: the project's folder; cache: gigabytes of disk for the teacher's answers; stop: see `train`; prune: asked after every
    epoch, and a run of which it says so is given up
    """
    keep_freed_memory()
    device = choose_device()
    meta = read_meta(data_folder)
    first = plans[0]
    recipe, seed = first.recipe, first.seed
    judged_on = first.config["data"]["judged_on"]
    batches = Batches(training_split(data_folder, meta, device, judged_on), recipe.augmentation, recipe.batch)
    judged = split(data_folder, meta, device, judged_on)
    sample = next(evaluation(judged, recipe.augmentation, batch=2))
    teacher = (
        None
        if first.config["teacher"] is None or teacher_weights is None
        else teacher_of(first, teacher_weights, recipe, device)
    )
    exam = examination(root, first, recipe, judged, teacher, cache)
    if teacher is not None:
        teacher = Teacher(teacher.model, recipe, first.config["teacher"]["batchnorm"])
    runs = [
        Run(
            plan.fingerprint,
            plan.terms,
            plan.recipe,
            network(plan.config["network"], plan.config["data"], seed, device),
            seed,
            sample,
            teacher,
            store.checkpoint(plan.fingerprint),
            environment(device),
        )
        for plan in plans
    ]
    needs = [max(run.objective.needs(epoch) for run in runs) for epoch in range(recipe.epochs)]
    if teacher is not None and cache > 0 and any(need in (Needs.OUTPUTS, Needs.CHANNELS) for need in needs):
        images = sum(meta.counts[name] for name in ("train", "validation"))
        teacher.cache = training_cache(root, first, teacher, batches, images, judged, cache)
    by_key = {plan.fingerprint: plan for plan in plans}
    circumstances = {
        "environment": environment(device),
        "git": git_state(root),
        "cohort": [plan.method for plan in plans],
    }
    started, clock = datetime.now(UTC), time.monotonic()
    trained = 0  # epochs trained by this process, over all runs
    todo = sum(recipe.epochs - run.epoch for run in runs)
    what = f"{first.experiment}: " + (
        TEACHER
        if first.method == TEACHER
        else f"seed {seed}, {len(runs)} student{'s' if len(runs) > 1 else ''}"
    )

    def rate() -> float:
        """Images a second that students were trained on, all students together."""
        return trained * len(batches.split) / (time.monotonic() - clock)

    with contextlib.ExitStack() as stack:
        watcher = stack.enter_context(watch(plans, circumstances))
        progress = stack.enter_context(Progress(what))

        def keep(run: Run) -> None:
            times = {
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 3),
                "images_per_second": round(rate(), 1),
            }
            weights = None if run.diverged else run.weights()
            speed = {"latency_ms": round(latency(run.model, meta.image), 4)}
            exact = {"exact": len(run.environments) == 1} | (
                {} if len(run.environments) == 1 else {"environments": run.environments}
            )
            record = finished_record(
                by_key[run.key], run, weights, meta, exam, circumstances | times | speed | exact
            )
            store.put(record, weights if judged_on == "test" else None)
            checkpoint.clear(run.folder)
            watcher.finish(record)

        def closed(run: Run, row: dict[str, Any] | None) -> None:
            nonlocal trained
            trained += 1
            if row is not None:
                watcher.epoch(run.key, row | {"images_per_second": rate()})
            progress.count(trained, todo, f", epoch {run.epoch}/{recipe.epochs}, {rate():,.0f} images/s")
            settle(run)

        def settle(run: Run) -> None:
            nonlocal todo
            if not run.done and prune(by_key[run.key], run.history):
                run.pruned = True
                todo -= recipe.epochs - run.epoch
                checkpoint.clear(run.folder)
            elif run.done and not run.pruned:
                keep(run)

        for run in runs:
            if run.history:  # killed between its epoch and what was to follow
                settle(run)
        train(
            runs,
            teacher,
            batches,
            exam,
            seed,
            checkpoint_seconds=CHECKPOINT_SECONDS,
            closed=closed,
            stop=stop,
        )
    if failed := [
        f"{by_key[run.key].method} seed {seed}: {_first_line(run.failed)}" for run in runs if run.failed
    ]:
        raise CdkdError(f"{'; '.join(failed)}; the same command tries again from the last checkpoint")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one: by default large blocks go back to the kernel each time,
    and come as fresh pages that are cleared again. One thread at batch 128 loses a third to it (glibc; elsewhere nothing happens)."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back


def adopt_teacher(
    root: Path, store: Store, plan: RunPlan, data_folder: Path, file: str, recipe: Recipe
) -> None:
    """A teacher from a file: loaded strictly, measured on the test split, and kept as a run without a history."""
    device = choose_device()
    meta = read_meta(data_folder)
    model = network(plan.config["network"], plan.config["data"], plan.seed, device)
    load_weights(model, root / file, plan.config["weights_sha256"])
    exam = Examination(split(data_folder, meta, device, "test"), recipe)
    row = {"epoch": None} | exam.row(model)
    weights = to_safetensors({name: value.contiguous().cpu() for name, value in model.state_dict().items()})
    result = _result(weights, model, meta, row, row, exam)
    circumstances = {
        "environment": environment(device),
        "git": git_state(root),
        "cohort": [plan.method],
        "file": file,
    }
    store.put(
        Record(
            plan.fingerprint,
            plan.experiment,
            plan.method,
            plan.seed,
            "finished",
            dict(plan.config),
            [],
            result,
            circumstances,
        ),
        weights,
    )


def finished_record(
    plan: RunPlan,
    run: Run,
    weights: bytes | None,
    meta: Meta,
    exam: Examination,
    circumstances: dict[str, Any],
) -> Record:
    """What a run leaves behind; one without weights diverged."""
    common = (plan.fingerprint, plan.experiment, plan.method, plan.seed)
    if weights is None:
        return Record(
            *common, "diverged", dict(plan.config), run.history, {}, circumstances, reason=str(run.diverged)
        )
    best = min(run.history, key=lambda row: row[f"{exam.name}_top1_error"])
    result = _result(weights, run.model, meta, run.history[-1], best, exam)
    return Record(*common, "finished", dict(plan.config), run.history, result, circumstances)


def _result(
    weights: bytes,
    model: torch.nn.Module,
    meta: Meta,
    last: dict[str, Any],
    best: dict[str, Any],
    exam: Examination,
) -> dict[str, Any]:
    measured = {"parameters": parameters(model), "multiply_adds": multiply_adds(model, meta.image)}
    return {
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **measured,
        "last": last,
        "best": best,
        "examined": exam.whole(model),
    }


def choose_device() -> torch.device:
    """CUDA where there is one: float32 that is float32, and the same bits twice unless CDKD_DETERMINISTIC=0 asks for speed."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    if os.environ.get("CDKD_DETERMINISTIC", "1") != "0":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 (mypy does not know it); it costs time and decides nothing
    return torch.device("cuda")


def environment(device: torch.device) -> dict[str, Any]:
    """What may change the last bits of a result without being part of it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }
    exact = {} if device.type == "cpu" else {"deterministic": torch.are_deterministic_algorithms_enabled()}
    return {"device": name, "threads": torch.get_num_threads(), **exact, **versions, **host()}


if __name__ == "__main__":  # a plan carried out on another machine
    sys.exit(worker.main(sys.argv[1:], train_cohort))
