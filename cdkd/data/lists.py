"""Data sets with lists of their own: CUB-200-2011, Stanford Cars and Dogs, Flowers-102, and text lists."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from cdkd.core.errors import BadData
from cdkd.data.containers import Entry
from cdkd.data.listing import Files, Layout, text_of

Pairs = list[tuple[Entry, str]]  # image, class


class Index:
    """Images by the end of their path, with or without suffix; list files by their name."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.lists: dict[str, list[Entry]] = {}
        for entry in files.others:
            self.lists.setdefault(entry.path.rpartition("/")[2], []).append(entry)
        self.images: dict[str, list[Entry]] = {}
        for entry in files.images:
            path = PurePosixPath(entry.path)
            for end in {"/".join(path.parts[-2:]), path.name}:
                self.images.setdefault(end, []).append(entry)
                self.images.setdefault(str(PurePosixPath(end).with_suffix("")), []).append(entry)

    def find(self, name: str) -> Entry | None:
        found = self.lists.get(name, [])
        if len(found) > 1:
            raise BadData(f"{self.files.shown}: both {found[0]} and {found[1]}; expected one {name}")
        return found[0] if found else None

    def image(self, path: str) -> Entry | None:
        parts = path.strip("/").split("/")
        found = self.images.get("/".join(parts[-2:])) or []
        return found[0] if len({id(entry) for entry in found}) == 1 else None

    def pairs(self, source: Entry, wanted: Iterable[tuple[str, str]]) -> Pairs:
        """Each (path, class) with its image; raises `BadData` naming the list and a path without image."""
        pairs, missing = [], []
        for path, category in wanted:
            if (entry := self.image(path)) is None:
                missing.append(path)
            else:
                pairs.append((entry, category))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise BadData(f"{source}: lists image {missing[0]}{more}, which is not in {self.files.shown}")
        return pairs


def recognise(files: Files) -> Layout | None:
    """The layout of the first data set whose lists are there; None without any. Raises `BadData`."""
    index = Index(files)
    for reader in (_cub, _cars, _dogs, _flowers, _text_lists):
        if (found := reader(index)) is not None:
            return found
    return None


def _layout(name: str, classes: Sequence[str], train: Pairs, test: Pairs, lists: list[Entry]) -> Layout:
    return Layout(name, classes, train, test, lists=lists)


def _need(index: Index, name: str, recognised: str, because: str) -> Entry:
    if (entry := index.find(name)) is None:
        raise BadData(f"{index.files.shown}: recognised {recognised} by its {because}; {name} is missing")
    return entry


def _rows(entry: Entry, columns: int) -> list[list[str]]:
    rows = [line.split(maxsplit=columns - 1) for line in text_of(entry).splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            raise BadData(f"{entry}: line {number}: {' '.join(row)!r}; expected {columns} columns")
    return rows


def _cub(index: Index) -> Layout | None:
    """images.txt: number, <class>/<image>. train_test_split.txt: number, 1 for training or 0 for test."""
    images, split = index.find("images.txt"), index.find("train_test_split.txt")
    if images is None and split is None:
        return None
    if images is None or split is None:
        images = images or _need(index, "images.txt", "CUB-200-2011", "train_test_split.txt")
        split = _need(index, "train_test_split.txt", "CUB-200-2011", "images.txt")
    trains = dict(_rows(split, 2))
    wanted: dict[str, list[tuple[str, str]]] = {"1": [], "0": []}
    for number, path in _rows(images, 2):
        if trains.get(number) not in wanted:
            found = trains.get(number, "nothing")
            raise BadData(f"{split}: image {number}: {found}; expected 1 for training or 0 for test")
        wanted[trains[number]].append((path, PurePosixPath(path).parent.name))
    classes = sorted({category for part in wanted.values() for _, category in part})
    train, test = (index.pairs(images, wanted[part]) for part in "10")
    return _layout("CUB-200-2011", classes, train, test, [images, split])


def _mat(entry: Entry, *names: str) -> list[Any]:
    """Variables of a MATLAB file, up to version 7. Plain values only: nothing in it is run."""
    from scipy.io import loadmat

    try:
        content = loadmat(io.BytesIO(entry.read()), simplify_cells=True, variable_names=names)
    except Exception as error:  # scipy raises many kinds of exceptions on a damaged file
        raise BadData(f"{entry}: no readable MATLAB file ({error})") from error
    if missing := [name for name in names if name not in content]:
        raise BadData(f"{entry}: no variable {missing[0]!r}")
    return [content[name] for name in names]


def _annotations(entry: Entry, name: str) -> list[dict[str, Any]]:
    (rows,) = _mat(entry, "annotations")
    rows = [rows] if isinstance(rows, dict) else list(rows)
    for row in rows:
        if not isinstance(row, dict) or not {name, "class"} <= set(row):
            raise BadData(f"{entry}: an annotation without {name} and class")
    return rows


def _cars(index: Index) -> Layout | None:
    """Stanford Cars: cars_meta.mat names the classes; the annotations number them, counted from 1."""
    first, single = index.find("cars_train_annos.mat"), index.find("cars_annos.mat")
    recognised = "Stanford Cars"
    if single is not None and first is None:
        (names,) = _mat(single, "class_names")
        rows = _annotations(single, "relative_im_path")
        parts = [[row for row in rows if bool(row.get("test")) is test] for test in (False, True)]
        lists, key = [single, single], "relative_im_path"
    elif first is not None:
        meta = _need(index, "cars_meta.mat", recognised, "cars_train_annos.mat")
        test = _need(index, "cars_test_annos_withlabels.mat", recognised, "cars_train_annos.mat")
        (names,) = _mat(meta, "class_names")
        lists, key = [first, test], "fname"
        parts = [
            [{**row, key: f"{folder}/{row[key]}"} for row in _annotations(entry, key)]
            for entry, folder in zip(lists, ("cars_train", "cars_test"), strict=True)
        ]
        lists.append(meta)
    else:
        return None
    classes = [str(name) for name in np.ravel(names)]
    pairs = []
    for entry, rows in zip(lists, parts, strict=False):
        for row in rows:
            if not 1 <= int(row["class"]) <= len(classes):
                raise BadData(f"{entry}: class {row['class']}; expected 1 to {len(classes)}")
        wanted = [(str(row[key]), classes[int(row["class"]) - 1]) for row in rows]
        pairs.append(index.pairs(entry, wanted))
    return _layout(recognised, classes, pairs[0], pairs[1], lists)


def _dogs(index: Index) -> Layout | None:
    """Stanford Dogs: train_list.mat and test_list.mat list <class>/<image>."""
    if index.find("train_list.mat") is None and index.find("test_list.mat") is None:
        return None
    lists = [
        _need(index, f"{split}_list.mat", "Stanford Dogs", f"{other}_list.mat")
        for split, other in (("train", "test"), ("test", "train"))
    ]
    pairs = []
    for entry in lists:
        paths = [str(path) for path in np.ravel(_mat(entry, "file_list")[0])]
        pairs.append(index.pairs(entry, [(path, PurePosixPath(path).parent.name) for path in paths]))
    classes = sorted({category for part in pairs for _, category in part})
    return _layout("Stanford Dogs", classes, pairs[0], pairs[1], lists)


def _flowers(index: Index) -> Layout | None:
    """Flowers-102: imagelabels.mat has the label of each numbered image, setid.mat the splits."""
    labels, splits = index.find("imagelabels.mat"), index.find("setid.mat")
    if labels is None and splits is None:
        return None
    labels = labels or _need(index, "imagelabels.mat", "Flowers-102", "setid.mat")
    splits = splits or _need(index, "setid.mat", "Flowers-102", "imagelabels.mat")
    numbers = np.ravel(_mat(labels, "labels")[0]).astype(int)
    classes = [f"{number:03}" for number in sorted(set(numbers.tolist()))]
    train, validation, test = (
        [
            (f"image_{image:05}.jpg", f"{numbers[image - 1]:03}")
            for image in np.ravel(part).astype(int).tolist()
            if 0 < image <= len(numbers)
        ]
        for part in _mat(splits, "trnid", "valid", "tstid")
    )
    pairs = [index.pairs(splits, part) for part in (train, test)]
    found = _layout("Flowers-102", classes, pairs[0], pairs[1], [labels, splits])
    found.notes.append(
        f"split valid ({len(validation):,} images) is not used: "
        "data.validation draws the validation split from the training images"
    )
    return found


def _text_lists(index: Index) -> Layout | None:
    """train.txt and test.txt (or val.txt), as in Food-101: one image a line, with or without its suffix.

    A second column is the class; without one it is the image's folder.
    """
    train, test = index.find("train.txt"), index.find("test.txt") or index.find("val.txt")
    if train is None or test is None:
        return None
    pairs = []
    for entry in (train, test):
        lines = [line.strip() for line in text_of(entry).splitlines() if line.strip()]
        wanted = []
        for line in lines:
            path, _, label = line.rpartition(" ")
            if index.image(line) is not None or not path:
                path, label = line, PurePosixPath(line).parent.name
            wanted.append((path.strip(), label))
        if not any(index.image(path) for path, _ in wanted):
            return None  # text of another kind
        pairs.append(index.pairs(entry, wanted))
    classes = sorted({category for part in pairs for _, category in part})
    return _layout(f"lists {train.path} and {test.path}", classes, pairs[0], pairs[1], [train, test])
