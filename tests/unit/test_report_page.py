"""The report's page, its sections and its further tables: what a reader meets, and that nothing in it needs
anything else."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cdkd.config.schema import Published, Report
from cdkd.core.schedule import Term, Weight
from cdkd.report.error_analysis import error_analysis
from cdkd.report.method_names import paper_names
from cdkd.report.page import anchor, inline
from cdkd.report.pictures.common import highlighted
from cdkd.report.render import render
from cdkd.report.statistics import Summary
from cdkd.runs.record import Record, read
from tests.unit.test_report import CE, HOSTILE, KD, Folder, a_record, keep

CD = {"ce": Term(Weight(1, start=5), {}), "cd": Term(Weight(6, milestones=(10,), decay=0.9), {})}
VOID = {"meta", "link", "br", "hr", "img", "path", "use", "rect", "image"}


def examine(record: Record, wrong: dict[tuple[int, int], int], teacher: bool = False) -> Record:
    """With 3 classes of 100 images: `wrong` of each (true, predicted) pair; confidence 0.9 throughout."""
    confusion = np.diag([100, 100, 100])
    for (true, predicted), count in wrong.items():
        confusion[true, true] -= count
        confusion[true, predicted] += count
    right = int(confusion.trace())
    bins = {
        "count": [0] * 13 + [300, 0],
        "confidence": [0.0] * 13 + [270.0, 0.0],
        "right": [0] * 13 + [right, 0],
    }
    part: dict[str, Any] = {
        "images": 300,
        "confusion": [" ".join(map(str, row)) for row in confusion],
        "reliability": bins,
    }
    if not teacher:
        part |= {
            "agreement": 95.0,
            "kl": 0.1,
            "teacher_right": {"images": 290, "errors": 10},
            "teacher_wrong": {"images": 10, "errors": 6, "same_mistake": 4},
        }
    weights = {"ce": float(record.method != "cd"), "cd": 6.0}  # as they acted in the first half
    history = [row | {"alignment": [0.5, 0.6 + 0.01 * row["epoch"]]} for row in record.history]
    history = [
        row
        | (
            {"weights": row["weights"] | {loss: weights[loss] for loss in row["weights"] if loss in weights}}
            if row["epoch"] < 10
            else {}
        )
        for row in history
    ]
    return replace(
        record,
        history=history,
        result=record.result | {"examined": part},
        circumstances=record.circumstances | {"latency_ms": 2.5},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Three methods with all that is measured; cd is far better than kd, and mistakes class 2 for 0 more than
    the student does."""
    folder = Folder(tmp_path, {"student": CE, "kd": KD, "cd": CD})
    keep(folder.runs, examine(a_record("teacher", 0, 3.0), {(0, 1): 9}, teacher=True))
    for seed, (student, kd, cd) in enumerate(((8.0, 7.0, 4.1), (9.0, 8.5, 5.5), (10.0, 8.2, 5.3))):
        keep(folder.runs, examine(a_record("student", seed, student), {(0, 1): 20 + seed, (2, 0): 4}))
        keep(
            folder.runs,
            examine(a_record("kd", seed, kd, losses=("ce", "kd")), {(0, 1): 20 + seed, (2, 0): 4}),
        )
        keep(
            folder.runs,
            examine(a_record("cd", seed, cd, losses=("ce", "cd")), {(0, 1): 5, (2, 0): 10 + seed}),
        )
    return folder


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdkd.report.render.draw", lambda params, rows, names: {})


class Outline(HTMLParser):
    """Which elements there are, and whether each is closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def page_with_pictures(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder: Folder = globals()["folder"].__wrapped__(tmp_path_factory.mktemp("page"))
    folder.render()
    return folder


def test_the_page_needs_nothing_else(page_with_pictures: Folder) -> None:
    text = page_with_pictures.text("report.html")
    outline = Outline(text)
    assert outline.open == []
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'" in text
    )
    assert len(outline.all("script")) == 1
    addresses = [
        value
        for _, attributes in outline.found
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "srcset")
    ]
    assert all(str(address).startswith(("#", "data:")) for address in addresses)
    assert "url(http" not in text
    assert "@import" not in text


def test_the_page_is_built_for_keyboard_and_screen_reader(page_with_pictures: Folder) -> None:
    outline = Outline(page_with_pictures.text("report.html"))
    ids = [attributes["id"] for _, attributes in outline.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in (attributes for _, attributes in outline.found):
        for key in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(key) is None or attributes[key] in ids
        if attributes.get("href", "").startswith("#"):
            assert str(attributes["href"])[1:] in ids
    boxes = [attributes for attributes in outline.all("div") if "scroll" in str(attributes.get("class"))]
    assert all(
        box["tabindex"] == "0"
        and box["role"] in ("region", "img")
        and ("aria-label" in box or "aria-labelledby" in box)
        for box in boxes
    )
    assert len(outline.all("table")) == len(outline.all("caption")) >= 8
    assert all(cell.get("scope") in ("row", "col") for cell in outline.all("th"))
    assert outline.all("html")[0]["lang"] == "en"
    assert outline.all("a")[0] == {"class": "skip", "href": "#main"}


def test_every_picture_is_in_the_page_and_beside_it(page_with_pictures: Folder) -> None:
    text = page_with_pictures.text("report.html")
    for name in (
        "errors",
        "forest",
        "curves",
        "schedules",
        "shares",
        "alignment",
        "reliability",
        "confusion",
    ):
        assert f'id="picture-{name}"' in text
        assert f"({name}.svg)" in page_with_pictures.text("report.md")
        assert f"{{{name}.png}}" in page_with_pictures.text("report.tex")
        assert (page_with_pictures.target / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_document_compiles(page_with_pictures: Folder, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    words = [
        "pdflatex",
        "-halt-on-error",
        "-interaction=nonstopmode",
        f"-output-directory={tmp_path}",
        "report.tex",
    ]
    done = subprocess.run(words, cwd=page_with_pictures.target, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout


def test_charts_colour_the_baselines_and_the_best_and_no_colour_twice() -> None:
    errors = {"student": 9.0, "kd": 8.0} | {f"m{index}": 5.0 + index / 10 for index in range(10)}
    rows = {name: SimpleNamespace(name=name, top1=Summary(error, 0.1, 3)) for name, error in errors.items()}
    styles = highlighted(rows)  # type: ignore[arg-type]
    assert list(styles) == ["student", "kd", "m0", "m1", "m2", "m3"]
    assert len({style.colour for style in styles.values()}) == len(styles)
    few = highlighted(dict(list(rows.items())[-7:]))  # type: ignore[arg-type]
    assert len({style.colour for style in few.values()}) == len(few) == 7


def test_names_are_written_as_in_papers_unless_two_would_be_the_same() -> None:
    names = {"cd_gkd_edt": "CD + GKD + EDT", "fitnets_two_stage": "FitNets (two-stage)", "my_cd": "my_cd"}
    names |= {"cl_ilr": "CL-ILR", "dml_joint": "DML (joint)", "ctkd_described": "CTKD (as described)"}
    names |= {"cd_gkd_edt_tuned": "CD + GKD + EDT (tuned)", "tuned": "tuned"}
    assert paper_names(names) == names


def test_an_inline_picture_follows_the_theme_and_keeps_its_names_apart() -> None:
    svg = '<?xml version="1.0"?><!DOCTYPE svg><svg width="72pt" height="36pt" viewBox="0 0 72 36" '
    svg += 'xmlns="x"><metadata>m</metadata>'
    svg += '<defs><path id="a"/></defs><use xlink:href="#a" clip-path="url(#b)" '
    svg += 'style="fill: #ffffff; stroke: #000000"/><path style="stroke: #d55e00"/></svg>'
    text = inline(svg, "Errors 1")
    assert text.startswith('<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 72 36"')
    assert 'id="errors-1-a"' in text
    assert (
        'href="#errors-1-a" clip-path="url(#errors-1-b)" style="fill: var(--paper); stroke: currentColor"'
        in text
    )
    assert "#d55e00" in text
    assert "metadata" not in text
    assert len({anchor("a b"), anchor("a_b"), anchor("a.b"), anchor("a|b"), anchor("ä")}) == 5


@pytest.mark.usefixtures("no_pictures")
def test_the_headline_says_what_is_settled(folder: Folder) -> None:
    folder.render()
    text = folder.text("report.md")
    assert (
        "CD has the lowest top-1 error: 4.97 ± 0.76 % on the test split (mean over 3 seeds), compared with "
        "7.90 ± 0.79 % "
        "for KD and 9.00 ± 1.00 % for the student alone; the teacher has 3.00 %." in text
    )
    assert (
        "Compared with KD, significantly fewer errors: CD (−2.93) (points); the other difference is not "
        "significant." in text
    )
    assert "the best of 3 methods is partly luck (selection bias)" in text
    assert "Incomplete" not in text
    shutil.rmtree(folder.runs / "kd")
    folder.render()
    assert "Incomplete: 7 of 10 runs count; KD: missing seeds 0, 1, 2." in folder.text("report.md")


@pytest.mark.usefixtures("no_pictures")
def test_the_overview_has_the_best_in_bold_and_bars_that_can_be_sorted(folder: Folder) -> None:
    folder.render()
    page = folder.text("report.html")
    table = page[page.index('<table id="table-overview"') : page.index("</table>")]
    assert re.findall(r'<td class="number strong"[^>]*>([^<]*)', table) == ["4.97 ± 0.76 (n = 3)"]
    assert table.count("<svg") == 2  # of student and cd against kd
    assert 'title="seed 0: 4.10, seed 1: 5.50, seed 2: 5.30" data-order="4.9' in table
    assert "| CD | **4.97 ± 0.76 (n = 3)** | −2.93 (−3.08 to −2.79) |" in folder.text("report.md")


@pytest.mark.usefixtures("no_pictures")
def test_differences_are_tested_and_say_what_would_settle_them(folder: Folder) -> None:
    folder.render()
    lines = folder.text("report.md").splitlines()
    student, cd = (
        next(line for line in lines if line.startswith(f"| {name} | {sign}"))
        for name, sign in (("Student", "+1.10"), ("CD", "−2.93"))
    )
    assert cd.split(" | ")[2:] == [
        "−3.08 to −2.79",
        "3",
        "−28.66",
        "&lt; 0.001",
        "&lt; 0.001",
        "significantly fewer errors than KD |",
    ]
    assert "undecided; about 2 more seeds needed" in student
    with (folder.target / "differences.csv").open() as file:
        found = {(row["family"], row["method"], row["minus"]): row for row in csv.DictReader(file)}
    assert float(found["against kd", "cd", "kd"]["p_holm"]) < 0.001
    assert found["against kd", "cd", "kd"]["comparisons"] == "2"
    assert found["all pairs", "student", "cd"]["comparisons"] == "3"
    assert found["all pairs", "student", "cd"]["verdict"] == "higher"


@pytest.mark.usefixtures("no_pictures")
def test_one_seed_and_equal_differences_claim_nothing(folder: Folder) -> None:
    for seed in range(3):  # always half a point below kd
        keep(folder.runs, a_record("cd", seed, (6.5, 8.0, 7.7)[seed]))
    folder.render()
    assert "the same difference for every seed: no test possible" in folder.text("report.md")
    folder.params = folder.params.model_copy(update={"seeds": (0,)})
    folder.render()
    assert "one seed: no test possible" in folder.text("report.md")
    assert not re.search(r"\bnan\b", folder.text("report.html"), re.IGNORECASE)


@pytest.mark.usefixtures("no_pictures")
def test_beyond_top1_by_hand(folder: Folder) -> None:
    folder.render()
    line = next(
        line
        for line in folder.text("report.md").splitlines()
        if line.startswith("| Student |") and "95.00" in line
    )
    calibration = [
        abs(270 - (276 - seed)) / 3 for seed in range(3)
    ]  # 270 of 300 expected, 276, 275, 274 right
    assert line.split(" | ")[1:] == [
        f"{np.mean(calibration):.2f} ± 0.33",
        "95.00 ± 0.00",
        "0.100 ± 0.000",
        "3.45 ± 0.00",
        "60.00 ± 0.00",
        "40.00 ± 0.00 |",
    ]
    worst = next(
        line for line in folder.text("report.md").splitlines() if line.startswith("| CD | 1 / 1 / 1 |")
    )
    assert worst.split(" | ")[2:6] == ["class 2", "4.00", "11.00", "+7.00"]
    with (folder.target / "classes.csv").open() as file:
        rows = {(row["method"], row["class"]): row for row in csv.DictReader(file)}
    assert float(rows["cd", "0"]["error"]) == 5
    assert float(rows["cd", "0"]["minus_student"]) == pytest.approx(-16)
    assert rows["cd", "1"]["verdict"] == "the same difference for every seed: no test possible"


@pytest.mark.usefixtures("no_pictures")
def test_classes_bear_their_names(folder: Folder) -> None:
    render(folder.params, folder.found(), folder.target, class_names=("cat", "dog|x", "<b>"))
    assert "| &lt;b&gt; |" in folder.text("report.md")
    assert "&lt;b&gt;" in folder.text("report.html")
    assert "<b>" not in folder.text("report.html")


@pytest.mark.usefixtures("no_pictures")
def test_older_records_are_said_to_lack_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"student": CE})
    keep(folder.runs, *(a_record("student", seed) for seed in range(3)))
    folder.render()
    assert "are not recorded in these runs" in folder.text("report.html")
    assert not (folder.target / "classes.csv").exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"images": 0},
        {"images": "many"},
        {"confusion": ["1 2", "3"]},
        {"confusion": ["1 x 3"] * 3},
        {"confusion": [f"{10**12} 0 0"] * 3},
        {"confusion": 7},
        {"reliability": {}},
        {"reliability": {"count": [1], "confidence": [1], "right": [1]}},
        {"teacher_wrong": {"images": 3, "errors": 9, "same_mistake": 1}},
        {"teacher_right": []},
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_measurements_that_make_no_sense_are_said_and_the_error_counts(
    folder: Folder, damage: dict[str, Any]
) -> None:
    record = examine(a_record("kd", 1, 8.5, losses=("ce", "kd")), {})
    broken = replace(record, result=record.result | {"examined": record.result["examined"] | damage})
    keep(folder.runs, broken)
    with pytest.raises(ValueError):  # noqa: PT011
        error_analysis(broken)
    folder.render()
    assert folder.cells("kd")[1] == "7.90 ± 0.79 (n = 3)"
    assert "kd seed 1: its error analysis cannot be read" in folder.text("report.md")


@pytest.mark.usefixtures("no_pictures")
def test_published_values_are_compared_like_with_like(folder: Folder) -> None:
    pair = {"dataset": "CIFAR-100", "teacher": "ResNet152(cifar-stem)", "student": "ResNet50(cifar-stem)"}
    folder.params = folder.params.model_copy(
        update={"report": Report(published=Published(**pair, methods={"cd": "CD+GKD+EDT", "kd": "none"}))}
    )
    folder.render()
    assert float(folder.csv()["cd"]["ours_minus_published"]) == pytest.approx(
        4.966667 - 0.5 - 18.63, abs=1e-5
    )  # best against best
    assert "Ours minus the published values, in points: " in folder.text("report.md")


@dataclass(frozen=True)
class Deviation:
    what: str = "epochs"
    ours: str = "20"
    theirs: str = "240 <i>"
    worth: str = "unknown"
    source: str = "methods.md"


@dataclass
class Search:
    title: str = "Search: cd & co"
    paragraphs: tuple[str, ...] = ("24 trials on the validation split.",)
    table: Any = (["Trial", "Weight"], [["0", "6"], ["1", "<7>"]])
    pictures: Any = (
        ("search-cd", b'<svg width="72pt" viewBox="0 0 1 1"></svg>', b"\x89PNG", "Trials over time."),
    )


@pytest.mark.usefixtures("no_pictures")
def test_tuned_methods_a_search_and_the_gap_have_their_places(folder: Folder) -> None:
    more: dict[str, Any] = {
        "tuned": {"cd": "tuned: 24 trials on the validation split"},
        "search_section": Search(),
        "deviations": {"kd": [Deviation()], "cd": []},
    }
    render(folder.params, folder.found(), folder.target, **more)
    page, text = folder.text("report.html"), folder.text("report.md")
    assert "CD (tuned)" in folder.text("ablation.md")
    assert "CD (tuned): tuned: 24 trials on the validation split." in text
    assert "tuned: 24 trials" in folder.text("ablation.tex")
    assert "Search: cd &amp; co" in page
    assert 'id="picture-search-cd"' in page
    assert (folder.target / "search-cd.png").read_bytes() == b"\x89PNG"
    assert "<summary>kd: 1 difference</summary>" in page
    assert "240 &lt;i&gt;" in page
    assert "Trials over time." in folder.text("report.tex")


@pytest.mark.usefixtures("no_pictures")
def test_every_run_links_to_mlflow_where_its_address_is_known(folder: Folder) -> None:
    folder.render()
    assert "127.0.0.1" not in folder.text("local.html")
    render(
        folder.params,
        folder.found(),
        folder.target,
        mlflow="http://127.0.0.1:5000/#/experiments/1",
    )
    wanted = "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&amp;searchFilter=tags.%60cdkd.fingerprint%60%20%3D%20%27kd-1%27"
    assert (
        f'<a href="{wanted}" title="seed 1: 8.50, in MLflow" aria-label="seed 1: 8.50, in MLflow">8.50</a>'
        in folder.text("local.html")
    )
    assert not [name for name, content in tracked_files(folder).items() if b"127.0.0.1" in content]
    assert {"/local.html", "/local.csv"} <= set(folder.text(".gitignore").splitlines())


@pytest.mark.usefixtures("no_pictures")
def test_provenance_names_commits_digests_machines_and_commands(folder: Folder) -> None:
    record = a_record("kd", 2, 8.2)
    keep(
        folder.runs,
        replace(
            record,
            circumstances=record.circumstances
            | {"git": {"commit": "d" * 40, "dirty": True}, "cohort": ["kd", "cd"]},
        ),
    )
    folder.render()
    text = folder.text("report.md")
    assert "- **Environment**: device cpu · torch 2.10.0" in text
    assert "cdkd use digits" in text
    with (folder.target / "local.csv").open() as file:
        runs = {(row["method"], row["seed"]): row for row in csv.DictReader(file)}
    kd = runs["kd", "2"]
    assert (kd["cohort_seconds"], kd["cohort_size"], kd["dirty"]) == ("12.5", "2", "True")
    assert '<td class="words">dddddddddddd+</td>' in folder.text("local.html")


def tracked_files(folder: Folder) -> dict[str, bytes]:
    """What git keeps of a report."""
    return {
        path.relative_to(folder.target).as_posix(): path.read_bytes()
        for path in folder.target.rglob("*")
        if path.is_file() and path.name not in ("local.html", "local.csv")
    }


@pytest.mark.usefixtures("no_pictures")
def test_what_differs_from_run_to_run_is_in_local_files_alone(folder: Folder) -> None:
    """The same results, trained another day, at another commit and speed, and with other methods."""
    folder.render()
    before = tracked_files(folder)
    assert "metrics/kd.json" in before
    for path in folder.runs.glob("*/seed-*.json"):
        record = read(path)
        changed = {"started": "2027-02-03T04:05:06+00:00", "seconds": 99.5, "images_per_second": 7.0}
        changed |= {"latency_ms": 123.0, "cohort": ["a", "b"], "git": {"commit": None, "dirty": None}}
        keep(folder.runs, replace(record, circumstances=record.circumstances | changed))
    folder.render()
    assert tracked_files(folder) == before
    assert "2027-02-03" in folder.text("local.html")


@pytest.mark.usefixtures("no_pictures")
def test_a_cohort_has_one_time_and_no_method_a_share_of_it(folder: Folder) -> None:
    for method in ("student", "kd", "cd"):
        path = folder.runs / method / "seed-1.json"
        record = read(path)
        together = {"cohort": ["student", "kd", "cd"], "seconds": 30.0}
        keep(folder.runs, replace(record, circumstances=record.circumstances | together))
    folder.render()
    text = folder.text("local.html")
    assert text.count(">student, kd, cd<") == 1
    assert "10 s" not in text
    assert "seconds" not in folder.text("ablation.csv").splitlines()[0]


@pytest.mark.usefixtures("no_pictures")
def test_hostile_names_stay_in_their_places_in_the_page(tmp_path: Path) -> None:
    names = (HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7*7 }}{% raw %}", "é漢")
    folder = Folder(tmp_path, dict.fromkeys(names, CE), seeds=(0,))
    for name in names[1:]:  # the first has a slash in no place, the others no file either
        folder.params.methods[name] = CE
    folder.render({})
    text = folder.text("report.html")
    assert Outline(text).open == []
    assert re.findall(r"<(?:img|script)", text) == ["<script"]  # our own
    assert "{{ 7*7 }}" in text
    assert "49" not in re.findall(r"<th scope=\"row\">([^<]*)", text)


@pytest.mark.usefixtures("no_pictures")
def test_no_records_make_a_page_that_says_so(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"student": CE})
    shutil.rmtree(folder.runs)
    folder.render()
    text = folder.text("report.html")
    assert Outline(text).open == []
    assert "No records yet" in text
    assert "No student has a result yet." in text


@pytest.mark.usefixtures("no_pictures")
def test_a_method_that_a_search_has_still_to_give_is_a_row_that_says_so(folder: Folder) -> None:
    folder.params = folder.params.model_copy(update={"report": Report(ablation=("kd", "cd_tuned"))})
    folder.render()
    assert folder.cells("cd_tuned")[1] == "missing seeds 0, 1, 2"
    assert "cd_tuned: no search has produced this method yet" in folder.text("ablation.md").replace("\\", "")


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_thousand_records_are_all_counted(tmp_path: Path) -> None:
    names = [f"method_{index}" for index in range(40)]
    folder = Folder(
        tmp_path, {"student": CE, "kd": KD} | dict.fromkeys(names[2:], CE), seeds=tuple(range(25))
    )
    for name in folder.params.methods:
        (folder.runs / name).mkdir()
        for seed in range(25):
            record = examine(a_record(name, seed, epochs=12), {(0, 1): seed, (2, 0): 3})
            (folder.runs / name / f"seed-{seed}.json").write_text(record.text())
    folder.render()
    assert "Incomplete" not in folder.text("report.md")
    assert len(folder.text("differences.csv").splitlines()) == 1 + 2 * 39 + 40 * 39 // 2
