"""A user's own networks: files `networks/x.py` of the project, read without running them.

The file holds a class with a `forward`, or a function `build`, that takes the number of classes and of the
images' channels and gives a network whose forward returns `Features`.
"""

from __future__ import annotations

import ast

from cdkd.core import own_code
from cdkd.core.errors import BadParams
from cdkd.core.own_code import NETWORKS, cached


def names() -> list[str]:
    """The networks of the project's files."""
    return [name for name in own_code.names(NETWORKS) if reference(name) is not None]


@cached
def reference(name: str) -> str | None:
    """Where the network is built, as `networks.x:Name`; None without such a file or a network in it."""
    if ":" in name or not own_code.is_well_formed(name):
        return None
    module = own_code.module_of(NETWORKS, name)
    path = own_code.locate(module) if module is not None else None
    if path is None:
        return None
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise BadParams(f"{path}: not valid Python: {error}") from None
    both = (node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    found = [node.name for node in both if _builds(node)]
    return f"{module}:{found[-1]}" if found else None


def _builds(node: ast.ClassDef | ast.FunctionDef) -> bool:
    if isinstance(node, ast.ClassDef):
        return any(isinstance(one, ast.FunctionDef) and one.name == "forward" for one in node.body)
    return node.name == "build"
