"""The prepared data of a plan, on the machine of the worker."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cdkd.cluster.plan_file import Plan
from cdkd.core.errors import BadData
from cdkd.data.prepared import read_meta
from cdkd.runs.code_digest import PACKAGE
from cdkd.storage.progress import Progress

PROJECT = PACKAGE.parent


def prepared(plan: Plan, out: Path, data: Sequence[Path]) -> Path:
    """The folder of the plan's prepared data: the project's, or DIR's, or else written into DIR now.

    Raises `BadData`.
    """
    target = out / "data" / plan.experiment
    for folder in (PROJECT / "data" / plan.experiment, target):
        with suppress(BadData):
            if read_meta(folder).digest == plan.data_digest:
                return folder
    if target.exists():
        raise BadData(f"{target}: not the plan's data; remove it, or name another folder by --out")
    source = dict(plan.data) | (
        {"source": "folder", "paths": [str(path.absolute()) for path in data]} if data else {}
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(".preparing-*"):  # of a worker that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".preparing-") as staging,
        Progress("reading images") as progress,
    ):
        try:
            from cdkd.data.prepare import prepare

            meta = prepare(Path(staging) / "data", PROJECT, **source, progress=progress.count)
        except ModuleNotFoundError as error:
            raise BadData(
                f"source {source['source']} needs {error.name}, which is not installed; "
                "give the images as folders or archives by --data"
            ) from None
        if meta.digest != plan.data_digest:
            raise BadData(
                f"the prepared data have the digest {meta.digest[:12]}..., "
                f"the plan's {plan.data_digest[:12]}...: other images"
            )
        os.replace(Path(staging) / "data", target)
    return target
