"""Where `.cdkd` is: the store, checkpoints, leases, MLflow's files and the caches of a project."""

from __future__ import annotations

import os
from pathlib import Path

SITE = "site.yaml"  # see `config.site`


def project_folder(root: Path) -> Path:
    """The project at `root`, or the original that it is a copy of.

    A queued or temporary DVC experiment runs in a copy of the project, and DVC_ROOT is the original. The copy
    has its own params.yaml, data, runs and reports, but uses the original's `.cdkd` and site.yaml, so that
    nothing is trained twice.
    """
    parent = os.environ.get("DVC_ROOT")
    if parent and root.resolve().is_relative_to(Path(parent).resolve() / ".dvc" / "tmp"):
        return Path(parent)
    return root


def shared_folder(root: Path) -> Path:
    """`.cdkd` of the project at `root`."""
    return project_folder(root) / ".cdkd"
