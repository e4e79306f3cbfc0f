"""Imports point to earlier subpackages and form no circles; heavy libraries stay in their subpackages."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cdkd"

# A subpackage may import those before it, and itself.
ORDER = (
    "core",
    "storage",
    "data",
    "models",
    "losses",
    "config",
    "training",
    "runs",
    "report",
    "search",
    "tracking",
    "cluster",
    "pipeline",
    "cli",
)
ABOVE = ("__init__", "__main__")  # cdkd/__init__.py and cdkd/__main__.py
ONLY_IN = {
    "mlflow": {"tracking"},
    "optuna": {"search"},
    "optuna_dashboard": {"search"},
    "matplotlib": {"report"},
    "pandas": {"report"},
    "pydantic": {"config"},
    "sklearn": {"data"},
    "PIL": {"data"},
    "torchvision": {"data", "models"},
}


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from nodes(other)
        else:
            yield node
            yield from nodes(node)


@cache
def statements(text: str) -> list[tuple[int, str, str | None]]:
    """The imports of a file, at the top or inside functions: level, module, name."""
    found: list[tuple[int, str, str | None]] = []
    for node in nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(0, name.name, None) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module or "", name.name) for name in node.names]
    return found


def imports(path: Path, package: Path) -> Iterator[str]:
    """The modules that a file imports, by their full names."""
    for level, module, name in statements(path.read_text(encoding="utf-8")):
        if level:
            start = path.relative_to(package.parent).parts[:-level]
            module = ".".join(part for part in (*start, module) if part)
        place = package.parent / Path(*module.split("."), name or "")
        is_module = name and (place.is_dir() or place.with_suffix(".py").is_file())
        yield f"{module}.{name}" if is_module else module


def module_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def subpackage_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def graph(package: Path) -> dict[str, set[str]]:
    return {module_of(path, package): set(imports(path, package)) for path in sorted(package.rglob("*.py"))}


def upward(package: Path) -> list[str]:
    """Every import of a later subpackage, and every subpackage that is not in the order."""
    place = {name: index for index, name in enumerate((*ORDER, *ABOVE))}
    found = []
    for module, imported in graph(package).items():
        own = subpackage_of(module)
        if own not in place:
            found.append(f"{module}: {own} is not in the order of subpackages")
            continue
        for other in sorted(name for name in imported if name.split(".")[0] == package.name):
            if place.get(subpackage_of(other), len(place)) > place[own]:
                found.append(f"{module} imports {other}")
    return found


def circles(package: Path) -> list[str]:
    """Files that import each other in a circle; to import a submodule is not to import its package's file."""
    edges = graph(package)
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module in edges and module not in done:
            for other in sorted(edges[module]):
                visit(other, [*path, module])
            done.add(module)

    for module in edges:
        visit(module, [])
    return found


def misplaced(package: Path) -> list[str]:
    """Heavy libraries that are imported outside the subpackages they belong to."""
    return [
        f"{module} imports {name}"
        for module, imported in graph(package).items()
        for name in sorted(imported)
        if subpackage_of(module) not in ONLY_IN.get(name.split(".")[0], {subpackage_of(module)})
    ]


def undocumented(package: Path) -> list[str]:
    folders = sorted(path.parent for path in package.glob("*/__init__.py"))
    missing = sorted(
        path.name for path in package.iterdir() if any(path.glob("*.py")) and path not in folders
    )
    return missing + [
        folder.name
        for folder in folders
        if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    ]


CHECKS = {"upward": upward, "circles": circles, "misplaced": misplaced, "undocumented": undocumented}


@pytest.mark.parametrize("subpackage", [*ORDER, *ABOVE])
@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_the_rule(check: str, subpackage: str) -> None:
    names = {subpackage, f"cdkd.{subpackage}"}
    assert [
        fault
        for fault in CHECKS[check](PACKAGE)
        if {fault, ".".join(fault.split()[0].split(".")[:2])} & names
    ] == []


def test_every_subpackage_is_in_the_order() -> None:
    assert {subpackage_of(module) for module in graph(PACKAGE)} == {*ORDER, *ABOVE}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(PACKAGE, tmp_path / "cdkd", ignore=shutil.ignore_patterns("__pycache__", "*.c[su]*"))
    )


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def new_faults(check: str, copy: Path) -> set[str]:
    return set(CHECKS[check](copy)) - set(CHECKS[check](PACKAGE))


@pytest.mark.parametrize(
    "line",
    ["from cdkd import cli", "import cdkd.cli", "from cdkd.cli import main", "from ..cli import main"],
)
def test_an_import_of_a_later_subpackage_is_found(copy: Path, line: str) -> None:
    append(copy / "core" / "errors.py", f"\ndef later():\n    {line}\n")
    assert new_faults("upward", copy) == {"cdkd.core.errors imports cdkd.cli"}


def test_an_import_for_the_type_checker_alone_is_none(copy: Path) -> None:
    append(copy / "core" / "errors.py", "\nif TYPE_CHECKING:\n    from cdkd.cli import main\n")
    assert new_faults("upward", copy) == set()


def test_a_new_file_needs_no_entry_and_a_new_subpackage_does(copy: Path) -> None:
    (copy / "losses" / "mine.py").write_text("from cdkd.core import errors\n")
    assert new_faults("upward", copy) == set()
    (copy / "somewhere").mkdir()
    (copy / "somewhere" / "mine.py").write_text("")
    assert new_faults("upward", copy) == {"cdkd.somewhere.mine: somewhere is not in the order of subpackages"}
    assert new_faults("undocumented", copy) == {"somewhere"}


def test_a_circle_inside_a_subpackage_is_found(copy: Path) -> None:
    (copy / "data" / "one.py").write_text("from cdkd.data.two import x\n")
    (copy / "data" / "two.py").write_text("from cdkd.data import three\n")
    (copy / "data" / "three.py").write_text("def late():\n    from cdkd.data.one import y\n")
    (found,) = new_faults("circles", copy)
    assert {"cdkd.data.one", "cdkd.data.two", "cdkd.data.three"} == set(found.split(" -> "))


def test_a_heavy_library_elsewhere_is_found(copy: Path) -> None:
    append(copy / "runs" / "record.py", "\nimport mlflow.tracking\n")
    assert new_faults("misplaced", copy) == {"cdkd.runs.record imports mlflow.tracking"}


def test_a_subpackage_without_a_docstring_is_found(copy: Path) -> None:
    (copy / "runs" / "__init__.py").write_text("# nothing\n")
    assert "runs" in CHECKS["undocumented"](copy)
