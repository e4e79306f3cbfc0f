"""The real pipeline: `dvc repro` in a clone, a shortened `digits`; what runs again, what is restored, what is
refused.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cdkd.config.experiments import Experiments
from cdkd.pipeline import times
from tests.clone import PARAMS, ROOT, Clone, snapshot
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("finished") / "a clone")
    clone.folder.mkdir(exist_ok=True)
    clone.output = clone.run("dvc", "repro")  # type: ignore[attr-defined]
    return clone


@pytest.fixture
def clone(finished: Clone, tmp_path: Path) -> Clone:
    """A copy of the finished pipeline, to do things to."""
    copy = Clone.__new__(Clone)
    copy.folder = tmp_path / "a clone"
    shutil.copytree(finished.folder, copy.folder, symlinks=True)
    return copy


def test_the_table_it_made(finished: Clone) -> None:
    rows = list(csv.DictReader((finished.folder / "reports" / "digits" / "ablation.csv").open()))
    assert [row["method"] for row in rows] == ["teacher", "student", "kd", "cd_gkd_edt"]
    for row in rows[1:]:
        errors = [
            finished.record(row["method"], seed)["result"]["last"]["test_top1_error"] for seed in (0, 1)
        ]
        assert float(
            next(v for k, v in row.items() if k.startswith("top1") and "std" not in k)
        ) == pytest.approx(sum(errors) / 2)
        assert 0 < sum(errors) / 2 < 88  # chance is 90
        assert row["n"] == "2"
    for picture in ("curves.svg", "errors.png", "schedules.svg"):
        assert (finished.folder / "reports" / "digits" / picture).stat().st_size > 5000
    table = finished.run("cdkd", "show")
    assert all(method in table for method in ("teacher (resnet14)", "student", "kd", "cd_gkd_edt"))
    assert table.strip() in finished.output.replace("\n\n\n", "\n\n")  # type: ignore[attr-defined]


def test_one_cohort_a_seed_trained_everything(finished: Clone) -> None:
    assert finished.record("kd")["circumstances"]["cohort"] == ["student", "kd", "cd_gkd_edt"]
    assert len(finished.stored()) == 1 + 3 * 2


def test_a_cohort_has_one_time_whatever_a_methods_place_in_it(finished: Clone) -> None:
    for key in ("started", "seconds", "images_per_second"):
        of_seed_0 = {
            finished.record(method)["circumstances"][key] for method in ("student", "kd", "cd_gkd_edt")
        }
        assert len(of_seed_0) == 1, key
    assert of_seed_0.pop() > 0


def test_mlflow_holds_every_run_and_curve(finished: Clone) -> None:
    database = finished.folder / ".cdkd" / "mlflow" / "mlflow.db"
    with sqlite3.connect(database) as connection:
        names = [name for (name,) in connection.execute("select name from runs where status = 'FINISHED'")]
        points = connection.execute(
            "select count(*) from metrics m join tags t on m.run_uuid = t.run_uuid where m.key = "
            "'test_top1_error' and t.key = 'cdkd.fingerprint'"
        ).fetchone()[0]
    assert len(names) == 1 + 3 * (1 + 2)  # the teacher; for each method a parent and two seeds
    assert points >= 6 + 2 * 3 * 3
    assert finished.run("cdkd", "track").strip().endswith("0 were missing and 0 incomplete")


def test_the_view_is_rebuilt_where_it_is_missing(clone: Clone) -> None:
    shutil.rmtree(clone.folder / ".cdkd" / "mlflow")
    assert "7 were missing" in clone.run("cdkd", "track")
    assert "0 were missing and 0 incomplete" in clone.run("cdkd", "track")


def test_a_second_repro_does_nothing(clone: Clone) -> None:
    before = clone.stored()
    text = clone.run("dvc", "repro")
    assert "Running stage" not in text
    assert clone.stored() == before


def test_a_new_method_and_a_new_seed_train_only_themselves(clone: Clone) -> None:
    before = clone.stored()
    clone.params(PARAMS + "  at: {ce: {weight: 1}, at: {weight: 60}}\n")
    text = clone.run("dvc", "repro")
    assert text.count("Running stage 'distill@") == 1
    new = clone.stored().keys() - before.keys()
    assert len(new) == 2
    assert clone.record("at")["circumstances"]["cohort"] == ["at"]

    before = clone.stored()
    clone.params(PARAMS.replace("[0, 1]", "[0, 1, 2]"))
    clone.run("cdkd", "distill", "kd")
    after = clone.stored()
    assert len(after.keys() - before.keys()) == 3
    assert {key: after[key] for key in before} == before
    assert clone.record("kd", seed=2)["circumstances"]["cohort"] == ["student", "kd", "cd_gkd_edt"]


def test_a_changed_weight_retrains_that_method_and_changing_back_restores(clone: Clone) -> None:
    before, table = clone.stored(), (clone.folder / "reports" / "digits" / "ablation.csv").read_bytes()
    clone.params(PARAMS.replace("weight: 0.9,", "weight: 0.8,"))
    text = clone.run("dvc", "repro")
    assert text.count("Running stage 'distill@") == 1
    assert len(clone.stored().keys() - before.keys()) == 2
    assert (clone.folder / "reports" / "digits" / "ablation.csv").read_bytes() != table

    changed = clone.stored()
    clone.params(PARAMS.replace("weight: 0.9,", "weight: 0.90,"))  # the same value, written otherwise
    clone.run("dvc", "repro")
    assert clone.stored() == changed  # nothing was trained
    assert (clone.folder / "reports" / "digits" / "ablation.csv").read_bytes() == table


def test_a_killed_pipeline_goes_on_and_ends_in_the_same_bits(clone: Clone, finished: Clone) -> None:
    """All but the teacher is thrown away, the run is killed while students train, and the same command
    finishes it.
    """
    teacher = clone.record("teacher")["fingerprint"]
    for folder in ("runs", ".cdkd/checkpoints", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(clone.folder / folder, ignore_errors=True)
    for entry in (clone.folder / ".cdkd" / "store").iterdir():
        if entry.name != teacher:
            shutil.rmtree(entry)
    (clone.folder / "dvc.lock").unlink()
    process = clone.start("dvc", "repro")
    wait_until(lambda: list((clone.folder / ".cdkd" / "checkpoints").glob("*/LAST")), process)
    process.kill()  # dvc alone: the trainer must not outlive it
    process.wait()
    wait_until(lambda: trainers(clone) == [])
    clone.run("dvc", "repro")
    for method in ("student", "kd", "cd_gkd_edt"):
        again, once = clone.record(method), finished.record(method)
        assert (again["fingerprint"], again["history"], again["result"]) == (
            once["fingerprint"],
            once["history"],
            once["result"],
        )


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_stage_whose_dvc_died_before_it_began_does_nothing(finished: Clone) -> None:
    environment = finished.environment | {"DVC_ROOT": str(finished.folder)}

    def output_of(shell: str) -> str:  # the pipe is read until the last process that holds it has ended
        return subprocess.run(
            ["sh", "-c", shell],
            env=environment,
            start_new_session=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        ).stdout

    assert "no fault" in output_of("cdkd check; true")
    orphaned = """while grep -q "^PPid:[[:space:]]*'$$'\\$" /proc/$$/status; do sleep 0.05; done"""
    assert (
        output_of(f"(exec sh -c '{orphaned}; exec cdkd check') &") == ""
    )  # its parent, the first sh, ends at once


def trainers(clone: Clone) -> list[str]:
    """Processes of the clone that still train."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(word in ("teacher", "distill") for word in words) and os.readlink(path / "cwd") == str(
                clone.folder
            ):
                found.append(" ".join(words))
        except OSError:
            continue
    return found


def test_training_needs_torch_and_little_else(clone: Clone) -> None:
    """What MLflow, matplotlib and torch's compiler cost to import is not paid before the first step, nor
    during the training.
    """
    fingerprint = clone.record("kd", 0)["fingerprint"]
    shutil.rmtree(clone.folder / ".cdkd" / "store" / fingerprint)
    (clone.folder / "runs" / "digits" / "kd" / "seed-0.json").unlink()  # the store would take it from there
    code = """
import sys
from cdkd.cli import main
code = main(["distill", "kd"])
heavy = {"torchvision", "torch._dynamo", "mlflow", "dvc", "optuna", "pandas", "scipy"}
heavy |= {"matplotlib", "sklearn", "PIL"}
print(code, "torch" in sys.modules, sorted(heavy & set(sys.modules)))
"""
    assert "0 True []" in clone.run(sys.executable, "-c", code).splitlines()  # lines of progress may follow
    assert clone.record("kd", 0)["fingerprint"] == fingerprint


def test_a_full_disk_is_said_in_one_line_and_costs_nothing_that_was_there(clone: Clone) -> None:
    """A real limit of the kernel's on the size of files, in place of a full disk."""
    teacher = clone.record("teacher")
    shutil.rmtree(clone.folder / ".cdkd" / "store" / teacher["fingerprint"])
    shutil.rmtree(clone.folder / "runs" / "digits" / "teacher")
    before = clone.stored()
    limit = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        "from cdkd.cli import main; sys.exit(main(['teacher']))"
    )
    output = clone.run(sys.executable, "-c", limit, code=1)
    assert (
        "state-00006.pt: File too large; what is finished is kept, and the same command continues" in output
    )
    assert "Traceback" not in output
    assert clone.stored() == before
    assert not [
        path
        for path in (clone.folder / ".cdkd").rglob("*")
        if path.name.endswith(".tmp") or path.name.startswith(".staging-")
    ]
    clone.run("cdkd", "teacher")
    assert clone.record("teacher")["result"] == teacher["result"]


def test_a_killed_trainer_is_marked_so_in_mlflow(clone: Clone) -> None:
    """Nobody is left to say so: the process that follows the training sees the pipe end."""
    shutil.rmtree(clone.folder / ".cdkd" / "store" / clone.record("kd", 0)["fingerprint"])
    database = clone.folder / ".cdkd" / "mlflow" / "mlflow.db"

    def states() -> list[str]:
        with sqlite3.connect(database) as connection:
            return [
                status
                for (status,) in connection.execute("select status from runs where name = 'kd · seed 0'")
            ]

    clone.params(PARAMS.replace("epochs: 3", "epochs: 300").replace("seeds: [0, 1]", "seeds: [0]"))
    process = clone.start("cdkd", "distill", "kd")
    wait_until(lambda: "RUNNING" in states(), process)
    process.kill()
    process.wait()
    wait_until(lambda: "RUNNING" not in states())
    assert sorted(states()) == ["FINISHED", "KILLED"]


def test_a_restoring_stage_needs_no_heavy_friend(clone: Clone) -> None:
    code = """
import sys
from cdkd.cli import main
code = main(["distill", "kd"])
print(code, sorted({"torch", "numpy", "mlflow", "dvc", "pandas", "matplotlib", "PIL"} & set(sys.modules)))
"""
    assert clone.run(sys.executable, "-c", code).splitlines()[-1] == "0 []"


def test_it_runs_from_another_folder(clone: Clone, tmp_path: Path) -> None:
    before = clone.stored()
    inner = clone.folder / "docs-of-mine"
    inner.mkdir()
    done = subprocess.run(
        ["cdkd", "distill", "kd"],
        cwd=inner,
        env=clone.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("top-1 error") == 2
    assert clone.stored() == before


def test_bad_params_are_refused_and_nothing_is_written(clone: Clone) -> None:
    before = snapshot(clone)
    clone.params(PARAMS.replace("temperature: 4", "temprature: 4").replace("batch: 32", "batch: x"))
    for words in (["check"], ["prepare"], ["teacher"], ["distill", "kd"], ["report"]):
        text = clone.run("cdkd", *words, code=2)
        assert "did you mean 'temperature'" in text
        assert "training.batch: 'x'" in text
        assert "Traceback" not in text
    assert snapshot(clone) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill", "kb"], "did you mean 'kd'"),
        (["use", "digit"], "did you mean 'digits'"),
        (["use", "cifar100-quick"], "edited by hand"),
    ],
)
def test_commands_that_cannot_be_meant(clone: Clone, words: list[str], message: str) -> None:
    text = clone.run("cdkd", *words, code=2)
    assert message in text
    assert "Traceback" not in text


def test_missing_data_names_the_cure(clone: Clone) -> None:
    clone.params(PARAMS.replace("{source: digits, train_images: 300}", "{source: folder, paths: [nowhere]}"))
    assert "nowhere" in clone.run("cdkd", "prepare", code=2)
    shutil.rmtree(clone.folder / "data")
    assert "cdkd prepare" in clone.run("cdkd", "teacher", code=2)


def test_damage_in_the_store_is_noticed(clone: Clone) -> None:
    """A flipped byte in a stored student: logged, set aside, and trained again to the same bits."""
    fingerprint, digest = clone.record("kd")["fingerprint"], clone.record("kd")["result"]["weights_sha256"]
    path = clone.folder / ".cdkd" / "store" / fingerprint / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "set aside" in clone.run("cdkd", "distill", "kd")
    assert clone.record("kd")["result"]["weights_sha256"] == digest


def test_a_teacher_from_a_file(clone: Clone) -> None:
    """Weights that are named with their digest stand in for training; other weights, or another network's,
    are refused.
    """
    record = clone.record("teacher")
    weights = clone.folder / "teacher.safetensors"
    shutil.copy(clone.folder / "runs" / "digits" / "teacher" / "seed-0.safetensors", weights)
    digest = record["result"]["weights_sha256"]
    named = f"network: resnet14, weights: teacher.safetensors, sha256: {digest}"
    clone.params(PARAMS.replace("network: resnet14", named))
    assert "top-1 error" in clone.run("cdkd", "teacher")
    last = clone.record("teacher")["result"]["last"]
    assert last["test_top1_error"] == record["result"]["last"]["test_top1_error"]
    before = clone.stored()
    clone.run(
        "cdkd", "distill", "kd"
    )  # the same teacher to the bit: the students are those that were trained
    assert clone.stored() == before
    assert f"{last['test_top1_error']:.2f} (n = 1)" in clone.run("cdkd", "report")
    assert "1 were missing" in clone.run("cdkd", "track")
    clone.params(PARAMS.replace("network: resnet14", named.replace("resnet14", "resnet20")))
    assert "missing" in clone.run("cdkd", "teacher", code=2)
    weights.write_bytes(weights.read_bytes()[:-1])
    clone.params(PARAMS.replace("network: resnet14", named))
    (clone.folder / ".cdkd" / "store").rename(clone.folder / ".cdkd" / "elsewhere")
    shutil.rmtree(clone.folder / "runs" / "digits" / "teacher")  # the store would take the record from there
    assert f"expected {digest[:12]}" in clone.run("cdkd", "teacher", code=2)


def test_two_processes_train_nothing_twice(clone: Clone) -> None:
    shutil.rmtree(clone.folder / ".cdkd" / "store")
    shutil.rmtree(clone.folder / "runs")  # the store would take records from there
    clone.run("cdkd", "teacher")
    processes = [clone.start("cdkd", "distill", method) for method in ("student", "kd")]
    texts = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert len(clone.stored()) == 7
    assert any("waiting for process" in text for text in texts) or all("top-1" in text for text in texts)


def test_an_experiment_becomes_the_active_one(clone: Clone) -> None:
    paces = times.Paces(clone.folder, lambda network, image: (0.001, 0.0003))  # in place of a measurement
    for name in Experiments(ROOT).names:
        times.text(Experiments(ROOT).load(name), paces)
    *listed, empty, note = clone.run("cdkd", "use").splitlines()
    assert [line.partition(":")[0] for line in listed if line[0] != " "] == Experiments(ROOT).names
    assert (empty, note) == ("", times.NOTE)
    clone.run("cdkd", "use", "--force", "cifar100-quick")
    assert "cifar100-quick: resnet20 -> resnet8, 10 methods x 3 seeds = 30 runs" in clone.run("cdkd", "check")
    clone.run("cdkd", "use", "digits")  # no force: what is overwritten is kept in experiments/
    assert (clone.folder / "params.yaml").read_bytes() == (ROOT / "experiments" / "digits.yaml").read_bytes()


def test_the_imagenet_experiment_runs_on_an_image_folder(clone: Clone) -> None:
    """Its networks, kinds of augmentation and losses as they stand, at a quarter of the size; two real
    photographs cut into pieces stand in for the images.
    """
    from PIL import Image
    from ruamel.yaml import YAML
    from sklearn.datasets import load_sample_images

    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        for index in range(5):
            folder = clone.folder / "imagenet" / ("train" if index < 3 else "val") / name
            folder.mkdir(parents=True, exist_ok=True)
            top, left = 12 * index, 20 * index
            Image.fromarray(photograph[top : top + 280, left : left + 300]).save(folder / f"{index}.JPEG")
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "experiments" / "imagenet-resnet34-resnet18.yaml").read_text())
    params["training"] |= {"epochs": 2, "batch": 3, "learning_rate": 0.01, "milestones": [1]}
    params["training"]["augmentation"]["resized_crop"] //= 4
    params["data"]["validation"] = 0  # of six images
    params["data"]["size"] //= 4
    params["seeds"] = [0]
    params["methods"] = {name: params["methods"][name] for name in ("student", "cd_gkd_edt")}
    params["methods"]["cd_gkd_edt"] = {
        "ce": {"weight": 1, "start": 1},
        "cd": {"weight": 6, "decay": 0.9, "milestones": [1]},
        "gkd": {"weight": 1, "temperature": 1, "start": 1},
    }
    del params["report"]
    with (clone.folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    assert "64x64x3" in clone.run("cdkd", "prepare")
    clone.run("cdkd", "teacher")
    assert "top-1 error" in clone.run("cdkd", "distill", "cd_gkd_edt")
    record = json.loads(
        (clone.folder / "runs" / params["experiment"] / "cd_gkd_edt" / "seed-0.json").read_text()
    )
    assert record["config"]["network"] == "resnet18-imagenet"
    assert [sorted(row["losses"]) for row in record["history"]] == [["cd"], ["cd", "ce", "gkd"]]


def test_a_diverged_run_is_recorded_shown_and_not_trained_again(clone: Clone) -> None:
    clone.params(
        PARAMS.replace("seeds: [0, 1]", "seeds: [0]") + "  wild: {ce: {weight: 1}, cd: {weight: 1.0e+12}}\n"
    )
    text = clone.run("cdkd", "distill", "wild", code=1)
    assert "wild seed 0: diverged: " in text
    assert "wild seed 0: diverged and has no result" in text
    assert "in epoch 0 at learning rate 0.05" in text
    assert clone.record("wild")["result"] == {}
    before = clone.stored()
    stage = clone.environment | {"DVC_STAGE": "distill@wild"}
    words = ["cdkd", "distill"]
    done = subprocess.run(words, cwd=clone.folder, env=stage, capture_output=True, text=True, check=False)
    assert done.returncode == 0  # the report shows it
    assert "wild seed 0: diverged and has no result" in done.stderr
    assert clone.stored() == before
    assert "diverged in epoch 0" in clone.run("cdkd", "report")


def test_a_teacher_that_diverges_ends_the_pipeline(clone: Clone) -> None:
    wild = "training: {epochs: 1, milestones: [], learning_rate: 100, warmup: 0, momentum: 0.99}"
    clone.params(PARAMS.replace("training: {epochs: 6, milestones: [4]}", wild))
    assert "teacher seed 0: diverged and has no result" in clone.run("cdkd", "teacher", code=1)
    assert "the teacher diverged, so nobody can learn from it: " in clone.run("cdkd", "distill", "kd", code=2)
