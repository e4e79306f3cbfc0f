"""A user's own data sources: a file `sources/x.py` of the project, or `package.module:name`.

The file has a function `read(root: Path) -> Arrays`; root is the project's folder. Needs no NumPy.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from cdkd.core import own_code
from cdkd.core.errors import BadData, BadParams
from cdkd.core.own_code import SOURCES, cached

if TYPE_CHECKING:
    from cdkd.data.arrays import Arrays

READ = "read"


def names() -> list[str]:
    return [name for name in own_code.names(SOURCES) if exists(name)]


@cached
def exists(name: str) -> bool:
    """Whether a function of this name is there; its file is read, not run."""
    module = own_code.module_of(SOURCES, name) if own_code.is_well_formed(name) else None
    path = own_code.locate(module) if module is not None else None
    if path is None:
        return False
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise BadParams(f"{path}: not valid Python: {error}") from None
    wanted = own_code.item_of(name) or READ
    return any(isinstance(node, ast.FunctionDef) and node.name == wanted for node in tree.body)


def read(name: str, root: Path) -> Arrays:
    """Raises BadData where the user's code fails, or gives something else."""
    from cdkd.data.arrays import Arrays

    function = getattr(own_code.load(SOURCES, name), own_code.item_of(name) or READ)
    try:
        found = function(root)
    except Exception as error:  # whatever the user's code does
        raise BadData(f"source {name}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Arrays):
        raise BadData(f"source {name}: gives {type(found).__name__}; expected cdkd.data.arrays.Arrays")
    return found
