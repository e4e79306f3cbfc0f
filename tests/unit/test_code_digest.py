"""The code that affects a result is found by following imports: checked against what a real training process
has loaded.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cdkd.runs import code_digest as digests
from cdkd.runs.code_digest import EXCLUDED, START, closure, excluded, loss_module, meaning_of, network_module

PACKAGE = Path(digests.__file__).parents[1]
# Subpackages that a training process loads besides: what they decide is in a run's configuration, which its
# fingerprint covers.
AROUND = ("config", "runs", "report", "search", "tracking", "cluster", "pipeline", "cli")
# Loaded to check params.yaml: which names a method may have, and which data sources a project has of its own.
# What a source gave is in the digest of the prepared data.
CHECKS = ("cdkd.core.names", "cdkd.data.own_sources")
PREPARE = """
import sys
from pathlib import Path
from cdkd.config.params import load
from cdkd.data.prepare import prepare
root = Path(sys.argv[1])
prepare(root / "data", root, **load(root / "params.yaml").data.model_dump())
"""
TRAIN = """
import sys
from pathlib import Path
from cdkd.config.params import load
from cdkd.data.prepared import read_meta
from cdkd.runs.execution import train_cohort
from cdkd.runs.specification import student_plans, teacher_plan
from cdkd.runs.store import Store
root = Path(sys.argv[1])
params = load(root / "params.yaml")
data = read_meta(root / "data")
store, teacher = Store(root), teacher_plan(params, data)
train_cohort(root, store, [teacher], root / "data", None)
record, weights = store.get(teacher.fingerprint), store.weights(teacher.fingerprint)
train_cohort(root, store, list(student_plans(params, data, record, 0)), root / "data", weights, cache=0.1)
print(*sorted(name for name in sys.modules if name.startswith("cdkd.")))
"""
PARAMS = """\
experiment: tiny
data: {source: digits, train_images: 60}
teacher: {network: resnet14}
student: {network: wrn-16-1}
training: {recipe: shortest, epochs: 1, batch: 16, learning_rate: 0.05, augmentation: {pad: 1}}
seeds: [0]
methods:
  cd_gkd: {ce: {weight: 1}, cd: {weight: 6}, gkd: {weight: 0.1}}
  at: {ce: {weight: 1}, at: {weight: 10}}
"""
NETWORKS, LOSSES = ("resnet14", "wrn-16-1"), ("ce", "cd", "gkd", "at")


def of(networks: tuple[str, ...], losses: tuple[str, ...]) -> set[str]:
    return set(closure((START, *map(network_module, networks), *map(loss_module, losses))))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("training")
    (folder / "params.yaml").write_text(PARAMS)
    printed = ""
    for script in (PREPARE, TRAIN):  # what prepare reads, it reads in a process of its own
        words = [sys.executable, "-c", script, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    return set(printed.split())


def missing_from(found: set[str], loaded: set[str]) -> set[str]:
    """What the process has loaded, and neither the closure nor an exclusion accounts for."""
    packages = {
        name for name in loaded if (PACKAGE.parent.joinpath(*name.split(".")) / "__init__.py").is_file()
    }
    around = {name for name in loaded if name.split(".")[1] in AROUND or name in CHECKS}
    return {name for name in loaded - found - packages - around if excluded(name) is None}


def test_the_closure_holds_all_that_a_training_process_loads(loaded: set[str]) -> None:
    assert {
        "cdkd.training.loop",
        "cdkd.losses.gkd",
        "cdkd.models.cifar",
        "cdkd.data.batches",
    } <= loaded  # it trained
    assert missing_from(of(NETWORKS, LOSSES), loaded) == set()


def test_it_notices_a_module_that_the_closure_lacks(loaded: set[str]) -> None:
    assert missing_from(of(NETWORKS, LOSSES) - {"cdkd.training.learner"}, loaded) == {"cdkd.training.learner"}


def test_a_dropped_import_is_noticed(loaded: set[str], copy: Path) -> None:
    path = copy / "cdkd" / "training" / "loop.py"
    path.write_text(path.read_text().replace("from cdkd.training.run import Run\n", ""))
    path = copy / "cdkd" / "training" / "cohort.py"
    path.write_text(path.read_text().replace("from cdkd.training.run import Run\n", ""))
    digests._forget()
    assert "cdkd.training.run" in missing_from(of(NETWORKS, LOSSES), loaded)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, which the digests are read from."""
    shutil.copytree(PACKAGE, tmp_path / "cdkd", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(digests, "PACKAGE", tmp_path / "cdkd")
    digests._forget()
    yield tmp_path
    digests._forget()


RUNS = {  # networks and losses
    "kd": (("resnet14", "resnet8"), ("ce", "kd")),
    "gkd": (("resnet14", "resnet8"), ("ce", "gkd")),
    "cd": (("resnet14", "resnet8"), ("cd", "ce")),
    "vgg": (("vgg8", "resnet8"), ("ce",)),
}


def digests_of_runs() -> dict[str, str]:
    digests._forget()
    return {name: digests.code_digest(*run) for name, run in RUNS.items()}


def test_every_member_moves_the_runs_that_use_it_and_no_other(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # functions of a text alone, each computed once for each text: the other members do not change
    monkeypatch.setattr(digests, "meaning_of", cache(meaning_of))
    monkeypatch.setattr(digests.ast, "parse", cache(ast.parse))
    monkeypatch.setattr(digests, "imported_names", cache(digests.imported_names))
    before = digests_of_runs()
    members = {name: of(*run) for name, run in RUNS.items()}
    assert len(before) == len(set(before.values()))
    for module in sorted(set().union(*members.values())):
        path = digests._path(module)
        source = path.read_text()
        path.write_text(source + "\nCHANGED = 1\n")
        after = digests_of_runs()
        path.write_text(source)
        moved = {name for name in RUNS if after[name] != before[name]}
        assert moved == {name for name in RUNS if module in members[name]}, module
    assert digests_of_runs() == before


@pytest.mark.parametrize(
    ("file", "old", "new", "moved"),
    [
        (
            "losses/logits.py",
            "temperature**2 *",
            "temperature *",
            {"kd", "gkd"},
        ),  # gkd computes with kd's function
        ("core/schedule.py", "min(share, 1.0)", "min(share, 0.9)", set(RUNS)),
        ("models/vgg.py", "0.01", "0.02", {"vgg"}),
        ("losses/cd.py", '"""CD', '"""Another text, CD', set()),
        ("report/tables.py", "import", "import  ", set()),
    ],
)
def test_an_edit_moves_what_it_affects(copy: Path, file: str, old: str, new: str, moved: set[str]) -> None:
    before = digests_of_runs()
    path = copy / "cdkd" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = digests_of_runs()
    assert {name for name in RUNS if after[name] != before[name]} == moved


def test_a_new_loss_or_network_moves_nothing(copy: Path) -> None:
    before = digests_of_runs()
    shutil.copy(copy / "cdkd" / "losses" / "kd.py", copy / "cdkd" / "losses" / "another.py")
    shutil.copy(copy / "cdkd" / "models" / "vgg.py", copy / "cdkd" / "models" / "another.py")
    assert digests_of_runs() == before


def test_every_exclusion_is_there_and_says_why() -> None:
    for name, why in EXCLUDED.items():
        assert digests._exists(name), name
        assert len(why) > 10


def test_comments_docstrings_and_layout_do_not_count() -> None:
    plain = "def f(x):\n    return x + 1\n"
    assert meaning_of(plain) == meaning_of(
        '"""Text."""\n\n\ndef f(x):  # why\n    """Text."""\n    return (x + 1)\n'
    )
    assert meaning_of(plain) != meaning_of(plain.replace("1", "2"))
    assert meaning_of("x = 1") != meaning_of("x = 1.0")
