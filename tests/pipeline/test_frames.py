"""The store as pandas tables, and the notebook that draws from them."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest

from cdkd import PLACES, read_epochs, read_runs
from cdkd.losses import signature
from tests.clone import Clone
from tests.pipeline.test_doctor import copied, finished_checkout

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).parents[2] / "docs" / "figure.ipynb"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return finished_checkout(tmp_path_factory)


def test_the_tables_have_the_records_numbers(finished: Clone) -> None:
    runs, epochs = read_runs(finished.folder), read_epochs(finished.folder)
    assert sorted(runs.method) == ["kd", "student", "teacher"]
    assert set(runs.status) == {"finished"}
    kd, record = runs[runs.method == "kd"].iloc[0], finished.record("kd")
    assert kd.fingerprint == record["fingerprint"]
    assert kd.test_top1_error == record["result"]["last"]["test_top1_error"]
    assert kd.weights_kd == record["history"][-1]["weights"]["kd"]
    rows = epochs[epochs.fingerprint == record["fingerprint"]]
    assert list(rows.test_loss) == [row["test_loss"] for row in record["history"]]


def test_an_empty_store_gives_empty_tables(tmp_path: Path) -> None:
    assert read_runs(tmp_path).empty
    assert read_epochs(tmp_path).empty


def test_the_notebook_runs_and_draws(
    finished: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = copied(finished, tmp_path)
    monkeypatch.chdir(clone.folder)
    matplotlib.use("agg")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert all(not cell.get("outputs") for cell in cells)
    exec(compile(code, NOTEBOOK.name, "exec"), {})
    assert (clone.folder / "errors-over-epochs.png").stat().st_size > 10_000


@pytest.mark.parametrize("loss", signature.built_in())
def test_every_loss_has_a_public_function(loss: str) -> None:
    assert f"losses.{loss}" in PLACES.values()
