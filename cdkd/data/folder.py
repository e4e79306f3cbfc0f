"""The user's own images: files in folders and archives, arranged in any of the layouts that `layouts` knows.

Images lie in the order of their numbers if the stems of a split's files are all different whole numbers (so
CIFAR keeps its official order), else by class and then by name, with numbers in names compared as numbers.
How the images are spread over `data.paths` makes no difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdkd.core.errors import BadData
from cdkd.data.arrays import Chunks, Labels, OnProgress, Source
from cdkd.data.containers import ARCHIVES, Entry, open_container
from cdkd.data.decode import decoded, is_image
from cdkd.data.draw import draw
from cdkd.data.layouts import SPLIT_OF, recognise
from cdkd.data.listing import Files, count_suffixes
from cdkd.data.splits import first_missing

Pairs = list[tuple[Entry, str]]  # image, class


def open_folder(
    root: Path, paths: Sequence[str], size: int | None, test_share: float | None = None, seed: int = 0
) -> Source:
    """List the images and their classes. `test_share`: of a data set without a test split, drawn from `seed`.

    Raises `BadData`.
    """
    files = _listed(root, paths)
    layout = recognise(files, test_share is not None)
    if len(layout.classes) < 2:
        only = ", ".join(map(repr, layout.classes))
        raise BadData(f"{files.shown}: one class only, {only}; expected at least 2")
    number = {name: label for label, name in enumerate(layout.classes)}
    train = _ordered(layout.train)
    if layout.test is None:
        train, test = _drawn(train, number, test_share or 0.0, seed)
    else:
        test = _ordered(layout.test)
    trained = {category for _, category in train}
    if missing := [name for name in layout.classes if name not in trained]:
        others = f" (and {len(missing) - 1} classes more)" if len(missing) > 1 else ""
        raise BadData(
            f"{files.shown}: class {missing[0]!r} has no images in split train{others}; expected at least 1"
        )

    def labels(pairs: Pairs) -> Labels:
        return np.array([number[category] for _, category in pairs], np.int64)

    def chosen_files(kept: Labels) -> list[Entry]:
        return [train[index][0] for index in kept] + [entry for entry, _ in test]

    def read(kept: Labels, progress: OnProgress | None) -> Chunks:
        chosen = chosen_files(kept)
        return decoded(chosen, lambda index: chosen[index].read(), size, progress)

    used = {entry for entry, _ in (*train, *test)} | set(layout.lists)
    unused = [entry.path for entry in (*files.images, *files.others) if entry not in used]
    notes = [f"layout: {layout.name}", *layout.notes]
    if unused:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in count_suffixes(unused).items())
        some = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
        notes.append(f"{len(unused):,} files are not used: {kinds} ({some})")
    return Source(
        tuple(layout.classes),
        labels(train),
        labels(test),
        read,
        count_suffixes(unused),
        tuple(notes),
        chosen_files,
    )


def _listed(root: Path, paths: Sequence[str]) -> Files:
    if not paths:
        raise BadData("data.paths: nothing; expected folders or archives (zip, tar)")
    files = Files([], [], [], ", ".join(paths))
    containers = list(_containers(root, paths))
    for path in containers:
        container = open_container(path, root)
        entries = list(container.entries())
        images = [entry for entry in entries if not entry.is_folder and is_image(entry)]
        chosen = set(images)
        wrapper, split = _wrapper(images), ""
        if len(containers) > 1 and not _names_splits(images, wrapper):
            split = _split_of(path)
        for entry in entries:
            renamed = entry._replace(path=split + entry.path.removeprefix(wrapper))
            if entry.is_folder:
                files.folders.append(renamed.path)
            else:
                (files.images if entry in chosen else files.others).append(renamed)
    return files


def _containers(root: Path, paths: Sequence[str]) -> Iterator[Path]:
    """A folder that holds archives and no folders stands for its archives."""
    for text in paths:
        path = root / Path(os.fsdecode(text.encode())).expanduser()  # in any locale the bytes of UTF-8
        if not path.exists():
            raise BadData(
                f"data.paths: {path} does not exist; expected a folder, or a zip or tar archive, with images"
            )
        archives = []
        if path.is_dir():
            content = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
            if not any(entry.is_dir() for entry in content):
                archives = sorted(entry for entry in content if entry.name.lower().endswith(ARCHIVES))
        yield from archives or [path]


def _wrapper(images: list[Entry]) -> str:
    """The folders that wrap all images, such as `tiny-imagenet-200/`: each image has at least one more."""
    parts = [entry.path.split("/") for entry in images]
    depth = 0
    while parts and all(len(part) > depth + 2 for part in parts):
        if len({part[depth] for part in parts}) > 1 or parts[0][depth].lower() in SPLIT_OF:
            break
        depth += 1
    return "".join(f"{part}/" for part in parts[0][:depth]) if parts else ""


def _names_splits(images: list[Entry], wrapper: str) -> bool:
    return any(entry.path.removeprefix(wrapper).split("/")[0].lower() in SPLIT_OF for entry in images)


def _split_of(path: Path) -> str:
    """`train/` for a container that is itself a split, such as `train.zip` or `imagenet/train`."""
    stem = path.name.lower()
    for suffix in ARCHIVES:
        stem = stem.removesuffix(suffix)
    return f"{stem}/" if stem in SPLIT_OF else ""


def _drawn(pairs: Pairs, number: dict[str, int], share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Training and test images: a stratified draw of the share for the test split."""
    count = round(share * len(pairs))
    if not 0 < count < len(pairs):
        raise BadData(
            f"data.test: {share} of {len(pairs)} images is {count}; expected at least 1, and not all"
        )
    labels = np.array([number[category] for _, category in pairs], np.int64)
    test = draw(labels, count, "test", seed)
    what = f"data.test: {share} of {len(pairs)} images is {count}, which leaves"
    if (lost := first_missing(labels, np.delete(labels, test), list(number))) is not None:
        raise BadData(f"{what} {lost} without a training image; expected less")
    if (lost := first_missing(labels, labels[test], list(number), least=2)) is not None:
        raise BadData(f"{what} {lost} without a test image; expected more")
    chosen = set(test.tolist())
    return [pair for index, pair in enumerate(pairs) if index not in chosen], [pairs[index] for index in test]


def _ordered(pairs: Pairs) -> Pairs:
    first: dict[tuple[str, str], Entry] = {}
    for entry, category in pairs:
        other = first.setdefault((category, entry.path), entry)
        if other is not entry:
            raise BadData(f"{entry} is also in {other.container.path}; expected each image once")
    files = [entry.path.rpartition("/")[2] for entry, _ in pairs]
    stems = [file.rpartition(".")[0] for file in files]
    if all(re.fullmatch("[0-9]{1,18}", stem) for stem in stems) and len(set(map(int, stems))) == len(stems):
        keys: list[Any] = [int(stem) for stem in stems]
    else:
        keys = [
            (category, _natural(file), file, entry.path)
            for file, (entry, category) in zip(files, pairs, strict=True)
        ]
    return [pairs[index] for index in sorted(range(len(pairs)), key=keys.__getitem__)]


def _natural(name: str) -> list[str | tuple[int, str]]:
    """Text and numbers in turn, so that 10 comes after 9.

    A number is its length and digits, because Python's int() reads at most 4300 digits.
    """
    parts = re.split("0*([0-9]+)", name)
    return [(len(part), part) if index % 2 else part for index, part in enumerate(parts)]
