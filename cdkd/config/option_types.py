"""The type of a loss's option, from its annotation as written in the loss's file. Nothing of the file is run.

Known are Python's and pydantic's types of plain values (`float`, `PositiveInt`, `Literal["eval", "train"]`),
`X | None`, `tuple[X, ...]`, `list[X]` and `Annotated[X, Field(gt=0, le=1)]`. Every number is bounded.
"""

from __future__ import annotations

import ast
from typing import Annotated, Any, Literal, Union

from pydantic import Field, Strict

from cdkd.core.errors import BadParams

LARGEST = 1_000_000_000  # of any number that a loss takes
SMALLEST = 1e-12  # of a positive one: neither it nor its square is 0 in float32

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Text = Annotated[str, Field(max_length=200)]

NAMED: dict[str, Any] = {
    "Any": Any,
    "bool": bool,
    "str": Text,
    "float": Number,
    "PositiveFloat": Annotated[Number, Field(gt=0), Field(ge=SMALLEST)],
    "NonNegativeFloat": Annotated[Number, Field(ge=0)],
    "NegativeFloat": Annotated[Number, Field(lt=0)],
    "NonPositiveFloat": Annotated[Number, Field(le=0)],
    "FiniteFloat": Number,
    "int": Whole,
    "PositiveInt": Annotated[Whole, Field(gt=0)],
    "NonNegativeInt": Annotated[Whole, Field(ge=0)],
    "NegativeInt": Annotated[Whole, Field(lt=0)],
    "NonPositiveInt": Annotated[Whole, Field(le=0)],
}
FIELD = {"gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern"}


def type_of(annotation: str, of: str) -> Any:
    """The type that an annotation means. of: what has it, for the message. Raises `BadParams` if unknown."""
    try:
        return _type(ast.parse(annotation, mode="eval").body)
    except (ValueError, SyntaxError):
        raise BadParams(
            f"{of}: type {annotation}; expected one of {', '.join(NAMED)}, Literal[...], X | None,"
            " tuple[X, ...], list[X] or Annotated[X, Field(...)]"
        ) from None


def _type(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # an annotation in quotes
        return _type(ast.parse(node.value, mode="eval").body)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return Union[_type(node.left), _type(node.right)]  # noqa: UP007 # either may be None
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _generic(_word(node.value), inner)
    word = _word(node)
    if word not in NAMED:
        raise ValueError(word)
    return NAMED[word]


def _generic(word: str, inner: list[ast.expr]) -> Any:
    if word == "Literal":
        return Literal[tuple(ast.literal_eval(one) for one in inner)]
    if word == "Optional":
        return Union[_type(inner[0]), None]  # noqa: UP007
    if word == "Union":
        return Union[tuple(map(_type, inner))]  # noqa: UP007
    if word == "list":
        return list[_type(inner[0])]  # type: ignore[misc] # a type that is known only here
    if word == "tuple":
        return Annotated[tuple[tuple(map(_element, inner))], Strict(False)]  # type: ignore[misc] # likewise
    if word == "Annotated":
        return Annotated[(_type(inner[0]), *map(_field, inner[1:]))]
    raise ValueError(word)


def _element(node: ast.expr) -> Any:
    return ... if isinstance(node, ast.Constant) and node.value is ... else _type(node)


def _field(node: ast.expr) -> Any:
    if not isinstance(node, ast.Call) or _word(node.func) != "Field" or node.args:
        raise ValueError("expected Field(...)")
    limits = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg in FIELD}
    if len(limits) != len(node.keywords):
        raise ValueError("an unknown limit")
    return Field(**limits)


def _word(node: ast.expr) -> str:
    """The name, or the last part of a dotted one."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError(ast.unparse(node))
