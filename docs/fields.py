"""Griffe extension: lines `name: text` of a docstring become a list on the page."""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"( *)((?:\w+, )*\w+): (.*)")


def listed(docstring: str) -> str:
    """Paragraphs that begin with such a line; deeper lines are lists in it, or go on with its text."""
    return "\n\n".join(
        _listed(paragraph) if FIELD.match(paragraph) else paragraph for paragraph in docstring.split("\n\n")
    )


def _listed(paragraph: str) -> str:
    lines: list[str] = []
    for line in paragraph.splitlines():
        if found := FIELD.fullmatch(line):
            lines.append(f"{found[1]}* `{found[2]}`: {found[3]}")
        elif line.startswith(" "):
            lines.append(line)
        else:  # prose after the list
            lines += ["", line] if lines[-1].startswith(("*", " ")) else [line]
    return "\n".join(lines)


class Fields(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)
