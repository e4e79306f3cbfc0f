"""params.yaml as DVC reads it (YAML 1.2): plain values, and the line of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cdkd.config.faults import Place, place_text, printable, show
from cdkd.core.errors import BadParams

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
MAX_DEPTH = 32
MAX_BITS = 64  # Python does not print whole numbers of thousands of digits

Lines = dict[Place, int]


def read(
    path: Path,
    text: str | None = None,
    expected: str = "an experiment: sections such as data, teacher, training",
) -> tuple[dict[str, Any], Lines]:
    """The file as plain values, and the line of each key. Raises `BadParams` with one line.

    text: what to read instead of the file; expected: what a file holds
    """
    tree = _parsed(path, text_of(path) if text is None else text)
    if not isinstance(tree, dict):
        raise BadParams(f"{path}: holds {show(tree)}; expected {expected}")
    plain = _Plain(path)
    return plain.value(tree, ()), plain.lines


def text_of(path: Path) -> str:
    """Raises `BadParams` where it is no text, or too long."""
    if path.exists() and not path.is_file():  # reading a FIFO would wait forever
        raise BadParams(f"{path}: not a file; expected a text file in YAML")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BadParams(f"{path}: {size} bytes; expected at most {MAX_BYTES}")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadParams(
            f"{path}: cannot be read ({error.strerror}); `cdkd use NAME` copies an experiment there, and"
            " `cdkd init FOLDER` makes a project"
        ) from None
    except UnicodeDecodeError as error:
        raise BadParams(f"{path}: not a text file in UTF-8 (byte {error.start})") from None


def _parsed(path: Path, text: str) -> Any:
    try:
        return YAML(typ="rt").load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadParams(f"{path}{line}: not YAML as DVC reads it: {printable(str(problem))[:200]}") from None
    except RecursionError:
        raise BadParams(f"{path}: more than {MAX_DEPTH} levels") from None
    except Exception as error:  # ruamel raises Python's own, too, where a tag does not fit its value
        raise BadParams(f"{path}: not YAML as DVC reads it: {printable(str(error))[:200]}") from None


class _Plain:
    """Turns ruamel's tree into plain Python values, and notes the line of every key."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines, self.count = path, Lines(), 0

    def value(self, node: Any, place: Place) -> Any:
        self.count += 1
        if self.count > MAX_VALUES or len(place) > MAX_DEPTH:
            raise BadParams(
                f"{self.path}: more than {MAX_VALUES} values or {MAX_DEPTH} levels once anchors are followed"
            )
        tag = getattr(getattr(node, "tag", None), "value", None)
        if tag is not None and not str(tag).startswith("tag:yaml.org,2002:"):
            raise self._fault(place, f"tag {show(str(tag))}; expected plain values")
        if isinstance(node, dict):
            return self._mapping(node, place)
        if isinstance(node, list):
            return [self.value(value, (*place, index)) for index, value in enumerate(node)]
        if isinstance(node, int) and node.bit_length() > MAX_BITS:
            raise self._fault(
                place, f"{node.bit_length()} bits; expected a whole number of at most {MAX_BITS}"
            )
        return _scalar(node)

    def _mapping(self, node: Any, place: Place) -> dict[Any, Any]:
        where = node.lc.data or {}  # ruamel's note of where it read each key; a merged key has none
        for key in node:
            self.lines[*place, key] = where[key][0] + 1 if key in where else 0
        return {_scalar(key): self.value(value, (*place, key)) for key, value in node.items()}

    def _fault(self, place: Place, what: str) -> BadParams:
        return BadParams(f"{self.path}: {place_text(place)}: {what}")


def _scalar(node: Any) -> Any:
    """ruamel's scalars as plain Python."""
    if type(node).__name__ == "ScalarBoolean":  # an int to Python
        return bool(node)
    return next((kind(node) for kind in (bool, int, float, str) if isinstance(node, kind)), node)
