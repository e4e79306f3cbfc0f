"""Uncropped images: crops of the whole image in training, resize and centre crop in evaluation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdkd.config.schema import Augmentation
from cdkd.core.errors import BadData
from cdkd.data.batches import Batches, evaluation
from cdkd.data.crops import random_boxes
from cdkd.data.encoded_images import EncodedImages
from cdkd.data.load import load
from cdkd.data.prepared import SPLITS, Meta, read_meta
from cdkd.training.setup import split, training_split
from tests.unit.test_data import damages, encoded, from_folder, pictures, refusal, tree

CPU = torch.device("cpu")
CROP = Augmentation(resized_crop=12, flip=True)


def content() -> dict[str, bytes]:
    """Of many sizes; the third is grey."""
    return {
        name: encoded(i, (20 + 3 * i, 50 - i), "L" if i == 2 else "RGB") for i, name in enumerate(pictures())
    }


def made(target: Path, root: Path) -> Meta:
    return from_folder(target, tree(root, content()), size=16, uncropped=True)


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_images_are_stored_whole(tmp_path: Path) -> None:
    meta = made(tmp_path / "a", tmp_path / "x")
    assert (meta.image, meta.uncropped) == ((16, 16, 3), True)
    assert read_meta(tmp_path / "a") == meta == made(tmp_path / "b", tmp_path / "y")
    found = []
    for name in SPLITS:
        images, labels = load(tmp_path / "a", name)
        assert isinstance(images, EncodedImages)
        assert len(images) == len(labels) == meta.counts[name]
        found += [image.numpy().tobytes() for image in images.rows(torch.arange(len(images)))]
    assert sorted(found) == sorted(picture(data).tobytes() for data in content().values())
    every = np.concatenate([picture(d).reshape(-1, 3) for n, d in content().items() if n.startswith("train")])
    assert meta.mean == pytest.approx(tuple(every.mean(0) / 255), abs=6e-5)


def test_evaluation_is_torchvisions(tmp_path: Path) -> None:
    from torchvision.transforms import v2

    meta = made(tmp_path / "a", tmp_path / "x")
    transform = v2.Compose([v2.Resize(16), v2.CenterCrop(12)])
    batch = next(evaluation(split(tmp_path / "a", meta, CPU, "test"), CROP))
    names = sorted(name for name in content() if name.startswith("test"))
    for image, name in zip(batch.images, names, strict=True):
        want = np.asarray(transform(Image.open(io.BytesIO(content()[name])).convert("RGB"))) / 255
        expected = (want - np.array(meta.mean)) / np.array(meta.std)
        assert np.allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-4)


def test_training_crops_come_from_the_whole_image(tmp_path: Path) -> None:
    """Columns hold their own position, so that a crop shows where it is from."""
    wide = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (40, 240, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(wide)).save(buffer, "PNG")
    folder = tree(tmp_path / "x", dict.fromkeys(pictures(), buffer.getvalue()))
    meta = from_folder(
        tmp_path / "a", folder, size=16, uncropped=True, normalisation={"mean": [1e-9], "std": [1.0]}
    )
    batches = Batches(training_split(tmp_path / "a", meta, CPU), CROP, 6)
    seen = [batch.images for epoch in range(20) for batch in batches.epoch(0, epoch)]
    columns = torch.cat(seen)[:, 0] * 255
    assert columns.min() < 60  # the centre square of 40 columns begins at 100
    assert columns.max() > 180
    again = [batch.images for epoch in range(20) for batch in batches.epoch(0, epoch)]
    assert all(torch.equal(one, other) for one, other in zip(seen, again, strict=True))


def test_boxes_of_thin_images_are_centred_and_of_an_allowed_ratio() -> None:
    boxes = random_boxes([(10, 1000), (1000, 10)] * 50, torch.Generator().manual_seed(0))
    assert (0, 493, 10, 13) in boxes
    assert (493, 0, 13, 10) in boxes


def test_damage_is_named_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    meta = made(tmp_path / "a", tmp_path / "x")
    path = tmp_path / "a" / "test.safetensors"
    good = path.read_bytes()
    for data in damages(good).values():
        path.write_bytes(data)
        assert str(path) in refusal(lambda: load(tmp_path / "a", "test"))
    path.write_bytes(good)
    images, _ = load(tmp_path / "a", "test")
    assert isinstance(images, EncodedImages)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "image 8 is damaged" in refusal(lambda: images.rows(torch.tensor([8])))
    with pytest.raises(BadData, match=r"training.augmentation.resized_crop"):
        Batches(training_split(tmp_path / "a", meta, CPU), Augmentation(), 6)
    bad = tree(tmp_path / "y", content() | {"train/ant/bad.png": b"x"})
    text = refusal(lambda: from_folder(tmp_path / "new", bad, size=16, uncropped=True))
    assert "1 of 28 images cannot be read" in text
    assert not (tmp_path / "new").exists()
