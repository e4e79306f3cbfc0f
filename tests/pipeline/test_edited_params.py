"""params.yaml is edited while a stage runs: the stage fails, and DVC pins no new value to an old output."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdkd.config.params import load
from cdkd.core.errors import BadParams, CdkdError
from cdkd.pipeline.edited_params import unedited

EDITING_SOURCE = """

def edit(root: Path) -> None:
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("validation: 0.1", "validation: 0.2"))
"""


@pytest.fixture
def project(new_project: Path, tmp_path: Path) -> Path:
    shutil.copytree(new_project, tmp_path / "study", symlinks=True)
    change(tmp_path / "study", "source: low_digits", "validation: 0.1\n  source: low_digits")
    return tmp_path / "study"


def change(project: Path, old: str, new: str) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("validation: 0.1", "validation: 0.2", "data"),
        ("temperature: 4", "temperature: 3", "methods"),
        ("seeds: [0, 1, 2]", "seeds: [0, 1]", "seeds"),
        ("experiment: first", "experiment: second", "experiment"),
        ("methods:", "report: {ablation: [student]}\nmethods:", "report"),
    ],
)
def test_what_a_stage_depends_on_was_edited(project: Path, old: str, new: str, named: str) -> None:
    with (
        pytest.raises(BadParams, match=rf"edited while this stage ran \({named}.*the same command again"),
        unedited(load(project / "params.yaml")),
    ):
        change(project, old, new)


def test_what_it_does_not_depend_on_and_comments_may_be_edited(project: Path) -> None:
    params = load(project / "params.yaml")
    with unedited(params, "experiment", "data"):
        change(project, "temperature: 4", "temperature: 3")
        change(project, "# A teacher, a student", "# One teacher, one student")
    assert params.methods["kd"].terms["kd"].options["temperature"] == 4


def test_an_error_that_an_edit_caused_is_named_by_it_and_others_pass(project: Path) -> None:
    def fail(edit: bool) -> None:
        with unedited(load(project / "params.yaml")):
            if edit:
                change(project, "temperature: 4", "temperature: 3")
            raise CdkdError("its workers ended")

    with pytest.raises(CdkdError, match=r"^its workers ended$"):
        fail(edit=False)
    with pytest.raises(BadParams, match="edited while this stage ran"):
        fail(edit=True)
    with (
        pytest.raises(BadParams, match=r"(?s)no longer valid: .*epochs: -4"),
        unedited(load(project / "params.yaml")),
    ):
        change(project, "epochs: 4", "epochs: -4")


@pytest.mark.slow
def test_the_pipeline_pins_no_new_value_to_old_data(project: Path) -> None:
    """The project's own source edits params.yaml while it is read; the second `dvc repro` reads it anew."""
    source = project / "sources" / "low_digits.py"
    text = source.read_text().replace("    digits = load", "    edit(root)\n    digits = load")
    source.write_text(text + EDITING_SOURCE)
    first = repro(project)
    assert first.returncode != 0
    assert "params.yaml: edited while this stage ran (data)" in first.stdout + first.stderr
    assert "validation: 0.2" not in (project / "dvc.lock").read_text()
    assert repro(project).returncode == 0
    assert '"validation": 120' in (project / "data" / "first" / "data.json").read_text()


def repro(project: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = [sys.executable, "-m", "dvc", "repro", "prepare"]
    return subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)
