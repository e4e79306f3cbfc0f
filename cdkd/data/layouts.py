"""How a data set's files are arranged: which images belong to which split and class.

`recognise` tries, in this order: data sets with lists of their own (see `lists`), Tiny ImageNet as
distributed, `<split>/<class>/<image>`, and `<class>/<image>`, whose test split is drawn if `data.test` asks
for it.
"""

from __future__ import annotations

import re
from collections import Counter

from cdkd.core.errors import BadData
from cdkd.data import lists
from cdkd.data.containers import ARCHIVES, Entry
from cdkd.data.listing import Files, Layout, count_suffixes, text_of

SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation", "dev"),
}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
LAYOUT = "expected <split>/<class>/<image>, with the splits train and test (or val, valid, validation)"


def recognise(files: Files, draw_test: bool) -> Layout:
    """Raises `BadData` naming what was found where no layout fits."""
    if (listed := lists.recognise(files)) is not None:
        return listed
    if not files.images:
        raise BadData(f"{files.shown}: found no images at all{_hint(files)}; {LAYOUT}")
    found = {entry.path.split("/")[0] for entry in files.images}
    if any(name.lower() in SPLIT_OF for name in found):
        return _by_split(files, draw_test)
    return _by_class(files, draw_test)


def _by_split(files: Files, draw_test: bool) -> Layout:
    """`<split>/<class>/<image>`; or Tiny ImageNet's `train/<class>/images/<image>`, `val/images/<image>`."""
    images: dict[str, list[Entry]] = {}
    for entry in files.images:
        images.setdefault(entry.path.split("/")[0], []).append(entry)
    folders: dict[str, list[str]] = {"train": [], "test": [], "validation": []}
    for name in sorted(images):
        if name.lower() in SPLIT_OF:
            folders[SPLIT_OF[name.lower()]].append(name)
    if unknown := [name for name in images if name.lower() not in SPLIT_OF]:
        known = ", ".join(name for names in folders.values() for name in names)
        raise BadData(
            f"{files.shown}: image {images[unknown[0]][0].path} is in none of the splits found ({known}); "
            f"{LAYOUT}"
        )
    annotations = {entry.path: entry for entry in files.others if entry.path.endswith("_annotations.txt")}
    trained = {entry.path.split("/")[1] for name in folders["train"] for entry in images[name]}
    notes = []
    if folders["validation"]:
        for name in list(folders["test"]):
            if f"{name}/{name}_annotations.txt" not in annotations and _is_flat(images[name], trained):
                folders["test"].remove(name)
                notes.append(f"split {name} ({_images(len(images[name]))}) has no labels and is not used")
    test = "test" if folders["test"] else "validation"
    for split in ("train", test):
        if len(folders[split]) > 1:
            raise BadData(f"{files.shown}: both splits {' and '.join(folders[split])}; {LAYOUT}")
    _refuse_missing(files, folders, test, draw_test)
    for name in folders["validation"] if test == "test" else ():
        notes.append(
            f"split {name} ({_images(len(images[name]))}) is not used: "
            "data.validation draws the validation split from the training images"
        )
    layout = Layout("", [], [], None, notes)
    classes: set[str] = set()
    for name in (*folders["train"], *folders[test]):
        if (listed := annotations.get(f"{name}/{name}_annotations.txt")) is not None:
            layout.lists.append(listed)
            pairs = _annotated(images[name], listed)
        else:
            if name not in folders["train"] and _is_flat(images[name], trained):
                where = images[name][0].path.rpartition("/")[0]
                raise BadData(
                    f"{files.shown}: all images of split {name} are in {where}, which is no class of split"
                    f" train; expected class folders, or Tiny ImageNet's list {name}/{name}_annotations.txt"
                )
            pairs = [(entry, _class_of(entry)) for entry in images[name]]
            paths = (folder.split("/") for folder in files.folders)  # a class folder may be empty
            classes |= {path[1] for path in paths if len(path) == 2 and path[0] == name}
        classes |= {category for _, category in pairs}
        if name in folders["train"]:
            layout.train = pairs
        else:
            layout.test = pairs
    layout.classes = sorted(classes)
    layout.name = (
        "Tiny ImageNet" if layout.lists else f"folders {', '.join(folders['train'] + folders[test])}"
    )
    return layout


def _refuse_missing(files: Files, folders: dict[str, list[str]], test: str, draw_test: bool) -> None:
    found = ", ".join(name for names in folders.values() for name in names)
    if not folders["train"]:
        raise BadData(f"{files.shown}: split train has no images; found {found}; {LAYOUT}")
    if not folders[test] and not draw_test:
        raise BadData(
            f"{files.shown}: split test (or val, valid, validation) has no images; found {found}; {LAYOUT}; "
            "to draw a test split, set data.test to its share, such as 0.2"
        )
    if folders[test] and draw_test:
        raise BadData(
            f"data.test: {files.shown} has the test split {folders[test][0]!r} already; remove data.test"
        )


def _class_of(entry: Entry) -> str:
    parts = entry.path.split("/")
    if len(parts) == 3 or (len(parts) == 4 and parts[2] == "images"):
        return parts[1]
    where = "is in no class folder" if len(parts) == 2 else "is too deep in folders"
    raise BadData(f"{entry.container.path}: image {entry.path} {where}; {LAYOUT}")


def _is_flat(images: list[Entry], classes: set[str]) -> bool:
    """Whether there are no class folders: all images lie in one folder, which is no class."""
    parents = {tuple(entry.path.split("/")[1:-1]) for entry in images}
    return len(parents) == 1 and not set(*parents) & classes


def _annotated(images: list[Entry], annotations: Entry) -> list[tuple[Entry, str]]:
    """Tiny ImageNet's val_annotations.txt: file name, class, box; one image a line, separated by tabs."""
    lines = [line.split("\t") for line in text_of(annotations).splitlines() if line.strip()]
    category = {line[0]: line[1].strip() for line in lines if len(line) > 1}
    for entry in images:
        if entry.path.rpartition("/")[2] not in category:
            raise BadData(f"{annotations}: image {entry.path} is not listed; expected its name and class")
    return [(entry, category[entry.path.rpartition("/")[2]]) for entry in images]


def _by_class(files: Files, draw_test: bool) -> Layout:
    depth = Counter(entry.path.count("/") for entry in files.images)
    if odd := [entry for entry in files.images if entry.path.count("/") != 1]:
        where = f"image {odd[0].path}"
        if set(depth) == {0}:
            where = f"{_images(len(odd))} in no class folder, such as {odd[0].path}"
        raise BadData(f"{odd[0].container.path}: {where}; {LAYOUT}, or <class>/<image> with data.test")
    pairs = [(entry, entry.path.split("/")[0]) for entry in files.images]
    classes = sorted({category for _, category in pairs})
    if not draw_test:
        some = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
        raise BadData(
            f"{files.shown}: found {len(classes)} class folders ({some}) and no splits; "
            f"to draw a test split, set data.test to its share, such as 0.2; or {LAYOUT}"
        )
    return Layout("class folders", classes, pairs, None)


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count != 1 else ''}"


HINTS = (
    (
        r"(^|/)(data_batch_1|batches\.meta)$",
        "; these are CIFAR-10's files for Python: use data.source cifar10",
    ),
    (r"(^|/)file\.txt~$", "; these are CIFAR-100's files for Python: use data.source cifar100"),
    (
        r"idx[13]-ubyte(\.gz)?$",
        "; these are files in MNIST's format: data.source fashion-mnist reads its own",
    ),
    (r"_32x32\.mat$", "; these are SVHN's files: use data.source svhn"),
    (
        r"\.(parquet|arrow|tfrecord|lmdb|mdb|h5|hdf5|npz|npy|pkl|pt)$",
        "; expected image files, not tables of them",
    ),
)


def _hint(files: Files) -> str:
    """What the files are instead of images."""
    names = [entry.path for entry in files.others]
    if not names:
        return ""
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in count_suffixes(names).items())
    text = f" among {len(names):,} file{'s' if len(names) > 1 else ''} ({kinds})"
    if any(name.lower().endswith(ARCHIVES) for name in names):
        return text + "; name the archives themselves in data.paths"
    return text + next((hint for pattern, hint in HINTS if any(re.search(pattern, n) for n in names)), "")
