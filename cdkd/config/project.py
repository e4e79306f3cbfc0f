"""A user's own project: make one, add files to it (both from the templates in `template/`), check them."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cdkd.config.params import use_project_of
from cdkd.core import own_code
from cdkd.core.checks import Failed, Result
from cdkd.core.errors import BadParams
from cdkd.core.names import EXPECTED, EXPECTED_OF_FILE, is_name
from cdkd.storage.files import draft_folder, write_atomically

TEMPLATE = Path(__file__).parent / "template"
KINDS = {
    "loss": ("losses", "logit_mse"),
    "network": ("networks", "small"),
    "source": ("sources", "low_digits"),
}
CONTRACTS = {"loss": "losses", "network": "models", "source": "data"}  # subpackage with the contract suite


def create(folder: Path) -> list[str]:
    """A project in a new folder, with git and DVC. Returns lines to print; if it fails, nothing is left."""
    name = folder.absolute().name
    if not is_name(name):
        raise BadParams(f"{name!r} is not a valid name for a project; expected {EXPECTED}")
    if folder.exists():
        raise BadParams(f"{folder} exists; expected a new folder")
    if not folder.absolute().parent.is_dir():
        raise BadParams(f"{folder.absolute().parent}: no such folder")
    if shutil.which("git") is None:
        raise BadParams("git is not installed, and DVC needs it")
    with draft_folder(folder.absolute().parent, f".{name}-") as draft:
        made = draft / name
        made.mkdir()
        dvc = [sys.executable, "-m", "dvc"]
        for command in (
            ["git", "init", "-q"],
            [*dvc, "init", "-q"],
            [*dvc, "config", "core.analytics", "false"],
            [*dvc, "config", "core.check_update", "false"],
        ):
            _run(command, made)
        for source in sorted(TEMPLATE.rglob("*.txt")):
            part = source.relative_to(TEMPLATE).with_suffix("").as_posix()
            target = made / re.sub("(^|/)dot-", r"\1.", part)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text(encoding="utf-8").replace("NAME", name), encoding="utf-8")
        (made / "experiments").mkdir()
        shutil.copy(made / "params.yaml", made / "experiments" / "first.yaml")
        made.rename(folder)
    return [
        f"{folder}: a project with a loss, a network and a source of your own",
        f"cd {folder} && dvc repro",
    ]


def add(kind: str, name: str, root: Path) -> str:
    """A new file of a loss, network or source. Returns a line to print."""
    folder, example = KINDS[kind]
    if not (is_name(name) and name.isidentifier()):
        raise BadParams(f"{name!r} is not a valid name for a {kind}; expected {EXPECTED_OF_FILE}")
    path = root / folder / f"{name}.py"
    if path.exists():
        raise BadParams(f"{folder}/{name}.py exists; expected another name")
    text = (TEMPLATE / folder / f"{example}.py.txt").read_text(encoding="utf-8")
    title = "".join(word.capitalize() for word in name.split("_"))
    text = text.replace("LogitMSE", title).replace("class Small", f"class {title}")
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, text)
    own_code.forget()
    try:
        use_project_of(root / "params.yaml")
    except BadParams:
        path.unlink()
        raise
    return f"{folder}/{name}.py; `cdkd test {kind} {name}` checks it"


def examine(kind: str, name: str, root: Path) -> list[Result]:
    """The results of the contract suite on a loss, network or source. Raises `BadParams` if there is none."""
    use_project_of(root / "params.yaml")
    check = importlib.import_module(f"cdkd.{CONTRACTS[kind]}.contract").check
    try:
        return list(check(name, root) if kind == "source" else check(name))
    except Failed as failed:
        raise BadParams(str(failed)) from None


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadParams(f"{' '.join(command)}: {done.stderr.strip()}")
