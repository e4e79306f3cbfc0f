"""Public data sets: downloaded once, verified by a pinned sha256, parsed without running code in them."""

from __future__ import annotations

import gzip
import http.client
import io
import os
import pickle
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cdkd.core.errors import BadData
from cdkd.data.arrays import Arrays, Images, Labels, OnProgress
from cdkd.storage.files import sha256

FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
HOUSES = "http://ufldl.stanford.edu/housenumbers/"


class Remote(NamedTuple):
    url: str
    sha256: str


REMOTES = {
    "cifar10": (
        Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    "cifar100": (
        Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ),
    ),
    "fashion-mnist": (
        Remote(
            FASHION + "train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        Remote(
            FASHION + "train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        Remote(
            FASHION + "t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        Remote(
            FASHION + "t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "svhn": (
        Remote(
            HOUSES + "train_32x32.mat", "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"
        ),
        Remote(HOUSES + "test_32x32.mat", "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
    ),
}


def read(source: str, folder: Path, progress: OnProgress | None) -> Arrays:
    """The data set from its files in `folder`; missing files are downloaded."""
    files = [fetched(source, remote, folder, progress) for remote in REMOTES[source]]
    try:
        return READERS[source](files)
    except BadData as error:
        raise BadData(f"{source}: {', '.join(map(str, files))}: {error}") from error
    except Exception as error:  # parsers raise many kinds of exceptions on a faulty file
        kind, names = type(error).__name__, ", ".join(map(str, files))
        raise BadData(f"{source}: {names} cannot be parsed ({kind}: {error})") from error


def fetched(source: str, remote: Remote, folder: Path, progress: OnProgress | None) -> Path:
    """The path of a downloaded file with the right digest.

    A failed download leaves nothing behind; a wrong file that is already there is never overwritten.
    """
    path = folder / remote.url.rpartition("/")[2]
    if not path.exists():
        _download(source, remote, path, progress)
    elif (found := sha256(path)) != remote.sha256:
        raise BadData(
            f"{path}: sha256 {found}; expected {remote.sha256}; "
            "remove the file, then `cdkd prepare` downloads it again"
        )
    return path


def _download(source: str, remote: Remote, path: Path, progress: OnProgress | None) -> None:
    by_hand = (
        f"get {path.name} (sha256 {remote.sha256}) elsewhere, put it into {path.parent}, "
        "and run `cdkd prepare` again"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
            temporary = Path(folder) / path.name
            with temporary.open("wb") as file, urllib.request.urlopen(remote.url, timeout=30) as response:
                total = int(response.headers.get("Content-Length") or 0)
                while block := response.read(1 << 20):
                    file.write(block)
                    if progress is not None and total:
                        progress(file.tell(), total)
            if (found := sha256(temporary)) != remote.sha256:
                raise BadData(f"{source}: the file from {remote.url} has sha256 {found}; {by_hand}")
            os.replace(temporary, path)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise BadData(f"{source}: {remote.url} cannot be downloaded ({reason}); {by_hand}") from error


class Unpickler(pickle.Unpickler):
    """Reads plain values and NumPy arrays from CIFAR's pickle files; refuses to build any other object."""

    def find_class(self, module: str, name: str) -> Any:
        rebuild = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): rebuild,
            ("numpy._core.multiarray", "_reconstruct"): rebuild,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise BadData(
                f"the pickle asks for {module}.{name}; expected numbers, text and NumPy arrays only"
            )
        return allowed[module, name]


def unpickled(content: bytes) -> Any:
    return Unpickler(io.BytesIO(content), encoding="latin1").load()


def cifar(
    archive: Path, folder: str, train: tuple[str, ...], test: str, names: str, label_names: str, labels: str
) -> Arrays:
    """Members are read into memory and never unpacked to disk, so their names and kinds can do no harm."""
    wanted = {f"{folder}/{name}": name for name in (*train, test, names)}
    parts: dict[str, Any] = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name in wanted and member.isreg() and (file := tar.extractfile(member)) is not None:
                parts[wanted[member.name]] = unpickled(file.read())
    if missing := [name for name, short in wanted.items() if short not in parts]:
        raise BadData(f"no member {missing[0]}")

    def images(*chosen: str) -> Images:
        return (
            np.concatenate([np.asarray(parts[part]["data"]) for part in chosen])
            .reshape(-1, 3, 32, 32)
            .transpose(0, 2, 3, 1)
        )

    def numbers(*chosen: str) -> Labels:
        return np.array([label for part in chosen for label in parts[part][labels]], np.int64)

    return Arrays(
        tuple(map(str, parts[names][label_names])),
        images(*train),
        numbers(*train),
        images(test),
        numbers(test),
    )


def _cifar10(files: list[Path]) -> Arrays:
    train = tuple(f"data_batch_{part}" for part in range(1, 6))
    return cifar(
        files[0], "cifar-10-batches-py", train, "test_batch", "batches.meta", "label_names", "labels"
    )


def _cifar100(files: list[Path]) -> Arrays:
    return cifar(files[0], "cifar-100-python", ("train",), "test", "meta", "fine_label_names", "fine_labels")


def _fashion(files: list[Path]) -> Arrays:
    names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    train_images, train, test_images, test = (idx(gzip.decompress(file.read_bytes())) for file in files)
    return Arrays(
        names,
        train_images[:, :, :, None],
        train.astype(np.int64),
        test_images[:, :, :, None],
        test.astype(np.int64),
    )


def idx(content: bytes) -> Images:
    """MNIST's format: 0, 0, 8 (unsigned bytes), the number of dimensions, their lengths, the values."""
    if content[:3] != b"\0\0\x08":
        raise BadData(f"idx file begins with {content[:4].hex()}; expected 000008")
    shape = np.frombuffer(content, ">u4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def _svhn(files: list[Path]) -> Arrays:
    """Label 10 in the files is the digit 0."""
    from scipy.io import loadmat

    parts = [loadmat(file) for file in files]
    (train_images, train), (test_images, test) = (
        (part["X"].transpose(3, 0, 1, 2), part["y"].astype(np.int64).ravel() % 10) for part in parts
    )
    return Arrays(tuple(map(str, range(10))), train_images, train, test_images, test)


READERS: dict[str, Callable[[list[Path]], Arrays]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "fashion-mnist": _fashion,
    "svhn": _svhn,
}
