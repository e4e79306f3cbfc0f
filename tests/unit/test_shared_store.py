"""The simulation of a shared store: what it must give where the answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.shared_store import Costs, main, simulated
from cdkd.storage.leases import BEATS, SECONDS


def test_a_server_is_as_busy_as_its_requests_are_long() -> None:
    renewals = Costs(claim=0, renew=0.01, save=0, put=0, resume=0)
    for cohorts in (10, 1000):
        busy, late = simulated(renewals, cohorts, runs=8, every=30, hours=4)
        assert busy == pytest.approx(cohorts * 0.01 * BEATS / SECONDS, rel=0.01)
    assert 0.01 < late < 1
    saves = Costs(claim=0, renew=0, save=1, put=0, resume=0)
    assert simulated(saves, 1, runs=6, every=30, hours=4)[0] == pytest.approx(6 / 30, rel=0.05)
    assert simulated(saves, 30, runs=6, every=30, hours=4)[0] > 0.99


def test_it_measures_and_says_where_the_limit_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--folder", str(tmp_path), "--rounds", "2", "--megabytes", "0.1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("claim ")
    assert lines[-1].startswith("the store is the limit from about ")
    assert list(tmp_path.iterdir()) == []
