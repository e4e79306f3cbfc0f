"""Batches are functions of (seed, epoch, step); every image comes once an epoch; augmentation."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdkd.config.schema import Augmentation, Data
from cdkd.core.errors import BadData
from cdkd.core.randomness import stream
from cdkd.data.batches import Batches, Split, evaluation, order
from cdkd.data.crops import random_boxes
from cdkd.data.prepare import prepare
from cdkd.data.prepared import read_meta
from cdkd.training.setup import training_split

CPU = torch.device("cpu")


def split(images: int = 23, side: int = 8, channels: int = 3) -> Split:
    pixels = torch.randint(
        256, (images, side, side, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return Split(pixels, torch.arange(images) % 7, (0.5,) * channels, (0.25,) * channels, CPU)


@given(images=st.integers(2, 300), batch=st.integers(2, 70), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_every_image_once_an_epoch_and_never_alone(images: int, batch: int, seed: int, epoch: int) -> None:
    steps = order(images, batch, seed, epoch)
    assert sorted(torch.cat(steps).tolist()) == list(range(images))
    assert all(2 <= len(step) <= batch + 1 for step in steps)
    assert all(len(step) == batch for step in steps[:-1])


def test_batches_depend_on_seed_and_epoch_and_nothing_else() -> None:
    batches = Batches(split(), Augmentation(pad=2, flip=True), 8)

    def images(seed: int, epoch: int) -> torch.Tensor:
        return torch.cat([batch.images for batch in batches.epoch(seed, epoch)])

    once = images(3, 5)
    torch.manual_seed(12345)
    assert torch.equal(once, images(3, 5))
    assert not torch.equal(once, images(3, 6))
    assert not torch.equal(once, images(4, 5))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_is_a_window_of_the_padded_image(padding: str, flip: bool) -> None:
    """Against NumPy's own padding: each image is one of the windows, flipped or not, normalised."""
    data = split(channels=1)
    augmentation = Augmentation(pad=2, padding=padding, flip=flip)  # type: ignore[arg-type]
    corners, flips = set(), set()
    for batch in Batches(data, augmentation, 8).epoch(0, 0):
        for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
            assert label == data.labels[index]
            original = data.images[index, :, :, 0].numpy()
            padded = np.pad(original, 2, mode="constant" if padding == "zeros" else "reflect")
            pixels = (image[0].numpy() * 0.25 + 0.5) * 255
            found = [
                (top, left, mirrored)
                for top in range(5)
                for left in range(5)
                for mirrored in (False, True)
                if np.allclose(
                    padded[top : top + 8, left : left + 8][:, :: -1 if mirrored else 1], pixels, atol=1e-3
                )
            ]
            assert len(found) == 1
            corners.add(found[0][:2])
            flips.add(found[0][2])
    assert len(corners) > 10  # the corners do vary
    assert flips == ({False, True} if flip else {False})


def test_images_are_normalised_and_channels_last() -> None:
    data = split()
    batch = next(evaluation(data, Augmentation(pad=4)))
    expected = (data.images.numpy() / 255.0 - 0.5) / 0.25
    assert np.allclose(batch.images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_resized_crop() -> None:
    data = split(side=32)
    augmentation = Augmentation(resized_crop=24, flip=True)
    shapes = {tuple(batch.images.shape[1:]) for batch in Batches(data, augmentation, 8).epoch(0, 0)}
    assert shapes == {(3, 24, 24)}
    centre = next(evaluation(data, augmentation)).images
    assert np.allclose(
        centre.permute(0, 2, 3, 1).numpy(),
        (data.images[:, 4:28, 4:28].numpy() / 255.0 - 0.5) / 0.25,
        atol=1e-5,
    )


def test_random_boxes_cover_what_they_should() -> None:
    boxes = random_boxes([(40, 60)] * 2000, stream("augmentation", 0))
    areas = [h * w / 2400 for _, _, h, w in boxes]
    assert all(top >= 0 and top + h <= 40 and left >= 0 and left + w <= 60 for top, left, h, w in boxes)
    assert 0.07 < min(areas) < 0.12
    assert max(areas) > 0.8
    assert all(0.7 < w / h < 1.42 for _, _, h, w in boxes if (h, w) != (40, 60))


def test_what_cannot_be_is_refused_in_words() -> None:
    with pytest.raises(BadData, match="2 means"):
        Split(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.zeros(4).long(), (0.5, 0.5), (0.2, 0.2), CPU)
    with pytest.raises(BadData, match="reflection needs less"):
        Batches(split(), Augmentation(pad=8, padding="reflect"), 8)
    with pytest.raises(BadData, match="1 training images"):
        Batches(split(1), Augmentation(), 8)


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(pad=2, padding="reflect", flip=True), Augmentation(resized_crop=6, flip=True)],
)
def test_images_on_the_disk_make_the_batches_of_images_in_memory(
    augmentation: Augmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, tmp_path, **Data(source="digits").model_dump())
    meta = read_meta(tmp_path)
    inside = training_split(tmp_path, meta, CPU)
    monkeypatch.setenv("CDKD_MEMORY_LIMIT", "0")
    outside = training_split(tmp_path, meta, CPU)
    assert isinstance(inside.images, torch.Tensor)
    assert not isinstance(outside.images, torch.Tensor)
    ours, theirs = (Batches(split, augmentation, 64) for split in (outside, inside))
    for epoch in (0, 1):
        for ondisk, inmemory in zip(ours.epoch(5, epoch), theirs.epoch(5, epoch), strict=True):
            assert torch.equal(ondisk.images, inmemory.images)
            assert torch.equal(ondisk.labels, inmemory.labels)
            assert (
                ondisk.crops is None if inmemory.crops is None else torch.equal(ondisk.crops, inmemory.crops)
            )
    first, second = next(evaluation(ours.split, augmentation)), next(evaluation(theirs.split, augmentation))
    assert torch.equal(first.images, second.images)
    stopped = ours.epoch(5, 0)  # an epoch left half-way leaves no thread behind
    next(stopped)
    stopped.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cdkd-batches")]


@pytest.mark.parametrize("resized", [None, 8])
def test_further_views_are_other_crops_and_leave_the_first_alone(resized: int | None) -> None:
    made = Batches(split(), Augmentation(pad=2, flip=True, resized_crop=resized), 8)
    one, three = list(made.epoch(3, 1)), list(made.epoch(3, 1, 3))
    for single, several in zip(one, three, strict=True):
        assert len(several.views) == 3
        assert torch.equal(single.images, several.images)
        assert torch.equal(single.indices, several.indices)
        assert not torch.equal(several.views[0], several.views[1])
        assert not torch.equal(several.views[1], several.views[2])
    again = list(made.epoch(3, 1, 3))
    assert all(torch.equal(a.views[2], b.views[2]) for a, b in zip(three, again, strict=True))
