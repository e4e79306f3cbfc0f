"""The report on networks that were trained together: each of them, the ensembles, the cost, the figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdkd.core.group import Group
from cdkd.core.schedule import Method, Term, Weight
from cdkd.report.collect import collect
from cdkd.report.document import NONE, Grid
from cdkd.report.notes import formula, table_notes
from cdkd.report.peers_table import peers_tables
from cdkd.report.pictures.epochs import _shares
from cdkd.report.pictures.peers import peers
from cdkd.report.summary import Row, rows
from cdkd.report.wording import si_prefix
from cdkd.runs.record import Record
from tests.unit.test_report import CE, a_record, an_experiment, keep, today

GROUP = Group({"peer0": "resnet8", "peer1": "resnet8"}, "peer1", 2)


def of_group(record: Record, first: float) -> Record:
    """Errors of peer0 and of the ensemble besides those of the record, which are peer1's."""
    history = [
        row
        | {
            "peers": {"peer0": first, "peer1": row["test_top1_error"]},
            "ensembles": {"mean": first - 1},
            "diversity": 0.2,
        }
        for row in record.history
    ]
    result = record.result | {"trained": {"parameters": 150_000, "multiply_adds": 2_000_000}}
    config = dict(record.config) | {"group": GROUP.values()}
    return replace(record, history=history, result=result, config=config)


def found(root: Path, *, group: bool) -> dict[str, Row]:
    params = an_experiment(root, {"student": Method(CE), "dml": Method(CE)}, (0, 1))
    records = [a_record(name, seed, 5.0 + seed) for name in params.methods for seed in params.seeds]
    if group:
        records = [of_group(one, 7.0 + 2 * one.seed) if one.method == "dml" else one for one in records]
    keep(root / "runs", a_record("teacher", 0), *records)
    return rows(params, collect(params, today(params), root / "runs"))


def texts(grid: Grid) -> list[list[str]]:
    return [[cell.text for cell in row] for row in grid.rows]


def test_every_network_and_ensemble_is_in_the_line_of_its_method_and_so_is_the_cost(tmp_path: Path) -> None:
    errors, cost = peers_tables(list(found(tmp_path, group=True).values()))
    assert texts(errors) == [
        ["DML", "peer1 5.50 ± 0.71", "peer0 8.00 ± 1.41", "6.75 ± 1.06", "7.00 ± 1.41", "–", "0.200 ± 0.000"]
    ]
    ((method, networks, deployed, trained, adds, all_adds),) = texts(cost)
    assert (method, networks) == ("DML", "2 resnet8, stem and 2 stages in common")
    assert trained.startswith("150 k (×")
    assert all_adds.startswith("2.00 M (×")
    assert deployed != NONE
    assert adds != NONE


def test_a_deployed_network_that_is_larger_than_the_student_is_named(tmp_path: Path) -> None:
    lines = found(tmp_path, group=True)
    assert "larger network" not in peers_tables(list(lines.values()))[1].caption
    lines["dml"] = replace(lines["dml"], network="resnet8+css3", parameters=251_000)
    student = lines["student"].parameters
    assert student is not None
    caption = peers_tables(list(lines.values()))[1].caption
    assert (
        f" DML deploys resnet8+css3, 251 k parameters against the student's {si_prefix(student)}" in caption
    )
    assert caption.endswith(": its error is that of a larger network.")


def test_without_a_group_there_is_neither_table_nor_figure(tmp_path: Path) -> None:
    without = found(tmp_path, group=False)
    assert peers_tables(list(without.values())) == ()
    assert peers(without) is None


def test_the_figure_has_a_line_for_each_group_alone(tmp_path: Path) -> None:
    figure = peers(found(tmp_path, group=True))
    assert figure is not None
    over, last = figure.axes
    assert [text.get_text() for text in over.get_legend().get_texts()] == ["DML"]
    assert [label.get_text() for label in last.get_yticklabels()] == ["DML"]


def test_a_method_is_written_out_with_its_networks() -> None:
    one_after_the_other = Group({"peer0": "resnet8", "peer1": "resnet14"}, "peer1", update="alternate")
    assert formula(Method(CE, group=one_after_the_other)).endswith(
        "; networks: resnet8 and resnet14, updated one after the other; deployed: peer1"
    )
    averaged = Group(
        {f"peer{i}": "resnet8" for i in range(3)}, "peer0", 2, views=3, ema=0.999, evaluate="ema"
    )
    assert formula(Method(CE, group=averaged)).endswith(
        "; networks: 3 resnet8, stem and 2 stages in common, 3 views, moving averages 0.999;"
        " deployed: peer0's moving average"
    )
    assert formula(Method({"ce": Term(Weight(1.0, rise=1))})) == "1 ce (rises for 1 epoch)"


def test_the_shares_of_a_group_are_those_of_its_terms(tmp_path: Path) -> None:
    """A term has a loss for each network, and a rise is in the loss as well as in the weight."""
    method = Method({"ce": Term(Weight(0.5)), "mutual": Term(Weight(3.0, rise=2))}, group=GROUP)
    record = a_record("dml", 0)
    rise = method["mutual"].weight.rise_at
    history = [
        row
        | {
            "losses": {"ce:peer0": 1.0, "ce:peer1": 3.0, "mutual": 2.0 * rise(epoch)},
            "weights": {"ce": 0.5, "mutual": 3.0 * rise(epoch)},
        }
        for epoch, row in enumerate(record.history)
    ]
    params = an_experiment(tmp_path, {"dml": method}, (0,))
    keep(tmp_path / "runs", a_record("teacher", 0), replace(record, history=history))
    row = rows(params, collect(params, today(params), tmp_path / "runs"))["dml"]
    shares = _shares(row, method)
    assert list(shares) == ["ce", "mutual"]
    for epoch in range(len(history)):
        mutual = 6 * rise(epoch)
        assert shares["mutual"][epoch] == pytest.approx(100 * mutual / (2 + mutual), rel=1e-5)
        assert shares["ce"][epoch] + shares["mutual"][epoch] == pytest.approx(100)


def test_a_method_without_any_published_number_is_noted(tmp_path: Path) -> None:
    params = an_experiment(tmp_path, {"student": Method(CE), "css": Method(CE)}, (0,))
    shown = rows(params, collect(params, today(params), tmp_path / "runs")).values()
    assert "No published number of CSS can be reached, so none is shown" in table_notes(params, shown)
    assert not any("published number" in note for note in table_notes(params, list(shown)[:1]))


def test_the_network_of_a_row_is_the_deployed_one(tmp_path: Path) -> None:
    pair = Group({"t": "resnet14+css3", "s": "resnet8+css3"}, "s")
    params = an_experiment(tmp_path, {"student": Method(CE), "css": Method(CE, group=pair)}, (0,))
    found_rows = rows(params, collect(params, today(params), tmp_path / "runs"))
    assert found_rows["css"].network == "resnet8+css3"
    assert found_rows["student"].network == params.student.network
