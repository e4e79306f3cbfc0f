"""The named experiments, and how one becomes the active params.yaml."""

from __future__ import annotations

from pathlib import Path

from cdkd.config.faults import suggest
from cdkd.config.params import load
from cdkd.core.errors import BadParams
from cdkd.storage.files import write_atomically


def names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "experiments").glob("*.yaml"))


def use(root: Path, name: str, *, force: bool = False) -> str:
    """Make `experiments/<name>.yaml` the active params.yaml. Returns what to tell the user.

    force: overwrite a params.yaml that was edited by hand
    Raises `BadParams` before anything is written.
    """
    known = names(root)
    if name not in known:
        listed = f"{suggest(name, known)}; expected one of {', '.join(known)}"
        raise BadParams(f"no experiment {name!r} in experiments/{listed}")
    source, active = root / "experiments" / f"{name}.yaml", root / "params.yaml"
    load(source)  # raises if it is faulty
    text = source.read_text(encoding="utf-8")
    if active.exists() and not force:
        saved = {(root / "experiments" / f"{other}.yaml").read_text(encoding="utf-8") for other in known}
        if active.read_text(encoding="utf-8") not in saved:
            raise BadParams(
                f"{active.name}: differs from every file of experiments/, so it was edited by hand;"
                f" keep it as experiments/NAME.yaml, or overwrite it with `cdkd use --force {name}`"
            )
    write_atomically(active, text)
    return f"params.yaml is now {name}; `dvc repro` runs it"
