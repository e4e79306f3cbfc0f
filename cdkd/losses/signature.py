"""A loss's class and options, read from its file without running it.

Its file is one of this folder, or of the user's project (`core.own_code`).

The constructor is the schema: its keyword-only arguments are the options, their annotations the types, their
defaults the defaults. Reading them from the source keeps `cdkd` fast where no torch is needed (checking
params.yaml, restoring a finished run) and means that a new loss is one file, with nothing to register.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cdkd.core import own_code
from cdkd.core.errors import BadParams
from cdkd.core.own_code import LOSSES, cached

FOLDER = Path(__file__).parent
PACKAGE = "cdkd.losses"
CONTRACTS = ("Loss", "GroupLoss")
DATA = "data"  # the argument that receives `DataInfo`; not an option


class Option(NamedTuple):
    annotation: str  # as written in the source: "float", "PositiveFloat", 'Literal["eval", "train"]'
    default: Any  # a plain value; `REQUIRED` where the constructor has none


REQUIRED = ...


class _Class(NamedTuple):
    """A class that derives from a contract. line: the class and its bases; contract: Loss or GroupLoss"""

    line: tuple[ast.ClassDef, ...]
    contract: str


def names() -> list[str]:
    """Every loss: the built-in ones, and the project's own, by the names of their files."""
    return sorted({*built_in(), *(name for name in own_code.names(LOSSES) if _found(name) is not None)})


def built_in() -> list[str]:
    """The files of this folder that hold a subclass of `Loss` or `GroupLoss`."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if _found(path.stem) is not None)


def exists(name: str) -> bool:
    """Also for `package.module:Name`."""
    return _found(name) is not None


def module(name: str) -> str:
    """The module that holds the loss. Raises KeyError if there is none."""
    _loss(name)
    return f"{PACKAGE}.{name}" if _file(name).parent == FOLDER else str(own_code.module_of(LOSSES, name))


def class_name(name: str) -> str:
    return _loss(name).line[0].name


def is_group(name: str) -> bool:
    """Whether the loss is one of several networks at once."""
    return _loss(name).contract == "GroupLoss"


@cached
def options(name: str) -> dict[str, Option]:
    """The options of one loss, in the order of its constructor."""
    return {
        argument.arg: Option(
            ast.unparse(argument.annotation) if argument.annotation else "Any",
            REQUIRED if default is None else ast.literal_eval(default),
        )
        for argument, default in _keywords(name)
        if argument.arg != DATA
    }


def takes_data(name: str) -> bool:
    """Whether the constructor takes `DataInfo`."""
    return any(argument.arg == DATA for argument, _ in _keywords(name))


def requires(name: str) -> tuple[str, ...]:
    """What a loss of several networks requires of them, by its class's constant `requires`."""
    for one in _loss(name).line:
        for item in one.body:
            if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == "requires" and item.value:
                return tuple(ast.literal_eval(item.value))
    return ()


def _keywords(name: str) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """The keyword-only arguments of the constructor, its own or an inherited one, with their defaults."""
    for one in _loss(name).line:
        for item in one.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                yield from zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True)
                return


def _loss(name: str) -> _Class:
    found = _found(name)
    if found is None:
        raise KeyError(name)
    return found


@cached
def _found(name: str) -> _Class | None:
    """The loss in a file: the class that is named, or the last one that derives from a contract."""
    if not own_code.is_well_formed(name) or not (file := _file(name)).is_file():
        return None
    named = own_code.item_of(name)
    classes = [node.name for node in _tree(file).body if isinstance(node, ast.ClassDef)]
    found = (_derived(file, one) for one in reversed(classes) if named in (None, one))
    return next((one for one in found if one is not None), None)


def _file(name: str) -> Path:
    """Where the loss should be; a built-in one comes first."""
    if ":" not in name and (FOLDER / f"{name}.py").is_file():
        return FOLDER / f"{name}.py"
    module = own_code.module_of(LOSSES, name)
    return (own_code.locate(module) if module is not None else None) or FOLDER / "no file"


@cached
def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise BadParams(f"{file}: not valid Python: {error}") from None


def _derived(file: Path, name: str) -> _Class | None:
    """The class of this name in the file, if it derives from a contract, defined or imported there."""
    for node in _tree(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for base in node.bases:
                if (above := _base(file, base)) is not None:
                    return _Class((node, *above.line), above.contract)
            return None
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _imported(file, node, alias.name)
    return None


def _base(file: Path, base: ast.expr) -> _Class | None:
    if isinstance(base, ast.Subscript):  # a generic class
        base = base.value
    if isinstance(base, ast.Attribute):  # base.Loss
        return _Class((), base.attr) if base.attr in CONTRACTS else None
    return _derived(file, base.id) if isinstance(base, ast.Name) else None


def _imported(file: Path, node: ast.ImportFrom, name: str) -> _Class | None:
    module = node.module or ""
    if node.level:  # a relative import, of another file of the same folder
        other = file.parents[node.level - 1].joinpath(*module.split(".")).with_suffix(".py")
        return _derived(other, name) if other.is_file() else None
    package, _, stem = module.rpartition(".")
    if module.partition(".")[0] == PACKAGE.partition(".")[0]:
        if name in CONTRACTS:
            return _Class((), name)
        return _derived(FOLDER / f"{stem}.py", name) if package == PACKAGE else None
    found = own_code.locate(module) if own_code.is_in_project(module) else None
    return _derived(found, name) if found is not None else None
