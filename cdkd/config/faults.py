"""Collects every fault of params.yaml with its line, place, value and what was expected."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic
from pydantic import BaseModel

from cdkd.core.errors import BadParams

Place = tuple[Any, ...]  # keys and list indices, from the top of the file

# pydantic's kinds of faults in our words; fields in braces are pydantic's own
EXPECTED = {
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "string_too_long": "expected at most {max_length} characters",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected names with values",
    "mapping_type": "expected names with values",
    "literal_error": "expected {expected}",
    "model_type": "expected a section",
    "too_short": "expected at least {min_length} of them",
    "too_long": "expected at most {max_length} of them",
}
UNION_PARTS = re.compile(r"(literal|constrained-|function-|\[key\]|tag:|tuple\[|list\[|dict\[).*", re.DOTALL)


class Faults:
    """Collects what is wrong, so that a user corrects a file once and not ten times."""

    def __init__(self, path: Path = Path(), lines: Mapping[Place, int] = MappingProxyType({})) -> None:
        self.path, self.lines, self.found = path, lines, list[tuple[int, str]]()
        self.places = list[tuple[Place, str]]()

    def add(self, place: Place, what: str) -> None:
        line = next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), 0)
        what = printable(what)  # it may hold keys of the file
        self.places.append((place, what))
        self.found.append((line, f"{self.path.name}:{line}: {place_text(place)}: {what}"))

    def section(self, model: type[BaseModel], value: Any, place: Place) -> Any:
        """One section built from plain values; None if it has faults, which are then noted."""
        if not isinstance(value, dict):
            self.add(place, f"{show(value)}; expected a section with {', '.join(model.model_fields)}")
            return None
        try:
            return model.model_validate(value)
        except pydantic.ValidationError as error:
            for inner, what in _by_place(model, error).items():
                self.add((*place, *inner), what)
            return None

    def raise_if_any(self) -> None:
        if self.found:
            unique = dict.fromkeys(text for _, text in sorted(self.found, key=lambda fault: fault[0]))
            heading = f"{self.path}: {len(unique)} fault{'s' if len(unique) > 1 else ''}"
            raise BadParams("\n  ".join([heading, *unique]))


def _by_place(model: type[BaseModel], error: pydantic.ValidationError) -> dict[Place, str]:
    """One fault a place: the types that a value may have are joined, and only the innermost place counts."""
    found = error.errors(include_url=False)
    nested = [one["loc"][:-1] for one in found]
    joined: dict[Place, str] = {}
    for fault in found:
        # a list with a faulty member counts as too short, too
        if fault["type"] == "too_short" and fault["loc"] in nested:
            continue
        inner = tuple(
            part for part in fault["loc"] if not (isinstance(part, str) and UNION_PARTS.fullmatch(part))
        )
        what = _what(model, inner, fault)
        other = what.partition("; expected ")[2]  # of another type that the value may have
        before = joined.get(inner)
        joined[inner] = f"{before} or {other}" if other and before not in (None, what) else what
    return {place: what for place, what in joined.items() if not any(_within(one, place) for one in joined)}


def _within(inner: Place, outer: Place) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _what(model: type[BaseModel], inner: Place, fault: Any) -> str:
    """What is wrong, and what was expected."""
    kind, value = fault["type"], fault["input"]
    if kind in ("extra_forbidden", "invalid_key"):
        known = _known_keys(model, inner[:-1])
        return f"unknown key{suggest(str(inner[-1]), known)}; expected one of {', '.join(known)}"
    if kind == "missing":
        return "missing"
    if kind == "network":
        return str(fault["msg"])
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        return f"{show(value)}{suggest(str(value), known)}; expected {fault['ctx']['expected']}"
    if kind in EXPECTED:
        limits = {name: _limit(one) for name, one in fault.get("ctx", {}).items()}
        return f"{show(value)}; {EXPECTED[kind].format_map(limits)}"
    return f"{show(value)}; {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _known_keys(model: type[BaseModel], inner: Place) -> list[str]:
    """The keys of the section that lies at a place within another."""
    for part in inner:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        for candidate in _types_in(annotation):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)


def _types_in(annotation: Any) -> Iterable[Any]:
    yield annotation
    for part in typing.get_args(annotation):
        yield from _types_in(part)


def suggest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, as " (did you mean 'resnet18-cifar'?)"; else nothing."""
    meant = _closest(str(word)[:100], list(map(str, known)))
    return f" (did you mean {meant!r}?)" if meant is not None else ""


def _closest(word: str, known: list[str]) -> str | None:
    """The known word that is nearest, or None.

    Tried in this order: another spelling of the word, a word that it begins, a typing error, a word that
    begins it, its initials, and at last any similar word.
    """
    plain = {one: _letters(one) for one in known}
    own = _letters(word)
    begun = [one for one in known if len(own) > 1 and plain[one].startswith(own)]
    continued = [one for one in known if len(plain[one]) > 1 and own.startswith(plain[one])]
    return (
        next((one for one in known if plain[one] == own), None)
        or (min(begun, key=lambda one: len(plain[one])) if begun else None)
        or _alike(own, plain, 0.8)
        or (max(continued, key=lambda one: len(plain[one])) if continued else None)
        or next((one for one in known if len(own) > 1 and _initials(one) == own), None)
        or _alike(own, plain, 0.5)
    )


def _alike(own: str, plain: dict[str, str], cutoff: float) -> str | None:
    close = difflib.get_close_matches(own, plain.values(), n=1, cutoff=cutoff)
    return next((one for one in plain if plain[one] == close[0]), None) if close else None


def _letters(word: str) -> str:
    return re.sub(r"[\s_.-]", "", word).lower()


def _initials(word: str) -> str:
    return "".join(part[0] for part in re.split(r"[_-]", word) if part).lower()


def printable(text: str) -> str:
    """One line without control characters, which a terminal would act on."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _limit(value: Any) -> str:
    """65536 and 4294967295 as they are, 1e12 as 1e+12."""
    short = f"{value:g}" if isinstance(value, int | float) else str(value)
    return short if not isinstance(value, int) or float(short) == value else str(value)


def place_text(place: Place) -> str:
    text = ""
    for part in place:
        word = printable(str(part) if len(str(part)) <= 64 else show(part))
        text += f"[{part}]" if type(part) is int else f".{word}" if text else word
    return text or "the file"


def show(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
