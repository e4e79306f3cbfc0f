"""The report on networks that were trained together: each of them, the ensembles, the cost, the figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cdkd.core.group import Group
from cdkd.core.schedule import Method
from cdkd.report.collect import collect
from cdkd.report.peers_table import peers_table
from cdkd.report.pictures.peers import peers
from cdkd.report.summary import Row, rows
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


def test_every_network_and_ensemble_has_a_line_and_the_deployed_one_the_cost(tmp_path: Path) -> None:
    grid = peers_table(list(found(tmp_path, group=True).values()))
    assert grid is not None
    lines = [[cell.text for cell in row] for row in grid.rows]
    assert lines == [
        ["DML", "peer0", "8.00 ± 1.41", "", ""],
        ["DML", "peer1 (deployed)", "5.50 ± 0.71", "150 k", "2.00 M"],
        ["DML", "ensemble mean", "7.00 ± 1.41", "", ""],
    ]


def test_without_a_group_there_is_neither_table_nor_figure(tmp_path: Path) -> None:
    without = found(tmp_path, group=False)
    assert peers_table(list(without.values())) is None
    assert peers(without) is None


def test_the_figure_has_a_line_for_each_group_alone(tmp_path: Path) -> None:
    figure = peers(found(tmp_path, group=True))
    assert figure is not None
    over, last = figure.axes
    assert [text.get_text() for text in over.get_legend().get_texts()] == ["DML"]
    assert [label.get_text() for label in last.get_yticklabels()] == ["DML"]
