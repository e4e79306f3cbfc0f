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
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from cdkd import away, checkpoint
from cdkd.data.batches import Batches, Split, evaluation
from cdkd.data.mapped import joined
from cdkd.data.prepared import Meta, load, read_meta
from cdkd.errors import BadCheckpoint, CdkdError
from cdkd.losses.base import Needs
from cdkd.models.measure import multiply_adds, parameters
from cdkd.plan import TEACHER, RunPlan, code_digest
from cdkd.progress import Progress
from cdkd.record import Record, git_state, host
from cdkd.schedule import Recipe
from cdkd.store import Store
from cdkd.teacher import Teacher
from cdkd.teacher_cache import TeacherCache
from cdkd.train import Run, evaluate, network, train

CHECKPOINT_SECONDS = 30.0


class Watcher(Protocol):
    """Who is told how a cohort comes along; it must neither wait nor fail."""

    def epoch(self, fingerprint: str, row: Mapping[str, Any], /) -> None: ...
    def finish(self, record: Record, /) -> None: ...


Watch = Callable[[Sequence[RunPlan], Mapping[str, Any]], contextlib.AbstractContextManager[Watcher]]  # of plans and their circumstances


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
) -> None:
    """Train these plans side by side (one seed, one recipe) and put each into the store as it is finished.

    root: the project's folder; cache: gigabytes of disk for the teacher's answers; stop: see `train`
    """
    keep_freed_memory()
    device = choose_device()
    meta = read_meta(data_folder)
    first = plans[0]
    recipe, seed = first.recipe, first.seed
    batches = Batches(training_split(data_folder, meta, device), recipe.augmentation, recipe.batch)
    test = test_split(data_folder, meta, device)
    sample = next(evaluation(test, recipe.augmentation, batch=2))
    teacher = None
    if (config := first.config["teacher"]) is not None and teacher_weights is not None:
        model = network(config["network"], first.config["data"], 0, device)
        load_weights(model, teacher_weights, config["weights_sha256"])
        teacher = Teacher(model, recipe, config["batchnorm"])

    runs = [
        Run(
            plan.fingerprint,
            plan.terms,
            recipe,
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
        teacher.cache = teacher_cache(root, first, teacher, batches, test, cache)
    by_key = {plan.fingerprint: plan for plan in plans}
    circumstances = {"environment": environment(device), "git": git_state(root), "cohort": [plan.method for plan in plans]}
    started, clock = datetime.now(UTC), time.monotonic()
    trained = 0  # epochs trained by this process, over all runs
    todo = sum(recipe.epochs - run.epoch for run in runs)
    what = f"{first.experiment}: " + (TEACHER if first.method == TEACHER else f"seed {seed}, {len(runs)} student{'s' if len(runs) > 1 else ''}")

    def rate() -> float:
        """Images a second that students were trained on, all students together."""
        return trained * len(batches.split) / (time.monotonic() - clock)

    with contextlib.ExitStack() as stack:
        watcher = stack.enter_context(watch(plans, circumstances))
        progress = stack.enter_context(Progress(what))

        def keep(run: Run) -> None:
            times = {"started": started.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - clock, 3), "images_per_second": round(rate(), 1)}
            weights = None if run.diverged else run.weights()
            exact = {"exact": len(run.environments) == 1} | ({} if len(run.environments) == 1 else {"environments": run.environments})
            record = finished_record(by_key[run.key], run, weights, meta, circumstances | times | exact)
            store.put(record, weights)
            checkpoint.clear(run.folder)
            watcher.finish(record)

        def closed(run: Run, row: dict[str, Any] | None) -> None:
            nonlocal trained
            trained += 1
            if row is not None:
                watcher.epoch(run.key, row | {"images_per_second": rate()})
            progress.count(trained, todo, f", epoch {run.epoch}/{recipe.epochs}, {rate():,.0f} images/s")
            if run.done:
                keep(run)

        for run in runs:
            if run.done:  # killed after its last epoch and before its record was kept
                keep(run)
        train(runs, teacher, batches, test, seed, checkpoint_seconds=CHECKPOINT_SECONDS, closed=closed, stop=stop)
    if failed := [f"{by_key[run.key].method} seed {seed}: {_first_line(run.failed)}" for run in runs if run.failed]:
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


def teacher_cache(root: Path, plan: RunPlan, teacher: Teacher, batches: Batches, test: Split, gigabytes: float) -> TeacherCache | None:
    """The table of this teacher's answers to these images; None where there can be none: endless views, or a GPU.

    On a GPU the teacher's pass costs less than the table's way there, and its bits may depend on the batch.
    """
    if batches.views is None or test.device.type != "cpu" or teacher.model.training:
        return None
    key = {
        "teacher": plan.config["teacher"],
        "data": plan.config["data"],
        "code": code_digest(plan.config["teacher"]["network"], ()),
        **{name: plan.config["training"][name] for name in ("augmentation", "precision", "engine", "batch")},
        "computed by": [torch.__version__, torch.backends.cpu.get_cpu_capability(), host()["processor"]],
    }
    sample = next(evaluation(test, plan.recipe.augmentation, plan.recipe.batch)).images
    return TeacherCache(root / ".cdkd" / "teacher", key, len(batches.split), batches.views, gigabytes, teacher.without_maps, sample)


def adopt_teacher(root: Path, store: Store, plan: RunPlan, data_folder: Path, file: str, recipe: Recipe) -> None:
    """A teacher from a file: loaded strictly, measured on the test split, and kept as a run without a history."""
    device = choose_device()
    meta = read_meta(data_folder)
    test = test_split(data_folder, meta, device)
    model = network(plan.config["network"], plan.config["data"], plan.seed, device)
    load_weights(model, root / file, plan.config["weights_sha256"])
    row = {"epoch": None} | evaluate(model, test, recipe)
    weights = to_safetensors({name: value.contiguous().cpu() for name, value in model.state_dict().items()})
    result = _result(weights, model, meta, row, row)
    circumstances = {"environment": environment(device), "git": git_state(root), "cohort": [plan.method], "file": file}
    store.put(Record(plan.fingerprint, plan.experiment, plan.method, plan.seed, "finished", dict(plan.config), [], result, circumstances), weights)


def finished_record(plan: RunPlan, run: Run, weights: bytes | None, meta: Meta, circumstances: dict[str, Any]) -> Record:
    """What a run leaves behind; one without weights diverged."""
    common = (plan.fingerprint, plan.experiment, plan.method, plan.seed)
    if weights is None:
        return Record(*common, "diverged", dict(plan.config), run.history, {}, circumstances, reason=str(run.diverged))
    best = min(run.history, key=lambda row: row["test_top1_error"])
    result = _result(weights, run.model, meta, run.history[-1], best)
    return Record(*common, "finished", dict(plan.config), run.history, result, circumstances)


def _result(weights: bytes, model: torch.nn.Module, meta: Meta, last: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    measured = {"parameters": parameters(model), "multiply_adds": multiply_adds(model, meta.image)}
    return {"weights_sha256": hashlib.sha256(weights).hexdigest(), **measured, "last": last, "best": best}


def training_split(folder: Path, meta: Meta, device: torch.device) -> Split:
    """The whole training set: what a search would hold out is trained on too."""
    parts = [load(folder, split) for split in ("train", "validation")]
    images, labels = joined([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
    return Split(images, labels, meta.mean, meta.std, device)


def test_split(folder: Path, meta: Meta, device: torch.device) -> Split:
    images, labels = load(folder, "test")
    return Split(images, labels, meta.mean, meta.std, device)


def load_weights(model: torch.nn.Module, path: Path, sha256: str) -> None:
    """Fill a network from a safetensors file whose digest is known; every name and shape must fit, every value be finite."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error.strerror})") from None
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise BadCheckpoint(f"{path}: sha256 {found[:12]}...; expected {sha256[:12]}...: another file, or a damaged one")
    try:
        state = from_safetensors(content)
    except Exception as error:  # safetensors raises its own kinds for each way a file can be broken
        raise BadCheckpoint(f"{path}: not a safetensors file ({error})") from None
    own = model.state_dict()
    faults = [f"missing {name}" for name in own if name not in state] + [f"unexpected {name}" for name in state if name not in own]
    shapes = [(name, tuple(state[name].shape), tuple(value.shape)) for name, value in own.items() if name in state]
    faults += [f"{name} is {found}, expected {wanted}" for name, found, wanted in shapes if found != wanted]
    faults += [f"{name} is not finite" for name, value in state.items() if not torch.isfinite(value).all()]
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise BadCheckpoint(f"{path}: not the weights of this network: {'; '.join(faults[:6])}{more}")
    model.load_state_dict(state)


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
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": numpy.__version__}
    exact = {} if device.type == "cpu" else {"deterministic": torch.are_deterministic_algorithms_enabled()}
    return {"device": name, "threads": torch.get_num_threads(), **exact, **versions, **host()}


if __name__ == "__main__":  # a plan carried out on another machine
    sys.exit(away.main(sys.argv[1:], train_cohort))
