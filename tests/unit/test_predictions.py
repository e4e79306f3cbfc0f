"""Per-image predictions: their bytes, their place in the store, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cdkd.config.schema import Training
from cdkd.core.errors import BadCheckpoint
from cdkd.data.batches import Split
from cdkd.models.build import build
from cdkd.runs.predictions import (
    KEY,
    RECORD,
    Predictions,
    predict,
    predictions_file,
    read_predictions,
    sha256_of,
)
from cdkd.runs.record import Record
from cdkd.runs.store import Store
from cdkd.training.evaluation import Evaluation
from tests.unit.test_store import WEIGHTS, a_record, flipped

KNOWN = Predictions(
    np.array([0, 1, 2, 1], np.uint8), np.array([0, 2, 2, 1], np.uint8), np.array([0.9, 0.1, 0.5, 1], "f2")
)


def with_predictions(seed: int = 0) -> Record:
    record = a_record(seed=seed)
    return replace(record, result=record.result | {KEY: sha256_of(KNOWN.content())})


def test_they_are_what_the_evaluation_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (70, 8, 8, 1), generator=generator).to(torch.uint8)
    labels = torch.randint(10, (70,), generator=generator)
    split = Split(images, labels, (0.5,), (0.25,), torch.device("cpu"))
    torch.manual_seed(0)
    model, evaluation = build("resnet8", 10, 1), Evaluation(split, Training(epochs=1, batch=16).resolved)
    found, row = predict(model, evaluation), evaluation.row(model)
    assert 100 * found.wrong.mean() == pytest.approx(row["test_top1_error"])
    assert np.array_equal(found.label, labels.numpy())
    cross_entropy = -np.log(found.probability.astype(float)).mean()
    assert cross_entropy == pytest.approx(row["test_loss"], rel=1e-3)  # half precision
    assert (found.predicted.dtype, found.probability.dtype) == (np.uint8, np.float16)
    assert found.content() == predict(model, evaluation).content()
    assert len(found.content()) < 4 * 70 + 300


def test_more_classes_need_more_bytes() -> None:
    split = Split(
        torch.zeros(3, 8, 8, 1, dtype=torch.uint8),
        torch.tensor([0, 299, 7]),
        (0.5,),
        (1.0,),
        torch.device("cpu"),
    )
    found = predict(build("resnet8", 300, 1), Evaluation(split, Training(epochs=1, batch=2).resolved))
    assert found.label.dtype == np.uint16
    assert found.label.tolist() == [0, 299, 7]


def test_the_store_keeps_them_and_copies_them_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(with_predictions(), WEIGHTS, KNOWN.content())
    record = store.get(with_predictions().fingerprint)
    assert record is not None
    store.copy_out(record, tmp_path / "kd")
    names = {path.name for path in (tmp_path / "kd").iterdir()}
    assert names == {"seed-0.json", "seed-0.safetensors", "seed-0.predictions.safetensors"}
    for path in (tmp_path / "kd" / "seed-0.json", store.folder / record.fingerprint / RECORD):
        found = read_predictions(path, record)
        assert found is not None
        assert np.array_equal(found.probability, KNOWN.probability)
        assert found.wrong.tolist() == [False, True, False, False]


def test_a_run_that_lacks_them_gets_its_own_only(tmp_path: Path) -> None:
    store, record = Store(tmp_path), with_predictions()
    store.put(record, WEIGHTS)
    place = store.folder / record.fingerprint / RECORD
    assert read_predictions(place, record) is None
    store.put(record, None, b"of another run")
    assert not predictions_file(place).exists()
    store.put(record, None, KNOWN.content())
    assert predictions_file(place).read_bytes() == KNOWN.content()


def test_an_older_record_is_read_and_has_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(a_record(), WEIGHTS)
    record = store.get(a_record().fingerprint)
    assert record == a_record()
    assert read_predictions(store.folder / record.fingerprint / RECORD, record) is None


def test_damage_is_named(tmp_path: Path) -> None:
    store, record = Store(tmp_path), with_predictions()
    store.put(record, WEIGHTS, KNOWN.content())
    place = store.folder / record.fingerprint / RECORD
    flipped(predictions_file(place))
    with pytest.raises(BadCheckpoint, match=r"predictions\.safetensors: damaged"):
        read_predictions(place, record)
    assert store.get(record.fingerprint) == record  # nothing is trained again for them
    sealed = replace(record, result=record.result | {KEY: sha256_of(b"text")})
    predictions_file(place).write_bytes(b"text")
    with pytest.raises(BadCheckpoint, match="not a run's predictions"):
        read_predictions(place, sealed)
