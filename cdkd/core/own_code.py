"""A user's own losses, networks and data sources: found by the names of their files, read without running.

`losses/x.py`, `networks/x.py` and `sources/x.py` next to params.yaml hold the loss, network or source `x`;
`package.module:Name` names one in an installed package, or in another module of the project.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from cdkd.core.errors import BadParams
from cdkd.core.names import EXPECTED_OF_FILE, is_name

LOSSES, NETWORKS, SOURCES = KINDS = ("losses", "networks", "sources")

Function = TypeVar("Function", bound=Callable[..., Any])
_caches: list[Callable[[], None]] = []
_project: Path | None = None


def cached(function: Function) -> Function:
    """`functools.cache` for values that are read from a project; `use` with another project clears it."""
    kept = cache(function)
    _caches.append(kept.cache_clear)
    return kept  # type: ignore[return-value] # it is called like the function


def forget() -> None:
    """Read all files anew."""
    for clear in _caches:
        clear()


def use(project: Path) -> None:
    """From now on find code in this project: the folder that holds losses/, networks/ and sources/."""
    global _project
    if project == _project:
        return
    if _project is not None and str(_project) in sys.path:
        sys.path.remove(str(_project))
    for name in [name for name in sys.modules if name.partition(".")[0] in KINDS]:
        del sys.modules[name]
    forget()
    _project = project
    sys.path.append(str(project))  # last: nothing in it hides an installed module
    for kind in KINDS:
        if (project / kind).is_dir():
            package = ModuleType(kind)
            package.__path__ = [str(project / kind)]
            sys.modules[kind] = package


def project() -> Path | None:
    """The folder that `use` has named."""
    return _project


def names(kind: str) -> list[str]:
    """The files of the project's folder for this kind, without their ending."""
    return [] if _project is None else sorted(path.stem for path in (_project / kind).glob("[!_.]*.py"))


def check(kind: str, built_in: list[str]) -> None:
    """Raises BadParams for a file whose name is taken, or is no name."""
    for name in names(kind):
        if name in built_in:
            raise BadParams(
                f"{kind}/{name}.py: {name!r} is the name of a built-in one; expected another name"
            )
        if not (is_name(name) and name.isidentifier()):
            raise BadParams(f"{kind}/{name}.py: expected a name of {EXPECTED_OF_FILE}")


def is_well_formed(name: str) -> bool:
    """A name of a file, or `package.module:Name`."""
    module, colon, item = name.partition(":")
    parts = [*module.split("."), item] if colon else [name]
    return all(part.isidentifier() for part in parts) and not parts[0].startswith("_")


def module_of(kind: str, name: str) -> str | None:
    """The module that holds it, by its dotted name; None where there is none."""
    module = name.partition(":")[0] if ":" in name else f"{kind}.{name}"
    if ":" not in name and name not in names(kind):
        return None
    return module if locate(module) is not None else None


def item_of(name: str) -> str | None:
    """What `package.module:Name` names in its module."""
    return name.partition(":")[2] or None


@cached
def locate(module: str) -> Path | None:
    """The file of a module of the project or an installed package; nothing is imported."""
    top, *rest = module.split(".")
    if (found := _in_project(module)) is not None:
        return found
    spec = importlib.machinery.PathFinder.find_spec(top)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        base = Path(folder).joinpath(*rest)
        for one in (base.with_suffix(".py"), base / "__init__.py"):
            if one.is_file():
                return one
    return Path(spec.origin) if spec is not None and spec.origin and not rest else None


def is_in_project(module: str) -> bool:
    """Whether its file is in the project's folder, but not in a Python environment there."""
    return _in_project(module) is not None


def _in_project(module: str) -> Path | None:
    if _project is None:
        return None
    base = _project.joinpath(*module.split("."))
    return next((one for one in (base.with_suffix(".py"), base / "__init__.py") if one.is_file()), None)


def load(kind: str, name: str) -> ModuleType:
    """Import the module that holds it. Raises BadParams with the file, where that fails."""
    module = module_of(kind, name)
    if module is None:
        raise BadParams(f"no file {kind}/{name}.py next to params.yaml")
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the user's code does
        raise BadParams(f"{locate(module)}: {type(error).__name__}: {error}") from error
