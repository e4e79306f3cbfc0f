"""A loss's options, read from its file without running it.

The constructor is the schema: its keyword-only arguments are the options, their annotations the types, their defaults
the defaults. Reading them from the source keeps `cdkd` fast where no torch is needed (checking params.yaml, restoring
a finished run) and means that a new loss is one file, with nothing to register.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent


class Option(NamedTuple):
    annotation: str  # as written in the source: "float", "PositiveFloat", 'Literal["eval", "train"]'
    default: Any  # a plain value; `REQUIRED` where the constructor has none


REQUIRED = ...


def names() -> list[str]:
    """Every loss there is: the files of this folder that hold a subclass of `Loss`."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if _loss_class(path.stem) is not None)


@cache
def options(name: str) -> dict[str, Option]:
    """The options of one loss, in the order of its constructor."""
    loss = _loss_class(name)
    if loss is None:
        raise KeyError(name)
    for item in loss.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return {
                argument.arg: Option(
                    ast.unparse(argument.annotation) if argument.annotation else "Any",
                    REQUIRED if default is None else ast.literal_eval(default),
                )
                for argument, default in zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True)
            }
    return {}


@cache
def _loss_class(name: str) -> ast.ClassDef | None:
    if name.startswith("_") or not (FOLDER / f"{name}.py").is_file():
        return None
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id == "Loss" for base in node.bases
        ):
            return node
    return None
