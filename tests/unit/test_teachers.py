"""Several teachers of one experiment: what params.yaml says, which runs they are, what the report infers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdkd.config.params import Params, load
from cdkd.config.paths import run_folder, runs_folder
from cdkd.config.teachers import key_of, run_name, view_of, views, views_of
from cdkd.core.errors import BadParams
from cdkd.core.run_spec import RunSpec
from cdkd.data.prepared import Meta
from cdkd.pipeline.controls import equal_epochs, matching_smoothing, smoothed_entropy
from cdkd.report.collect import FoundRun, collect, label
from cdkd.report.committed import committed_runs
from cdkd.report.crossed import Crossed
from cdkd.report.csv_files import comma_separated
from cdkd.report.headline import headline
from cdkd.report.method_names import paper_names
from cdkd.report.over_teachers import compare_runs, split_of, summarise_runs
from cdkd.report.provenance import methods_paragraph, run_quantities
from cdkd.report.statistics import compare, summarise
from cdkd.report.summary import rows
from cdkd.report.tables import overview
from cdkd.report.teacher_tables import teacher_quantities
from cdkd.report.wording import interval_text, verdict
from cdkd.runs.record import Record
from cdkd.runs.specification import student_plan, teacher_plan
from cdkd.storage.files import write_atomically
from cdkd.tracking import fields
from tests.unit.test_params import GOOD
from tests.unit.test_report import a_record

OTHERS = "others: {own: {network: resnet8, training: {epochs: 4}}, blank: {untrained: true}}"
DATA = Meta("digits", tuple("0123456789"), (8, 8, 1), {}, {}, (0.3,), (0.3,), {}, 0, "0" * 64)


def params_of(tmp_path: Path, teacher: str, methods: str = "") -> Params:
    path = tmp_path / "params.yaml"
    text = GOOD.replace("network: resnet14, ", f"network: resnet14, {teacher}")
    path.write_text(text.replace("  edt:", f"{methods}  edt:"))
    return load(path)


def faults(tmp_path: Path, teacher: str, methods: str = "") -> list[str]:
    with pytest.raises(BadParams) as caught:
        params_of(tmp_path, teacher, methods)
    return [line.split(": ", 1)[1] for line in str(caught.value).splitlines()[1:]]


def a_teacher(weights: str) -> Record:
    return Record("t", "small", "teacher", 0, "finished", {}, [], {"weights_sha256": weights}, {})


def plans_of(view: Params) -> tuple[RunSpec, RunSpec]:
    return teacher_plan(view, DATA), student_plan(view, DATA, a_teacher("ab"), "kd", 1)


@pytest.mark.parametrize("lone", ["seed: 3, ", "seeds: [3], "])
def test_a_lone_seed_is_one_view_with_todays_folders_and_fingerprints(lone: str, tmp_path: Path) -> None:
    params = params_of(tmp_path, lone)
    (view,) = views(params)
    assert views(view) == (view,)
    assert list(view.methods) == list(params.methods)
    assert run_folder(view, "kd") == runs_folder(params) / "kd"
    assert key_of(view, "kd", 1) == ("kd", 1)
    for plan in plans_of(view):
        text = repr(plan.config)
        assert "untrained" not in text
        assert "others" not in text
    (usual,) = views(params_of(tmp_path, "seed: 3, "))
    for one, other in zip(plans_of(view), plans_of(usual), strict=True):
        assert one.fingerprint == other.fingerprint


def test_a_report_says_which_teacher_is_in_train_mode(tmp_path: Path) -> None:
    others = "others: {moving: {network: resnet8, batchnorm: train}}, "
    params = params_of(tmp_path, others, "  kd_train_mode: {teacher: moving, kd: {weight: 1}}\n")
    found = collect(params, {}, tmp_path)
    assert found["kd_train_mode"][0].source == "moving (resnet8, BatchNorm in train mode)"
    assert not found["kd"][0].source
    assert paper_names(["kd_train_mode"]) == {"kd_train_mode": "KD (teacher in train mode)"}


def test_several_seeds_give_the_runs_that_each_would_give_alone(tmp_path: Path) -> None:
    several = views(params_of(tmp_path, "seeds: [0, 5], "))
    alone = [views(params_of(tmp_path, f"seed: {seed}, "))[0] for seed in (0, 5)]
    for view, lone in zip(several, alone, strict=True):
        assert teacher_plan(view, DATA).fingerprint == teacher_plan(lone, DATA).fingerprint
        theirs = [student_plan(one, DATA, a_teacher("ab"), "kd", 1).fingerprint for one in (view, lone)]
        assert theirs[0] == theirs[1]
    assert student_plan(several[0], DATA, a_teacher("cd"), "kd", 1).fingerprint != theirs[0]
    folders = [run_folder(view, "kd") for view in several]
    assert [folder.name for folder in folders] == ["teacher-0", "teacher-5"]
    assert [key_of(view, "kd", 1) for view in several] == [("kd", (0, 1)), ("kd", (5, 1))]
    assert [run_name(view, "kd", 1) for view in several] == [
        "kd seed 1 of teacher seed 0",
        "kd seed 1 of teacher seed 5",
    ]
    params = params_of(tmp_path, f"seeds: [0, 5], {OTHERS}, ")
    assert view_of(params, "kd", "5").teacher.seed == 5
    assert view_of(params, "kd", None).teacher.seed == 0
    assert view_of(params, "teacher", "blank").taught_by == "blank"
    assert run_name(view_of(params, "teacher", "blank"), "teacher", 5) == "teacher blank seed 5"
    for method, teacher, known in (("kd", "1", "0, 5"), ("teacher", "5", "teacher, own, blank")):
        with pytest.raises(BadParams, match=f"{method}: no teacher '{teacher}'; expected one of {known}$"):
            view_of(params, method, teacher)


def test_mlflow_names_the_teacher_where_there_are_several(tmp_path: Path) -> None:
    run = student_plan(views(params_of(tmp_path, ""))[0], DATA, a_teacher("ab"), "kd", 1)
    assert fields.name(run, {}) == "kd · seed 1"
    assert fields.name(run, {"teacher_seed": 3}) == "kd · seed 1 · teacher 3"
    assert fields.tags(run, {"teacher_seed": 3})["teacher.seed"] == "3"
    assert "teacher.seed" not in fields.tags(run, {})


def test_the_number_of_runs_counts_the_teachers(tmp_path: Path) -> None:
    assert params_of(tmp_path, "seeds: [0, 5], ").runs == 3 * 2 * 2
    assert params_of(tmp_path, "").runs == 3 * 2


def test_methods_learn_from_the_teacher_that_they_name(tmp_path: Path) -> None:
    methods = "  kd_own: {teacher: own, kd: {weight: 1}}\n  kd_blank: {teacher: blank, kd: {weight: 1}}\n"
    params = params_of(tmp_path, f"{OTHERS}, ", methods)
    main, own, blank = views(params)
    assert list(main.methods) == ["student", "kd", "edt"]
    assert views_of(params, "kd_own") == (own,)
    assert (own.teacher.network, own.teacher.training.epochs, own.teacher.untrained) == ("resnet8", 4, False)
    assert (blank.teacher.network, blank.teacher.untrained) == ("resnet14", True)
    assert student_plan(own, DATA, a_teacher("ab"), "kd_own", 0).config["teacher"]["network"] == "resnet8"
    plans = [teacher_plan(view, DATA) for view in (main, own, blank)]
    assert len({plan.fingerprint for plan in plans}) == 3
    assert plans[2].config["training"] is None
    assert run_folder(blank, "teacher") == runs_folder(params) / "teacher" / "blank"


def test_a_method_has_epochs_of_its_own_and_shares_are_of_those(tmp_path: Path) -> None:
    methods = "  long: {epochs: 10, ce: {weight: 1, milestones: [0.5], decay: 0.1}}\n"
    params = params_of(tmp_path, "", methods)
    assert params.methods["long"]["ce"].weight.milestones == (5,)
    assert (params.recipe("long").epochs, params.recipe("kd").epochs) == (10, 4)
    plan = student_plan(views(params)[0], DATA, a_teacher("ab"), "long", 0)
    assert plan.recipe.epochs == 10
    assert (
        plan.config["training"].keys()
        == student_plan(params, DATA, a_teacher("ab"), "kd", 0).config["training"].keys()
    )


@pytest.mark.parametrize(
    ("teacher", "methods", "what"),
    [
        ("seed: 1, seeds: [1, 2], ", "", "teacher.seed: 1 together with seeds; expected one of the two"),
        ("seeds: [1, 1], ", "", "teacher.seeds[1]: 1 again; expected each seed once"),
        ("others: [own], ", "", "teacher.others: ['own']; expected named teachers"),
        ("others: {own: {seed: 1}}, ", "", "teacher.others.own.seed: unknown key; expected one of network"),
        ("others: {own: {network: resnet9}}, ", "", "teacher.others.own.network"),
        (
            f"{OTHERS}, ",
            "  m: {teacher: owm, kd: {weight: 1}}\n",
            "methods.m.teacher: no such teacher 'owm' (did",
        ),
        ("", "  m: {teacher: own, kd: {weight: 1}}\n", "has none: teacher.others is empty"),
        (
            "",
            "  m: {epochs: 0.5, ce: {weight: 1}}\n",
            "methods.m.epochs: 0.5; expected a whole number of epochs",
        ),
        (
            "",
            "  m: {epochs: 1, ce: {weight: 1}}\n",
            "methods.m.epochs: 1: makes training.milestones [2] beyond",
        ),
        (
            "untrained: true, weights: a.safetensors, sha256: " + "a" * 64 + ", ",
            "",
            "teacher.untrained: true together with weights",
        ),
    ],
)
def test_faults_are_named_with_their_places(tmp_path: Path, teacher: str, methods: str, what: str) -> None:
    assert any(what in fault for fault in faults(tmp_path, teacher, methods))


# ---- what is inferred


def drawn(generator: np.random.Generator, teachers: int, seeds: int, *sigmas: float) -> dict[Any, float]:
    """Values with mean 0 whose teachers, seeds and rest have these standard deviations."""
    of_teacher, of_seed, rest = sigmas
    by_teacher, by_seed = generator.normal(0, of_teacher, teachers), generator.normal(0, of_seed, seeds)
    return {
        (t, s): float(by_teacher[t] + by_seed[s] + generator.normal(0, rest))
        for t in range(teachers)
        for s in range(seeds)
    }


def test_the_split_is_the_one_that_was_drawn() -> None:
    generator = np.random.default_rng(0)
    found = [split_of(drawn(generator, 8, 10, 1.0, 0.5, 0.25)) for _ in range(1000)]
    squares = {
        part: np.mean([one[part] ** 2 for one in found if one]) for part in ("teacher", "seed", "rest")
    }
    assert squares["teacher"] == pytest.approx(1, rel=0.1)
    assert squares["seed"] == pytest.approx(0.25, rel=0.1)
    assert squares["rest"] == pytest.approx(0.0625, rel=0.1)


def test_students_of_one_teacher_are_not_independent_values() -> None:
    """No true difference, teachers that differ: a t test of all students finds one far too often."""
    generator, ours, naive = np.random.default_rng(1), 0, 0
    for _ in range(500):
        values = drawn(generator, 3, 5, 1.0, 0.2, 0.3)
        ours += (compare_runs({"kd": values})["kd"].p or 1) < 0.05
        naive += (compare({"kd": list(values.values())})["kd"].p or 1) < 0.05
    assert ours / 500 < 0.07
    assert naive / 500 > 0.3


def test_with_one_teacher_everything_is_over_seeds() -> None:
    values: dict[Any, float] = {0: 1.0, 1: 1.5, 2: 0.7}
    assert compare_runs({"kd": values}) == compare({"kd": [1.0, 1.5, 0.7]})
    assert summarise_runs(values) == summarise([1.0, 1.5, 0.7])
    assert split_of(values) is None
    assert (label(3), label((1, 3))) == ("seed 3", "teacher 1, seed 3")


def test_a_mean_over_teachers_has_the_interval_of_the_crossed_table() -> None:
    values = drawn(np.random.default_rng(2), 2, 3, 1.0, 1.0, 1.0)
    table = np.array([[values[t, s] for s in range(3)] for t in range(2)])
    found, both = summarise_runs(values), Crossed(table).interval("both")
    assert both is not None
    assert (found.low, found.high, found.n) == (both.low, both.high, 6)
    del values[1, 2]  # a seed that a teacher lacks: the interval is of the others
    assert summarise_runs(values).low == Crossed(table[:, :2]).interval("both").low  # type: ignore[union-attr]
    del values[1, 1]
    assert summarise_runs(values).low is None
    for what, keys in (("seed", [(0, 1), (1, 1)]), ("teacher", [(0, 1), (0, 2)])):
        found = compare_runs({"kd": {key: float(key[0] + key[1]) for key in keys}})["kd"]
        assert found.verdict == f"one_{what}"
        assert verdict(found, "KD").endswith(f"one {what}: no test possible")
        assert interval_text(found) == f"none (one {what})"
    assert compare_runs({"kd": dict.fromkeys(values, 1.0)})["kd"].verdict == "one_seed"
    values[1, 1] = values[0, 1] + 1
    same = compare_runs({"kd": dict.fromkeys(values, 1.0)})["kd"]
    assert verdict(same, "KD") == "the same difference for every seed: no test possible"


def test_the_report_collects_the_students_of_each_teacher(tmp_path: Path) -> None:
    params = params_of(tmp_path, "seeds: [0, 5], ")
    generator, expected = np.random.default_rng(3), dict[Any, str]()
    for view in views(params):
        for method in ("teacher", *view.methods):
            for seed in (view.teacher.seed,) if method == "teacher" else params.seeds:
                key = key_of(view, method, seed)
                record = a_record(method, seed, float(5 + generator.normal()), fingerprint=repr(key))
                expected[key] = record.fingerprint
                path = tmp_path / run_folder(view, method).relative_to(tmp_path.resolve())
                write_atomically(path / f"seed-{seed}.json", record.text())
    found = collect(params, expected, runs_folder(params))
    assert [run.seed for run in found["teacher"]] == [0, 5]
    assert [(run.state, run.key) for run in found["kd"]] == [("ok", (t, s)) for t in (0, 5) for s in (0, 1)]
    made = rows(params, found)
    (line,) = [one for one in teacher_quantities(list(made.values()), ("kd",)) if one["method"] == "edt"]
    errors = [[made[m].errors[t, s] for t in (0, 5) for s in (0, 1)] for m in ("edt", "kd")]
    table = Crossed(np.subtract(*errors).reshape(2, 2))
    assert line["mean"] == pytest.approx(table.mean)
    assert line["std_teacher"] == pytest.approx(math.sqrt(table.rows))
    both = table.interval("both")
    assert both is not None
    assert made["edt"].minus["kd"].low == pytest.approx(both.low)
    assert isinstance(found["kd"][0], FoundRun)
    path = tmp_path / "report" / "runs.csv"
    write_atomically(path, comma_separated(run_quantities(list(made.values()))))
    committed = committed_runs(path.parent, "small")
    assert committed is not None
    assert {name: [run.key for run in runs] for name, runs in committed.items()} == {
        name: [run.key for run in runs] for name, runs in found.items()
    }
    students = [row for name, row in made.items() if name != "teacher"]
    first, *others = (block.text for block in headline(made))
    assert "(mean over 2 teachers × 2 seeds)" in first
    assert any(text.startswith("Intervals and tests are over teachers and seeds") for text in others)
    assert "over teachers and seeds: two-way random effects" in methods_paragraph(params, students).text
    assert verdict(made["edt"].minus["kd"], "KD").partition(";")[1] == ""  # no number of seeds is estimated
    assert "every interval and test here is over teachers and seeds" in overview(students).caption


def test_with_one_teacher_no_text_speaks_of_teachers(tmp_path: Path) -> None:
    params = params_of(tmp_path, "")
    found = {
        name: tuple(FoundRun(name, seed, "ok", a_record(name, seed)) for seed in (0, 1))
        for name in ("teacher", *params.methods)
    }
    made = rows(params, found)
    texts = [*(block.text for block in headline(made)), overview(list(made.values())).caption]
    texts.append(methods_paragraph(params, list(made.values())).text)
    assert "(mean over 2 seeds)" in texts[0]
    assert "no epoch was chosen on the test split" in texts[-1]  # more than that the program cannot know
    assert not any("teachers" in text for text in texts)


# ---- the numbers of controls


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("smoothing", [0.001, 0.1, 0.9])
def test_the_matching_smoothing_has_the_entropy(classes: int, smoothing: float) -> None:
    target = np.full(classes, smoothing / classes)
    target[0] += 1 - smoothing
    entropy = -(target * np.log(target)).sum()
    assert smoothed_entropy(smoothing, classes) == pytest.approx(entropy)
    assert matching_smoothing(entropy, classes) == pytest.approx(smoothing, rel=1e-6)


def test_the_ends_of_smoothing() -> None:
    assert matching_smoothing(0.0, 10) == pytest.approx(0, abs=1e-9)
    assert matching_smoothing(math.log(10), 10) == pytest.approx(1, abs=1e-6)


def test_epochs_of_equal_cost() -> None:
    assert [equal_epochs(cost, 10) for cost in (100, 104, 105, 1)] == [10, 10, 11, 1]
