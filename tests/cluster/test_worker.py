"""A plan is exported, carried out with nothing but torch, killed, resumed and imported: the same bits as in
the project.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from cdkd.cluster import plan_data, plan_file, results_bundle
from cdkd.cluster import worker as away_module
from cdkd.cluster.deadline import Deadline
from cdkd.core.errors import BadCheckpoint, BadRecord
from cdkd.runs.record import Record
from cdkd.runs.specification import code_of
from cdkd.runs.store import Store
from cdkd.storage import sealed_json
from tests.clone import Clone
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

ABSENT = [
    "pydantic",
    "ruamel",
    "mlflow",
    "dvc",
    "optuna",
    "sklearn",
    "matplotlib",
    "pandas",
    "scipy",
    "jinja2",
]
REFUSER = f"""
import sys
class Refuser:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuser())
"""
ONE_STEP = """
import sys
from cdkd.cluster import worker
from cdkd.runs import execution
sys.exit(worker.main(sys.argv[1:], lambda *words, stop: execution.train_cohort(*words, stop=lambda: True)))
"""
PARAMS = """\
experiment: digits
data: {source: folder, paths: [images.zip]}
teacher: {network: resnet14, training: {epochs: 3, milestones: [2]}}
student: {network: resnet8}
training: {recipe: short, epochs: 3, batch: 16, learning_rate: 0.05, milestones: [2], augmentation: {pad: 1}}
seeds: [0, 1]
methods:
  student: {ce: {weight: 1}}
  cd_gkd_edt:
    {ce: {weight: 1, start: 1}, cd: {weight: 6, decay: 0.9, milestones: [1]}, gkd: {weight: 0.1, start: 1}}
"""
RUNS = [("teacher", 0), *((method, seed) for seed in (0, 1) for method in ("student", "cd_gkd_edt"))]


def write_images(path: Path, skip: int = 0) -> None:
    """Five digits, forty images each for training and twelve for the test."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    with zipfile.ZipFile(path, "w") as archive:
        for label in range(5):
            own = [
                image for image, target in zip(digits.images, digits.target, strict=True) if target == label
            ][skip : skip + 52]
            for index, image in enumerate(own):
                buffer = BytesIO()
                Image.fromarray((image * 15).astype("uint8")).save(buffer, "PNG")
                archive.writestr(
                    f"{'train' if index < 40 else 'test'}/{label}/{index}.png", buffer.getvalue()
                )


class Away:
    """A checkout elsewhere, and a Python that has none of the libraries that such a place lacks."""

    def __init__(self, folder: Path, home: Clone) -> None:
        self.folder = folder
        shutil.copytree(home.folder / "cdkd", folder / "checkout" / "cdkd")
        (folder / "bare").mkdir()
        (folder / "bare" / "sitecustomize.py").write_text(REFUSER)
        shutil.copy(home.folder / "images.zip", folder / "carried.zip")
        self.environment = os.environ | {
            "PYTHONPATH": f"{folder / 'bare'}:{folder / 'checkout'}",
            "OMP_NUM_THREADS": "1",
        }

    def start(
        self, *words: str | Path, how: tuple[str, ...] = ("-m", "cdkd.cluster.worker")
    ) -> subprocess.Popen[str]:
        command = [sys.executable, *how, *map(str, words)]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, *words: str | Path, code: int = 0, how: tuple[str, ...] = ("-m", "cdkd.cluster.worker")
    ) -> str:
        process = self.start(*words, how=how)
        text = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == code, text
        assert "Traceback" not in text
        return text


def at_home(folder: Path) -> Clone:
    clone = Clone(folder)
    clone.params(PARAMS)
    write_images(folder / "images.zip")
    return clone


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """The number of threads decides a sum's last bits: the same on both sides."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project whose data are prepared and whose plan is exported; nothing is trained."""
    clone = at_home(tmp_path_factory.mktemp("home"))
    clone.run("cdkd", "prepare")
    text = clone.run("cdkd", "plan", "--export", "plan.json")
    assert "teacher: pending, 3 epochs" in text
    assert "seed 1: 0 in the store, one cohort of 2 pending: student, cd_gkd_edt" in text
    assert "the teacher is to be trained there" in text
    return clone


@pytest.fixture(scope="module")
def trained(home: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The same project, everything trained in place."""
    clone = copy(home, tmp_path_factory.mktemp("trained") / "project")
    clone.run("cdkd", "teacher")
    clone.run("cdkd", "distill", "student")
    clone.run("cdkd", "distill", "cd_gkd_edt")
    return clone


@pytest.fixture(scope="module")
def away(home: Clone, tmp_path_factory: pytest.TempPathFactory) -> Away:
    """The plan carried out elsewhere: killed, continued for a step of each cohort, continued to the end."""
    place = Away(tmp_path_factory.mktemp("away"), home)
    words = (home.folder / "plan.json", "--out", "out", "--data", "carried.zip")
    process = place.start(*words)
    wait_until(lambda: list(place.folder.glob("out/.cdkd/store/*/record.json")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    stopped = place.run(*words, how=("-c", ONE_STEP))
    assert stopped.splitlines()[-1] == "remaining: 4 runs"
    kept = {path.parent.name for path in place.folder.glob("out/.cdkd/checkpoints/*/LAST")}
    done = {path.parent.name for path in place.folder.glob("out/.cdkd/store/*/record.json")}
    assert (
        len(kept - done) == 4
    )  # both seeds by a step; the kill may have come before the teacher's were cleared
    assert "1 runs in predictions-000.safetensors" in stopped
    assert place.run(*words, "--weights", "float32").splitlines()[-1] == "complete"
    return place


def copy(clone: Clone, folder: Path) -> Clone:
    other = Clone.__new__(Clone)
    other.folder = folder
    shutil.copytree(clone.folder, folder, symlinks=True)
    return other


def results(away: Away, folder: Path) -> Path:
    return Path(shutil.copytree(away.folder / "out" / "results", folder / "results"))


def test_the_bare_place_is_bare(away: Away) -> None:
    for name in ABSENT:
        assert f"No module named '{name}'" in subprocess.run(
            [sys.executable, "-c", f"import {name}"],
            env=away.environment, capture_output=True, text=True, check=False
        ).stderr  # fmt: skip


def test_asked_again_it_trains_nothing(away: Away, home: Clone) -> None:
    before = {path: path.stat().st_mtime_ns for path in away.folder.glob("out/.cdkd/store/*/*")}
    assert (
        away.run(home.folder / "plan.json", "--out", "out", "--weights", "float32").splitlines()[-1]
        == "complete"
    )
    assert {path: path.stat().st_mtime_ns for path in away.folder.glob("out/.cdkd/store/*/*")} == before


def test_imported_runs_are_those_trained_at_home_and_dvc_only_collects_them(
    home: Clone, trained: Clone, away: Away, tmp_path: Path
) -> None:
    clone = copy(home, tmp_path / "project")
    found = results(away, tmp_path)
    for path in found.glob("weights-*"):
        path.unlink()  # the students' weights stay where they are
    assert "5 runs imported" in clone.run("cdkd", "import", str(found))
    assert "0 runs imported, 5 were here already" in clone.run("cdkd", "import", str(found))
    assert clone.run("cdkd", "plan").count("none pending") == 2
    before = clone.stored()
    text = clone.run("dvc", "repro")
    assert text.count("Running stage 'distill@") == 2
    assert clone.stored() == before
    for method, seed in RUNS:
        ours, theirs = clone.record(method, seed), trained.record(method, seed)
        assert ours["circumstances"]["imported"] is True
        for part in ("fingerprint", "config", "history", "result", "status"):
            assert ours[part] == theirs[part], (method, seed, part)
    kept = {path.name for path in (clone.folder / "runs" / "digits" / "student").glob("seed-0*")}
    assert kept == {"seed-0.json", "seed-0.predictions.safetensors"}
    assert "cd_gkd_edt" in clone.run("cdkd", "show")
    assert "Running stage" not in clone.run("dvc", "repro")


def test_a_teacher_without_weights_counts_until_it_is_to_teach(
    home: Clone, away: Away, tmp_path: Path
) -> None:
    clone = copy(home, tmp_path / "project")
    found, whole = results(away, tmp_path), results(away, tmp_path / "whole")
    (found / "teacher-000.part").unlink()
    text = clone.run("cdkd", "import", str(found))
    assert "1 pieces are missing" in text
    assert "without its weights" in clone.run("cdkd", "plan")
    clone.run("cdkd", "teacher")
    assert clone.run("cdkd", "distill", "student").count("top-1") == 2
    clone.params(PARAMS.replace("weight: 6", "weight: 5"))
    refused = clone.run("cdkd", "distill", "cd_gkd_edt", code=2)
    assert "weights are missing" in refused
    assert "Traceback" not in refused
    clone.params(PARAMS)
    assert "5 were here already" in clone.run(
        "cdkd", "import", str(whole)
    )  # and what they lacked came with it
    stored = Store(clone.folder)
    assert all(stored.weights(fingerprint).is_file() for fingerprint in clone.stored())
    assert not list(stored.folder.glob("*/weights.absent"))
    clone.params(PARAMS.replace("weight: 6", "weight: 5").replace("[0, 1]", "[0]"))
    assert "top-1" in clone.run("cdkd", "distill", "cd_gkd_edt")


def test_a_finished_teacher_goes_along(trained: Clone, away: Away, tmp_path: Path) -> None:
    """A plan of which much is done: the teacher comes as a file or in parts, and only the new seed is
    trained.
    """
    clone = copy(trained, tmp_path / "project")
    clone.params(PARAMS.replace("[0, 1]", "[0, 2]"))
    text = clone.run("cdkd", "plan", "--export", "plan.json")
    assert "seed 0: 2 in the store, none pending" in text
    weights = Path(text.rpartition("--teacher ")[2].strip())
    words = (clone.folder / "plan.json", "--out", tmp_path / "out", "--data", "carried.zip")
    assert "give its weights by --teacher" in away.run(*words, code=2)
    assert not (tmp_path / "out" / "data").exists()
    assert "not digits's teacher" in away.run(*words, "--teacher", "carried.zip", code=2)
    parts = away.folder / "out" / "results"  # trained there, to the same bits
    output = away.run(*words, "--teacher", parts, "--weights", "bf16")
    assert "seed 2: student, cd_gkd_edt" in output
    assert output.splitlines()[-1] == "complete"
    assert sorted(path.name for path in (tmp_path / "out" / "results").iterdir()) == [
        "predictions-000.safetensors",
        "records.json",
        "weights-000.safetensors",
    ]
    assert away.run(*words, "--teacher", weights).splitlines()[-1] == "complete"
    assert "2 runs imported" in clone.run("cdkd", "import", str(tmp_path / "out"))


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another content, honestly sealed."""
    body = json.loads(path.read_text())
    del body["digest"]
    change(body)
    sealed_json.write(path, body)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def forged(change: Callable[[dict[str, Any]], None], number: int = 1) -> Callable[[Path], None]:
    """A record with other values, honestly sealed, in a bundle that is honestly sealed."""

    def damage(folder: Path) -> None:
        def reseal(body: dict[str, Any]) -> None:
            one = {
                key: value
                for key, value in body["records"][number].items()
                if key not in ("digest", "text_digest")
            }
            change(one)
            body["records"][number] = json.loads(Record(**one).text())

        edited(folder / "records.json", reseal)

    return damage


def better(one: dict[str, Any]) -> None:
    """The same record with less errors, consistent in itself."""
    one["history"][-1]["test_top1_error"] = 0.25
    one["result"] |= {"last": one["history"][-1], "best": one["history"][-1]}


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "damaged records": (lambda folder: damaged(folder / "records.json"), "records.json: "),
    "a damaged part": (lambda folder: damaged(folder / "teacher-000.part"), "teacher-000.part: damaged"),
    "a pipe": (lambda folder: a_pipe(folder / "records.json"), "records.json: not a file"),
    "no records": (lambda folder: (folder / "records.json").unlink(), "cannot be read"),
    "another experiment": (
        lambda folder: edited(folder / "records.json", lambda body: body.update(experiment="other")),
        "results of other",
    ),
    "a record twice edited": (
        lambda folder: edited(folder / "records.json", lambda body: body["records"][1]["history"].pop()),
        "its digest does not fit",
    ),
    "a part elsewhere": (
        lambda folder: edited(folder / "records.json", lambda body: body["parts"].update({"../x": ""})),
        "a part in another folder",
    ),
    "another format": (
        lambda folder: edited(folder / "records.json", lambda body: body.update(format=9)),
        "format 1",
    ),
    "numbers that are not the weights'": (
        forged(better, number=0),
        "teacher seed 0: its weights, measured here, have a top-1 error of ",
    ),
    "no result": (forged(lambda one: one.update(result={})), "result without weights_sha256"),
    "a text as error rate": (
        forged(lambda one: one["history"][0].update(test_top1_error="low")),
        "history[0].test_top1_error 'low'; expected a number from 0 to 100",
    ),
    "an error rate that no epoch had": (
        forged(lambda one: one["result"]["last"].update(test_top1_error=0.0)),
        "result.last; expected the last row of its history",
    ),
    "a name that is a path": (forged(lambda one: one.update(method="../../x")), "method '../../x'; expected"),
    "a time that is none": (
        forged(lambda one: one["circumstances"].update(started="yesterday")),
        "circumstances.started 'yesterday'; expected a time with its zone, in ISO 8601",
    ),
    "a time that is a number": (
        forged(lambda one: one["circumstances"].update(started=5)),
        "started 5; expected",
    ),
    "a time without end": (
        forged(lambda one: one["circumstances"].update(seconds=1e300)),
        "circumstances.seconds 1e+300; expected a number from",
    ),
    "a latency before zero": (
        forged(lambda one: one["circumstances"].update(latency_ms=-1)),
        "circumstances.latency_ms -1; expected a number from 0",
    ),
    "a speed in words": (
        forged(lambda one: one["circumstances"].update(images_per_second="fast")),
        "circumstances.images_per_second 'fast'; expected a number",
    ),
    "a cohort of pages": (
        forged(lambda one: one["circumstances"].update(cohort=["<script>"])),
        "circumstances.cohort '<script>'; expected",
    ),
    "control characters of a commit": (
        forged(lambda one: one["circumstances"].update(git={"commit": "\x1b[31m"})),
        r"circumstances.git.commit '\x1b[31m'; expected a text",
    ),
    "an environment that is a list": (
        forged(lambda one: one["circumstances"].update(environment=[])),
        "circumstances.environment []; expected a section",
    ),
    "a reason of two lines": (
        forged(lambda one: one.update(status="diverged", result={}, reason="a\nb")),
        r"reason 'a\nb'; expected a text of 1 to 2000",
    ),
    "circumstances that are none": (forged(lambda one: one.update(circumstances=3)), "circumstances 3;"),
}


def term(run: dict[str, Any]) -> Any:
    return run["config"]["method"]["ce"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run["config"]["training"].update(epochs="9"), "training.epochs '9'; expected a whole"),
        (lambda run: run["config"]["training"].update(epochs=-3), "training.epochs -3; expected a whole"),
        (lambda run: run["config"]["training"].update(batch=0), "training.batch 0; expected a whole"),
        (lambda run: run["config"]["training"].update(precision="os.system"), "training.precision 'os.sys"),
        (lambda run: run["config"].update(training=None), "training None; expected a section"),
        (lambda run: run["config"]["data"].update(classes=10**12), "data.classes 1000000000000; expected"),
        (lambda run: run.update(method="kd\x1b[31m"), r"method 'kd\x1b[31m'; expected"),
        (lambda run: run.update(seed="0"), "seed '0'; expected a whole number"),
        (lambda run: run.update(config=[]), "config []; expected a section"),
        (lambda run: run["config"].update(inactive="x"), "inactive 'x'; expected untouched or decayed"),
        (lambda run: run["config"]["data"].update(digest="x"), "data.digest 'x'; expected a sha256"),
        (lambda run: run["config"]["data"].update(judged_on=[]), "data.judged_on []; expected test or"),
        (lambda run: run["config"]["teacher"].update(batchnorm=1), "teacher.batchnorm 1; expected eval or"),
        (lambda run: run["config"]["training"].update(decay=10**400), "training.decay 1000"),
        (lambda run: term(run).update(options={"x": 1}), "method.ce.x; expected an option of ce"),
        (lambda run: term(run).update({"from": "../x"}), "method.ce.from '../x'; expected"),
        (lambda run: term(run)["weight"].update(value=-1), "method.ce.weight -1; expected a number from 0"),
        (lambda run: term(run)["weight"].update(curve="up"), "method.ce.curve 'up'; expected step or"),
        (lambda run: term(run)["weight"].update(start=-1), "method.ce.start -1; expected a whole number"),
        (lambda run: term(run)["weight"].update(over="2"), "method.ce.over '2'; expected a whole number"),
        (lambda run: run.update(stored="yes"), "stored 'yes'; expected True or False"),
    ],
)
def test_a_plan_with_values_out_of_bounds_is_one_line(
    change: Callable[[dict[str, Any]], None], message: str, home: Clone, tmp_path: Path
) -> None:
    plan = Path(shutil.copy(home.folder / "plan.json", tmp_path / "plan.json"))
    assert plan_file.read(plan).students

    edited(plan, lambda body: change(body["students"][0]))
    with pytest.raises(BadRecord) as raised:
        plan_file.read(plan)
    text = str(raised.value)
    assert message in text
    assert text.startswith(f"{plan}: ")
    assert text.isprintable()


@pytest.mark.parametrize("fault", FAULTS)
def test_results_that_are_not_sound_are_refused(fault: str, home: Clone, away: Away, tmp_path: Path) -> None:
    damage, message = FAULTS[fault]
    found = results(away, tmp_path)
    damage(found)
    text = home.run("cdkd", "import", str(found), code=2)
    assert message in text
    assert len(text.splitlines()) == 1
    assert home.stored() == {}


def test_shared_runs_are_imported_in_another_project(home: Clone, away: Away, tmp_path: Path) -> None:
    giver, taker = copy(home, tmp_path / "giver"), copy(home, tmp_path / "taker")
    assert "is finished; `dvc repro` trains them" in giver.run(
        "cdkd", "share", str(tmp_path / "shared"), code=2
    )
    assert not (tmp_path / "shared").exists()
    giver.run("cdkd", "import", str(results(away, tmp_path)))
    text = giver.run("cdkd", "share", str(tmp_path / "shared"))
    assert "5 runs of digits, params.yaml" in text
    giver.run("cdkd", "share", str(tmp_path / "shared"))
    assert (tmp_path / "shared" / "params.yaml").read_text() == PARAMS
    assert "is no bundle" in giver.run("cdkd", "share", str(tmp_path), code=2)
    text = taker.run("cdkd", "import", str(tmp_path / "shared"))
    assert "5 runs imported" in text
    assert "the weights of 5 of them came along; measured here, they fit their records" in text
    store = Store(taker.folder)
    for record in results_bundle.read(tmp_path / "shared").records:
        taken = store.get(record.fingerprint)
        assert taken is not None
        assert taken.circumstances["imported"] is True
        assert store.weights(record.fingerprint).is_file()
    assert {path.stem for path in store.code.iterdir()} == {
        record.code for record in results_bundle.read(tmp_path / "shared").records
    }


def test_several_workers_share_one_folder(home: Clone, away: Away, tmp_path: Path) -> None:
    """Three start at once: each cohort is trained by one of them, and all wait for the last."""
    place = Away(tmp_path, home)
    words = (home.folder / "plan.json", "--out", "out", "--data", "carried.zip")
    workers = [place.start(*words) for _ in range(3)]
    texts = [worker.communicate(timeout=PATIENCE)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], texts
    assert [text.splitlines()[-1] for text in texts] == ["complete"] * 3
    for what in ("teacher: resnet14", "seed 0: student, cd_gkd_edt", "seed 1: student, cd_gkd_edt"):
        assert sum(text.splitlines().count(what) for text in texts) == 1, texts
    ours, theirs = Store(tmp_path / "out"), Store(away.folder / "out")
    for record in results_bundle.read(tmp_path / "out" / "results").records:
        assert (
            ours.weights(record.fingerprint).read_bytes() == theirs.weights(record.fingerprint).read_bytes()
        )
    assert len(list(ours.folder.iterdir())) == 5
    assert list(ours.leases.folder.iterdir()) == []


def test_results_that_belong_to_other_params_are_refused(home: Clone, away: Away, tmp_path: Path) -> None:
    clone = copy(home, tmp_path / "project")
    clone.params(PARAMS.replace("weight: 6", "weight: 5"))
    text = clone.run("cdkd", "import", str(results(away, tmp_path)), code=2)
    assert "cd_gkd_edt seed 0: no run of params.yaml: trained with other method" in text
    assert clone.stored() == {}


def test_what_cannot_be_carried_out_is_refused(
    home: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = home.folder / "plan.json", tmp_path / "out"
    monkeypatch.setattr(plan_data, "PROJECT", tmp_path)

    def train(*words: Any, stop: Any) -> None:
        raise AssertionError("nothing may be trained")

    def refused(plan: Path, *words: str | Path) -> str:
        assert away_module.main(list(map(str, [plan, "--out", out, *words])), train) == 2
        text = capsys.readouterr().err
        assert len(text.splitlines()) == 1, text
        assert not list(out.glob("data/*"))
        return text

    write_images(tmp_path / "others.zip", skip=60)
    assert "other images" in refused(plan, "--data", tmp_path / "others.zip")
    assert "does not exist" in refused(plan, "--data", tmp_path / "nowhere.zip")
    assert "leaves its teacher open" in refused(plan, "--teacher", plan)
    copied = Path(shutil.copy(plan, tmp_path / "copy.json"))
    damaged(copied)
    refused(copied)
    edited(Path(shutil.copy(plan, tmp_path / "named.json")), lambda body: body.update(experiment="../x"))
    assert "experiment '../x'" in refused(tmp_path / "named.json")
    edited(
        Path(shutil.copy(plan, tmp_path / "digits.json")),
        lambda body: body["data"].update(source="digits", paths=[]),
    )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.datasets", None)
        assert "source digits needs sklearn" in refused(tmp_path / "digits.json")
    with monkeypatch.context() as patch:
        patch.setattr(
            plan_file,
            "code_of",
            lambda run: "another" if "gkd" in run.losses else code_of(run),
        )
        assert "2 of 5 runs were planned with other code" in refused(plan)


def test_weights_travel_in_small_parts(away: Away, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_bundle, "PART", 200_000)
    store = Store(away.folder / "out")
    records = results_bundle.read(away.folder / "out" / "results").records
    teacher, student = records[0], records[1]
    files = results_bundle.write(tmp_path / "results", store, "digits", records, "float32")
    assert len(files) > 5
    assert all(path.stat().st_size <= 210_000 for path in files)
    found = results_bundle.read(tmp_path / "results")
    assert all(found.weights(record) == store.weights(record.fingerprint).read_bytes() for record in records)
    (tmp_path / "results" / "weights-000.safetensors").unlink()
    (tmp_path / "results" / "teacher-001.part").unlink()
    assert found.weights(student) is None
    assert found.weights(teacher) is None
    damaged(tmp_path / "results" / "weights-001.safetensors")
    with pytest.raises(BadCheckpoint, match=r"weights-001\.safetensors: damaged"):
        results_bundle.read(tmp_path / "results")

    results_bundle.write(tmp_path / "results", store, "digits", records, "bf16")
    half = sum(path.stat().st_size for path in (tmp_path / "results").glob("weights-*"))
    whole = sum(store.weights(record.fingerprint).stat().st_size for record in records[1:])
    assert 0.45 * whole < half < 0.7 * whole
    assert results_bundle.read(tmp_path / "results").weights(student) is None


def test_the_deadline_leaves_room_for_the_longest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("cdkd.cluster.deadline.time.monotonic", lambda: now[0])
    deadline = Deadline(1.0)
    now[0] = 5.0  # preparing data
    deadline.begin()
    # 20 seconds for the first step and what comes before it, then 1, 14 with an evaluation, 1, 6 and 1
    for second, stop in ((25.0, False), (26.0, False), (40.0, False), (41.0, False), (47.0, True)):
        now[0] = second
        assert deadline() is stop
    assert deadline.over


def test_a_run_without_weights_is_no_damage_and_gets_its_own_only(away: Away, tmp_path: Path) -> None:
    theirs = Store(away.folder / "out")
    record = results_bundle.read(away.folder / "out" / "results").records[1]
    store = Store(tmp_path)
    store.put(record, None)
    assert store.get(record.fingerprint) == record
    store.put(record, b"others")
    assert not store.weights(record.fingerprint).exists()
    store.put(record, theirs.weights(record.fingerprint).read_bytes())
    assert store.get(record.fingerprint) == record
    store.weights(record.fingerprint).unlink()
    assert store.get(record.fingerprint) is None  # once they are here, their loss is damage


def mark_of(shared: Record, verified: str | None) -> dict[str, Any]:
    return {"fingerprint": shared.fingerprint, "code": shared.code, "verified": verified}


def test_records_alone_of_other_code_count_with_a_mark_until_they_are_verified(
    home: Clone, away: Away, tmp_path: Path
) -> None:
    giver, taker = copy(home, tmp_path / "giver"), copy(home, tmp_path / "taker")
    giver.run("cdkd", "import", str(results(away, tmp_path)))
    bundle = tmp_path / "records"
    assert "5 runs of digits" in giver.run("cdkd", "share", "--records", str(bundle))
    assert {path.name for path in bundle.iterdir()} == {"records.json", "params.yaml"}

    loss = taker.folder / "cdkd" / "losses" / "ce.py"  # in the teacher and in each method
    loss.write_text(loss.read_text() + "\nNEWER = True\n")
    refused = taker.run("cdkd", "import", str(bundle), code=2)
    assert "trained with other code than today's" in refused
    assert "--other-code" in refused
    assert taker.stored() == {}

    text = taker.run("cdkd", "import", "--other-code", str(bundle))
    assert "5 runs imported" in text
    assert "nothing was measured here" in text
    assert "5 of them were trained with other code than today's" in text
    assert "Running stage 'distill@" in taker.run("dvc", "repro")  # it collects them
    shared = {(one.method, one.seed): one for one in results_bundle.read(bundle).records}
    theirs, ours = shared["student", 1], taker.record("student", 1)
    assert ours["history"] == theirs.history
    assert ours["fingerprint"] != theirs.fingerprint
    assert ours["circumstances"]["adopted"] == mark_of(theirs, None)
    report = taker.folder / "reports" / "digits"
    assert f"({theirs.code[:12]}" in (report / "report.md").read_text()
    assert "not verified with it: all runs" in (report / "report.md").read_text()
    assert theirs.code[:12] in (report / "runs.csv").read_text()

    assert "adopted under today's code" in taker.run("cdkd", "verify", "--adopt", "teacher")
    assert "adopted under today's code" in taker.run("cdkd", "verify", "--adopt", "student")
    for seed in (0, 1):  # the teacher's weights came with its verification
        assert taker.record("student", seed)["circumstances"]["adopted"] == mark_of(
            shared["student", seed], "seed 0"
        )
    taker.run("dvc", "repro")
    text = (report / "report.md").read_text()
    assert r"not verified with it: cd\_gkd\_edt seeds 0, 1" in text
