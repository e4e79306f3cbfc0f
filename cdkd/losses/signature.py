"""A loss's class and options, read from its file without running it.

The constructor is the schema: its keyword-only arguments are the options, their annotations the types, their defaults
the defaults. Reading them from the source keeps `cdkd` fast where no torch is needed (checking params.yaml, restoring
a finished run) and means that a new loss is one file, with nothing to register.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
PACKAGE = "cdkd.losses"
CONTRACTS = ("Loss", "GroupLoss")
DATA = "data"  # the argument that receives `DataInfo`, and is no option


class Option(NamedTuple):
    annotation: str  # as written in the source: "float", "PositiveFloat", 'Literal["eval", "train"]'
    default: Any  # a plain value; `REQUIRED` where the constructor has none


REQUIRED = ...


class _Class(NamedTuple):
    """A class that derives from a contract. line: from itself through its bases; contract: Loss or GroupLoss"""

    line: tuple[ast.ClassDef, ...]
    contract: str


def names() -> list[str]:
    """Every loss there is: the files of this folder that hold a subclass of `Loss` or `GroupLoss`."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if _found(path.stem) is not None)


def class_name(name: str) -> str:
    return _loss(name).line[0].name


def is_group(name: str) -> bool:
    """Whether the loss is one of several networks at once."""
    return _loss(name).contract == "GroupLoss"


@cache
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
    """Whether its constructor asks for `DataInfo`."""
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


@cache
def _found(name: str) -> _Class | None:
    """The loss in a file: its last class that derives from a contract."""
    if name.startswith("_") or not (FOLDER / f"{name}.py").is_file():
        return None
    classes = [node.name for node in _tree(name).body if isinstance(node, ast.ClassDef)]
    found = (_derived(name, one) for one in reversed(classes))
    return next((one for one in found if one is not None), None)


@cache
def _tree(name: str) -> ast.Module:
    return ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))


def _derived(file: str, name: str) -> _Class | None:
    """What the name means in the file, if it is a class that derives from a contract, by whatever spelling."""
    for node in _tree(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for base in node.bases:
                if (above := _base(file, base)) is not None:
                    return _Class((node, *above.line), above.contract)
            return None
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _imported(node.module or "", alias.name)
    return None


def _base(file: str, base: ast.expr) -> _Class | None:
    if isinstance(base, ast.Subscript):  # a generic class
        base = base.value
    if isinstance(base, ast.Attribute):  # base.Loss
        return _Class((), base.attr) if base.attr in CONTRACTS else None
    return _derived(file, base.id) if isinstance(base, ast.Name) else None


def _imported(module: str, name: str) -> _Class | None:
    if module.partition(".")[0] != PACKAGE.partition(".")[0]:
        return None
    if name in CONTRACTS:
        return _Class((), name)
    package, _, file = module.rpartition(".")
    return _derived(file, name) if package == PACKAGE and (FOLDER / f"{file}.py").is_file() else None
