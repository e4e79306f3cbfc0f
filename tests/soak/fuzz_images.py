"""Zip archives of images made to escape, to deceive or to break."""

from __future__ import annotations

import io
import stat
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy
from hypothesis import strategies as st
from PIL import Image

from cdkd.data.load import load
from cdkd.data.prepare import prepare
from cdkd.data.prepared import SPLITS
from tests.soak.fuzz import LETTERS, Target
from tests.soak.fuzz_files import MUTATIONS, mutated


def _image(number: int, mode: str = "L", form: str = "PNG", size: tuple[int, int] = (6, 5)) -> bytes:
    pixels = numpy.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, form)
    return out.getvalue()


CONTENTS = [
    b"",
    b"GIF89a",
    b"../../../etc/passwd",
    _image(0)[:40],
    _image(9, size=(1, 1)),
    _image(10, size=(4000, 1)),
    _image(11, "I;16"),
]
CONTENTS += [
    _image(number, mode, form)
    for number, (mode, form) in enumerate(
        product(("1", "L", "LA", "P", "RGB", "RGBA"), ("PNG", "GIF", "TIFF"))
    )
]
NAMES = [
    "train/a/0.png", "train/a/../../../x.png", "../x.png", "../../above.png", "/tmp/soak-escaped.png",
    "C:\\x.png", "train\\b\\1.png", "train/a/",
    "test/c/9.png", "val/a/1.png", "train//1.png", "./train/a/1.png", "train/a/b/c.png",
    "train/.hidden/1.png", "__MACOSX/train/a/1.png",
    "train/a/1.PNG", "train/a/\x00.png", "train/a/\u202egnp.png", "validation/a/1.png", "train/a", "train",
    "data.json", "train/a/1.png/2.png",
]  # fmt: skip
NAMES += [
    "train/ /1.png",
    "train/a/" + "x" * 300 + ".png",
    "train/" + "9" * 20 + "/1.png",
    "train/a/" + "9" * 5000 + ".png",
]
KINDS = [0, stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFIFO, stat.S_IFCHR]
PLACES = [
    f"{split}/{name}/{number}.png" for split in ("train", "test") for name in "ab" for number in range(3)
]
VALID = {name: _image(40 + number) for number, name in enumerate(PLACES)}
MORE = st.tuples(
    st.sampled_from(NAMES) | st.text(LETTERS, max_size=8),
    st.sampled_from(KINDS),
    st.sampled_from([0, 3]),
    st.sampled_from(range(len(CONTENTS))),
)
ARCHIVES = st.fixed_dictionaries(
    {
        "compression": st.sampled_from(
            [zipfile.ZIP_STORED] * 5 + [zipfile.ZIP_DEFLATED] * 5 + [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
        ),
        "damaged": st.dictionaries(
            st.sampled_from(sorted(VALID)), st.sampled_from(range(len(CONTENTS))), max_size=3
        ),
        "more": st.lists(MORE, max_size=3),
        "damage": st.just([]) | MUTATIONS,
        "size": st.just(5) | st.none() | st.integers(1, 40),
    }
)


def archive(made: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", made["compression"]) as file:
        for name, content in VALID.items():
            file.writestr(name, CONTENTS[made["damaged"][name]] if name in made["damaged"] else content)
        for name, kind, system, content in made["more"]:
            info = zipfile.ZipInfo("x")
            info.filename = name  # set afterwards: the constructor would correct it
            info.external_attr, info.create_system = kind << 16, system
            file.writestr(info, CONTENTS[content])
    return mutated(out.getvalue(), made["damage"])


def check(made: dict[str, Any], folder: Path) -> None:
    (folder / "images.zip").write_bytes(archive(made))
    request: dict[str, Any] = {
        "size": made["size"],
        "train_images": None,
        "validation": 0.1,
        "seed": 0,
        "normalisation": "measured",
    }
    meta = prepare(folder / "data", folder, source="folder", paths=["images.zip"], **request)
    for split in SPLITS:
        images, labels = load(folder / "data", split)
        assert len(images) == len(labels) == meta.counts[split]


def archives() -> Target:
    return Target(ARCHIVES, check)
