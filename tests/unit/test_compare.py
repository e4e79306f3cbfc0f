"""Several experiments in one table: every number where it belongs, every gap reported."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdkd.config.params import load
from cdkd.config.schema import Published, Report
from cdkd.core.errors import BadParams, BadRecord
from cdkd.core.schedule import Term, Weight
from cdkd.report.collect import collect
from cdkd.report.committed import committed_runs
from cdkd.report.compare import compare, folder, named
from cdkd.report.comparison_table import Experiment
from cdkd.report.render import render
from tests.unit.test_report import CE, KD, a_diverged_record, a_record, keep, today

DIGITS = load(Path(__file__).parents[2] / "experiments" / "digits.yaml").model_copy(
    update={"seeds": (0, 1, 2), "rule": None}
)
CRD = Report(
    published=Published(
        dataset="CIFAR-100",
        teacher="resnet32x4",
        student="resnet8x4",
        source="HobbitLong",
        methods={"kd": "KD", "teacher": "teacher"},
    )
)

PROTOCOL = "last epoch; HobbitLong/RepDistiller"


def experiment(
    root: Path,
    name: str,
    methods: dict[str, Any],
    errors: dict[str, tuple[float, ...]],
    report: Report | None = None,
) -> Experiment:
    """Records of each method's seeds, from 0 on, with these errors."""
    student = DIGITS.student.model_copy(update={"network": f"net-{name}"})
    params = DIGITS.model_copy(
        update={
            "root": root,
            "experiment": name,
            "student": student,
            "methods": methods,
            "report": report or Report(),
        }
    )
    runs = root / "runs" / name
    keep(
        runs,
        *(
            replace(a_record(method, seed, error), experiment=name)
            for method, found in errors.items()
            for seed, error in enumerate(found)
        ),
    )
    return Experiment(params, today(params), runs)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdkd.report.render.draw", lambda params, rows, names: {})


@pytest.fixture
def two(tmp_path: Path) -> list[Experiment]:
    at = CE | {"at": Term(Weight(1000), {"form": "released"})}
    first = experiment(
        tmp_path,
        "one",
        {"student": CE, "kd": KD},
        {"teacher": (3.0,), "student": (8.0, 9.0, 10.0), "kd": (7.0, 8.5, 8.2)},
        CRD,
    )
    second = experiment(
        tmp_path, "two", {"kd": CE | {"kd": Term(Weight(3), {})}, "at": at}, {"kd": (20.0, 21.0)}
    )
    return [first, second]


def cells(text: str) -> dict[str, list[str]]:
    """The table of a Markdown file, by its first column."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in rows}


def test_methods_stand_against_pairs_with_the_published_beside(two: list[Experiment], tmp_path: Path) -> None:
    shown = compare(two, tmp_path / "out")
    table = cells((tmp_path / "out" / "table.md").read_text())
    assert list(table) == ["Method", "---", "teacher", "Student", "KD", "AT"]
    assert table["Method"] == [
        "one: digits, resnet20 → net-one",
        "published",
        "two: digits, resnet20 → net-two",
    ]
    assert table["teacher"] == ["3.00 (n = 1)", r"20.58 \[1\]", "no records"]
    assert table["Student"] == ["9.00 ± 1.00 (n = 3)", r"27.50 \[1\]", "–"]
    assert table["KD"] == ["7.90 ± 0.79 (n = 3)", r"26.67 \[1\]", "20.50 ± 0.71 (n = 2); missing seed 2"]
    assert table["AT"] == ["–", "–", "no records"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert r"\[1\] last epoch; HobbitLong/RepDistiller" in text
    assert (
        "kd differs between the experiments: 0.1 ce + 0.9 kd (temperature 4) (one); 1 ce + 3 kd (two)" in text
    )
    assert any(line.startswith("kd") and "26.67 [1]" in line for line in shown)


def test_each_published_value_has_a_line_with_ours_and_both_protocols(
    two: list[Experiment], tmp_path: Path
) -> None:
    shown = compare(two, tmp_path)
    text = (tmp_path / "published.md").read_text()
    assert "3 of 3 published values have a result of ours." in text
    assert shown[-1] == f"{tmp_path / 'published.md'}: 3 of 3 published values have a result of ours"
    lines = [re.split(r" \| ", line.strip("| ")) for line in text.splitlines() if "last epoch;" in line]
    assert [line[1:] for line in lines] == [
        ["teacher", "3.00 (n = 1)", "last", "20.58", "−17.58", "no interval (one seed)", PROTOCOL],
        ["student", "9.00 ± 1.00 (n = 3)", "last", "27.50", "−18.50", "no: ours is lower", PROTOCOL],
        ["kd", "7.90 ± 0.79 (n = 3)", "last", "26.67", "−18.77", "no: ours is lower", PROTOCOL],
    ]
    kd = list(csv.DictReader((tmp_path / "published.csv").read_text().splitlines()))[2]
    assert (kd["experiment"], kd["n"], kd["protocol"]) == ("one", "3", "last epoch")
    assert float(kd["difference"]) == pytest.approx(7.9 - 26.67)


def test_a_published_value_without_a_result_of_ours_says_so(two: list[Experiment], tmp_path: Path) -> None:
    shutil.rmtree(two[0].runs / "kd")
    compare(two, tmp_path)
    text = (tmp_path / "published.md").read_text()
    assert "2 of 3 published values have a result of ours." in text
    assert "| kd | no records | last | 26.67 | – | no result of ours |" in text


def test_without_published_values_there_is_no_such_file(two: list[Experiment], tmp_path: Path) -> None:
    shown = compare(two[1:], tmp_path)
    assert not (tmp_path / "published.md").exists()
    assert not any("published values" in line for line in shown)


def test_a_template_stands_for_all_its_experiments() -> None:
    root = Path(__file__).parents[2]
    pairs = named(root, ["cifar100-crd", "cifar100-vgg13-vgg8"])
    assert len(pairs) == len({one.experiment for one in pairs}) == 13
    with pytest.raises(BadParams, match="did you mean 'cifar100-crd'"):
        named(root, ["cifar100-crdd"])


def test_the_csv_holds_full_numbers_and_their_gaps(two: list[Experiment], tmp_path: Path) -> None:
    compare(two, tmp_path)
    lines = {
        (line["experiment"], line["method"]): line
        for line in csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    }
    assert len(lines) == 8
    kd = lines["one", "kd"]
    assert float(kd["top1_error_mean"]) == pytest.approx(7.9)
    assert (kd["n"], kd["published_top1_error"], kd["published_protocol"]) == ("3", "26.67", "last epoch")
    assert (lines["two", "kd"]["n"], lines["two", "kd"]["excluded"]) == ("2", "missing seed 2")
    assert (lines["two", "student"]["excluded"], lines["two", "student"]["top1_error_mean"]) == (
        "no such method",
        "",
    )


def test_what_does_not_count_is_reported(two: list[Experiment], tmp_path: Path) -> None:
    keep(two[0].runs, a_diverged_record("kd", 1))
    (two[0].runs / "student" / "seed-0.json").write_text("{")
    stale = replace(two[1], expected={**two[1].expected, ("kd", 0): "another"})
    compare([two[0], stale], tmp_path)
    table = cells((tmp_path / "table.md").read_text())
    assert table["KD"][0] == "7.60 ± 0.85 (n = 2); seed 1 diverged in epoch 3 (kd)"
    assert table["Student"][0] == "9.50 ± 0.71 (n = 2); damaged seed 0"
    assert table["KD"][2] == "21.00 (n = 1); stale seed 0; missing seed 2"
    assert "Stale: trained with other" in (tmp_path / "table.md").read_text()
    compare([replace(two[0], expected={})], tmp_path)
    assert cells((tmp_path / "table.md").read_text())["KD"][0].startswith("unverified ")


def test_no_records_anywhere_is_a_table_of_gaps(two: list[Experiment], tmp_path: Path) -> None:
    shown = compare([replace(one, runs=tmp_path / "nowhere") for one in two], tmp_path)
    table = cells((tmp_path / "table.md").read_text())
    assert table["KD"] == ["no records", r"26.67 \[1\]", "no records"]
    assert shown


def test_committed_reports_are_read_where_there_are_no_records(two: list[Experiment], tmp_path: Path) -> None:
    """The first experiment has a report alone; the second has a report and records, which count."""
    compare(two, tmp_path / "before")
    for one in two:
        found = collect(one.params, one.expected, one.runs)
        render(one.params, found, tmp_path / "reports" / one.params.experiment)
    shutil.rmtree(two[0].runs)
    reports = [replace(one, report=tmp_path / "reports" / one.params.experiment) for one in two]
    compare(reports, tmp_path / "after")
    before, after = ((tmp_path / name / "table.md").read_text() for name in ("before", "after"))
    assert cells(before) == cells(after)
    assert after.count("from the committed report, whose fingerprints were not compared") == 1


@pytest.mark.parametrize("text", ["", "method\nkd\n", "x" * 200_000, "method,seed\nkd,0\n"])
def test_a_damaged_committed_report_is_one_clear_line(
    two: list[Experiment], tmp_path: Path, text: str
) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "runs.csv").write_text(text)
    with pytest.raises(BadRecord, match=r"^[^\n]*runs\.csv: not a report's list of runs[^\n]*$"):
        compare([replace(two[0], runs=tmp_path / "nowhere", report=report)], tmp_path / "out")


@pytest.mark.parametrize(
    ("folder", "experiment", "seeds"),
    [("reports/digits", "digits", 20), ("tests/unit/earlier_report", "cifar100-look", 3)],
)
def test_the_reports_in_the_repository_and_of_earlier_versions_can_be_compared(
    folder: str, experiment: str, seeds: int
) -> None:
    found = committed_runs(Path(__file__).parents[2] / folder, experiment)
    assert found is not None
    assert [run.state for run in found["kd"]] == ["ok"] * seeds


def test_impossible_numbers_of_a_committed_report_are_refused(two: list[Experiment], tmp_path: Path) -> None:
    render(two[0].params, collect(two[0].params, two[0].expected, two[0].runs), tmp_path / "report")
    path = tmp_path / "report" / "runs.csv"
    for other in ("-1.0", "nan", "1e9", "good"):
        path.write_text(path.read_text().replace("student,0,ok,8.0,", f"student,0,ok,{other},"))
        with pytest.raises(BadRecord):
            compare([replace(two[0], runs=tmp_path / "nowhere", report=path.parent)], tmp_path / "out")
        path.write_text(path.read_text().replace(f"student,0,ok,{other},", "student,0,ok,8.0,"))


def test_equal_records_give_equal_bytes(two: list[Experiment], tmp_path: Path) -> None:
    compare(two, tmp_path / "a")
    compare(two, tmp_path / "b")
    for name in ("table.md", "table.tex", "table.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_latex_compiles_with_names_that_need_escaping(two: list[Experiment], tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    odd = r"a|b_c*<s>&%$#\{x}^~"
    two[1] = experiment(tmp_path, "three", {odd: CE}, {odd: (8.0,)})
    compare(two, tmp_path)
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in (tmp_path / "table.tex").read_text()
    assert "<s>" not in (tmp_path / "table.md").read_text()
    document = r"\documentclass{article}\usepackage{booktabs,graphicx}"
    document += r"\begin{document}\input{table.tex}\end{document}"
    (tmp_path / "x.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "x.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(Path(__file__).parents[2] / "experiments", tmp_path / "experiments")
    shutil.copy(tmp_path / "experiments" / "digits.yaml", tmp_path / "params.yaml")
    return tmp_path


def test_experiments_are_found_by_name_and_each_once(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    text = re.sub(r"(?m)^seeds:.*\n(?: .*\n)*", "seeds: [7]\n", text)
    (project / "params.yaml").write_text(text)
    found = named(project, ["digits", "cifar100-quick", "digits"])
    assert [one.experiment for one in found] == ["digits", "cifar100-quick"]
    assert found[0].seeds == (7,)  # the active one, as it was edited
    assert [one.root for one in found] == [project.resolve()] * 2


def test_an_unknown_experiment_is_one_clear_line(project: Path) -> None:
    with pytest.raises(BadParams) as fault:
        named(project, ["digits", "cifar100-quik"])
    assert re.fullmatch(
        r"no experiment 'cifar100-quik' \(did you mean 'cifar100-quick'\?\); expected some of .*digits.*",
        str(fault.value),
    )


def test_the_folder_is_named_by_the_experiments_however_many(tmp_path: Path) -> None:
    assert folder(tmp_path, ["a", "b"]) == tmp_path / "reports" / "compare-a+b"
    many = [f"experiment-{number}" for number in range(60)]
    assert len(folder(tmp_path, many).name) < 255
    assert folder(tmp_path, many) != folder(tmp_path, [*many, "another"])
