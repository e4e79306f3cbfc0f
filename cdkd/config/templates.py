"""Experiments that differ in a few values: one recipe, written once, and a table of the values.

`experiments/templates/NAME.yaml` is a params.yaml with placeholders such as $student; `NAME.csv` next to it
has a column for each placeholder and a row for each experiment, whose name is the column `experiment`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from string import Template

from cdkd.core.errors import BadParams

FOLDER = Path("experiments", "templates")
NAME = "experiment"


def filled(root: Path) -> dict[str, tuple[Path, str]]:
    """Experiment -> its template, and that template with the experiment's values.

    Raises BadParams where a table does not fit its template.
    """
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted((root / FOLDER).glob("*.yaml")):
        template = Template(path.read_text(encoding="utf-8"))
        wanted = set(template.get_identifiers())
        for line, row in _rows(path.with_suffix(".csv"), wanted):
            name = row[NAME]
            if name in found:
                raise BadParams(f"{line}: {name!r} again; expected each experiment once")
            found[name] = (path, template.substitute(row))
    return found


def _rows(path: Path, wanted: set[str]) -> list[tuple[str, dict[str, str]]]:
    """The rows, each with its place."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [(f"{path}:{reader.line_num}", row) for row in reader]
            columns = set(reader.fieldnames or ())
    except OSError as error:
        raise BadParams(
            f"{path}: cannot be read ({error.strerror}); it has the values for the template"
        ) from None
    if columns != wanted:
        raise BadParams(
            f"{path}: columns {', '.join(sorted(columns))}; expected the template's placeholders:"
            f" {', '.join(sorted(wanted))}"
        )
    for place, row in rows:
        if None in row or None in row.values():
            raise BadParams(f"{place}: expected {len(columns)} values")
    return rows
