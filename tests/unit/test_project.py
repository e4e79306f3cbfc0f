"""A project of one's own: made, checked, extended; what is faulty is named."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdkd.config.params import load
from cdkd.config.project import add, create
from cdkd.core import own_code
from cdkd.core.errors import BadParams
from cdkd.losses import contract, signature
from cdkd.runs.code_digest import closure, code_digest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(new_project: Path, tmp_path: Path) -> Path:
    shutil.copytree(new_project, tmp_path / "study", symlinks=True)
    own_code.use(tmp_path / "study")
    return tmp_path / "study"


def command(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cdkd", *words], cwd=project, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_new_project_is_valid_and_its_own_code_passes(project: Path) -> None:
    params = load(project / "params.yaml")
    assert (params.student.network, params.data.source) == ("small", "low_digits")
    assert "logit_mse" in signature.names()
    for kind, name in (("loss", "logit_mse"), ("network", "small"), ("source", "low_digits")):
        done = command(project, "test", kind, name)
        lines = done.stdout.splitlines()
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(lines) >= 10
        assert all(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize("kind", ["loss", "network", "source"])
def test_a_new_file_passes(project: Path, kind: str) -> None:
    add(kind, "mine", project)
    done = command(project, "test", kind, "mine")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_faulty_loss_fails_its_check(project: Path) -> None:
    path = project / "losses" / "logit_mse.py"
    path.write_text(path.read_text().replace("difference.square().mean()", "difference.square()"))
    own_code.forget()
    faults = {one.check for one in contract.check("logit_mse") if one.fault}
    assert "it gives a single number" in faults


@pytest.mark.parametrize(("kind", "name"), [("losses", "kd"), ("networks", "vgg8"), ("sources", "digits")])
def test_a_built_in_name_is_refused(project: Path, kind: str, name: str) -> None:
    (project / kind / f"{name}.py").write_text("")
    with pytest.raises(BadParams, match=f"^{kind}/{name}.py: '{name}' is the name of a built-in one"):
        load(project / "params.yaml")


def test_an_edit_of_own_code_moves_its_runs_and_no_others(project: Path) -> None:
    def digests() -> list[str]:
        own_code.forget()
        return [code_digest(("small", "resnet14"), losses) for losses in (("kd",), ("logit_mse",))]

    (project / "losses" / "common.py").write_text("def square(x):\n    return x * x\n")
    path = project / "losses" / "logit_mse.py"
    path.write_text(
        path.read_text()
        .replace("from torch import Tensor\n", "from torch import Tensor\nfrom losses.common import square\n")
        .replace("difference.square()", "square(difference)")
    )
    before = digests()
    (project / "losses" / "common.py").write_text("def square(x):\n    return x * x * 2\n")
    after = digests()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


@pytest.mark.slow
def test_a_worker_finds_own_code_in_its_working_directory(project: Path, tmp_path: Path) -> None:
    for words in (("prepare",), ("plan", "--export", "plan.json")):
        assert command(project, *words).returncode == 0
    worker = [sys.executable, "-m", "cdkd.cluster.worker", str(project / "plan.json"), "--minutes", "0"]
    worker += ["--out", str(tmp_path / "out")]
    here, elsewhere = (
        subprocess.run(worker, cwd=folder, capture_output=True, text=True, check=False)
        for folder in (project, tmp_path)
    )
    assert (here.returncode, here.stdout.splitlines()[-1]) == (0, "remaining: 10 runs"), here.stderr
    assert elsewhere.returncode == 2
    assert "unknown network" in elsewhere.stderr


def test_an_existing_folder_is_left_alone(project: Path) -> None:
    with pytest.raises(BadParams, match="exists; expected a new folder"):
        create(project)
    assert [path.name for path in project.parent.iterdir()] == ["study"]


def test_templates_are_python(project: Path) -> None:
    for kind in own_code.KINDS:
        for path in (project / kind).glob("*.py"):
            ast.parse(path.read_text())


def test_an_environment_in_the_project_is_not_its_code(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.venv` beside params.yaml, as `make env` makes it: its libraries are no own code."""
    installed = project / ".venv" / "lib" / "site-packages"
    (installed / "somebodys").mkdir(parents=True)
    (installed / "somebodys" / "__init__.py").write_text("from somebodys.compiled import unreadable\n")
    monkeypatch.syspath_prepend(str(installed))
    own = project / "losses" / "of_somebody.py"
    own.write_text("import somebodys\n" + (project / "losses" / "logit_mse.py").read_text())
    own_code.forget()
    assert own_code.locate("somebodys") == installed / "somebodys" / "__init__.py"
    assert not own_code.is_in_project("somebodys")
    assert "somebodys" not in closure(("losses.of_somebody",))
    (project / "mine.py").write_text("VALUE = 1\n")
    own.write_text("import mine\n" + own.read_text())
    own_code.forget()
    assert {"mine", "losses.of_somebody"} <= set(closure(("losses.of_somebody",)))


def test_a_project_has_the_pipeline_and_the_plots_of_this_repository(project: Path) -> None:
    own = (REPOSITORY / "dvc.yaml").read_text()
    code = "    deps: [losses, networks, sources]\n"
    code += "    always_changed: true  # cdkd itself may be another version\n"
    assert own.count("    deps: [cdkd]\n") == 1
    assert (project / "dvc.yaml").read_text() == own.replace("    deps: [cdkd]\n", code)
    for name in (".dvc/plots/curves.json", ".dvcignore"):
        assert (project / name).read_text() == (REPOSITORY / name).read_text()


def test_what_is_missing_in_a_folder_is_said_with_the_next_step(project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = command(tmp_path / "empty", "use")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("empty/experiments; `cdkd init FOLDER` makes a project\n")
    assert "`cdkd init FOLDER` makes a project" in command(tmp_path / "empty", "check").stderr
    done = command(project, "show")
    assert (done.returncode, done.stderr.rpartition(": ")[2]) == (2, "missing; `dvc repro` makes it\n")
    with pytest.raises(
        BadParams, match="expected lower-case letters, digits and '_', at most 64, the first a l"
    ):
        add("loss", "my-loss", project)


def test_experiments_without_a_known_time_have_no_note_on_times(project: Path) -> None:
    assert command(project, "use").stdout.splitlines()[1:] == [
        "    low_digits: a source of this project; time not known before the images are read"
    ]
