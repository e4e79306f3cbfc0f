"""Commands in a locale without the characters that they print."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cdkd.config.params import load
from cdkd.data.prepare import prepare

ROOT = Path(__file__).parents[2]
POOR = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without data or runs, whose tables are nevertheless there to be shown."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    shutil.copy(ROOT / "experiments" / "digits.yaml", folder / "params.yaml")
    return folder


def run(project: Path, *words: str) -> str:
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "cdkd", *words],
        cwd=project,
        env=os.environ | POOR | {"PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode("ascii")


def test_the_report_is_written_in_utf8_and_its_tables_printed_in_ascii(project: Path) -> None:
    assert "resnet20 -> resnet8" in run(project, "report")
    assert "resnet20 → resnet8" in (project / "reports" / "digits" / "report.md").read_text(encoding="utf-8")


def test_tables_are_shown(project: Path) -> None:
    tables = project / "reports" / "digits" / "tables.txt"
    tables.parent.mkdir(parents=True, exist_ok=True)
    tables.write_text("kd  7.90 ± 0.79 (n = 3)  −1.10  é漢\n", encoding="utf-8")
    assert run(project, "show") == "kd  7.90 +- 0.79 (n = 3)  -1.10  ??\n"


def test_differences_are_explained(project: Path) -> None:
    assert "resnet20 -> resnet8" in run(project, "explain", "kd")


def test_names_of_classes_are_the_same_in_every_locale(tmp_path: Path) -> None:
    """Folders and paths with letters beyond ASCII: as in UTF-8."""
    for split in ("train", "test"):
        for shade, name in enumerate(("größe", "日本")):
            folder = tmp_path / "bücher" / split / name
            folder.mkdir(parents=True)
            for index in range(3):
                colour = (40 * shade + index, 3 * index, 5 * index + (split == "test"))
                Image.new("RGB", (8, 8), colour).save(folder / f"ü{index}.png")
    params = (ROOT / "experiments" / "digits.yaml").read_text(encoding="utf-8")
    data = "data: {source: folder, paths: [bücher], validation: 0}"
    text = re.sub(r"(?m)^search:.*?(?=^report:)", "", params, flags=re.S)
    text = re.sub(r"(?ms)^report:.*", "", re.sub(r"(?ms)^data:\n.*?\n\n", f"{data}\n\n", text))
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    poor = run(tmp_path, "prepare")
    classes = json.loads((tmp_path / "data" / "digits" / "data.json").read_text(encoding="utf-8"))["classes"]
    assert sorted(classes) == ["größe", "日本"]
    assert poor.split("digest ")[1][:12] == prepared_digest(tmp_path)


def prepared_digest(folder: Path) -> str:
    params = load(folder / "params.yaml")
    return prepare(folder / "again", folder, **params.data.model_dump()).digest[:12]
