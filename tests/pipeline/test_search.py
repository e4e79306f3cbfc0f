"""The search: a study is a function of its params, whoever trains it and however often that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cdkd import tracking
from cdkd.config import paths
from cdkd.config.params import Params, load
from cdkd.core.errors import BadParams, BadStudy
from cdkd.core.local_server import free_port
from cdkd.data.prepared import Meta, read_meta
from cdkd.pipeline import queries, search_stage
from cdkd.report.collect import collect
from cdkd.runs import study_record
from cdkd.runs.record import Record
from cdkd.runs.study_record import Result
from cdkd.search import database, outcome, propose
from cdkd.search import study as search_study
from cdkd.search.worker import DIGEST, trial_digest
from tests.pipeline.test_tracking import asked, hostile
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

PARAMS = """
experiment: tiny
data: {source: digits, train_images: 160, validation: 0.4}
teacher: {network: resnet14, training: {epochs: 2, milestones: []}}
student: {network: resnet8}
training: {epochs: 4, batch: 32, learning_rate: 0.05, milestones: [2], augmentation: {pad: 1}}
seeds: [0]
methods:
  student: {ce: {weight: 1}}
  edt:
    ce: {weight: 1, start: 1}
    cd: {weight: 6, decay: 0.9, milestones: [1, 3]}
    gkd: {weight: 0.1, temperature: 1, start: 1}
search:
  small:
    base: edt
    method: edt_tuned
    trials: 7
    generation: 3
    epochs: 4
    warmup: 1
    space:
      cd.weight: {low: 1, high: 20, log: true}
      gate: {sets: [ce.start, gkd.start], low: 0, high: 2}
      training.learning_rate: {low: 0.01, high: 0.2, log: true}
"""
GRID = """
  switches:
    base: student
    sampler: grid
    pruner: none
    epochs: 2
    generation: 4
    space:
      cd:    {choices: {"off": {}, "on": {cd: {weight: 6}}}}
      decay: {choices: {"off": {}, "on": {cd: {decay: 0.9, milestones: [2]}}}}
      gate:  {choices: {"off": {}, "on": {ce: {start: 2}}}}
"""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def project(folder: Path, text: str = PARAMS) -> Params:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(text)
    return load(folder / "params.yaml")


def faults(folder: Path, text: str) -> str:
    with pytest.raises(BadParams) as caught:
        project(folder, text)
    return str(caught.value)


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cdkd", *words],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def searched(folder: Path, *words: str) -> str:
    process = command(folder, "search", *words)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data are prepared and whose teacher is trained."""
    folder = tmp_path_factory.mktemp("taught") / "project"
    project(folder, PARAMS + GRID)
    for words in (("prepare",), ("teacher",)):
        process = command(folder, *words)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
    return folder


def copied(taught: Path, folder: Path) -> Path:
    shutil.copytree(taught, folder, symlinks=True)
    return folder


def study(folder: Path, name: str = "small") -> Result:
    return study_record.read(folder / "runs" / "tiny" / "search" / f"{name}.json")


@pytest.fixture(scope="module")
def whole(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, uninterrupted."""
    folder = copied(taught, tmp_path_factory.mktemp("whole") / "project")
    searched(folder, "--study", "small")
    return folder


def test_the_first_trial_is_the_base_method_itself(whole: Path) -> None:
    result = study(whole)
    assert result.trials[0].setting == {"cd.weight": 6, "gate": 1, "training.learning_rate": 0.05}
    assert [trial.number for trial in result.trials] == list(range(7))
    assert (
        len({json.dumps(dict(trial.setting), sort_keys=True) for trial in result.trials}) == 7
    )  # and the others are others
    assert result.best is not None
    assert all(len(trial.curve) == 4 for trial in result.finished)
    assert set(result.importance) <= {"cd.weight", "gate", "training.learning_rate"}


def test_the_best_becomes_a_method_with_its_own_recipe(whole: Path) -> None:
    params = load(whole / "params.yaml")
    full = queries.full(params)
    best = study(whole).best
    assert best is not None
    assert full.tuned["edt_tuned"].learning_rate == pytest.approx(best.setting["training.learning_rate"])
    assert full.methods["edt_tuned"]["cd"].weight.value == pytest.approx(best.setting["cd.weight"])
    record = json.loads((whole / "runs/tiny/search/edt_tuned/seed-0.json").read_text())
    assert record["config"]["training"]["learning_rate"] == pytest.approx(
        best.setting["training.learning_rate"]
    )
    assert record["config"]["data"]["judged_on"] == "test"
    assert (whole / "runs/tiny/search/edt_tuned/seed-0.safetensors").exists()
    assert queries.expected(full)["edt_tuned", 0] == record["fingerprint"]
    (run,) = collect(full, queries.expected(full), whole / "runs" / "tiny")["edt_tuned"]
    assert run.state == "ok"


def test_the_study_shows_in_mlflow_once(whole: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking.uri(whole))
    experiment = client.get_experiment_by_name("tiny-search")
    result = study(whole)
    assert tracking.log_study(whole, result, {}) == 0  # the command has told all of it
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if "cdkd.trial" not in run.data.tags)
    children = {
        int(run.data.tags["cdkd.trial"]): run for run in runs if run.info.run_id != parent.info.run_id
    }
    assert sorted(children) == [trial.number for trial in result.trials]
    for trial in result.trials:
        run = children[trial.number]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["cdkd.status"] == trial.state
        assert run.info.status == "FINISHED"
        assert run.data.params == {name: str(value) for name, value in trial.setting.items()}
        curve = client.get_metric_history(run.info.run_id, "validation_top1_error")
        assert [point.value for point in sorted(curve, key=lambda point: point.step)] == list(trial.curve)
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {
        "small.json",
        "history.png",
        "slices.png",
    }


def test_a_study_that_is_finished_trains_nothing(whole: Path) -> None:
    output = searched(whole, "--study", "small")
    assert "epoch" not in output
    assert "7 of 7 trials ended" in output


def test_a_pulled_study_and_its_method_are_taken_and_nothing_trains(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "project")
    shutil.rmtree(folder / ".cdkd")  # DVC pulls data and runs alone
    output = searched(folder, "--study", "small")
    assert "epoch " not in output
    assert study(folder) == study(whole)
    tuned = "runs/tiny/search/edt_tuned/seed-0.json"
    assert (folder / tuned).read_bytes() == (whole / tuned).read_bytes()


WILD = (
    GRID.partition("      cd: ")[0]
    + """\
      cd: {choices: {"off": {}, "on": {cd: {weight: 6}}, wild: {cd: {weight: 1.0e+12}}}}
"""
)


def test_the_search_never_opens_the_test_split_and_outlives_a_trial_that_diverges(
    taught: Path, tmp_path: Path
) -> None:
    folder = copied(taught, tmp_path / "project")
    (folder / "params.yaml").write_text(PARAMS + WILD)
    tests = [path for path in (folder / "data/tiny").iterdir() if path.name.startswith("test")]
    assert tests
    for path in tests:
        path.unlink()
    output = searched(folder, "--study", "switches")  # gives no method, so that nothing is to be tested
    assert "switches: 3 of 3 trials ended, 0 pruned, 1 failed" in output
    failed = study(folder, "switches").trials[2]
    assert (failed.setting, failed.state, failed.value) == ({"cd": "wild"}, "failed", None)
    assert "is nan in epoch 0" in failed.reason or "is inf in epoch 0" in failed.reason
    process = command(folder, "distill", "student")  # and without it nothing else can be trained
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "test" in output


def test_a_grid_tries_every_combination_that_is_one(taught: Path, tmp_path: Path) -> None:
    space = project(tmp_path, PARAMS + GRID).search["switches"]
    # without cd its decay changes nothing, and its gate leaves the first epochs without a loss
    assert [tuple(setting.values()) for setting in space.grid()] == [
        ("off", "off", "off"),
        ("on", "off", "off"),
        ("on", "off", "on"),
        ("on", "on", "off"),
        ("on", "on", "on"),
    ]


def states_of(folder: Path) -> set[str]:
    """States of the trials in the database of a search that runs."""
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(
            sqlite3.connect(f"file:{folder / '.cdkd' / 'search.db'}?mode=ro", uri=True)
        ) as database,
    ):
        return {state for (state,) in database.execute("select distinct state from trials")}
    return set()


def test_killed_and_resumed_it_is_the_same_study(taught: Path, whole: Path, tmp_path: Path) -> None:
    """Killed once as the first trials train, and once more when some are finished."""
    folder = copied(taught, tmp_path / "project")
    for states in (("RUNNING",), ("COMPLETE", "PRUNED")):
        process = command(folder, "search", "--study", "small")
        wait_until(lambda states=states: states_of(folder) & set(states), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    searched(folder, "--study", "small")
    again, once = study(folder), study(whole)
    assert again == once
    with sqlite3.connect(folder / ".cdkd" / "search.db") as database:
        assert [
            state
            for (state,) in database.execute(
                "select distinct state from trials where state in ('RUNNING', 'WAITING')"
            )
        ] == []


def test_another_sampler_seed_is_another_study(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "project")
    once = load(folder / "params.yaml")
    (folder / "params.yaml").write_text((PARAMS + GRID).replace("trials: 7", "trials: 7\n    seed: 1"))
    other = load(folder / "params.yaml")
    data = read_meta(paths.data_folder(once))
    teacher = queries.trained_teacher(once, data)
    assert search_study.stored_study(once, "small", data, teacher) == study(whole)
    assert (
        search_study.stored_study(other, "small", data, teacher) is None
    )  # another key: nothing of the first is taken for it
    (own, *others), (base, *rest) = (
        propose.settings(params.search["small"], [], 3) for params in (once, other)
    )
    assert own == base  # the base method's own
    assert others == [dict(trial.setting) for trial in study(whole).trials[1:3]]
    assert rest != others


def test_a_study_by_another_name_is_the_same(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "project")
    (folder / "params.yaml").write_text(
        (PARAMS + GRID).replace("  small:", "  renamed:").replace("edt_tuned", "edt_best")
    )
    params = load(folder / "params.yaml")
    data = read_meta(paths.data_folder(params))
    found, once = (
        search_study.stored_study(params, "renamed", data, queries.trained_teacher(params, data)),
        study(whole),
    )
    assert found is not None
    assert (found.name, found.method) == ("renamed", "edt_best")
    assert (found.key, found.trials) == (once.key, once.trials)


def test_more_trials_continue_the_study(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "project")
    (folder / "params.yaml").write_text((PARAMS + GRID).replace("trials: 7", "trials: 9"))
    searched(folder, "--study", "small")
    more, once = study(folder), study(whole)
    assert more.trials[:7] == once.trials
    assert len(more.trials) == 9
    assert more.key == once.key


def inputs(folder: Path) -> tuple[Params, Meta, Record]:
    """What a study is made of, without the study's own file."""
    shutil.rmtree(folder / ".cdkd" / "studies", ignore_errors=True)
    params = load(folder / "params.yaml")
    data = read_meta(paths.data_folder(params))
    return params, data, queries.trained_teacher(params, data)


@pytest.mark.parametrize("digest_too", [False, True], ids=["value", "value and digest"])
def test_an_edited_value_in_the_database_is_noticed(whole: Path, tmp_path: Path, digest_too: bool) -> None:
    folder = copied(whole, tmp_path / "project")
    params, data, teacher = inputs(folder)
    first = outcome.worker_of(params, "small", data, teacher, 1).trials()[0]
    sealed = json.dumps(trial_digest(first.state, first.params, first.intermediate_values, [0.0]))
    with sqlite3.connect(folder / ".cdkd" / "search.db") as connection:
        connection.execute("update trial_values set value = 0.0 where trial_id = ?", (first._trial_id,))
        if digest_too:
            edit = "update trial_user_attributes set value_json = ? where trial_id = ? and key = ?"
            connection.execute(edit, (sealed, first._trial_id, DIGEST))
    with pytest.raises(BadStudy, match="by its runs" if digest_too else "trial 0 do not match their digest"):
        outcome.outcome(params, "small", data, teacher)


@pytest.mark.parametrize("damage", ["text", "half", "version"])
def test_a_damaged_database_is_one_line_and_costs_no_training(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = copied(whole, tmp_path / "project")
    params, data, teacher = inputs(folder)
    path = folder / ".cdkd" / "search.db"
    content = path.read_bytes()
    if damage == "version":
        with sqlite3.connect(path) as connection:
            connection.execute("update version_info set schema_version = 99, library_version = '99.0.0'")
            connection.execute("update alembic_version set version_num = 'v99.a'")
    else:
        path.write_bytes({"text": b"no database at all\n" * 50, "half": content[: len(content) // 2]}[damage])
    run_workers = partial(search_stage._run_search_workers, params, "small")
    output = ""
    try:
        search_study.complete_study(params, "small", data, teacher, run_workers)
    except BadStudy as fault:
        output = str(fault)
        path.unlink()
        search_study.complete_study(params, "small", data, teacher, run_workers)
    if damage != "half":  # which SQLite may take for a database
        assert f"{path}: " in output
    assert "\n" not in output
    assert "epoch" not in capfd.readouterr().out  # the runs are in the store
    assert search_study.stored_study(params, "small", data, teacher) == study(whole)


def test_flipped_bytes_in_the_database_are_one_line_or_change_nothing(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "project")
    params, data, teacher = inputs(folder)
    path, known = folder / ".cdkd" / "search.db", study(whole)
    with sqlite3.connect(path) as connection:
        connection.execute("pragma journal_mode = delete")
    content, draw, refused = path.read_bytes(), random.Random(0), list[str]()
    for _ in range(25):
        damaged = bytearray(content)
        for place in draw.sample(range(100, len(content)), 8):
            damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            found = outcome.outcome(params, "small", data, teacher)
        except BadStudy as fault:
            refused.append(str(fault))
        else:  # a page that nothing was read from, or the end of a table: what is read is true
            assert found.trials == known.trials[: len(found.trials)]
    assert refused  # the flips do reach what is read
    assert all("\n" not in text and str(path) in text for text in refused)


def test_each_attribute_of_a_study_may_be_damaged(whole: Path, tmp_path: Path) -> None:
    params, data, teacher = inputs(copied(whole, tmp_path / "project"))
    path = params.root / ".cdkd" / "search.db"
    content = path.read_bytes()
    for edit in (
        "update trial_params set distribution_json = '{\"name\": '",
        "update trial_params set distribution_json = '{}'",
        "update trial_params set param_value = 'x' where trial_id = 1",
        "update trial_params set param_value = 3.25 where trial_id = 1",
        "update trial_user_attributes set value_json = 'nothing'",
        "update trial_user_attributes set value_json = '[1]' where key = 'cdkd.digest'",
        "update trial_intermediate_values set intermediate_value = 1.0 where step = 1",
        "update trials set state = 'XYZ' where number = 1",
        "update trials set state = 'PRUNED' where number = 0",
        "update trials set datetime_start = 'yesterday'",
        "update study_user_attributes set value_json = '\"many\"'",
        "delete from trial_values",
    ):
        path.write_bytes(content)
        with sqlite3.connect(path) as connection:
            assert connection.execute(edit).rowcount
        with pytest.raises(BadStudy) as caught:
            outcome.outcome(params, "small", data, teacher)
        assert "\n" not in str(caught.value), edit


def test_a_study_has_a_readable_name_in_the_database(whole: Path) -> None:
    params = load(whole / "params.yaml")
    storage, _ = database.open_storage(database.address(params.root, None))
    assert [each.study_name for each in storage.get_all_studies()] == [f"tiny small ({study(whole).key[:8]})"]


def test_the_dashboard_answers_requests_to_itself_only(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "project")
    port = free_port(8600)
    process = command(folder, "dashboard", "--port", str(port))
    try:
        assert process.stdout
        assert f"127.0.0.1:{port}" in process.stdout.readline()
        process.stdout.readline()
        wait_until(lambda: _listens(port), process)
        for headers in hostile(port):
            for method, path in (
                ("DELETE", "/api/studies/1"),
                ("GET", "/dashboard"),
                ("GET", "/api/studies"),
            ):
                status, text = asked(port, method, path, **headers)
                assert (status, text[:8]) == (403, "refused:"), headers
        own = f"http://127.0.0.1:{port}"
        assert "tiny small" in asked(port, "GET", "/api/studies", Origin=own)[1]
        assert asked(port, "DELETE", "/api/studies/1", Origin=own)[0] in (200, 204)
        assert "tiny small" not in asked(port, "GET", "/api/studies")[1]
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in output


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


FAULTS = [
    ("base: edt", "base: etd", "search.small.base: no method 'etd' (did you mean 'edt'?)"),
    ("cd.weight: {", "cd.wieght: {", "loss cd has no 'wieght' (did you mean 'weight'?)"),
    ("cd.weight: {", "kd.weight: {", "no 'kd' in the base method"),
    (
        "low: 1, high: 20",
        "low: 20, high: 1",
        "search.small.space.cd.weight.low: 20; expected less than high, 1",
    ),
    ("low: 1, high: 20", "low: 0, high: 20", "expected low above 0"),
    ("low: 1, high: 20", "low: 8, high: 20", "leaves out the value of edt itself, which is trial 0"),
    ("low: 1, high: 20, log: true", "low: 1", "expected both low and high"),
    ("low: 1, high: 20, log: true", "choices: [6, '7', true]", "mixes bool and number and str"),
    ("low: 1, high: 20, log: true", "choices: [6]", "expected at least two"),
    ("low: 1, high: 20, log: true", "choices: [6, 6]", "expected each once"),
    (
        "low: 1, high: 20, log: true",
        "low: 1, high: 20, choices: [6, 7]",
        "expected either low and high or choices",
    ),
    ("low: 0, high: 2", "low: 0, high: 2.5", "2.5; expected a whole number"),
    ("low: 0, high: 2", "low: 0, high: 9", "beyond the last epoch"),
    (
        "sets: [ce.start, gkd.start]",
        "sets: [ce.start, cd.start]",
        "leaves out the value of edt itself, which is trial 0",
    ),
    ("trials: 7", "trials: 0", "search.small.trials: 0"),
    ("trials: 7", "trails: 7", "did you mean 'trials'"),
    ("epochs: 4\n    warmup", "epochs: 1\n    warmup", "cut to so few"),
    ("sampler: grid", "sampler: gird", "search.switches.sampler"),
    ("method: edt_tuned", "method: student", "another method's name"),
    ("training.learning_rate: {", "training.epochs: {", "a search may choose training.learning_rate"),
    ("low: 1, high: 20", "low: 1, high: 1.0e+308", "high: makes cd.weight 1e+308; expected at most 1e+12"),
    ("low: 1, high: 20", "low: .nan, high: 20", "space.cd.weight.low: nan; expected a number"),
    (
        "low: 0, high: 2",
        "low: 0, high: 0.5, step: 0.6",
        "space.gate.step: 0.6; expected more than 0 and at most",
    ),
    ("low: 0, high: 2", "low: 0.5, high: 0.25", "space.gate.low: 0.5; expected less than high, 0.25"),
    ("low: 0, high: 2", "choices: [1, {a: 2}]", "space.gate.choices[1]: {'a': 2}; expected a number"),
    ("gate: {sets", "a.b: {sets", "search.small.space.a.b: 'a.b' is not a valid name"),
    ("low: 0.01, high: 0.2", "low: 0.01, high: 200", "makes training.learning_rate 200 is out of its bounds"),
    ("trials: 7", "trials: 1000000000", "search.small.trials: 1000000000; expected at most 10000"),
    ("generation: 3", "generation: 100000", "search.small.generation: 100000; expected at most 256"),
    (
        "gate:  {choices",
        "training.weight_decay: {low: 0, high: 1, step: 1.0e-9}\n      gate:  {choices",
        "search.switches.space: a grid of 8000000000 settings; expected at most 10000",
    ),
    ('"on": {ce: {start: 2}}', '"on": {ce: 2}', "choices.on.ce: 2; expected changes of the loss"),
    (
        '"on": {ce: {start: 2}}',
        '"on": {inactive: x}',
        "choices.on: makes inactive 'x'; expected untouched or",
    ),
    ('"on": {ce: {start: 2}}', "true: {ce: {start: 2}}", "choices.True: True; expected a text of 1 to"),
    (
        '"on": {cd: {weight: 6}}',
        '"on": {dc: {weight: 6}}',
        "search.switches.space.cd.choices.on.dc: no such loss",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), FAULTS, ids=[new for _, new, _ in FAULTS])
def test_each_fault_of_a_search_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in PARAMS + GRID
    output = faults(tmp_path, (PARAMS + GRID).replace(old, new))
    assert expected in output
    assert "params.yaml:" in output


def test_all_faults_of_a_search_come_at_once(tmp_path: Path) -> None:
    text = (
        (PARAMS + GRID)
        .replace("trials: 7", "trails: 7")
        .replace("cd.weight: {low: 1", "cd.weight: {low: 8")
        .replace("sampler: grid", "sampler: gird")
    )
    output = faults(tmp_path, text + "report: {ablation: [student, edt_tuned]}\n")
    assert "3 faults" in output
    assert all(
        place in output
        for place in ("search.small.trails", "search.small.space.cd.weight", "search.switches.sampler")
    )


def test_a_space_over_a_loss_that_there_is_not_is_the_methods_fault(tmp_path: Path) -> None:
    text = faults(
        tmp_path, PARAMS.replace("cd: {weight: 6", "dc: {weight: 6").replace("cd.weight: {", "dc.weight: {")
    )
    assert "methods.edt.dc" in text
    assert "1 fault" in text


def test_a_space_is_scaled_to_shorter_trials(tmp_path: Path) -> None:
    text = PARAMS.replace("epochs: 4\n    warmup", "epochs: 8\n    warmup")
    space = project(tmp_path, text).search["small"]
    made = space.method_of(space.base, trial=True)
    assert made is not None
    method, training = made
    assert method["cd"].weight.milestones == (2, 6)
    assert method["ce"].weight.start == 2
    assert (training.epochs, training.milestones) == (8, (4,))
    assert space.method_of(space.base, trial=False) == (
        project(tmp_path, text).methods["edt"],
        project(tmp_path, text).training,
    )


def test_a_range_of_shares_is_one_of_epochs(tmp_path: Path) -> None:
    text = PARAMS.replace("low: 0, high: 2}", "low: 0, high: 0.5}")
    assert (
        project(tmp_path / "shares", text).search["small"]
        == project(tmp_path / "epochs", PARAMS).search["small"]
    )


def test_a_search_may_choose_what_happens_to_inactive_parameters(tmp_path: Path) -> None:
    change = GRID.replace('"on": {ce: {start: 2}}', '"on": {ce: {start: 2}, inactive: decayed}')
    choice = change.replace("      cd: ", "      inactive: {choices: [untouched, decayed]}\n      cd: ")
    for text in (change, choice):
        space = project(tmp_path, PARAMS + text).search["switches"]
        made = [(setting, space.method_of(setting, trial=False)) for setting in space.grid()]
        assert made[0][0] == space.base
        for setting, one in made:
            assert one is not None
            decayed = setting["gate"] == "on" or setting.get("inactive") == "decayed"
            assert one[0].inactive == ("decayed" if decayed else "untouched")
        assert {one[0].inactive for _, one in made if one is not None} == {"untouched", "decayed"}
        assert space.losses == {"ce", "cd"}


def test_a_choice_may_add_a_term_that_names_its_loss(tmp_path: Path) -> None:
    text = GRID.replace('"on": {cd: {weight: 6}}', '"on": {channels: {loss: cd, weight: 6}}').replace(
        '"on": {cd: {decay', '"on": {channels: {decay'
    )
    space = project(tmp_path, PARAMS + text).search["switches"]
    made = space.method_of({"cd": "on", "decay": "on", "gate": "on"}, trial=False)
    assert made is not None
    assert {name: term.loss for name, term in made[0].items()} == {"ce": "ce", "channels": "cd"}
    assert made[0]["channels"].weight.milestones == (2,)
    assert space.losses == {"ce", "cd"}


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL of our own, its address."""
    pgserver = pytest.importorskip(
        "pgserver", reason="pgserver, which brings a PostgreSQL, has no package for this Python or machine"
    )
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres") / "data", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


def test_workers_on_one_postgresql_finish_each_trial_once_though_one_is_killed(
    taught: Path, whole: Path, tmp_path: Path, postgres: str
) -> None:
    """Two machines: each has a project, a store and a teacher of its own, and only the database in common."""
    text = (PARAMS + GRID).replace("generation: 3", f"generation: 3\n    storage: {postgres!r}")
    folders = [copied(taught, tmp_path / name / "project") for name in ("one", "other")]
    workers = []
    for folder in folders:
        (folder / "params.yaml").write_text(text)
        workers.append(
            subprocess.Popen(
                [sys.executable, "-m", "cdkd", "search", "--study", "small"],
                cwd=folder,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        )

    def at_work() -> list[int]:
        return [
            place for place, folder in enumerate(folders) if list((folder / ".cdkd" / "leases").glob("run-*"))
        ]

    seen: list[int] = []
    wait_until(lambda: seen.extend(at_work()) or seen)  # one of them has a trial in training
    victim = seen[0]
    other = 1 - victim
    os.killpg(workers[victim].pid, signal.SIGKILL)
    assert workers[victim].wait(PATIENCE) == -signal.SIGKILL
    assert workers[other].wait(PATIENCE) == 0
    assert study(folders[other]).trials == study(whole).trials
    assert study(folders[other]).key == study(whole).key
