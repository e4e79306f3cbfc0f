"""The machine and its settings: packages, threads, GPU, telemetry, disk space."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from cdkd.config.site import load
from cdkd.core.host import bf16_arithmetic
from cdkd.core.processes import cores as cores_here
from cdkd.core.processes import has_gpu
from cdkd.core.schedule import TEACHER
from cdkd.pipeline import scheduler
from cdkd.pipeline.doctor.site import (
    Fault,
    Mark,
    Site,
    Verdict,
    amount,
    dvc_settings,
    environment_of,
    how_many,
    some,
)
from cdkd.runs.record import Record
from cdkd.storage.files import unwritable
from cdkd.tracking.database import shown_uri

DECISIVE_PACKAGES = ("torch", "numpy", "safetensors")


LEAST_FREE = 1e9  # bytes of disk


COPIES = 3  # a run is in the store, in the workspace and in DVC's cache


# Settings that may change the last bits. Where one is unset the library chooses by the machine.
UNSET = (
    "MKL_NUM_THREADS",
    "MKL_CBWR",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


SILENT = {
    "MLFLOW_DISABLE_TELEMETRY": ("true",),
    "DO_NOT_TRACK": ("1", "true"),
    "DVC_NO_ANALYTICS": ("1", "true"),
}


def packages(site: Site) -> Verdict:
    """Compares the installed packages with requirements.lock."""
    path = site.root / "requirements.lock"
    if not path.is_file() and not (site.root / "cdkd").is_dir():  # a project of its own has no lock
        return Verdict(f"Python {platform.python_version()}; no requirements.lock to compare with", [])
    if not path.is_file():
        return Verdict(
            "", [Fault("warn", "requirements.lock is missing", "`git checkout requirements.lock`")]
        )
    locked = list(_locked(path))
    wrong = {
        name: f"{name} {found or 'missing'} (locked: {wanted})"
        for name, wanted, found, fits in locked
        if not fits
    }
    marked: dict[Mark, set[str]] = {
        "BAD": wrong.keys() & {*DECISIVE_PACKAGES},
        "warn": wrong.keys() - {*DECISIVE_PACKAGES},
    }
    hint = "`rm -f .venv/installed && make env`"
    faults = [
        Fault(mark, some(wrong[name] for name in sorted(names)), hint)
        for mark, names in marked.items()
        if names
    ]
    return Verdict(
        f"Python {platform.python_version()}; {len(locked)} packages, as in requirements.lock", faults
    )


def determinism(site: Site) -> Verdict:
    """The settings that affect the last bits: above all the number of threads."""
    given, cores = os.environ.get("OMP_NUM_THREADS"), cores_here()
    jobs = scheduler.jobs(site.params) if site.params else 1
    usual = max(1, cores // jobs)
    faults = [
        Fault("warn", f"{name}={os.environ[name]} is set, which may change the last bits", f"`unset {name}`")
        for name in UNSET
        if name in os.environ
    ]
    if given not in (None, str(usual)):
        faults.append(
            Fault(
                "warn",
                f"OMP_NUM_THREADS={given} is set; without it students have {usual}: "
                "the number of threads affects the last bits",
                "`unset OMP_NUM_THREADS`",
            )
        )
    if (policy := os.environ.get("OMP_WAIT_POLICY", "PASSIVE")).upper() != "PASSIVE":
        faults.append(
            Fault(
                "warn",
                f"OMP_WAIT_POLICY={policy}: a busy neighbour stops all threads",
                "`unset OMP_WAIT_POLICY`",
            )
        )
    if os.environ.get("CDKD_DETERMINISTIC", "1") == "0":
        faults.append(
            Fault(
                "warn",
                "CDKD_DETERMINISTIC=0: results on a GPU are not bit-reproducible",
                "`unset CDKD_DETERMINISTIC`",
            )
        )
    students = int(given) if given and given.isdigit() else usual
    before = {environment_of(record).get("threads") for record in _students(site)}
    if any(plan.method != TEACHER for plan in site.pending) and before - {students} and len(before) == 1:
        threads = before.pop()
        text = (
            f"students in the store were trained with {threads} threads, "
            f"those still pending would be with {students}"
        )
        faults.append(Fault("warn", text, f"`OMP_NUM_THREADS={threads} dvc repro` trains them alike"))
    how = f"{students} thread{'s' * (students > 1)} in each of {jobs} process{'es' * (jobs > 1)}"
    return Verdict(
        f"{cores} cores; students are trained with {how}; nothing is set that changes the last bits", faults
    )


def gpu(site: Site) -> Verdict:
    there = has_gpu()
    if site.quick:
        return Verdict(
            "a GPU is there; --quick does not test it"
            if there
            else "no NVIDIA driver; training is on the CPU",
            [],
        )
    import torch

    if torch.cuda.is_available():
        return Verdict(f"{torch.cuda.get_device_name()}; torch can use it", [])
    if not there:
        return Verdict("none; training is on the CPU", [])
    hint = (
        f"`nvidia-smi` shows whether its driver works; torch {torch.__version__} needs one for CUDA "
        f"{torch.version.cuda}"
    )
    return Verdict(
        "", [Fault("warn", "a GPU is there, but torch cannot use it: training would be on the CPU", hint)]
    )


def bf16(site: Site) -> Verdict:
    """Whether bfloat16 arithmetic is there: `training.precision: bf16` is fast with it, and slow without."""
    if has_gpu() and site.quick:
        return Verdict("--quick does not test the GPU", [])
    where, found = "processor", bf16_arithmetic()
    if has_gpu():
        import torch

        if torch.cuda.is_available():  # since compute capability 8.0
            where, found = "GPU", torch.cuda.get_device_capability() >= (8, 0)
    if found is None:
        return Verdict("the system does not say whether the processor has bf16 arithmetic", [])
    if found:
        return Verdict(f"the {where} has bf16 arithmetic: training.precision: bf16 is fast here", [])
    if site.params is not None and site.params.training.precision == "bf16":
        hint = "training.precision: float32 here, or a machine with avx512_bf16 or amx_bf16"
        return Verdict(
            "", [Fault("warn", f"the {where} has no bf16 arithmetic and emulates it, which is slow", hint)]
        )
    return Verdict(f"the {where} has no bf16 arithmetic: training.precision: float32 is faster here", [])


def telemetry(site: Site) -> Verdict:
    """Whether telemetry is off: for `cdkd` by environment variables, for `dvc` by its own settings."""
    faults = [
        Fault("BAD", f"{name} is not set", f"`export {name}={values[-1]}`")
        for name, values in SILENT.items()
        if os.environ.get(name) not in values
    ]
    analytics = dvc_settings(site.root).get("core", "analytics", fallback="true")
    if analytics.lower() not in ("false", "no", "off", "0"):
        faults.append(
            Fault(
                "BAD", "DVC may send usage statistics (core.analytics)", "`dvc config core.analytics false`"
            )
        )
    return Verdict("off in MLflow and DVC", faults)


def site_yaml(site: Site) -> Verdict:
    found = load(site.root)
    store = "in .cdkd" if found.store is None else found.store
    view = f", MLflow on {shown_uri(site.root)}" if found.tracking else ""
    return Verdict(f"the store is {store}{view}; leases last {found.lease} s", [])


def disk(site: Site) -> Verdict:
    if (place := unwritable(site.root)) is not None:
        return Verdict("", [Fault("BAD", f"{place} is read-only", "make it writable, or work in a copy")])
    free, place = min((shutil.disk_usage(place).free, place) for place in _file_systems(site))
    where = "" if place == site.root else f"{place}: "
    largest = max((sum(file.stat().st_size for file in path.glob("*")) for path in site.places), default=0)
    need = COPIES * largest * len(site.pending)
    if free < max(LEAST_FREE, need):
        want = (
            f"the {how_many(len(site.pending))} still pending need about {amount(need)}"
            if need > LEAST_FREE
            else f"expected at least {amount(LEAST_FREE)}"
        )
        hint = (
            "`dvc gc --workspace` removes old outputs from DVC's cache, "
            "`rm -r .cdkd/teacher` of the teacher's answers"
        )
        return Verdict("", [Fault("warn", f"{where}{amount(free)} free; {want}", hint)])
    return Verdict(f"{where}{amount(free)} free", [])


def _file_systems(site: Site) -> list[Path]:
    """The project's folder, and what of it is another file system: the store, or a mounted folder."""
    folders = [site.root, site.store.folder, *sorted(site.root.iterdir())]
    devices = {path.stat().st_dev: path for path in reversed(folders) if path.is_dir()}
    return list(devices.values())


def _locked(path: Path) -> Iterator[tuple[str, str, str | None, bool]]:
    """The lock file's packages for this machine: name, locked and installed version, whether they agree."""
    text = path.read_text(encoding="utf-8")  # a line that hashes follow ends in a backslash
    lines = [line.removesuffix("\\").strip() for line in text.splitlines() if line[:1].isalnum()]
    try:
        from packaging.requirements import Requirement
    except ImportError:  # markers are not evaluated here: lines that have one are left out
        for line in (line for line in lines if ";" not in line):
            name, _, version = line.partition("==")
            found = _installed(name.partition("[")[0])
            yield name, version, found, found is not None and found.partition("+")[0] == version
        return
    for wanted in map(Requirement, lines):
        if wanted.marker is None or wanted.marker.evaluate():
            found = _installed(wanted.name)
            yield (
                wanted.name,
                str(wanted.specifier).removeprefix("=="),
                found,
                found is not None and wanted.specifier.contains(found, prereleases=True),
            )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _students(site: Site) -> list[Record]:
    """The students of params.yaml that are in the store."""
    found = [site.stored.get(key) for key, plan in site.plans.items() if plan.method != TEACHER]
    return [record for record in found if isinstance(record, Record)]
