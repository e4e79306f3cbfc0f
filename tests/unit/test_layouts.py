"""Layouts that people have: what is read from each, and one clear line for what cannot be used."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cdkd.data.load import load
from cdkd.data.prepared import read_meta
from tests.unit.test_data import archive, encoded, from_folder, pictures, refusal, tree

CLASSES = ("ant", "bee", "cat")


def images(*names: str) -> dict[str, bytes]:
    return {name: encoded(number) for number, name in enumerate(names)}


def tar(path: Path, content: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_archives_are_the_same_data(tmp_path: Path, mode: str) -> None:
    expected = from_folder(tmp_path / "a", tree(tmp_path / "x", pictures())).digest
    path = tar(tmp_path / f"x.tar.{mode[2:]}".rstrip("."), pictures(), mode)
    assert from_folder(tmp_path / "b", path).digest == expected
    wrapped = {f"top/of/{name}": data for name, data in pictures().items()}
    assert from_folder(tmp_path / "c", tar(tmp_path / "w.tar", wrapped)).digest == expected
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith("tmp")]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar_archives_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tar(tmp_path / "x.tar", pictures())
    info = tarfile.TarInfo("train/ant/x.png")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(path, "a") as file:
        file.addfile(info)
    assert "'train/ant/x.png' is a link or a device" in refusal(lambda: from_folder(tmp_path / "a", path))


def test_tar_members_outside_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", pictures() | {"../x.png": b"x"})
    assert "'../x.png' points outside" in refusal(lambda: from_folder(tmp_path / "a", path))
    good = tar(tmp_path / "y.tar.gz", pictures(), "w:gz").read_bytes()
    for data in (b"", good[: len(good) // 2], b"no archive", bytes(500)):
        (tmp_path / "y.tar.gz").write_bytes(data)
        text = refusal(lambda: from_folder(tmp_path / "a", tmp_path / "y.tar.gz"))
        assert f"{tmp_path / 'y.tar.gz'}: " in text or "found no images" in text


def test_other_names_of_splits_and_an_unused_validation_split(tmp_path: Path) -> None:
    expected = from_folder(tmp_path / "a", tree(tmp_path / "x", pictures()))
    for number, (train, test) in enumerate([("Training", "Testing"), ("train", "valid")]):
        renamed = {
            name.replace("train/", f"{train}/").replace("test/", f"{test}/"): data
            for name, data in pictures().items()
        }
        meta = from_folder(tmp_path / f"b{number}", tree(tmp_path / f"y{number}", renamed))
        assert meta.digest == expected.digest
    more = pictures() | images("valid/ant/x.png", "valid/bee/y.png")
    meta = from_folder(tmp_path / "c", tree(tmp_path / "z", more))
    assert meta.digest == expected.digest
    assert any("split valid (2 images) is not used" in note for note in meta.notes)
    assert meta.unused == {".png": 2}


def test_containers_that_are_splits_themselves(tmp_path: Path) -> None:
    expected = from_folder(tmp_path / "a", tree(tmp_path / "x", pictures())).digest
    parts = [
        archive(
            tmp_path / f"{split}.zip",
            {n.removeprefix(f"{split}/"): d for n, d in pictures().items() if n.startswith(split)},
        )
        for split in ("train", "test")
    ]
    assert from_folder(tmp_path / "b", *parts).digest == expected
    assert from_folder(tmp_path / "c", tmp_path / "x" / "train", tmp_path / "x" / "test").digest == expected


def test_tiny_imagenet_as_distributed(tmp_path: Path) -> None:
    content: dict[str, bytes] = {"wnids.txt": b"n1\nn2\n", "words.txt": b"n1\tant\n"}
    for number, name in enumerate(("n2", "n1")):
        for i in range(4):
            content[f"train/{name}/images/{name}_{i}.JPEG"] = encoded(10 * number + i, form="JPEG")
        content[f"train/{name}/{name}_boxes.txt"] = b"x\t0\t0\t1\t1\n"
    for i in range(4):
        content[f"val/images/val_{i}.JPEG"] = encoded(100 + i, form="JPEG")
        content[f"test/images/test_{i}.JPEG"] = encoded(200 + i, form="JPEG")
    content["val/val_annotations.txt"] = b"".join(
        b"val_%d.JPEG\tn%d\t0\t0\t1\t1\n" % (i, i % 2 + 1) for i in range(4)
    )
    folder = tree(tmp_path / "x", {f"tiny-imagenet-200/{name}": data for name, data in content.items()})
    meta = from_folder(tmp_path / "a", folder, validation=0.0)
    assert meta.classes == ("n1", "n2")
    assert meta.counts == {"train": 8, "validation": 0, "test": 4}
    shown = np.asarray(Image.open(io.BytesIO(content["val/images/val_2.JPEG"])))
    found, labels = load(tmp_path / "a", "test")
    assert labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(np.asarray(found[1]), shown)  # val_0 and val_2 are n1
    assert "split test (4 images) has no labels and is not used" in meta.notes
    (folder / "tiny-imagenet-200/val/val_annotations.txt").write_bytes(b"val_0.JPEG\tn1\t0\t0\t1\t1\n")
    assert "image val/images/val_1.JPEG is not listed" in refusal(lambda: from_folder(tmp_path / "b", folder))
    (folder / "tiny-imagenet-200/val/val_annotations.txt").unlink()
    shutil.rmtree(folder / "tiny-imagenet-200/test")
    text = refusal(lambda: from_folder(tmp_path / "b", folder))
    assert "all images of split val are in val/images, which is no class of split train" in text
    assert "list val/val_annotations.txt" in text


def test_a_test_split_is_drawn_when_asked(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", images(*(f"{c}/{i}.png" for c in CLASSES for i in range(10))))
    text = refusal(lambda: from_folder(tmp_path / "a", folder))
    assert "found 3 class folders (ant, bee, cat) and no splits; to draw a test split, set data.test" in text
    meta = from_folder(tmp_path / "a", folder, test=0.2)
    assert meta.per_class["test"] == (2, 2, 2)
    assert meta.overlap == 0
    assert from_folder(tmp_path / "b", folder, test=0.2).digest == meta.digest
    assert from_folder(tmp_path / "c", folder, test=0.2, seed=1).digest != meta.digest
    text = refusal(lambda: from_folder(tmp_path / "d", folder, test=0.95))
    assert "0.95 of 30 images is 28, which leaves class 'ant' of 10 images without a training image" in text
    text = refusal(lambda: from_folder(tmp_path / "d", folder, test=0.05))
    assert "0.05 of 30 images is 2, which leaves class 'cat' of 10 images without a test image" in text
    whole = tree(tmp_path / "y", pictures())
    text = refusal(lambda: from_folder(tmp_path / "d", whole, test=0.2))
    assert "has the test split 'test' already; remove data.test" in text


def cub() -> dict[str, bytes]:
    names = [f"{n:03}.{c}/{c}_{i}.jpg" for n, c in enumerate(CLASSES, 1) for i in range(5)]
    content = {f"images/{name}": encoded(i, form="JPEG") for i, name in enumerate(names)}
    content["images.txt"] = "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)).encode()
    content["train_test_split.txt"] = "".join(f"{i} {int(i % 5 > 1)}\n" for i in range(1, 16)).encode()
    return {f"CUB_200_2011/{name}": data for name, data in content.items()}


def test_cub(tmp_path: Path) -> None:
    meta = from_folder(tmp_path / "a", tar(tmp_path / "CUB_200_2011.tgz", cub(), "w:gz"), validation=0.0)
    assert meta.classes == ("001.ant", "002.bee", "003.cat")
    assert meta.per_class == {"train": (3, 3, 3), "validation": (0, 0, 0), "test": (2, 2, 2)}
    without = {name: data for name, data in cub().items() if "split" not in name}
    text = refusal(lambda: from_folder(tmp_path / "b", tree(tmp_path / "x", without)))
    assert "recognised CUB-200-2011 by its images.txt; train_test_split.txt is missing" in text
    lost = {name: data for name, data in cub().items() if not name.endswith("bee_3.jpg")}
    text = refusal(lambda: from_folder(tmp_path / "b", tree(tmp_path / "y", lost)))
    assert "lists image 002.bee/bee_3.jpg, which is not in" in text


def cells(values: list[Any]) -> Any:
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def test_stanford_dogs(tmp_path: Path) -> None:
    names = {s: [f"n-{c}/{c}_{s}{i}.jpg" for c in CLASSES for i in range(3)] for s in ("train", "test")}
    folder = tree(tmp_path / "x", images(*(f"Images/{name}" for part in names.values() for name in part)))
    for split, listed in names.items():
        savemat(folder / f"{split}_list.mat", {"file_list": cells(listed)})
    meta = from_folder(tmp_path / "a", folder, validation=0.0)
    assert meta.classes == ("n-ant", "n-bee", "n-cat")
    assert meta.per_class["test"] == (3, 3, 3)
    (folder / "test_list.mat").unlink()
    assert "recognised Stanford Dogs by its train_list.mat; test_list.mat is missing" in refusal(
        lambda: from_folder(tmp_path / "b", folder)
    )
    (folder / "test_list.mat").write_bytes(b"MATLAB? no")
    assert "test_list.mat: no readable MATLAB file" in refusal(lambda: from_folder(tmp_path / "b", folder))


def test_stanford_cars(tmp_path: Path) -> None:
    folder = tree(
        tmp_path / "x", images(*(f"cars_{s}/{i:05}.jpg" for s in ("train", "test") for i in range(1, 7)))
    )
    (folder / "devkit").mkdir()
    fields = [("class", object), ("fname", object)]
    rows = np.array([(i % 2 + 1, f"{i:05}.jpg") for i in range(1, 7)], dtype=fields)[None]
    savemat(folder / "devkit/cars_train_annos.mat", {"annotations": rows})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": cells(["Ram C/V 2012", "Audi TT"]).T})
    text = refusal(lambda: from_folder(tmp_path / "a", folder))
    assert (
        "recognised Stanford Cars by its cars_train_annos.mat; cars_test_annos_withlabels.mat is missing"
        in text
    )
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})
    meta = from_folder(tmp_path / "a", folder, validation=0.0)
    assert meta.classes == ("Ram C/V 2012", "Audi TT")  # the official order
    assert load(tmp_path / "a", "test")[1].tolist() == [1, 0, 1, 0, 1, 0]


def test_text_lists(tmp_path: Path) -> None:
    names = {s: [f"{c}/{s}{i}" for c in CLASSES for i in range(3)] for s in ("train", "test")}
    folder = tree(tmp_path / "x", images(*(f"images/{n}.jpg" for part in names.values() for n in part)))
    (folder / "meta").mkdir()
    for split, listed in names.items():
        (folder / f"meta/{split}.txt").write_text("\n".join(listed))
    assert from_folder(tmp_path / "a", folder, validation=0.0).per_class["test"] == (3, 3, 3)


def test_what_is_there_instead_of_images_is_named(tmp_path: Path) -> None:
    for name, expected in (
        ("cifar-10-batches-py/data_batch_1", "use data.source cifar10"),
        ("train-00000.parquet", "1 .parquet"),
        ("a/images.zip", "name the archives themselves"),
    ):
        folder = tree(tmp_path / name.replace("/", "-"), {name: b"x"})
        text = refusal(lambda f=folder: from_folder(tmp_path / "a", f))  # type: ignore[misc]
        assert "found no images at all among 1 file" in text
        assert expected in text
    flat = tree(tmp_path / "flat", images("1.png", "2.png"))
    assert "2 images in no class folder, such as 1.png" in refusal(lambda: from_folder(tmp_path / "a", flat))


def saved(form: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(encoded(7))).convert(mode).save(buffer, form)
    return buffer.getvalue()


def test_files_with_other_suffixes_are_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    others = {
        "a.jfif": saved("JPEG"),
        "b.jp2": saved("JPEG2000"),
        "c.tga": saved("TGA"),
        "d.pcx": saved("PCX"),
        "noend": saved("PNG"),
        "e.dat": saved("WEBP"),
    }
    rest = {"notes.txt": b"Python", "f.heic": b"\0\0\0\x18ftypheic", "g.svg": b"<svg/>", "h.txt": b"P6"}
    content = pictures() | {f"train/ant/{name}": data for name, data in (others | rest).items()}
    for number, where in enumerate((tree(tmp_path / "x", content), archive(tmp_path / "x.zip", content))):
        meta = from_folder(tmp_path / str(number), where, validation=0.0)
        assert meta.per_class["train"] == (6 + len(others), 6, 6)
        assert meta.unused == {".txt": 2, ".heic": 1, ".svg": 1}
        assert read_meta(tmp_path / str(number)) == meta
        assert any(note.startswith("4 files are not used: 2 .txt, 1 .heic, 1 .svg (") for note in meta.notes)


def test_names_that_are_not_utf8_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tree(
        tmp_path / "x", pictures() | {"train/ant/broken.png": b"x"}
    )  # would be refused when decoded
    os.rename(folder / "train/bee", os.fsencode(folder / "train") + b"/caf\xe9")
    expected = r"the name train/caf\xe9 is not UTF-8; rename it"
    assert expected in refusal(lambda: from_folder(tmp_path / "a", folder))
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.add(folder, "top")
    assert r"top/train/caf\xe9 is not UTF-8" in refusal(
        lambda: from_folder(tmp_path / "a", tmp_path / "x.tar")
    )
    assert not (tmp_path / "a").exists()


def test_a_class_written_in_two_unicode_forms_is_one(tmp_path: Path) -> None:
    content = pictures() | images("train/caf\u00e9/1.png", "train/cafe\u0301/2.png", "test/cafe\u0301/1.png")
    meta = from_folder(tmp_path / "a", tree(tmp_path / "x", content), validation=0.0)
    assert meta.classes == ("ant", "bee", "caf\u00e9", "cat")
    assert meta.per_class["train"] == (6, 6, 2, 6)


@pytest.mark.parametrize("where", ["train/ant/x.png", "notes"])
@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a link to a file that does not exist"])
def test_special_files_never_hang(tmp_path: Path, where: str, kind: str) -> None:
    """In a process of its own, so that a hang fails this test alone."""
    folder = tree(tmp_path / "x", pictures())
    if kind == "a FIFO":
        os.mkfifo(folder / where)
    else:
        (folder / where).symlink_to("/dev/zero" if kind == "a device" else "/nowhere")
    code = (
        "import sys; from pathlib import Path; from cdkd.core.errors import BadData\n"
        "from cdkd.data.folder import open_folder\n"
        "try: open_folder(Path('/'), [sys.argv[1]], None)\n"
        "except BadData as error: print(error)"
    )
    run = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    assert f"{where} is {kind}; expected files and folders" in done.stdout


def test_links_in_circles_and_folders_named_like_files(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", pictures())
    expected = from_folder(tmp_path / "a", folder).digest
    (folder / "train/ant/loop").symlink_to("..")
    (folder / "train/ant/folder.png").mkdir()
    assert from_folder(tmp_path / "b", folder).digest == expected
    os.mkfifo(tmp_path / "x.zip")
    assert "x.zip is a FIFO" in refusal(lambda: from_folder(tmp_path / "c", tmp_path / "x.zip"))


def test_zip_names_without_the_unicode_flag(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", pictures() | images("train/caf\u00e9/1.png"))
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := data.find(signature, start + 1)) >= 0:
            data[start + place + 1] &= ~0x08  # bit 11
    path.write_bytes(data)
    with zipfile.ZipFile(path) as file:
        assert "train/caf\u00e9/1.png" not in file.namelist()
    assert "caf\u00e9" in from_folder(tmp_path / "a", path).classes
