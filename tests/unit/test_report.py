"""The report: numbers against hand-computed ones, nothing dropped, the same bytes every time, nothing that
breaks out of its cell."""

from __future__ import annotations

import csv
import json
import math
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from cdkd.config.params import Params
from cdkd.config.schema import Data, Published, Report, Student, Teacher, Training
from cdkd.core.schedule import Term, Weight
from cdkd.report import published
from cdkd.report.collect import FoundRun, collect
from cdkd.report.escape import md, tex
from cdkd.report.figures import run_curves
from cdkd.report.method_names import paper_names
from cdkd.report.notes import formula
from cdkd.report.render import render
from cdkd.report.tables import NO_RECORDS
from cdkd.runs.record import Record
from cdkd.storage.files import write_atomically

EPOCHS = 20
CE = {"ce": Term(Weight(1), {})}
KD = {"ce": Term(Weight(0.1), {}), "kd": Term(Weight(0.9), {"temperature": 4.0})}


def an_experiment(
    root: Path,
    methods: dict[str, Any],
    seeds: tuple[int, ...] = (0, 1, 2),
    report: Report | None = None,
    **teacher: Any,
) -> Params:
    training = Training(recipe="digits", epochs=EPOCHS, milestones=(12, 17))
    return Params(
        experiment="digits",
        data=Data(source="digits", train_images=500),
        teacher=Teacher(network="resnet20", training=training, **teacher),
        student=Student(network="resnet8"),
        training=training,
        seeds=seeds,
        methods=methods,
        search={},
        report=report or Report(),
        root=root,
    )


def a_record(
    method: str,
    seed: int,
    top1: float | None = None,
    epochs: int = EPOCHS,
    losses: tuple[str, ...] = ("ce",),
    **changes: Any,
) -> Record:
    """A plausible run; `top1` is its last epoch's error, and the epoch before was 0.5 points better."""
    noise = random.Random(f"{method} {seed}")
    last = 8 + 2 * noise.random() if top1 is None else top1
    history = []
    for epoch in range(epochs):
        rate = 0.05 * 0.1 ** ((epoch >= 0.6 * epochs) + (epoch >= 0.85 * epochs))
        error = last + 70 * math.exp(-7 * epoch / epochs) + noise.random() * 30 * rate
        error = last if epoch == epochs - 1 else last - 0.5 if epoch == epochs - 2 else error
        history.append(
            {
                "epoch": epoch,
                "learning_rate": rate,
                "weights": dict.fromkeys(losses, 1.0),
                "losses": {
                    loss: (index + 1) * (0.1 + 2 * math.exp(-5 * epoch / epochs))
                    for index, loss in enumerate(losses)
                },
                "train_top1_error": 0.7 * error,
                "test_top1_error": error,
                "test_top5_error": error / 10,
                "test_loss": error / 40,
            }
        )
    result = {
        "weights_sha256": "ab" * 32,
        "parameters": 78_042,
        "multiply_adds": 1_230_000,
        "last": history[-1],
        "best": history[-2],
    }
    circumstances = {
        "environment": {"torch": "2.10.0", "device": "cpu", "host": {"processor": "x"}},
        "git": {"commit": "c0ffee" * 6 + "abcd", "dirty": False},
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 12.5,
        "images_per_second": 1000.0 + 100 * seed,
        "cohort": [method],
    }
    record = Record(
        f"{method}-{seed}", "digits", method, seed, "finished", {"seed": seed}, history, result, circumstances
    )
    return replace(record, **changes)


def a_diverged_record(method: str, seed: int) -> Record:
    record = a_record(method, seed, epochs=5)
    reason = "loss kd is nan in epoch 3 at learning rate 0.05"
    return replace(record, status="diverged", history=record.history[:3], result={}, reason=reason)


def keep(runs: Path, *records: Record) -> None:
    for record in records:
        write_atomically(runs / record.method / f"seed-{record.seed}.json", record.text())


def today(params: Params) -> dict[tuple[str, int], str]:
    return {("teacher", params.teacher.seed): "teacher-0"} | {
        (method, seed): f"{method}-{seed}" for method in params.methods for seed in params.seeds
    }


class Folder:
    """runs/ and reports/ of one experiment, and what was rendered."""

    def __init__(
        self,
        root: Path,
        methods: dict[str, Any],
        seeds: tuple[int, ...] = (0, 1, 2),
        report: Report | None = None,
        **teacher: Any,
    ) -> None:
        self.params = an_experiment(root, methods, seeds, report, **teacher)
        self.runs, self.target = root / "runs" / "digits", root / "reports" / "digits"
        keep(self.runs, a_record("teacher", 0, 3.0))

    def render(self, expected: dict[tuple[str, int], str] | None = None) -> list[str]:
        return render(self.params, self.found(expected), self.target)

    def found(self, expected: dict[tuple[str, int], str] | None = None) -> dict[str, tuple[FoundRun, ...]]:
        return collect(self.params, today(self.params) if expected is None else expected, self.runs)

    def text(self, name: str) -> str:
        return (self.target / name).read_text(encoding="utf-8")

    def csv(self, table: str = "ablation") -> dict[str, dict[str, str]]:
        return {row["method"]: row for row in csv.DictReader(self.text(f"{table}.csv").splitlines())}

    def cells(self, method: str, name: str = "ablation.md") -> list[str]:
        """Without the bold type of the best."""
        title = paper_names([method])[method]
        line = next(line for line in self.text(name).splitlines() if line.startswith(f"| {md(title)} "))
        return [cell.strip().replace("**", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]

    def cell(self, method: str, column: str, name: str = "ablation.md") -> str:
        """By the beginning of the column's title."""
        header = [cell.strip() for cell in self.text(name).splitlines()[0].split("|")[1:-1]]
        return self.cells(method, name)[
            next(index for index, title in enumerate(header) if title.startswith(column))
        ]


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take a second a report; a test that asks for `pictures` gets them."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("cdkd.report.render.draw", lambda params, rows, names: {})


@pytest.fixture
def pictures() -> None:
    """Draw them."""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """student 8, 9, 10; kd 7, 8.5, 8.2."""
    folder = Folder(tmp_path, {"student": CE, "kd": KD})
    keep(folder.runs, *(a_record("student", seed, error) for seed, error in enumerate((8.0, 9.0, 10.0))))
    keep(
        folder.runs,
        *(a_record("kd", seed, error, losses=("ce", "kd")) for seed, error in enumerate((7.0, 8.5, 8.2))),
    )
    return folder


def test_numbers_are_those_computed_by_hand(folder: Folder) -> None:
    folder.render()
    student, kd, teacher = (folder.csv()[name] for name in ("student", "kd", "teacher"))
    assert (float(student["top1_error_mean"]), float(student["top1_error_std"]), student["n"]) == (
        9.0,
        1.0,
        "3",
    )
    assert float(kd["top1_error_mean"]) == pytest.approx(7.9)
    assert float(kd["top1_error_std"]) == pytest.approx(math.sqrt((0.9**2 + 0.6**2 + 0.3**2) / 2))
    assert float(kd["best_epoch_top1_error_mean"]) == pytest.approx(7.4)
    assert float(kd["top5_error_mean"]) == pytest.approx(0.79)
    assert float(kd["top1_error_minus_student_mean"]) == pytest.approx(-1.1)
    assert kd["top1_error_minus_kd_mean"] == ""
    assert (teacher["network"], teacher["n"], teacher["top1_error_std"]) == ("resnet20", "1", "")
    half = 4.302653 * math.sqrt(0.63 / 3)  # the t table at 2 degrees of freedom
    assert float(kd["top1_error_high"]) == pytest.approx(7.9 + half, abs=1e-4)
    assert folder.cells("kd") == [
        "KD",
        "7.90 ± 0.79 (n = 3)",
        "5.93 to 9.87",
        "7.40 ± 0.79",
        "0.79 ± 0.08",
        "–",
        "−1.10",
    ]
    assert folder.cells("student")[5:] == ["+1.10", "–"]
    size = next(line for line in folder.text("report.md").splitlines() if line.startswith("| resnet8 |"))
    assert size == "| resnet8 | all students | 78.0 k (100 %) | 1.23 M (100 %) |"
    assert json.loads(folder.text("metrics/student.json")) == {"top1_error": 9.0, "std": 1.0, "n": 3}


def test_curves_have_a_line_for_each_run_and_epoch(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"both": {**CE, "kd": Term(Weight(1), {})}}, seeds=(0,))
    record = a_record("both", 0, 8.0, losses=("ce", "kd"))
    for row in record.history:
        row["weights"]["kd"] = 0.25
    keep(folder.runs, record)
    (folder.target / "metrics").mkdir(parents=True)
    (folder.target / "metrics" / "gone.json").write_text("{}")
    folder.render()
    with (folder.target / "curves.csv").open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["method"] == "both"]
    assert [int(line["epoch"]) for line in lines] == list(range(EPOCHS))
    for line, row in zip(lines, record.history, strict=True):
        assert float(line["test_top1_error"]) == pytest.approx(row["test_top1_error"], rel=1e-5)
        loss = row["losses"]["ce"] + 0.25 * row["losses"]["kd"]
        assert float(line["training_loss"]) == pytest.approx(loss, rel=1e-5)
    assert not (folder.target / "metrics" / "gone.json").exists()  # of a method that is no more


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"student": CE}, seeds=(0,))
    keep(folder.runs, a_record("student", 0, 8.0))
    folder.render()
    assert folder.cells("student")[1:3] == ["8.00 (n = 1)", "none (one seed)"]
    assert json.loads(folder.text("metrics/student.json")) == {"top1_error": 8.0, "std": None, "n": 1}
    assert "nan" not in folder.text("report.md").lower()


def test_a_missing_run_is_said_and_pairs_are_those_that_exist(folder: Folder) -> None:
    (folder.runs / "kd" / "seed-2.json").unlink()
    folder.render()
    cells = folder.cells("kd")
    assert cells[1] == "7.75 ± 1.06 (n = 2); missing seed 2"
    assert cells[6] == "−0.75"
    assert folder.cell("student", "Δ KD") == "+0.75 (n = 2)"
    shutil.rmtree(folder.runs / "kd")
    lines = folder.render()
    assert folder.cells("kd") == ["KD", "missing seeds 0, 1, 2", *["–"] * 5]
    assert any("missing seeds 0, 1, 2" in line for line in lines)
    assert json.loads(folder.text("metrics/kd.json"))["top1_error"] is None


def test_a_stale_run_does_not_count(folder: Folder) -> None:
    folder.render(today(folder.params) | {("kd", 1): "another"})
    assert folder.cells("kd")[1] == "7.60 ± 0.85 (n = 2); stale seed 1"
    assert "Stale: trained with other" in folder.text("ablation.md")


def test_what_cannot_be_verified_does_not_count(folder: Folder) -> None:
    folder.render({})
    assert folder.cells("kd")[1] == "unverified seeds 0, 1, 2"
    assert "Unverified: " in folder.text("report.md")


def test_a_diverged_run_is_said_with_its_place(folder: Folder) -> None:
    keep(folder.runs, a_diverged_record("kd", 1))
    folder.render()
    assert folder.cells("kd")[1] == "7.60 ± 0.85 (n = 2); seed 1 diverged in epoch 3 (kd)"
    assert "kd seed 1 diverged: loss kd is nan in epoch 3" in folder.text("ablation.md")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\x00\xff\xfe",
        b'{"digest": NaN}',
        b"[" * 100_000,
        b'{"format": 99, "digest": "x"}',
    ],
    ids=["empty", "cut", "null", "list", "binary", "nan", "deep", "format"],
)
def test_a_damaged_record_is_named_and_the_rest_rendered(folder: Folder, content: bytes) -> None:
    (folder.runs / "kd" / "seed-1.json").write_bytes(content)
    folder.render()
    assert folder.cells("kd")[1] == "7.60 ± 0.85 (n = 2); damaged seed 1"
    assert "kd seed 1 damaged" in folder.text("ablation.md")
    assert str(folder.runs) not in folder.text("ablation.md")


@pytest.mark.parametrize("error", [None, "8.5", True, -1.0, 101.0])
def test_a_number_that_is_none_is_not_skipped_silently(folder: Folder, error: Any) -> None:
    record = a_record("kd", 1, 8.5)
    keep(
        folder.runs,
        replace(record, result=record.result | {"last": record.result["last"] | {"test_top1_error": error}}),
    )
    folder.render()
    assert folder.cells("kd")[1].endswith("(n = 2); damaged seed 1")


def test_a_nan_among_seeds_is_said(folder: Folder) -> None:
    path = folder.runs / "kd" / "seed-1.json"
    path.write_text(path.read_text().replace('"test_top1_error": 8.5,', '"test_top1_error": NaN,'))
    folder.render()
    assert folder.cells("kd")[1].endswith("(n = 2); damaged seed 1")


def test_a_copy_under_another_seed_is_refused(folder: Folder) -> None:
    shutil.copy(folder.runs / "kd" / "seed-0.json", folder.runs / "kd" / "seed-1.json")
    folder.render()
    assert folder.cells("kd")[1].endswith("(n = 2); damaged seed 1")
    assert "holds the record of kd seed 0" in folder.text("ablation.md")


def test_a_second_record_of_a_run_is_harmless_only_if_it_is_the_same(folder: Folder) -> None:
    folder.render()
    before = folder.text("report.md")
    shutil.copy(folder.runs / "kd" / "seed-1.json", folder.runs / "kd" / "seed-1 (copy).json")
    folder.render()
    assert folder.text("report.md") == before
    (folder.runs / "kd" / "seed-1 (copy).json").write_text(a_record("kd", 1, 1.0).text())
    folder.render()
    assert folder.cells("kd")[1].endswith("(n = 2); duplicate seed 1")
    assert "differ and are the same run" in folder.text("ablation.md")


def test_a_renamed_method_keeps_its_runs(folder: Folder) -> None:
    for seed in range(3):
        record = replace(a_record("student", seed, 9.0), method="baseline")
        write_atomically(folder.runs / "student" / f"seed-{seed}.json", record.text())
    folder.render()
    assert folder.cells("student")[1] == "9.00 ± 0.00 (n = 3)"


def test_no_records_at_all(tmp_path: Path) -> None:
    params = an_experiment(tmp_path, {"student": CE, "kd": KD})
    target = tmp_path / "reports"
    (target).mkdir()
    (target / "curves.svg").write_text("an earlier report's")
    (target / "search-gone-slices.png").write_text("of a study that params.yaml had")
    lines = render(params, collect(params, {}, tmp_path / "nowhere"), target)
    assert NO_RECORDS in lines
    table = (target / "ablation.md").read_text()
    assert table.startswith("| Method |")
    assert NO_RECORDS in table
    assert not list(target.glob("*.svg")) + list(target.glob("*.png"))
    assert [row["n"] for row in csv.DictReader((target / "ablation.csv").read_text().splitlines())] == [
        "0",
        "0",
        "0",
    ]


def test_mixed_environments_and_untracked_code_are_footnoted(folder: Folder) -> None:
    folder.render()
    clean = folder.text("ablation.md")
    assert not any(word in clean for word in ("differ:", "uncommitted", "outside a git", "Resumed"))
    record = a_record("kd", 2, 8.2)
    environment = record.circumstances["environment"] | {"torch": "2.11.0", "host": {"processor": "y"}}
    keep(
        folder.runs,
        replace(
            record,
            circumstances=record.circumstances
            | {"environment": environment, "git": {"commit": "d" * 40, "dirty": True}},
        ),
    )
    record = a_record("student", 0, 8.0)
    keep(
        folder.runs,
        replace(record, circumstances=record.circumstances | {"git": {"commit": None, "dirty": None}}),
    )
    record = a_record("kd", 1, 8.1)
    keep(folder.runs, replace(record, circumstances=record.circumstances | {"exact": False}))
    folder.render()
    notes = folder.text("ablation.md")
    assert (
        "Resumed in another environment than it was started in, so that the last bits may differ from those "
        "of an "
        "uninterrupted run: kd seed 1." in notes
    )
    assert "differ: host processor x, but y (kd seed 2); torch 2.10.0, but 2.11.0 (kd seed 2)." in notes
    local = folder.text(
        "local.html"
    )  # where numbers come from the same code, the commit is no matter of the results
    assert "uncommitted changes: kd seed 2." in local
    assert "outside a git repository, so no commit names the code: student seed 0." in local
    assert "uncommitted" not in folder.text("report.html")


def test_a_method_is_written_out_in_full() -> None:
    edt = {
        "ce": Term(Weight(1, start=60), {}),
        "gkd": Term(Weight(0.1, start=60), {"temperature": 1.0}),
        "cd": Term(Weight(6, milestones=(59, 159), decay=0.9), {}),
    }
    assert (
        formula(edt) == "1 ce (from epoch 60) + 0.1 gkd (temperature 1, from epoch 60) + 6 cd ×0.9 at 59, 159"
    )
    fitnets = {"hint": Term(Weight(100, stop=20), {"stage": 1}), "ce": Term(Weight(1, start=20), {})}
    assert formula(fitnets) == "100 hint (stage 1, before epoch 20) + 1 ce (from epoch 20)"


def test_deviations_and_ambiguous_names_are_footnoted(tmp_path: Path) -> None:
    folder = Folder(
        tmp_path,
        {"student": CE, "rel": CE | {"rkd": Term(Weight(1), {})}},
        batchnorm="train",
        report=Report(ablation=("student",)),
    )
    folder.render()
    assert "train mode" in folder.text("ablation.md")
    assert "Residual KD" in folder.text("comparison.md")
    assert "Residual KD" not in folder.text("ablation.md")


def test_tables_have_the_rows_that_params_name(folder: Folder) -> None:
    folder.params = folder.params.model_copy(
        update={"report": Report(ablation=("kd",), comparison=("kd", "student"))}
    )
    folder.render()
    assert list(folder.csv("ablation")) == ["teacher", "kd"]
    assert list(folder.csv("comparison")) == ["teacher", "kd", "student"]
    assert folder.cell("kd", "Δ Student") == "−1.10"  # compared to a row that this table does not show


def test_a_method_of_no_table_becomes_a_row_of_the_comparison(folder: Folder) -> None:
    tables = Report(ablation=("student",), comparison=("student",))
    folder.params = folder.params.model_copy(update={"report": tables})
    folder.render()
    assert list(folder.csv("ablation")) == ["teacher", "student"]
    assert list(folder.csv("comparison")) == ["teacher", "student", "kd"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_a_spreadsheet_computes_nothing_from_a_name(tmp_path: Path, start: str) -> None:
    name = f"{start}1+1"
    folder = Folder(tmp_path, {name: CE}, seeds=(0,))
    keep(folder.runs, a_record(name, 0, 8.0))
    folder.render()
    for file in ("ablation", "comparison", "runs", "local"):
        rows = list(csv.DictReader(folder.text(f"{file}.csv").splitlines()))
        assert [row["method"] for row in rows] == ["teacher", f"'{name}"], file
    assert not re.search(rf"(^|,)\"?{re.escape(start)}1", folder.text("ablation.csv"), re.MULTILINE)


@pytest.mark.parametrize(("classes", "shown"), [(10, False), (11, True)])
def test_top5_is_shown_above_ten_classes(tmp_path: Path, classes: int, shown: bool) -> None:
    folder = Folder(tmp_path, {"student": CE}, seeds=(0,))
    keep(folder.runs, a_record("student", 0, 8.0, config={"data": {"classes": classes}}))
    folder.render()
    assert ("Top-5" in folder.text("report.md")) == shown


def test_published_results_of_the_two_papers_are_found() -> None:
    crd = Published(
        dataset="CIFAR-100",
        teacher="resnet32x4",
        student="resnet8x4",
        source="HobbitLong/RepDistiller",
        methods=MappingProxyType({"kd": "KD"}),
    )
    found = published.find(crd, "kd")
    assert found == published.Reference(26.67, None, None, "last epoch", "HobbitLong/RepDistiller")
    teacher = published.find(crd, "teacher")
    assert teacher is not None
    assert teacher.top1_error == 20.58
    assert published.find(crd, "cd") is None
    cd = Published(
        dataset="CIFAR-100",
        teacher="ResNet152(cifar-stem)",
        student="ResNet50(cifar-stem)",
        methods=MappingProxyType({"cd_gkd_edt": "CD+GKD+EDT"}),
    )
    protocol = "authors run, single run, best epoch"
    assert published.find(cd, "cd_gkd_edt") == published.Reference(
        18.63, None, 4.29, protocol, "zhouzaida/channel-distillation"
    )
    assert published.find(None, "kd") is None


def test_published_results_stand_beside_ours_with_their_protocol(folder: Folder) -> None:
    report = Report(
        published=Published(
            dataset="CIFAR-100",
            teacher="resnet32x4",
            student="resnet8x4",
            source="HobbitLong",
            methods={"kd": "KD"},
        )
    )
    folder.params = folder.params.model_copy(update={"report": report})
    folder.render()
    assert folder.cells("kd")[-4:] == [
        "26.67",
        "−18.77",
        "no: ours is lower",
        "last epoch; HobbitLong/RepDistiller",
    ]
    assert float(folder.csv()["kd"]["published_top1_error"]) == 26.67
    assert folder.cells("Teacher (resnet20)")[-4:-1] == ["20.58", "−17.58", "no interval (one seed)"]
    keep(
        folder.runs,
        *(a_record("kd", seed, error, losses=("ce", "kd")) for seed, error in enumerate((26.5, 26.9, 26.4))),
    )
    folder.render()
    assert folder.cell("kd", "Published value") == "yes"


@pytest.mark.usefixtures("pictures")
def test_the_same_records_give_the_same_bytes(folder: Folder, tmp_path: Path) -> None:
    first = folder.render()
    other = tmp_path / "elsewhere"
    shutil.copytree(folder.runs, other / "runs")
    found = collect(folder.params, today(folder.params), other / "runs")
    second = render(folder.params, found, other / "reports")
    assert first == second
    names = sorted(path.name for path in folder.target.iterdir())
    assert names == sorted(path.name for path in (other / "reports").iterdir())
    assert {
        "report.md",
        "ablation.tex",
        "comparison.csv",
        "curves.csv",
        "metrics",
        "curves.svg",
        "curves.png",
        "errors.svg",
        "errors.png",
        ".gitignore",
    } <= set(names)
    assert {"report.html", "report.tex", "runs.csv", "differences.csv", "forest.svg", "shares.png"} <= set(
        names
    )
    for name in names:
        if name != "metrics":
            assert (folder.target / name).read_bytes() == (other / "reports" / name).read_bytes(), name


HOSTILE = r"a|b_c*<script>&%$#\{x}^~`[y](z)"


@pytest.mark.usefixtures("pictures")
@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_stay_in_their_cells(tmp_path: Path) -> None:
    staged = {"ce": Term(Weight(1, milestones=(5,), decay=0.5), {}), "cd": Term(Weight(0), {})}
    folder = Folder(tmp_path, {HOSTILE: staged, "$x$ → é漢": CE}, seeds=(0,))
    for name in folder.params.methods:
        keep(folder.runs, a_record(name, 0, 8.0))
    folder.render()
    table = folder.text("ablation.md").splitlines()
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in table[:5]}) == 1
    assert folder.cells(HOSTILE)[1] == "8.00 (n = 1)"
    for name in ("ablation.md", "report.md", "report.html", "curves.svg", "errors.svg", "schedules.svg"):
        assert folder.text(name).count("<script>") == (name == "report.html")  # our own, which sorts
    latex = folder.text("ablation.tex")
    assert (
        r"a\textbar{}b\_c*\textless{}script\textgreater{}\&\%\$\#\textbackslash{}\{x\}\textasciicircum{}\textasciitilde{}"
        in latex
    )
    assert latex.isascii()
    assert tex("é漢 →") == r"e? $\rightarrow$"


def test_latex_is_balanced_and_every_row_has_every_column(folder: Folder) -> None:
    folder.render()
    bare = re.sub(r"\\[{}]", "", folder.text("ablation.tex"))
    assert bare.count("{") == bare.count("}")
    assert re.findall(r"\\begin{(\w+)}", bare) == re.findall(r"\\end{(\w+)}", bare)[::-1]
    body = re.findall(r"^(.*) \\\\$", bare, flags=re.MULTILINE)
    assert len(body) == 4
    assert len({len(re.split(r"(?<!\\)&", row)) for row in body}) == 1


def test_latex_compiles(folder: Folder, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    folder.render()
    document = (
        "\\documentclass{article}\\usepackage{array,booktabs,graphicx}\\begin{document}\\input{%s}\\end{document}"
        % (folder.target / "ablation.tex")
    )
    (tmp_path / "x.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "x.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(
    "record",
    [
        a_record("kd", 0, losses=("ce", "kd")),
        a_diverged_record("kd", 1),
        replace(a_diverged_record("kd", 1), history=[]),
    ],
)
def test_one_runs_curves(record: Record) -> None:
    assert run_curves(record).startswith(b"\x89PNG")
    assert run_curves(record) == run_curves(record)


def test_importing_the_package_imports_no_heavy_friends() -> None:
    modules = "cdkd.report.notes, cdkd.report.escape, cdkd.report.tables, cdkd.report.pairwise"
    heavy = ("pandas", "matplotlib", "torch", "scipy")
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
