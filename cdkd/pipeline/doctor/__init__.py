"""`cdkd doctor`: examines a checkout (packages, settings, data, store, runs, caches, MLflow) and gives hints.

A check is one function that reads and changes nothing; `CHECKS` lists them all. It returns a `Verdict`: a
summary, and the faults with a hint for each. An exception that a broken file causes becomes a fault as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cdkd.core.errors import CdkdError
from cdkd.pipeline.doctor.machine import bf16, determinism, disk, gpu, packages, site_yaml, telemetry
from cdkd.pipeline.doctor.neighbours import dvc_cache, dvc_lock, leases, mlflow, teacher_cache
from cdkd.pipeline.doctor.results import (
    checkpoints,
    data,
    leftovers,
    params,
    predictions,
    runs,
    stale_runs,
    store,
)
from cdkd.pipeline.doctor.site import Check, Fault, Finding, Site, Verdict
from cdkd.pipeline.doctor.store_folder import store_folder
from cdkd.pipeline.doctor.teacher_accuracy import teacher, teacher_error


def examine(root: Path, *, quick: bool) -> Iterator[Finding]:
    """The results, a line as soon as it is known. quick: without checks that take minutes (`SLOW`)."""
    site = Site(root, quick=quick)
    for check in CHECKS:
        if quick and check in SLOW:
            continue
        what = check.__name__.replace("_", " ")
        verdict = _asked(site, check)
        if verdict.summary and not verdict.faults:
            yield Finding("ok", what, verdict.summary)
        yield from (Finding(fault.mark, what, fault.text, fault.hint) for fault in verdict.faults)


def _asked(site: Site, check: Check) -> Verdict:
    try:
        return check(site)
    except Exception as error:
        # a broken file may cause any exception: it becomes a line, and the other checks still run
        known = "" if isinstance(error, CdkdError | OSError) else f"{type(error).__name__}: "
        return Verdict(
            "",
            [
                Fault(
                    "BAD",
                    f"cannot be examined: {known}{site.one_line(error)}",
                    "repair or remove it, then `cdkd doctor` again",
                )
            ],
        )


CHECKS: tuple[Check, ...] = (
    packages,
    determinism,
    gpu,
    bf16,
    telemetry,
    disk,
    params,
    data,
    store,
    store_folder,
    site_yaml,
    predictions,
    leftovers,
    runs,
    stale_runs,
    checkpoints,
    leases,
    mlflow,
    teacher_cache,
    dvc_lock,
    dvc_cache,
    teacher_error,
    teacher,
)


SLOW: tuple[Check, ...] = (dvc_cache, teacher)
