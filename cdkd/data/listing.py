"""The files of a data set, and the layout that was found in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cdkd.core.errors import BadData
from cdkd.data.containers import Entry


@dataclass
class Files:
    """All files of all containers; their paths without the folders that wrap everything."""

    images: list[Entry]
    others: list[Entry]
    folders: list[str]
    shown: str  # data.paths, for messages


@dataclass
class Layout:
    """The training and test images with their classes; `test` is None where it is to be drawn."""

    name: str
    classes: Sequence[str]
    train: list[tuple[Entry, str]]  # image, class
    test: list[tuple[Entry, str]] | None
    notes: list[str] = field(default_factory=list)  # for the user
    lists: list[Entry] = field(default_factory=list)  # files that were read for it


def text_of(entry: Entry) -> str:
    try:
        return entry.read().decode("utf-8-sig")
    except (ValueError, OSError) as error:
        raise BadData(f"{entry}: cannot be read as text ({error}); expected UTF-8") from error


def count_suffixes(names: Iterable[str]) -> dict[str, int]:
    """How many names end in each suffix, the most frequent first; at most 12 kinds."""
    bases = (name.rpartition("/")[2] for name in names)
    counts = Counter(f".{base.rpartition('.')[2].lower()}" if "." in base else "no suffix" for base in bases)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = {suffix if len(suffix) <= 12 else suffix[:9] + "...": count for suffix, count in ranked[:11]}
    if rest := sum(count for _, count in ranked[11:]):
        shown["other"] = rest
    return shown
