"""Data: sources, draws, prepared splits, and the faults D49-D60 of the reliability list."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from cdkd.core.digest import digest
from cdkd.core.errors import BadData
from cdkd.data import arrays, downloads, pixels, writer
from cdkd.data.disk_images import DiskImages
from cdkd.data.draw import draw, shares
from cdkd.data.load import load, memory_limit
from cdkd.data.prepare import prepare
from cdkd.data.prepared import SPLITS, Meta, read_meta
from cdkd.storage import files
from cdkd.storage.owner import SEPARATOR, Owner

SHARED = Path(
    os.environ.get("CDKD_TEST_DATA", "/nowhere")
)  # a folder with cifar100/ and tiny-imagenet/, image folders in zips

GOLDEN = "b0bcd5b78600f55095e0e37c4d78bcf946bfc6c52eacb006d479cbfe00bde29c"  # digits, validation 0.1, seed 0
PLAIN: dict[str, Any] = {
    "source": "digits",
    "paths": (),
    "size": None,
    "train_images": None,
    "validation": 0.1,
    "seed": 0,
    "normalisation": "measured",
}


def made(target: Path, root: Path | None = None, **changes: Any) -> Meta:
    return prepare(target, root or target.parent, **(PLAIN | changes))


def from_folder(target: Path, *paths: Path | str, **changes: Any) -> Meta:
    return made(target, source="folder", paths=[str(path) for path in paths], **changes)


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(BadData) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def encoded(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", form: str = "PNG") -> bytes:
    random = np.random.default_rng(seed)
    colour = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colour).convert(mode).save(buffer, form)
    return buffer.getvalue()


def pictures(train: int = 6, test: int = 3) -> dict[str, bytes]:
    """Three classes; stems are not unique in a split, and 10 must come after 9."""
    names = [
        f"{split}/{category}/img{i + 5}.png"
        for split, n in (("train", train), ("test", test))
        for category in ("cat", "ant", "bee")
        for i in range(n)
    ]
    return {name: encoded(place) for place, name in enumerate(names)}


def tree(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def archive(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


# digits and draws


def test_digits_have_their_shapes_and_counts(tmp_path: Path) -> None:
    meta = made(tmp_path / "d")
    assert meta.counts == {"train": 900, "validation": 100, "test": 797}
    assert meta.image == (8, 8, 1)
    assert meta.classes == tuple("0123456789")
    assert read_meta(tmp_path / "d") == meta
    for split in SPLITS:
        images, labels = load(tmp_path / "d", split)
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert images.shape == (meta.counts[split], 8, 8, 1)
        assert torch.bincount(labels, minlength=10).tolist() == list(meta.per_class[split])
    images = torch.cat([load(tmp_path / "d", split)[0] for split in ("train", "validation")]).double() / 255
    assert meta.mean[0] == pytest.approx(images.mean().item(), abs=5e-5)
    assert meta.std[0] == pytest.approx(images.std(correction=0).item(), abs=5e-5)
    assert images.max() == 1


def test_prepare_gives_equal_bytes_for_equal_arguments_and_others_for_another_seed(tmp_path: Path) -> None:
    first, again, other = made(tmp_path / "a"), made(tmp_path / "b"), made(tmp_path / "c", seed=1)
    for name in [f"{split}.safetensors" for split in SPLITS] + ["data.json"]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first == again
    assert other.digest != first.digest
    assert other.files["validation"] != first.files["validation"]
    assert other.files["test"] == first.files["test"]  # the digits' test split is the same for ever


def test_digest_covers_the_normalisation(tmp_path: Path) -> None:
    measured = made(tmp_path / "a")
    given = made(tmp_path / "b", normalisation={"mean": [0.5], "std": [0.5]})
    assert given.files == measured.files
    assert given.digest != measured.digest
    assert (given.mean, given.std) == ((0.5,), (0.5,))


def test_golden_digest_of_digits(tmp_path: Path) -> None:
    """A change here is a change of everybody's data: it must be meant."""
    assert made(tmp_path / "a").digest == GOLDEN


def test_validation_is_stratified_disjoint_and_cut_out_of_train(tmp_path: Path) -> None:
    meta, whole = made(tmp_path / "a", validation=0.25), made(tmp_path / "b", validation=0.0)
    assert whole.counts["validation"] == 0
    assert load(tmp_path / "b", "validation")[0].shape == (0, 8, 8, 1)
    for have, of in zip(meta.per_class["validation"], whole.per_class["train"], strict=True):
        assert abs(have - of / 4) < 1

    def rows(folder: str, *splits: str) -> list[bytes]:
        return sorted(
            i.numpy().tobytes() + bytes([int(k)])
            for split in splits
            for i, k in zip(*load(tmp_path / folder, split), strict=True)
        )

    assert rows("a", "train", "validation") == rows("b", "train")
    assert not set(rows("a", "train")) & set(rows("a", "validation"))


def test_train_images_are_drawn_before_validation_and_are_bounded(tmp_path: Path) -> None:
    meta = made(tmp_path / "a", train_images=200, validation=0.1)
    assert (meta.counts["train"], meta.counts["validation"], meta.counts["test"]) == (180, 20, 797)
    assert all(
        19 <= a + b <= 21 for a, b in zip(meta.per_class["train"], meta.per_class["validation"], strict=True)
    )
    assert "1001; expected at most the source's 1000" in refusal(
        lambda: made(tmp_path / "b", train_images=1001)
    )
    assert "train_images: 9 of 1000 leaves class '8' of 97 images without a training image" in refusal(
        lambda: made(tmp_path / "b", train_images=9)
    )
    assert "leaves none to train on" in refusal(
        lambda: made(tmp_path / "b", train_images=10, validation=0.99)
    )
    text = refusal(lambda: made(tmp_path / "b", train_images=12, validation=0.8))
    assert "data.validation: 0.8 of 12 training images is 10, which leaves class '0' of 1 image" in text
    assert "0.00049 of 1000 training images is none" in refusal(
        lambda: made(tmp_path / "b", validation=0.00049)
    )
    assert not (tmp_path / "b").exists()
    assert made(tmp_path / "c", train_images=10, validation=0.0).counts["train"] == 10
    assert not (tmp_path / "b").exists()


def test_shares_are_the_largest_remainders() -> None:
    assert shares(np.array([5, 3, 2]), 4).tolist() == [2, 1, 1]  # 2.0, 1.2, 0.8
    assert shares(np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]
    labels = np.random.default_rng(0).integers(0, 7, 300)
    for count in (0, 1, 100, 299, 300):
        drawn = draw(labels, count, "x", 0)
        assert len(set(drawn.tolist())) == count
        assert (np.diff(drawn) > 0).all()
    assert draw(labels, 100, "x", 0).tolist() == draw(labels, 100, "x", 0).tolist()
    assert draw(labels, 100, "x", 0).tolist() != draw(labels, 100, "y", 0).tolist()
    assert draw(labels, 100, "x", 0).tolist() != draw(labels, 100, "x", 1).tolist()


def test_faulty_normalisation_is_refused(tmp_path: Path) -> None:
    for mean, std in (([0.1, 0.2], [0.1, 0.2]), ([0.1], [0.1, 0.2]), ([0.1], [0.0]), ([float("nan")], [1.0])):
        assert "data.normalisation" in refusal(
            lambda m=mean, s=std: made(tmp_path / "a", normalisation={"mean": m, "std": s})
        )  # type: ignore[misc]


# image folders


def test_directory_zip_and_two_zips_are_the_same_data(tmp_path: Path) -> None:
    content = pictures()
    halves = [dict(list(content.items())[i::2]) for i in (0, 1)]
    (tmp_path / "zips").mkdir()
    two = [archive(tmp_path / "zips" / f"{i}.zip", half) for i, half in enumerate(halves)]
    noise = {
        "README.md": b"x",
        "train/.DS_Store": b"x",
        "__MACOSX/train/cat/._img5.png": b"x",
        "train/cat/Thumbs.db": b"x",
        "train/cat/._img5.png": b"x",
    }
    metas = [
        from_folder(tmp_path / "a", tree(tmp_path / "tree", content | noise)),
        from_folder(tmp_path / "b", archive(tmp_path / "one.zip", noise | content)),
        from_folder(tmp_path / "c", *two),
        from_folder(tmp_path / "d", *reversed(two)),
        from_folder(tmp_path / "e", "zips"),  # relative to the root; a directory of zips
        from_folder(tmp_path / "f", tree(tmp_path / "half", halves[0]), two[1]),
    ]
    assert len({meta.digest for meta in metas}) == 1
    assert metas[0].classes == ("ant", "bee", "cat")
    assert metas[0].image == (8, 8, 3)
    changed = content | {"test/cat/img5.png": encoded(999)}
    assert from_folder(tmp_path / "g", tree(tmp_path / "other", changed)).digest != metas[0].digest


def test_order_is_by_class_and_number_or_by_unique_numbers(tmp_path: Path) -> None:
    content = pictures()
    from_folder(tmp_path / "a", tree(tmp_path / "tree", content), validation=0.0)
    images, labels = load(tmp_path / "a", "train")
    assert labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    expected = [Image.open(io.BytesIO(content[f"train/ant/img{i}.png"])) for i in range(5, 11)]
    assert all(np.array_equal(image, np.asarray(want)) for image, want in zip(images, expected, strict=False))
    numbered = {
        f"{split}/{'ab'[i % 2]}/{i:03}.png": encoded(i) for split in ("train", "test") for i in range(10)
    }
    from_folder(tmp_path / "b", tree(tmp_path / "numbered", numbered), validation=0.0)
    assert load(tmp_path / "b", "train")[1].tolist() == [0, 1] * 5


def test_val_is_the_test_split_only_where_there_is_no_test(tmp_path: Path) -> None:
    content = pictures()
    renamed = {name.replace("test/", "val/"): data for name, data in content.items()}
    a = from_folder(tmp_path / "a", tree(tmp_path / "x", content))
    assert from_folder(tmp_path / "b", tree(tmp_path / "y", renamed)).digest == a.digest
    assert (
        from_folder(tmp_path / "c", tree(tmp_path / "z", content | {"val/cat/1.png": encoded(99)})).digest
        == a.digest
    )


def test_grey_images_stay_grey_unless_one_is_in_colour(tmp_path: Path) -> None:
    grey = {name: encoded(i, mode="L") for i, name in enumerate(pictures())}
    assert from_folder(tmp_path / "a", tree(tmp_path / "x", grey)).image == (8, 8, 1)
    mixed = grey | {"test/bee/img5.png": encoded(50)}
    assert from_folder(tmp_path / "b", tree(tmp_path / "y", mixed), validation=0.0).image == (8, 8, 3)
    one, three = (
        load(tmp_path / "b", "train")[0],
        pixels.pixels(Image.open(io.BytesIO(grey["train/ant/img5.png"])), None),
    )
    assert np.array_equal(one[0], np.repeat(three[:, :, None], 3, 2))


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("CMYK", "JPEG"),
        ("L", "WEBP"),
        ("RGB", "BMP"),
    ],
)
def test_other_modes_are_converted(tmp_path: Path, mode: str, form: str) -> None:
    suffix = {"PNG": "PNG", "JPEG": "JPG", "WEBP": "webp", "BMP": "bmp"}[form]
    content = pictures() | {f"train/ant/z.{suffix}": encoded(70, mode=mode, form=form)}
    assert from_folder(tmp_path / "a", tree(tmp_path / "x", content)).image == (8, 8, 3)


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(buffer, "PNG")
    folder = tree(tmp_path / "x", pictures() | {"train/ant/deep.png": buffer.getvalue()})
    assert "train/ant/deep.png (pixels of more than 8 bits" in refusal(
        lambda: from_folder(tmp_path / "a", folder)
    )


def test_odd_size_is_refused_by_name_and_resized_on_demand(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", pictures() | {"train/bee/odd.png": encoded(1, (12, 9))})
    text = refusal(lambda: from_folder(tmp_path / "a", folder))
    assert f"{folder}: train/bee/odd.png is 12x9 pixels, while 27 of 28 images are 8x8" in text
    assert "data.size" in text
    assert from_folder(tmp_path / "a", folder, size=6).image == (6, 6, 3)


def test_resizing_is_torchvisions_resize_and_centre_crop() -> None:
    from torchvision.transforms import v2

    for size in ((30, 17), (17, 31), (9, 9), (64, 65)):
        image = Image.open(io.BytesIO(encoded(3, size)))
        for side in (9, 16):
            want = v2.Compose([v2.Resize(side), v2.CenterCrop(side)])(image)
            assert np.array_equal(pixels.resize_and_crop(image, side), want)


def test_array_sources_are_resized_too(tmp_path: Path) -> None:
    assert made(tmp_path / "a", size=12).image == (12, 12, 1)


def broken(form: str = "PNG") -> dict[str, bytes]:
    good = encoded(7, (32, 32), form=form)
    return {
        "empty": b"",
        "half": good[: len(good) // 2],
        "zeros": bytes(len(good)),
        "text": b"no image at all" * 20,
        "header": good[:8],
    }


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("packed", [False, True])
def test_broken_images_are_named_with_their_place(tmp_path: Path, form: str, packed: bool) -> None:
    for kind, data in broken(form).items():
        content = {name: encoded(i, (32, 32)) for i, name in enumerate(pictures())} | {
            "train/bee/img7.png": data
        }
        where = archive(tmp_path / f"{kind}.zip", content) if packed else tree(tmp_path / kind, content)
        text = refusal(lambda w=where: from_folder(tmp_path / "a", w))  # type: ignore[misc]
        assert text.startswith(f"1 of 27 images cannot be read: {where}: train/bee/img7.png ("), text
        assert "0x" not in text


def test_all_broken_images_are_counted_and_five_named(tmp_path: Path) -> None:
    content = pictures() | {f"train/ant/bad{i}.png": b"x" for i in range(7)}
    text = refusal(lambda: from_folder(tmp_path / "a", tree(tmp_path / "x", content)))
    assert text.startswith("7 of 34 images cannot be read")
    assert text.count("bad") == 5
    assert text.endswith("; and 2 more")


def test_flipped_bit_in_a_zip_member_is_found(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", pictures())
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 4
    path.write_bytes(data)
    assert "train/cat/img5.png (Bad CRC" in refusal(lambda: from_folder(tmp_path / "a", path))


def test_decompression_bombs_are_refused_before_they_unfold(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (9_000, 60_000):
        bomb = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", b"")
            + chunk(b"IEND", b"")
        )
        folder = tree(tmp_path / str(side), pictures() | {"train/ant/bomb.png": bomb})
        text = refusal(lambda f=folder: from_folder(tmp_path / "a", f))  # type: ignore[misc]
        assert "bomb.png (" in text
        assert "pixels" in text
    thin = tree(tmp_path / "thin", pictures() | {"train/ant/thin.png": encoded(1, (20_000, 1))})
    assert "after resizing" in refusal(lambda: from_folder(tmp_path / "a", thin, size=64))


@pytest.mark.parametrize(
    "name",
    [
        "../train/cat/x.png",
        "train/../../x.png",
        "/train/cat/x.png",
        "C:/train/cat/x.png",
        "train\\..\\x.png",
        "../readme.txt",
    ],
)
def test_members_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "x.zip", pictures() | {name: encoded(1)})
    text = refusal(lambda: from_folder(tmp_path / "a", path))
    assert repr(name) in text
    assert str(path) in text


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", pictures())
    info = zipfile.ZipInfo("train/cat/link.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(info, "/etc/passwd")
    assert "'train/cat/link.png' is a link" in refusal(lambda: from_folder(tmp_path / "a", path))


def test_links_in_directories_are_followed(tmp_path: Path) -> None:
    """The folder is the user's own, and DVC itself may put links there."""
    content = pictures()
    real = tree(tmp_path / "real", content)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "train").symlink_to(real / "train")
    (tmp_path / "x" / "test").symlink_to(real / "test")
    assert from_folder(tmp_path / "a", tmp_path / "x").digest == from_folder(tmp_path / "b", real).digest


def without(content: dict[str, bytes], start: str) -> dict[str, bytes]:
    return {name: data for name, data in content.items() if not name.startswith(start)}


LAYOUTS = [
    (lambda c: {}, "found no images at all"),
    (lambda c: without(c, "train"), "split train has no images; found test"),
    (lambda c: without(c, "test"), "split test (or val, valid, validation) has no images; found train"),
    (
        lambda c: without(without(without(without(c, "train/ant"), "train/bee"), "test/ant"), "test/bee"),
        "one class only, 'cat'",
    ),
    (lambda c: without(c, "train/bee"), "class 'bee' has no images in split train"),
    (
        lambda c: {
            f"{name.partition('/')[0]}/a/b/{name.partition('/')[2]}": data for name, data in c.items()
        },
        "is too deep in folders; expected <split>/<class>/<image>",
    ),
    (
        lambda c: {name.partition("/")[2]: data for name, data in c.items()},
        "expected <split>/<class>/<image>",
    ),
    (lambda c: c | {"extra/cat/1.png": b"x"}, "image extra/cat/1.png"),
    (lambda c: c | {"train/1.png": b"x"}, "image train/1.png"),
]


@pytest.mark.parametrize(("change", "expected"), LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_wrong_layouts_are_explained(
    tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], expected: str, packed: bool
) -> None:
    (tmp_path / "x").mkdir()
    content = change(pictures())
    where = archive(tmp_path / "x.zip", content) if packed else tree(tmp_path / "x", content)
    text = refusal(lambda: from_folder(tmp_path / "a", where))
    assert expected in text
    assert str(where) in text


def test_an_empty_class_folder_is_a_class_without_images(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", pictures())
    (folder / "train" / "dog").mkdir()
    assert "class 'dog' has no images in split train" in refusal(lambda: from_folder(tmp_path / "a", folder))


def test_class_without_test_images_is_fine(tmp_path: Path) -> None:
    meta = from_folder(tmp_path / "a", tree(tmp_path / "x", without(pictures(), "test/bee")))
    assert meta.per_class["test"] == (3, 0, 3)


def test_missing_and_unreadable_paths_are_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'gone'} does not exist" in refusal(lambda: from_folder(tmp_path / "a", "gone"))
    assert "data.paths: nothing" in refusal(lambda: from_folder(tmp_path / "a"))
    good = archive(tmp_path / "x.zip", pictures()).read_bytes()
    for kind, data in (
        ("empty", b""),
        ("half", good[: len(good) // 2]),
        ("tail", good[:-1]),
        ("other", b"PK not at all"),
    ):
        path = tmp_path / f"{kind}.zip"
        path.write_bytes(data)
        assert f"{path}: no readable zip archive" in refusal(lambda p=path: from_folder(tmp_path / "a", p))  # type: ignore[misc]


def test_the_same_image_in_two_places_is_refused(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", pictures())
    assert "is also in" in refusal(
        lambda: from_folder(tmp_path / "a", folder, archive(tmp_path / "y.zip", pictures()))
    )
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(archive(tmp_path / "z.zip", pictures()), "a") as file,
    ):
        file.writestr("train/cat/img5.png", encoded(3))
    assert "train/cat/img5.png occurs twice" in refusal(
        lambda: from_folder(tmp_path / "a", tmp_path / "z.zip")
    )


def test_overlap_of_test_and_training_images_is_counted(tmp_path: Path) -> None:
    content = pictures()
    assert from_folder(tmp_path / "a", tree(tmp_path / "x", content)).overlap == 0
    content["test/ant/img5.png"] = content["train/cat/img6.png"]
    content["test/bee/img6.png"] = content["train/bee/img6.png"]
    assert from_folder(tmp_path / "b", tree(tmp_path / "y", content)).overlap == 2


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    from_folder(
        tmp_path / "a",
        tree(tmp_path / "x", pictures()),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (27, 27)


def test_images_on_their_way_to_the_disk_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {f"{split}/{i % 2}/{i}.png": encoded(i) for split in ("train", "test") for i in range(100)}
    monkeypatch.setattr(arrays, "BUFFER", 2**21)  # 10 of 200 images of 256 x 256
    folder = tree(tmp_path / "x", content)
    from_folder(tmp_path / "a", folder, size=8)  # so that imports are not counted
    tracemalloc.start()
    try:
        from_folder(tmp_path / "a", folder, size=256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 2**21
    assert (tmp_path / "a" / "test.safetensors").stat().st_size > 4 * 2**21


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["measured", {"mean": [0.5], "std": [0.25]}])
def test_parts_make_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalisation: Any
) -> None:
    """A grey set with one image in colour near the end is the hard case.

    Its first images get 3 channels after they were written.
    """
    grey = {name: encoded(i, mode="L") for i, name in enumerate(pictures(train=50))}
    grey["test/bee/img6.png"] = grey["train/bee/img6.png"]
    folders = [
        tree(tmp_path / "grey", grey),
        tree(tmp_path / "mixed", grey | {"test/bee/img7.png": encoded(50)}),
    ]

    def prepared(name: str) -> list[dict[str, bytes]]:
        target = tmp_path / name
        made(target / "digits", size=5, normalisation=normalisation)
        for folder in folders:
            meta = from_folder(target / folder.name, folder, validation=0.2, normalisation=normalisation)
            assert (meta.image, meta.overlap) == ((8, 8, 1 if folder.name == "grey" else 3), 1)
        return [bytes_of(path) for path in sorted(target.iterdir())]

    at_once = prepared("a")
    for pending in (1, 20_000):
        monkeypatch.setattr(arrays, "BUFFER", pending)
        assert prepared(f"b{pending}") == at_once


def test_files_are_what_safetensors_writes_and_digests_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "BUFFER", 2_000)
    folder = tree(tmp_path / "x", pictures(train=30))
    for meta in (made(tmp_path / "digits", validation=0.0), from_folder(tmp_path / "folder", folder)):
        target = tmp_path / meta.source
        content = {}
        for split in SPLITS:
            path = target / f"{split}.safetensors"
            tensors = load_file(path)
            save_file(tensors, tmp_path / "again.safetensors")
            assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
            assert meta.files[split] == files.sha256(path)
            content[split] = hashlib.sha256(
                tensors["images"].tobytes() + tensors["labels"].tobytes()
            ).hexdigest()
        assert meta.digest == digest(
            {
                "classes": meta.classes,
                "image": meta.image,
                "mean": meta.mean,
                "std": meta.std,
                "splits": content,
            }
        )


def test_faults_after_the_first_part_are_counted_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "BUFFER", 1)
    content = pictures(train=30)
    bad = content | {f"train/cat/z{i}.png": b"x" for i in range(7)}
    text = refusal(lambda: from_folder(tmp_path / "new" / "a", tree(tmp_path / "x", bad)))
    assert text.startswith("7 of 106 images cannot be read")
    odd = content | {f"test/cat/z{i}.png": encoded(1, (9, 9)) for i in range(2)}
    text = refusal(lambda: from_folder(tmp_path / "new" / "a", tree(tmp_path / "y", odd)))
    assert "test/cat/z0.png is 9x9 pixels, while 99 of 101 images are 8x8" in text
    assert not (tmp_path / "new").exists()


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Any:
        asked.append(path)
        return SimpleNamespace(total=10**6, used=10**6 - 100_000, free=100_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    text = refusal(lambda: made(tmp_path / "new" / "d"))
    assert re.search(
        r"new/d: the prepared data need 2\d\d,\d{3} bytes, the disk has 100,000 free; free some space", text
    ), text
    assert asked == [tmp_path]
    assert not (tmp_path / "new").exists()
    made(
        tmp_path / "d", train_images=100, normalisation={"mean": [0.5], "std": [0.5]}, size=2
    )  # this has room


def test_constant_images_cannot_be_measured(tmp_path: Path) -> None:
    content = dict.fromkeys(pictures(), encoded(0))
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 7).save(buffer, "PNG")
    folder = tree(tmp_path / "x", dict.fromkeys(content, buffer.getvalue()))
    assert "std is 0" in refusal(lambda: from_folder(tmp_path / "a", folder))


# prepared files


def forged(folder: Path, split: str, **tensors: Any) -> None:
    """The split rewritten, with digests that fit: what a faulty prepare would have written."""
    save_file(tensors, folder / f"{split}.safetensors")
    body = asdict(read_meta(folder))
    body["files"] = dict(body["files"]) | {split: files.sha256(folder / f"{split}.safetensors")}
    (folder / "data.json").write_text(json.dumps(body | {"check": digest(body)}))


def damages(data: bytes) -> dict[str, bytes]:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    return {
        "empty": b"",
        "half": data[: len(data) // 2],
        "tail": data[:-1],
        "flip": bytes(flipped),
        "zeros": bytes(len(data)),
        "pickle": pickle.dumps({}),
    }


@pytest.mark.parametrize("split", SPLITS)
def test_damaged_split_is_refused_with_the_cure(tmp_path: Path, split: str) -> None:
    made(tmp_path / "d")
    path = tmp_path / "d" / f"{split}.safetensors"
    good = path.read_bytes()
    for data in damages(good).values():
        path.write_bytes(data)
        text = refusal(lambda: load(tmp_path / "d", split))
        assert str(path) in text
        assert "cdkd prepare" in text
    path.unlink()
    assert f"{path}: missing" in refusal(lambda: load(tmp_path / "d", split))
    path.write_bytes(good)
    assert len(load(tmp_path / "d", split)[0])


def test_damaged_data_json_is_refused_with_the_cure(tmp_path: Path) -> None:
    made(tmp_path / "d")
    path = tmp_path / "d" / "data.json"
    good = path.read_bytes()
    others = {
        "list": b"[]",
        "deep": b"[" * 100_000,
        "fields": b'{"check": "x"}',
        "edited": good.replace(b'"0"', b'"zero"', 1),
        "more": b'{"x": 1,' + good[1:],
    }
    for kind, data in (damages(good) | others).items():
        if kind == "tail":
            data = data[:-1]  # the last byte is a line's end, which says nothing
        path.write_bytes(data)
        text = refusal(lambda: read_meta(tmp_path / "d"))
        assert f"{path}: damaged" in text, kind
        assert "cdkd prepare" in text
    path.unlink()
    assert f"{path}: missing; run `cdkd prepare`" in refusal(lambda: read_meta(tmp_path / "d"))


@pytest.mark.slow
def test_every_flipped_bit_of_data_json_is_found_or_harmless(tmp_path: Path) -> None:
    meta = made(tmp_path / "d", train_images=20, validation=0.5)
    path = tmp_path / "d" / "data.json"
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            found = read_meta(tmp_path / "d")
        except BadData:
            continue
        assert found == meta  # white space


@pytest.mark.parametrize("label", [-1, 10, -100, 2**40])
def test_label_out_of_range_is_named_with_its_index(tmp_path: Path, label: int) -> None:
    made(tmp_path / "d")
    tensors = load_file(tmp_path / "d" / "train.safetensors")
    forged(tmp_path / "d", "train", **tensors)
    assert len(load(tmp_path / "d", "train")[0]) == 900  # the forgery itself is valid
    tensors["labels"][123] = label
    forged(tmp_path / "d", "train", **tensors)
    assert f"label {label} at index 123; expected 0 to 9" in refusal(lambda: load(tmp_path / "d", "train"))


def test_wrong_shapes_types_and_names_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "d")
    good = load_file(tmp_path / "d" / "test.safetensors")
    images, labels = good["images"], good["labels"]
    wrong: list[dict[str, Any]] = [
        {"images": images[1:], "labels": labels},
        {"images": images, "labels": labels[1:]},
        {"images": images[1:], "labels": labels[1:]},
        {"images": images.astype(np.float32), "labels": labels},
        {"images": images, "labels": labels.astype(np.int32)},
        {"images": images[..., 0], "labels": labels},
        {"images": images},
        {"images": images, "labels": labels, "more": labels},
    ]
    for tensors in wrong:
        forged(
            tmp_path / "d", "test", **{name: np.ascontiguousarray(value) for name, value in tensors.items()}
        )
        assert "test.safetensors" in refusal(lambda: load(tmp_path / "d", "test"))
    assert "no split 'testing'" in refusal(lambda: load(tmp_path / "d", "testing"))


def disk_images(folder: Path, split: str) -> tuple[DiskImages, torch.Tensor]:
    images, labels = load(folder, split)
    assert isinstance(images, DiskImages)
    return images, labels


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every split is more than the memory holds."""
    monkeypatch.setenv("CDKD_MEMORY_LIMIT", "0")
    return monkeypatch


@pytest.mark.parametrize("large", [2**30, 1])
def test_images_beyond_the_memory_stay_on_the_disk(
    tmp_path: Path, small_memory: pytest.MonkeyPatch, large: int
) -> None:
    """Whether prepare took the split for a large one, and wrote its checksums, or not."""
    small_memory.setattr(writer, "LARGE", large)
    from_folder(tmp_path / "d", tree(tmp_path / "x", pictures()))
    for split in SPLITS:
        images, labels = disk_images(tmp_path / "d", split)
        small_memory.delenv("CDKD_MEMORY_LIMIT")
        whole, expected = load(tmp_path / "d", split)
        small_memory.setenv("CDKD_MEMORY_LIMIT", "0")
        assert isinstance(whole, torch.Tensor)
        assert images.shape == tuple(whole.shape)
        assert len(images) == len(whole)
        assert torch.equal(labels, expected)
        indices = torch.tensor([1, 0, 1, len(whole) - 1])
        rows = images.rows(indices)
        assert torch.equal(rows, whole[indices])
        rows.zero_()  # the caller's own
        assert torch.equal(images.rows(indices), whole[indices])
        assert images.rows(torch.tensor([], dtype=torch.int64)).shape == (0, 8, 8, 3)
        for index in (-1, len(whole)):
            with pytest.raises(IndexError):
                images.rows(torch.tensor([index]))


def test_checksums_of_a_large_split_change_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = made(tmp_path / "a")
    monkeypatch.setattr(writer, "LARGE", 60_000)  # bytes; the splits have 57,600, 6,400 and 51,008
    assert made(tmp_path / "b") == small
    monkeypatch.setattr(writer, "LARGE", 57_000)
    large = made(tmp_path / "b")
    extra = {"train.crc32": files.sha256(tmp_path / "b" / "train.crc32.safetensors")}
    assert asdict(large) == asdict(small) | {"files": {**small.files, **extra}}
    ours, others = bytes_of(tmp_path / "b"), bytes_of(tmp_path / "a")
    assert set(ours) - set(others) == {"train.crc32.safetensors"}
    assert all(ours[name] == others[name] for name in others if name != "data.json")
    tensors = load_file(tmp_path / "b" / "train.crc32.safetensors")
    assert tensors["images"].tolist() == [
        zlib.crc32(image.tobytes()) for image in load(tmp_path / "b", "train")[0].numpy()
    ]
    monkeypatch.undo()
    made(tmp_path / "b")
    assert bytes_of(tmp_path / "b") == others  # checksums of an earlier set are removed


def test_damage_on_the_disk_is_noticed_at_the_image_that_has_it(
    tmp_path: Path, small_memory: pytest.MonkeyPatch
) -> None:
    small_memory.setattr(writer, "LARGE", 1)
    made(tmp_path / "d")
    path = tmp_path / "d" / "test.safetensors"
    good = path.read_bytes()
    start = len(good) - 797 * 64
    before, _ = disk_images(tmp_path / "d", "test")
    for place in (start + 5 * 64, start + 5 * 64 + 63):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        for images in (before, disk_images(tmp_path / "d", "test")[0]):
            rest = torch.tensor([index for index in range(797) if index != 5])
            assert len(images.rows(rest)) == 796
            text = refusal(lambda i=images: i.rows(torch.tensor([3, 5, 8])))  # type: ignore[misc]
            assert text.startswith(f"{path}: image 5 is damaged, its crc32 is ")
            assert "cdkd prepare" in text
    path.write_bytes(good[:-70])
    assert "image 796" in refusal(lambda: before.rows(torch.tensor([796])))
    assert "image 795" in refusal(lambda: before.rows(torch.tensor([795])))
    assert len(before.rows(torch.arange(795))) == 795


@pytest.mark.parametrize("large", [2**30, 1])
def test_damage_of_a_mapped_split_is_refused_with_the_cure(
    tmp_path: Path, small_memory: pytest.MonkeyPatch, large: int
) -> None:
    small_memory.setattr(writer, "LARGE", large)
    made(tmp_path / "d")
    paths = sorted((tmp_path / "d").glob("test*.safetensors"))
    assert len(paths) == (2 if large == 1 else 1)
    for path in paths:
        good = path.read_bytes()
        bad = damages(good)
        if large == 1 and path.name == "test.safetensors":
            del bad["flip"]  # in an image
            bad |= {
                f"head {place}": good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
                for place in (0, 20, 140, 6_000)
            }
        for kind, data in bad.items():
            path.write_bytes(data)
            text = refusal(lambda: load(tmp_path / "d", "test"))
            assert str(path) in text, kind
            assert "cdkd prepare" in text, kind
        path.unlink()
        assert f"{path}: missing" in refusal(lambda: load(tmp_path / "d", "test"))
        path.write_bytes(good)
    assert len(disk_images(tmp_path / "d", "test")[0]) == 797


def test_threads_read_what_one_reader_reads(tmp_path: Path, small_memory: pytest.MonkeyPatch) -> None:
    made(tmp_path / "d")
    images, _ = disk_images(tmp_path / "d", "train")
    whole = images.rows(torch.arange(900))
    batches = [
        torch.randperm(900, generator=torch.Generator().manual_seed(seed))[:100] for seed in range(200)
    ]
    with ThreadPoolExecutor(8) as pool:
        for indices, rows in zip(batches, pool.map(images.rows, batches), strict=True):
            assert torch.equal(rows, whole[indices])


def test_another_prepare_does_not_change_images_that_are_being_read(
    tmp_path: Path, small_memory: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "d")
    images, _ = disk_images(tmp_path / "d", "train")
    before = images.rows(torch.arange(900))
    made(tmp_path / "d", seed=1)
    assert torch.equal(images.rows(torch.arange(900)), before)
    assert not torch.equal(disk_images(tmp_path / "d", "train")[0].rows(torch.arange(900)), before)


def test_the_limit_is_a_part_of_the_memory_or_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CDKD_MEMORY_LIMIT", raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1_000}.__getitem__)
    assert memory_limit() == 256_000
    monkeypatch.setenv("CDKD_MEMORY_LIMIT", "77")
    assert memory_limit() == 77
    for text in ("", "-1", "1e9", "8 GB"):
        monkeypatch.setenv("CDKD_MEMORY_LIMIT", text)
        assert f"CDKD_MEMORY_LIMIT: {text!r}; expected a number of bytes" in refusal(memory_limit)


def test_meta_is_read_without_heavy_friends(tmp_path: Path) -> None:
    made(tmp_path / "d")
    code = (
        "import sys; from pathlib import Path; from cdkd.data.prepared import read_meta\n"
        "read_meta(Path(sys.argv[1]))\n"
        "heavy = ('torch', 'numpy', 'PIL', 'safetensors', 'torchvision', 'sklearn')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "d")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_failing_prepare_leaves_the_earlier_one_alone(tmp_path: Path) -> None:
    meta = made(tmp_path / "d")
    bad = tree(tmp_path / "x", pictures() | {"train/ant/z.png": b"x"})
    refusal(lambda: from_folder(tmp_path / "d", bad))
    assert read_meta(tmp_path / "d") == meta
    assert all(len(load(tmp_path / "d", split)[0]) for split in SPLITS)
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [
        "data.json",
        "test.safetensors",
        "train.safetensors",
        "validation.safetensors",
    ]
    refusal(lambda: from_folder(tmp_path / "new", bad))
    assert not (tmp_path / "new").exists()
    from_folder(tmp_path / "d", tree(tmp_path / "y", pictures()))  # and a good one replaces it
    assert read_meta(tmp_path / "d").digest != meta.digest


@pytest.mark.slow
def test_full_disk_leaves_the_earlier_one_alone(tmp_path: Path) -> None:
    meta = made(tmp_path / "d")
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from cdkd.data.prepare import prepare; from cdkd.core.errors import BadData\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "options = dict(source='digits', paths=(), size=None, train_images=None)\n"
        "options |= dict(validation=0.2, seed=5, normalisation='measured')\n"
        "try: prepare(Path(sys.argv[1]), Path('.'), **options)\n"
        "except BadData as error: print(error); sys.exit(2)"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path / "d")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stdout
    assert read_meta(tmp_path / "d") == meta
    assert len(load(tmp_path / "d", "train")[0]) == 900
    assert len(list((tmp_path / "d").iterdir())) == 4


def test_leftovers_of_a_killed_prepare_are_removed_and_a_torn_set_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "d")
    ended = Owner.me()._replace(started=1)  # another process had this one's number before
    draft = tmp_path / "d" / f".prepare-{ended.text}{SEPARATOR}x"
    draft.mkdir()
    (draft / "train.safetensors").write_bytes(b"half")
    replace, calls = os.replace, []

    def killed(source: Any, goal: Any) -> None:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(goal)
        replace(source, goal)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / "d", seed=3)
    assert not list((tmp_path / "d").glob(".prepare*"))
    assert "damaged" in refusal(lambda: load(tmp_path / "d", "train"))
    made(tmp_path / "d", seed=3)
    assert len(load(tmp_path / "d", "train")[0]) == 900


def test_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("mine")
    assert "cannot be written" in refusal(lambda: made(tmp_path / "d"))
    assert (tmp_path / "d").read_text() == "mine"


# downloads


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes bytes as Python 2 wrote its strings, and NumPy's old module name: CIFAR's own dialect."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2(value: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")


def cifar100_archive(
    path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda members: members
) -> tuple[downloads.Remote, dict[str, Any]]:
    random = np.random.default_rng(0)
    truth = {
        split: {
            "data": random.integers(0, 256, (n, 3072), dtype=np.uint8),
            "fine_labels": [i % 3 for i in range(n)],
        }
        for split, n in (("train", 12), ("test", 6))
    }
    members = {
        "cifar-100-python/train": python2({key.encode(): value for key, value in truth["train"].items()}),
        "cifar-100-python/test": pickle.dumps(truth["test"], protocol=4),
        "cifar-100-python/meta": python2({b"fine_label_names": [b"apple", b"bear", b"cup"]}),
        "cifar-100-python/file.txt~": b"",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, data in change(members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return downloads.Remote(path.resolve().as_uri(), files.sha256(path)), truth


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_to(source: str, *remotes: downloads.Remote) -> None:
        monkeypatch.setitem(downloads.REMOTES, source, remotes)

    return set_to


def test_cifar_pickles_are_parsed_from_a_download(tmp_path: Path, remote: Callable[..., None]) -> None:
    (tmp_path / "web").mkdir()
    place, truth = cifar100_archive(tmp_path / "web" / "cifar-100-python.tar.gz")
    remote("cifar100", place)
    meta = made(tmp_path / "d", source="cifar100", validation=0.0)
    assert meta.classes == ("apple", "bear", "cup")
    for split in ("train", "test"):
        images, labels = load(tmp_path / "d", split)
        assert np.array_equal(images, truth[split]["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        assert labels.tolist() == truth[split]["fine_labels"]
    (tmp_path / "web" / "cifar-100-python.tar.gz").unlink()  # the second time, nothing is downloaded
    assert made(tmp_path / "e", source="cifar100", validation=0.0) == meta


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.path}'",)


def test_payload_in_a_pickle_is_not_executed(tmp_path: Path, remote: Callable[..., None]) -> None:
    """With the digest check made to pass: the unpickler alone must hold."""
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # the payload works
    mark.unlink()
    for protocol in range(6):
        with pytest.raises(BadData, match="asks for"):
            downloads.unpickled(pickle.dumps({"data": Payload(mark)}, protocol))
    (tmp_path / "web").mkdir()
    place, _ = cifar100_archive(
        tmp_path / "web" / "c.tar.gz",
        lambda members: members | {"cifar-100-python/test": pickle.dumps(Payload(mark))},
    )
    remote("cifar100", place)
    assert "c.tar.gz: the pickle asks for posix.system" in refusal(
        lambda: made(tmp_path / "d", source="cifar100")
    )
    assert not mark.exists()


@pytest.mark.parametrize(
    "payload", [eval, exec, __import__, getattr, np.load, subprocess.Popen, np.ndarray.__reduce__]
)
def test_other_globals_are_refused(payload: Any) -> None:
    with pytest.raises((BadData, pickle.UnpicklingError)):
        downloads.unpickled(pickle.dumps(payload, 4))


def test_archive_with_other_members_is_refused_and_none_is_unpacked(
    tmp_path: Path, remote: Callable[..., None]
) -> None:
    (tmp_path / "web").mkdir()
    place, _ = cifar100_archive(
        tmp_path / "web" / "c.tar.gz",
        lambda members: members | {"../../escaped": b"x", "/tmp/escaped-cdkd": b"x"},
    )
    remote("cifar100", place)
    made(tmp_path / "d", source="cifar100")
    assert not list(tmp_path.rglob("*escaped*"))
    assert not Path("/tmp/escaped-cdkd").exists()
    place, _ = cifar100_archive(
        tmp_path / "web" / "e.tar.gz", lambda members: {"cifar-100-python/train": b"x"}
    )
    remote("cifar100", place)
    assert "cifar100: " in refusal(lambda: made(tmp_path / "e", source="cifar100"))


def test_unreachable_host_gives_the_manual_step_and_leaves_nothing(
    tmp_path: Path, remote: Callable[..., None]
) -> None:
    remote("cifar10", downloads.Remote("http://127.0.0.1:9/cifar-10-python.tar.gz", "0" * 64))
    text = refusal(lambda: made(tmp_path / "d", source="cifar10"))
    folder = tmp_path / ".cdkd" / "downloads"
    assert "http://127.0.0.1:9/cifar-10-python.tar.gz cannot be downloaded" in text
    assert f"sha256 {'0' * 64}" in text
    assert f"put it into {folder}" in text
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "d").exists()


def test_wrong_bytes_are_refused_before_they_are_parsed(tmp_path: Path, remote: Callable[..., None]) -> None:
    (tmp_path / "web").mkdir()
    place, _ = cifar100_archive(tmp_path / "web" / "c.tar.gz")
    data = (tmp_path / "web" / "c.tar.gz").read_bytes()
    remote("cifar100", place)
    for bad in (*damages(data).values(),):
        (tmp_path / "web" / "c.tar.gz").write_bytes(bad)
        assert "has sha256" in refusal(lambda: made(tmp_path / "d", source="cifar100"))
        assert list((tmp_path / ".cdkd" / "downloads").iterdir()) == []
        (tmp_path / ".cdkd" / "downloads" / "c.tar.gz").write_bytes(bad)  # put there by hand
        assert f"expected {place.sha256}; remove the file" in refusal(
            lambda: made(tmp_path / "d", source="cifar100")
        )
        (tmp_path / ".cdkd" / "downloads" / "c.tar.gz").unlink()


def test_fashion_and_svhn_formats_are_parsed(tmp_path: Path, remote: Callable[..., None]) -> None:
    from scipy.io import savemat

    random = np.random.default_rng(0)
    web = tmp_path / "web"
    web.mkdir()
    images, labels = (
        random.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        (np.arange(30) % 10).astype(np.uint8),
    )
    for name, array in (("a", images), ("b", labels), ("c", images[:10]), ("d", labels[:10])):
        (web / name).write_bytes(
            gzip.compress(
                bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            )
        )
    remote(
        "fashion-mnist",
        *(downloads.Remote((web / name).as_uri(), files.sha256(web / name)) for name in "abcd"),
    )
    made(tmp_path / "f", source="fashion-mnist", validation=0.0)
    assert np.array_equal(load(tmp_path / "f", "train")[0][..., 0], images)
    assert load(tmp_path / "f", "test")[1].tolist() == labels[:10].tolist()
    houses = random.integers(0, 256, (32, 32, 3, 30), dtype=np.uint8)
    digits = (np.arange(30) % 10 + 1).astype(np.uint8)  # 1 to 10; 10 is the digit 0
    savemat(web / "x.mat", {"X": houses, "y": digits[:, None]})
    remote(
        "svhn", *(downloads.Remote((web / "x.mat").as_uri(), files.sha256(web / "x.mat")) for _ in range(2))
    )
    assert made(tmp_path / "s", source="svhn", validation=0.0).overlap == 30
    assert np.array_equal(load(tmp_path / "s", "train")[0][4], houses[..., 4])
    assert load(tmp_path / "s", "train")[1].tolist() == [*range(1, 10), 0] * 3


def test_label_out_of_range_in_a_source_is_refused(tmp_path: Path, remote: Callable[..., None]) -> None:
    (tmp_path / "web").mkdir()

    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        return members | {
            "cifar-100-python/test": pickle.dumps(
                {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 3]}, 4
            )
        }

    remote("cifar100", cifar100_archive(tmp_path / "web" / "c.tar.gz", change)[0])
    assert "label 3 at index 1 of split test; expected 0 to 2" in refusal(
        lambda: made(tmp_path / "d", source="cifar100")
    )


def test_unknown_source_is_refused(tmp_path: Path) -> None:
    assert "no source 'mnist'" in refusal(lambda: made(tmp_path / "d", source="mnist"))


# the real thing


@pytest.mark.slow
def test_cifar100_has_the_official_bytes(tmp_path: Path) -> None:
    if not (SHARED / "cifar100").is_dir():
        pytest.skip("no CIFAR-100 here")
    meta = made(tmp_path / "d", SHARED, source="folder", paths=["cifar100"], validation=0.0)
    assert meta.counts == {"train": 50_000, "validation": 0, "test": 10_000}
    assert (meta.mean, meta.std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    assert meta.per_class["train"] == (500,) * 100
    official = {
        "train": "4e457917601a66aed021f5fa37957b56c6319557c0a8ed5484de3c390af45430",
        "test": "4cb8e5d9309da489bf6b19cc10cd96c3ae6f8daf225380b605aaee4c0d6aee19",
    }
    for split, expected in official.items():
        assert hashlib.sha256(load(tmp_path / "d", split)[0].numpy().data).hexdigest() == expected


@pytest.mark.slow
def test_tiny_imagenet_with_its_grey_images(tmp_path: Path) -> None:
    if not (SHARED / "tiny-imagenet").is_dir():
        pytest.skip("no Tiny ImageNet here")
    seen: list[int] = []
    zips = ["tiny-imagenet/tiny-imagenet-quarter-train.zip", "tiny-imagenet/tiny-imagenet-val.zip"]
    meta = made(
        tmp_path / "d",
        SHARED,
        source="folder",
        paths=zips,
        size=64,
        train_images=2_000,
        progress=lambda _, total: seen.append(total),
    )
    assert meta.image == (64, 64, 3)
    assert (len(meta.classes), meta.counts) == (200, {"train": 1_800, "validation": 200, "test": 10_000})
    assert set(seen) == {12_000}  # what is not kept is not read
    images = load(tmp_path / "d", "test")[0]
    grey = int(
        ((images[..., 0] == images[..., 1]) & (images[..., 1] == images[..., 2])).flatten(1).all(1).sum()
    )
    assert 100 < grey < 400
