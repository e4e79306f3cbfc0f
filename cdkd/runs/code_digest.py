"""Which code affects a result, found by following imports; and its digest.

From the modules that a run starts from, every import inside the package is followed, also inside functions,
but not under TYPE_CHECKING. Networks and losses are imported by name (importlib), so that each run starts
from its own, and a new network or loss does not affect other runs. Of a user's own losses and networks the
modules of his project are followed, and those of the package that `package.module:Name` names. Comments,
docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cdkd.core import own_code
from cdkd.core.digest import digest
from cdkd.core.own_code import cached
from cdkd.losses import signature
from cdkd.models import names

PACKAGE = Path(__file__).parents[1]
NAME = PACKAGE.name
START = f"{NAME}.training.cohort"  # trains a cohort from its specifications
GROUP = f"{NAME}.training.group"  # imported by its name where a run has several networks
# Modules and subpackages that are not followed, each with the reason why it cannot change a result.
EXCLUDED: Mapping[str, str] = {
    f"{NAME}.storage": "how files are written, locked and reported, not what is computed",
    f"{NAME}.core.company": "counts how long a process waits for a core, for the progress line",
    f"{NAME}.core.errors": "names of errors",
    f"{NAME}.core.own_code": "finds a user's loss or network by its name; the file itself is followed",
    f"{NAME}.core.processes": "processes and their cores; the number of threads is recorded with each run",
    f"{NAME}.losses.signature": "finds a loss by its name; the loss itself is followed",
    f"{NAME}.models.names": "finds a network by its name; the network itself is followed",
    f"{NAME}.models.own": "finds a user's network by its name; the network itself is followed",
    f"{NAME}.training.checkpoint": "keeps a state and loads the same state",
}
# Libraries whose classes are networks: their version counts. Others (torch, numpy) are recorded as the run's
# environment.
NETWORK_LIBRARIES = ("torchvision", "timm")


@cached
def code_digest(networks: tuple[str, ...], losses: tuple[str, ...], *, group: bool = False) -> str:
    """Digest of the code that affects a run of these networks (its own and its teacher's) and losses.

    group: whether it trains several networks
    """
    return digest_of(modules_of(networks, losses, group=group))


def modules_of(networks: Iterable[str], losses: Iterable[str], *, group: bool = False) -> tuple[str, ...]:
    """The modules whose code affects such a run. Raises KeyError for an unknown network or loss."""
    start = (START, GROUP) if group else (START,)
    of_networks = (network_module(one) for network in networks for one in {network, names.plain(network)})
    return closure((*start, *of_networks, *(loss_module(one) for one in losses)))


def network_module(network: str) -> str:
    return names.module(network)


def loss_module(loss: str) -> str:
    return signature.module(loss)


def digest_of(modules: Iterable[str]) -> str:
    found = {module: meaning(_path(module)) for module in modules}
    return digest({"modules": found, "libraries": libraries(found)})


def sources(modules: Iterable[str]) -> dict[str, str]:
    """The text of each file, under its path in the package or project, such as `cdkd/losses/kd.py`."""
    found = {}
    for module in modules:
        path = _path(module)
        ending = f"/{path.name}" if path.name == "__init__.py" else ".py"
        found[module.replace(".", "/") + ending] = path.read_text(encoding="utf-8")
    return found


def digest_of_sources(texts: Mapping[str, str], versions: Mapping[str, str | None]) -> str:
    """The code digest of what `sources` returned, and of the versions of its libraries."""
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): meaning_of(text)
        for name, text in texts.items()
    }
    return digest({"modules": modules, "libraries": dict(versions)})


def libraries(modules: Iterable[str]) -> dict[str, str | None]:
    """Versions of the libraries whose classes are networks of these modules."""
    names = sorted({library for module in modules for library in _libraries(module)})
    return {name: _version(name) for name in names}


def closure(start: Iterable[str]) -> tuple[str, ...]:
    """These modules and those of the package that they import, directly or not.

    Raises KeyError if missing.
    """
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        if module in found or excluded(module) is not None:
            continue
        found.add(module)
        waiting.extend(_imports(module))
    return tuple(sorted(found))


def excluded(module: str) -> str | None:
    """Why a module is not followed; None where it is."""
    return next(
        (why for name, why in EXCLUDED.items() if module == name or module.startswith(f"{name}.")), None
    )


@cached
def _imports(module: str) -> tuple[str, ...]:
    """The modules of the package that one imports; a re-exporting `__init__` is replaced by its source."""
    tree = _tree(module)
    is_package = _path(module).name == "__init__.py"
    found = imported_names(tree, module if is_package else module.rpartition(".")[0])
    return tuple(_resolved(name) for name in found if _is_ours(name, module))


@cached
def imported_names(tree: ast.Module, package: str = "", *, typing: bool = False) -> tuple[str, ...]:
    """Dotted names that a module imports, at its top or inside functions, but not under TYPE_CHECKING.

    package: where relative imports start; typing: those under TYPE_CHECKING too
    """
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: list[str] = []
    for node in ast.walk(tree):
        if node in typing_only and not typing:
            continue
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found += (f"{module}.{alias.name}" for alias in node.names)
    return tuple(found)


def _is_ours(name: str, importer: str) -> bool:
    """Of this package, of the user's project, or of the importing module's package."""
    top = name.partition(".")[0]
    if top == NAME:
        return "." in name
    return own_code.is_in_project(top) or top in own_code.KINDS or top == importer.partition(".")[0]


def _resolved(name: str) -> str:
    """The module that a dotted name is, or is defined in."""
    if _exists(name):
        return name
    module, _, attribute = name.rpartition(".")
    path = _path(module)
    if path.name == "__init__.py":
        for passed_on in imported_names(_tree(module), module, typing=True):  # cdkd's names are loaded late
            if passed_on.rpartition(".")[2] == attribute and _is_ours(passed_on, module):
                return _resolved(passed_on)
    return module


def _exists(module: str) -> bool:
    try:
        return _path(module).is_file()
    except KeyError:
        return False


def _path(module: str) -> Path:
    if module.partition(".")[0] != NAME:
        if (found := own_code.locate(module)) is None:
            raise KeyError(module)
        return found
    base = PACKAGE.parent.joinpath(*module.split("."))
    path = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
    if not path.is_file():
        raise KeyError(module)
    return path


@cached
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _libraries(module: str) -> set[str]:
    roots = {name.partition(".")[0] for name in imported_names(_tree(module))}
    return roots & set(NETWORK_LIBRARIES)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@cached
def meaning(path: Path) -> str:
    return meaning_of(path.read_text(encoding="utf-8"))


@cache
def meaning_of(source: str) -> str:
    """Digest of the syntax tree without docstrings, the same on every Python version from 3.11 on."""

    def plain(node: Any) -> Any:
        if isinstance(node, ast.AST):
            # empty fields are left out: newer Pythons add fields, which older code leaves empty
            fields = {name: plain(value) for name, value in ast.iter_fields(node) if name != "type_comment"}
            kept = {name: value for name, value in fields.items() if value not in (None, [])}
            return {"": type(node).__name__} | kept
        if isinstance(node, list):
            return [plain(item) for item in node if not _is_docstring(item)]
        return repr(node) if isinstance(node, bytes | complex | float) or node is Ellipsis else node

    return hashlib.sha256(digest(plain(ast.parse(source))).encode()).hexdigest()


def _is_docstring(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _forget() -> None:
    """Read the sources anew."""
    own_code.forget()
