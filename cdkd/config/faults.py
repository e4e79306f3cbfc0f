"""Reading params.yaml as DVC reads it, and collecting every fault with its line, value and what was expected."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic
from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cdkd.core.errors import BadParams

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000


def read(path: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], int]]:
    """The file as plain values (YAML 1.2, as DVC reads it) and the line of each value's place."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadParams(
            f"{path}: cannot be read ({error.strerror}); `cdkd use NAME` makes an experiment the active one"
        ) from None
    if size > MAX_BYTES:
        raise BadParams(f"{path}: {size} bytes; expected at most {MAX_BYTES}")
    try:
        tree = YAML(typ="rt").load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadParams(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadParams(
            f"{path}{f':{mark.line + 1}' if mark else ''}: not YAML as DVC reads it: {what}"
        ) from None
    except Exception as error:  # ruamel raises Python's own too, for each way a tag does not fit its value
        raise BadParams(f"{path}: not YAML as DVC reads it: {error}") from None
    if not isinstance(tree, dict):
        raise BadParams(
            f"{path}: holds {show(tree)}; expected an experiment: sections such as data, teacher, training"
        )
    lines: dict[tuple[Any, ...], int] = {}
    count = 0

    def plain(node: Any, place: tuple[Any, ...]) -> Any:
        nonlocal count
        count += 1
        if count > MAX_VALUES or len(place) > 32:
            raise BadParams(f"{path}: more than {MAX_VALUES} values or 32 levels once anchors are followed")
        tag = getattr(getattr(node, "tag", None), "value", None)
        if tag is not None and not str(tag).startswith("tag:yaml.org,2002:"):
            raise BadParams(f"{path}: {place_text(place)}: tag {tag}; expected plain values")
        if isinstance(node, dict):
            for key in node:
                at = node.lc  # type: ignore[attr-defined] # ruamel's note of where it read each key
                lines[*place, key] = (
                    at.key(key)[0] + 1 if key in (at.data or {}) else 0
                )  # one that was merged has none
            return {_scalar(key): plain(value, (*place, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [plain(value, (*place, index)) for index, value in enumerate(node)]
        if (
            isinstance(node, int) and node.bit_length() > 64
        ):  # Python refuses to write out thousands of digits
            raise BadParams(
                f"{path}: {place_text(place)}: a whole number of {node.bit_length()} bits; expected at most 64"
            )
        return _scalar(node)

    return plain(tree, ()), lines


def _scalar(node: Any) -> Any:
    """ruamel's round-trip scalars as plain Python."""
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if type(node).__name__ == "ScalarBoolean":
        return bool(node)
    return node


class Faults:
    """Collects what is wrong, so that a user mends a file once and not ten times."""

    def __init__(
        self, path: Path = Path(), lines: Mapping[tuple[Any, ...], int] = MappingProxyType({})
    ) -> None:
        self.path, self.lines, self.found = path, lines, list[tuple[int, str]]()
        self.places = list[tuple[tuple[Any, ...], str]]()

    def add(self, place: tuple[Any, ...], what: str) -> None:
        line = next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), 0)
        self.places.append((place, what))
        self.found.append((line, f"{self.path.name}:{line}: {place_text(place)}: {what}"))

    def section(self, model: type[BaseModel], value: Any, place: tuple[Any, ...]) -> Any:
        """One section built from plain values, or None and its faults noted."""
        if not isinstance(value, dict):
            self.add(place, f"{show(value)}; expected a section with {', '.join(model.model_fields)}")
            return None
        try:
            return model.model_validate(value)
        except pydantic.ValidationError as error:
            for fault in error.errors(include_url=False):
                self._pydantic(model, place, fault)
            return None

    def _pydantic(self, model: type[BaseModel], place: tuple[Any, ...], fault: Any) -> None:
        where = tuple(
            part
            for part in fault["loc"]
            if not (isinstance(part, str) and part.startswith(("literal[", "constrained-", "function-")))
        )
        where = tuple(part for part in where if part not in ("Normalisation", "Published"))
        if fault["type"] == "extra_forbidden":
            known = _known_keys(model, where[:-1])
            self.add(
                (*place, *where),
                f"unknown key{suggest(str(where[-1]), known)}; expected one of {', '.join(known)}",
            )
        elif fault["type"] == "missing":
            self.add((*place, *where), "missing")
        else:
            self.add((*place, *where), f"{show(fault['input'])}: {fault['msg'][0].lower()}{fault['msg'][1:]}")

    def raise_if_any(self) -> None:
        if self.found:
            unique = dict.fromkeys(text for _, text in sorted(self.found, key=lambda fault: fault[0]))
            heading = f"{self.path}: {len(unique)} fault{'s' if len(unique) > 1 else ''}"
            raise BadParams("\n  ".join([heading, *unique]))


def _known_keys(model: type[BaseModel], inner: tuple[Any, ...]) -> list[str]:
    for part in inner:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        for candidate in (annotation, *typing.get_args(annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)


def suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, map(str, known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def place_text(place: tuple[Any, ...]) -> str:
    text = ""
    for part in place:
        word = str(part) if str(part).isprintable() and len(str(part)) <= 64 else show(part)
        text += f"[{part}]" if isinstance(part, int) else f".{word}" if text else word
    return text or "the file"


def show(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
