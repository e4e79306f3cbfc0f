"""The house stays as it is drawn: imports point one way, and each heavy library is known in one room only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cdkd"

# From the ground up: a room may import those of earlier floors and its own.
FLOORS = (
    {"errors", "files"},
    {"schedule", "sealed"},
    {"data", "models"},
    {"losses", "faults"},
    {"schema"},
    {"methods"},
    {"space"},
    {"space_faults"},
    {"objective", "params"},
    {"places", "record", "study_file", "checkpoint", "progress", "optimizer", "graph", "teacher_cache"},
    {"teacher", "examine"},
    {"plan", "train"},
    {"store", "report", "tracking", "experiments", "inputs", "tuned"},
    {"plan_file", "pack"},
    {"away"},
    {"campaign", "ui", "follow"},
    {"pending"},
    {"search"},
    {"stages"},
    {"results", "verify"},
    {"doctor"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ONLY_IN = {
    "mlflow": {"tracking"},
    "matplotlib": {"report"},
    "pandas": {"report"},
    "optuna": {"search"},
    "torchvision": {"models", "data"},
    "sklearn": {"data"},
    "PIL": {"data"},
    "pydantic": {"schema", "params", "faults"},
    "ruamel": {"faults"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def room(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = room(path)
    assert own in FLOOR, f"{own} has no floor: say where it stands"
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "cdkd" and len(parts) > 1:
            other = parts[1]
            assert other == own or FLOOR[other] < FLOOR[own], f"{own} imports {module}"
        elif parts[0] in ONLY_IN:
            assert own in ONLY_IN[parts[0]], f"{own} imports {parts[0]}, which belongs to {ONLY_IN[parts[0]]}"


def test_the_check_can_fail() -> None:
    assert FLOOR["train"] > FLOOR["data"]
    assert "cdkd.training.loop.Run" in imports(PACKAGE / "campaign.py")
    assert (
        not FLOOR["campaign"] < FLOOR["train"]
    )  # so that `from cdkd.runs.cohort import ...` in train.py would be refused
