"""`search: {every: ...}`: the same budget for each method, and tuned rows beside tuned rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdkd.config.params import Params, load
from cdkd.core.errors import BadParams
from cdkd.core.schedule import Method, Term, Weight
from cdkd.report.collect import FoundRun
from cdkd.report.summary import rows
from cdkd.report.tables import method_table, overview
from cdkd.report.wording import decimals
from tests.unit.test_params import GOOD
from tests.unit.test_report import a_record


def params_of(tmp_path: Path, search: str) -> Params:
    (tmp_path / "params.yaml").write_text(f"{GOOD}search: {search}\n")
    return load(tmp_path / "params.yaml")


def test_every_method_has_a_study_of_the_same_budget(tmp_path: Path) -> None:
    params = params_of(tmp_path, "{every: {trials: 5, seeds: [7, 8]}}")
    assert list(params.search) == ["every_student", "every_kd", "every_edt"]
    for space in params.search.values():
        assert (space.trials, space.trial_epochs, space.study.seeds) == (5, 4, (7, 8))
        assert space.study.method == f"{space.study.base}_tuned"
    spaces = {name: one.study.space for name, one in params.search.items()}
    rate = spaces["every_student"].pop("training.learning_rate")
    assert (rate.low, rate.high, rate.log) == (0.05 / 4, 0.05 * 4, True)
    assert not spaces["every_student"]  # cross-entropy alone: its weight is a learning rate
    weight = spaces["every_edt"]["cd.weight"]
    assert (weight.low, weight.high, weight.log) == (6 / 8, 6 * 8, True)
    assert "ce.weight" not in spaces["every_edt"]
    # trial 0 is the method as it stands
    assert params.search["every_edt"].base == {"training.learning_rate": 0.05, "cd.weight": 6.0}


def test_methods_and_spaces_can_be_given_and_other_studies_stay(tmp_path: Path) -> None:
    own = "own: {base: edt, space: {cd.decay: {low: 0.5, high: 1}}}"
    every = "every: {trials: 4, methods: [kd], space: {kd: {kd.temperature: {low: 1, high: 8}}}}"
    params = params_of(tmp_path, f"{{{own}, {every}}}")
    assert list(params.search) == ["own", "every_kd"]
    assert list(params.search["every_kd"].study.space) == ["kd.temperature"]


@pytest.mark.parametrize(
    ("search", "what"),
    [
        ("{every: 3}", "search.every: 3; expected a section with trials, such as {trials: 16}"),
        ("{every: {trial: 4}}", "search.every: {'trial': 4}; expected a section with trials"),
        ("{every: {trials: 0}}", "search.every_kd.trials: 0; expected more than 0"),
        (
            "{every: {trials: 4, methods: [kdd]}}",
            "search.every.methods[0]: no method 'kdd' (did you mean 'kd'?)",
        ),
        ("{every: {trials: 4, space: {xx: {}}}}", "search.every.space.xx: no method 'xx'"),
        ("{every: {trials: 4, spaces: {}}}", "search.every_kd.spaces: unknown key (did you mean 'space'?)"),
        (
            "{every: {trials: 4}, a: {base: kd, method: kd_tuned, space: {kd.weight: {low: 0.1, high: 1}}}}",
            "search.every: kd_tuned is the method of another study too; leave kd out of `methods`",
        ),
    ],
)
def test_faults_are_named(tmp_path: Path, search: str, what: str) -> None:
    with pytest.raises(BadParams) as caught:
        params_of(tmp_path, search)
    assert what in str(caught.value)


def test_tuned_rows_are_compared_with_tuned_rows_and_show_their_budget(tmp_path: Path) -> None:
    params = params_of(tmp_path, "{every: {trials: 5, methods: [student, kd]}}")
    tuned = {f"{name}_tuned": params.methods[name] for name in ("student", "kd")}
    params = params.model_copy(update={"methods": params.methods | tuned})
    found = {
        method: tuple(FoundRun(method, seed, "ok", a_record(method, seed)) for seed in (0, 1, 2))
        for method in ("teacher", *params.methods)
    }
    made = rows(params, found, dict.fromkeys(tuned, "tuned"))
    assert set(made["edt"].minus) == {"kd", "student"}
    assert set(made["kd_tuned"].minus) == {"student_tuned"}
    assert set(made["student_tuned"].minus) == {"kd_tuned"}
    assert made["kd"].minus["student"].family == 2  # kd and edt; without the tuned row
    table = method_table("comparison", "Comparison", list(made.values()))
    place = [column.title for column in table.columns].index("Search: trials × epochs")
    budgets = {row[0].text: row[place].text for row in table.rows}
    assert budgets["KD (tuned)"] == "5 × 4 epochs"
    assert budgets["KD"] == "–"
    first = overview(list(made.values()))
    lines = {row[0].text: [cell.text for cell in row[2:]] for row in first.rows}
    assert lines["KD"] == ["–", "baseline", "–"]
    assert lines["KD (tuned)"] == ["–", "baseline", "5 × 4 epochs"]
    mean = made["student_tuned"].minus["kd_tuned"].mean
    assert mean is not None
    assert lines["Student (tuned)"][0] == decimals(mean, sign=True)
    assert "Tuned methods: to KD (tuned)" in first.caption


def test_a_tuned_row_of_another_name_is_a_tuned_row_too(tmp_path: Path) -> None:
    space = "{cd.weight: {low: 1, high: 9}}"
    own = f"own: {{base: edt, method: best, space: {space}}}"
    params = params_of(tmp_path, f"{{every: {{trials: 5, methods: [student, kd]}}, {own}}}")
    tuned = {"student_tuned": params.methods["student"], "kd_tuned": params.methods["kd"]}
    params = params.model_copy(update={"methods": params.methods | tuned | {"best": params.methods["edt"]}})
    found = {
        name: tuple(FoundRun(name, seed, "ok", a_record(name, seed)) for seed in (0, 1, 2))
        for name in ("teacher", *params.methods)
    }
    assert set(rows(params, found)["best"].minus) == {"kd_tuned", "student_tuned"}


def test_without_every_a_tuned_row_is_compared_as_before(tmp_path: Path) -> None:
    space = "{cd.weight: {low: 1, high: 9}}"
    params = params_of(tmp_path, f"{{own: {{base: edt, method: edt_tuned, space: {space}}}}}")
    method = Method({"ce": Term(Weight(1.0))})
    params = params.model_copy(update={"methods": params.methods | {"edt_tuned": method}})
    found = {
        name: tuple(FoundRun(name, seed, "ok", a_record(name, seed)) for seed in (0, 1, 2))
        for name in ("teacher", *params.methods)
    }
    assert set(rows(params, found)["edt_tuned"].minus) == {"kd", "student"}
