"""What an edit makes run again, and what a faulty or hostile params.yaml cannot do: real DVC in clones."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clone import PARAMS, Clone
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

METHODS = PARAMS + "  gkd: {ce: {weight: 1}, gkd: {weight: 0.5, temperature: 2}}\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("finished") / "clone")
    clone.params(METHODS)
    clone.run("dvc", "repro")
    return clone


@pytest.fixture
def clone(finished: Clone, tmp_path: Path) -> Clone:
    copy = Clone.__new__(Clone)
    copy.folder = tmp_path / "clone"
    shutil.copytree(finished.folder, copy.folder, symlinks=True)
    return copy


def content(folder: Path) -> dict[str, str]:
    """A digest of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def everything(clone: Clone) -> list[dict[str, str]]:
    return [content(clone.folder / name) for name in ("data", "runs", "reports")]


def edit(clone: Clone, file: str, old: str, new: str) -> None:
    path = clone.folder / "cdkd" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def distilled(text: str) -> set[str]:
    return {line.split("@")[1].strip("':") for line in text.splitlines() if "Running stage 'distill@" in line}


def new_methods(clone: Clone, before: dict[str, float]) -> set[str]:
    """The methods of runs that the store did not have."""
    fingerprints = clone.stored().keys() - before.keys()
    names = {"teacher", "student", "kd", "cd_gkd_edt", "gkd", "at"}
    return {
        name
        for name in names
        for path in (clone.folder / "runs" / "digits" / name).glob("seed-*.json")
        if clone.record(name, int(path.stem.removeprefix("seed-")))["fingerprint"] in fingerprints
    }


def test_a_changed_shared_function_trains_the_methods_that_compute_with_it(clone: Clone) -> None:
    """softened_kl is kd's and gkd's: those train, and the others, and the teacher, are left alone."""
    before = clone.stored()
    edit(clone, "losses/logits.py", "temperature**2 *", "temperature**2 * 1.0 *")
    status = clone.run("dvc", "status")
    assert [line for line in status.splitlines() if line.endswith(":") and line[0] not in " \t"] == ["code:"]
    text = clone.run("dvc", "repro")
    assert distilled(text) == {"kd", "cd_gkd_edt", "gkd"}
    assert "Running stage 'teacher'" not in text
    assert new_methods(clone, before) == {"kd", "cd_gkd_edt", "gkd"}


def test_a_changed_schedule_trains_everything(clone: Clone) -> None:
    before = clone.stored()
    edit(
        clone,
        "core/schedule.py",
        "return self.without_rise(epoch) * self.rise_at(epoch)",
        "return 1.0 * self.without_rise(epoch) * self.rise_at(epoch)",
    )
    clone.run("dvc", "repro")
    assert new_methods(clone, before) == {"teacher", "student", "kd", "cd_gkd_edt", "gkd"}


def test_a_new_loss_and_other_words_train_nothing(clone: Clone) -> None:
    before = clone.stored()
    shutil.copy(clone.folder / "cdkd" / "losses" / "kd.py", clone.folder / "cdkd" / "losses" / "another.py")
    edit(clone, "losses/kd.py", '"""KD', '"""In other words, KD')
    text = clone.run("dvc", "repro")
    assert "Running stage 'code'" in text
    assert distilled(text) == set()
    assert clone.stored() == before


def test_results_that_a_refactoring_left_equal_are_adopted(clone: Clone) -> None:
    """One seed is trained again by the new code; where the bits agree, all seeds are kept under it, and
    marked.
    """
    before = clone.stored()
    edit(clone, "losses/logits.py", "temperature**2 *", "temperature**2 * 1.0 *")
    text = clone.run("cdkd", "verify", "kd", "--adopt")
    assert "bit-identical" in text
    assert text.count("adopted under today's code") == 2
    assert len(clone.stored().keys() - before.keys()) == 2
    adopted = clone.stored()
    clone.run("dvc", "repro", "-s", "code", "distill@kd")
    assert clone.stored() == adopted  # nothing was trained
    assert clone.record("kd")["circumstances"]["adopted"]["verified"] == "seed 0"
    # a change that changes the bits is not adopted
    edit(clone, "losses/logits.py", "temperature**2 * 1.0 *", "temperature *")
    text = clone.run("cdkd", "verify", "kd", "--adopt", code=1)
    assert "first that differs" in text
    assert clone.stored() == adopted


HOSTILE = ["'.'", "''", "'./'", "data/..", "'$(touch hostile)'", "'a b'", "'; touch hostile'"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["experiment", "method", "study"])
def test_a_hostile_name_changes_nothing(clone: Clone, place: str, name: str) -> None:
    kept = everything(clone)
    if place == "experiment":
        clone.params(METHODS.replace("experiment: digits", f"experiment: {name}"))
    elif place == "method":
        clone.params(METHODS + f"  {name}: {{ce: {{weight: 1}}}}\n")
    else:
        clone.params(
            METHODS + f"search: {{{name}: {{base: kd, space: {{kd.weight: {{low: 0.1, high: 2}}}}}}}}\n"
        )
    text = clone.run("dvc", "repro", code=None)
    # the line, value and what was expected; or DVC itself refuses outputs that overlap
    assert "params.yaml:" in text or text.startswith("ERROR: ")
    assert not list(clone.folder.rglob("hostile"))
    assert everything(clone) == kept
    if place == "method":  # not even a stage asked for by its name
        clone.run("dvc", "repro", "-s", f"distill@{name.strip(chr(39))}", code=None)
        assert not list(clone.folder.rglob("hostile"))


def test_params_that_change_while_a_stage_trains_are_noticed(clone: Clone) -> None:
    from cdkd.config.params import load
    from cdkd.core.errors import CdkdError
    from cdkd.pipeline import stages

    params = load(clone.folder / "params.yaml")
    clone.params(METHODS.replace("weight: 0.9,", "weight: 0.8,"))
    with pytest.raises(CdkdError, match=r"changed while kd seed 0, kd seed 1 was trained"):
        stages.distill(params, "kd")
    stages.distill(
        load(clone.folder / "params.yaml").model_copy(update={"methods": params.methods}), "student"
    )


@pytest.fixture
def remote(clone: Clone, tmp_path: Path) -> Path:
    clone.run("dvc", "remote", "add", "-d", "here", str(tmp_path / "remote"))
    clone.run("dvc", "push")
    return tmp_path / "remote"


def test_pulled_runs_are_taken_and_only_a_new_method_trains(
    clone: Clone, remote: Path, tmp_path: Path
) -> None:
    other = Clone(tmp_path / "other")
    other.params(METHODS)
    shutil.copy(clone.folder / "dvc.lock", other.folder / "dvc.lock")
    other.run("dvc", "remote", "add", "-d", "here", str(remote))
    other.run("dvc", "pull", "--allow-missing")
    other.params(METHODS + "  at: {ce: {weight: 1}, at: {weight: 60}}\n")
    other.run("dvc", "repro")
    assert other.record("at")["circumstances"]["cohort"] == ["at"]
    for method in ("teacher", "kd", "gkd"):
        assert (
            other.record(method)["circumstances"] == clone.record(method)["circumstances"]
        )  # trained once, there


def git(clone: Clone, *words: str) -> None:
    name = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *name, *words], cwd=clone.folder, check=True, capture_output=True)


def test_a_temporary_experiment_has_its_own_params_and_leaves_the_workspace_alone(clone: Clone) -> None:
    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "everything", "--allow-empty")
    kept = content(clone.folder / "runs")
    before = clone.stored()
    text = clone.run("dvc", "exp", "run", "--temp", "-S", "methods.kd.kd.weight=0.7", "distill@kd")
    assert "ERROR" not in text
    assert content(clone.folder / "runs") == kept
    new = clone.stored().keys() - before.keys()
    assert len(new) == 2  # kd's two seeds, in the shared store; the teacher was there
    weights = {clone.stored_record(key)["config"]["method"]["kd"]["weight"]["value"] for key in new}
    assert weights == {0.7}


def test_two_queued_experiments_run_at_once_without_meeting(clone: Clone) -> None:
    """Each trains with its own value, the teacher is shared, and the workspace stays as it was."""
    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "everything", "--allow-empty")
    kept, params = content(clone.folder / "runs"), (clone.folder / "params.yaml").read_bytes()
    before = clone.stored()
    for tenths in (3, 6):
        value = f"methods.kd.kd.weight=0.{tenths}"
        clone.run("dvc", "exp", "run", "--queue", "--name", f"kd-{tenths}", "-S", value)
    clone.run("dvc", "queue", "start", "-j", "2")

    def ended() -> bool:
        text = clone.run("dvc", "queue", "status")
        return "Queued" not in text and "Running" not in text

    wait_until(ended)
    assert clone.run("dvc", "queue", "status").count("Success") == 2
    new = clone.stored().keys() - before.keys()
    found = [clone.stored_record(key) for key in new]
    assert sorted((one["config"]["method"]["kd"]["weight"]["value"], one["seed"]) for one in found) == [
        (0.3, 0),
        (0.3, 1),
        (0.6, 0),
        (0.6, 1),
    ]
    shown = clone.run("dvc", "exp", "show", "--csv")
    assert all(f"kd-{tenths}" in shown for tenths in (3, 6))
    assert content(clone.folder / "runs") == kept
    assert (clone.folder / "params.yaml").read_bytes() == params
