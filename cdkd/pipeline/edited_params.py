"""A stage whose params.yaml is edited while it runs ends with an error: DVC pins the text of the end.

DVC reads params.yaml again when a stage has ended, and writes to dvc.lock that these values gave the outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cdkd.config.params import Params, load
from cdkd.core.errors import BadParams, CdkdError


@contextlib.contextmanager
def unedited(params: Params, *sections: str) -> Iterator[None]:
    """Run a stage with these params, which were read from the project's params.yaml.

    sections: what the stage depends on, as in dvc.yaml; none: all of params.yaml
    Raises `BadParams` at the end if one of them is no longer what it was at the start.
    """
    path = params.root / "params.yaml"
    try:
        yield
    except CdkdError as fault:
        if changed := _edited(params, path, sections):
            raise BadParams(changed) from fault
        raise
    if changed := _edited(params, path, sections):
        raise BadParams(changed)


def _edited(params: Params, path: Path, sections: tuple[str, ...]) -> str | None:
    try:
        now = load(path)
    except CdkdError as fault:
        return f"{path}: edited while this stage ran, and no longer valid: {fault}"
    names = sections or tuple(name for name in type(params).model_fields if name != "root")
    changed = [name for name in names if getattr(now, name) != getattr(params, name)]
    if not changed:
        return None
    return (
        f"{path}: edited while this stage ran ({', '.join(changed)}); the same command again uses what it "
        "says now, and takes what is already trained from the store"
    )
