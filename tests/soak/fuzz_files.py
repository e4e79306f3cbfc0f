"""cdkd's own files, damaged: what was written is read, or refused; nothing else is ever taken for it."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from cdkd.cluster import results_bundle
from cdkd.core.errors import BadCheckpoint, BadRecord
from cdkd.runs import record as records
from cdkd.runs.store import Store
from cdkd.training import checkpoint
from tests.soak.fuzz import Target


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch escaped",)


PIECES = [
    b"",
    b"\x00",
    b"\xff",
    b"\n",
    b"NaN",
    b"Infinity",
    b"-1",
    b"1e999",
    b"null",
    b"{}",
    b"[",
    b'"',
    b",",
    b"true",
    b"../",
    b"\xef\xbb\xbf",
    b'"\\ud800"',
]
PIECES += [b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, pickle.dumps(Payload())]

Mutation = tuple[str, float, float, bytes]  # what, and where: shares of the length
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "replace", "twice", "truncate", "zeros", "all"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 0.1),
        st.sampled_from(PIECES) | st.binary(max_size=8),
    ),
    max_size=4,
)


def mutated(content: bytes, mutations: list[Mutation]) -> bytes:
    for how, share, length, piece in mutations:
        at = int(share * len(content))
        end = min(len(content), at + 1 + int(length * len(content)))
        if how == "all":
            content = piece
        elif how == "truncate":
            content = content[:at]
        elif how == "insert":
            content = content[:at] + piece + content[at:]
        elif how == "twice":
            content = content[:end] + content[at:]
        else:
            other = {
                "flip": bytes(byte ^ (1 << len(piece) % 8) for byte in content[at : at + 1]),
                "cut": b"",
                "zeros": bytes(end - at),
                "replace": piece,
            }[how]
            content = content[:at] + other + content[at + 1 if how == "flip" else end :]
    return content


def record(root: Path) -> Target:
    """root: a project in which all is finished"""
    path = sorted((root / "runs/soak/kd").glob("*.json"))[0]
    content, valid = path.read_bytes(), records.read(path)
    weights = Store(root).weights(valid.fingerprint).read_bytes()

    def check(mutations: list[Mutation], folder: Path) -> None:
        store = Store(folder)
        place = store.folder / valid.fingerprint
        place.mkdir(parents=True)
        (place / "record.json").write_bytes(mutated(content, mutations))
        (place / "weights.safetensors").write_bytes(weights)
        try:
            found = records.read(place / "record.json")
        except BadRecord:
            found = None
        assert found in (None, valid), "another record was taken for it"
        assert store.get(valid.fingerprint) == found, "the store sees another record"

    return Target(MUTATIONS, check)


def checkpoints(root: Path) -> Target:
    states = [
        {
            "model": {"w": torch.arange(40.0) * epoch},
            "history": [{"epoch": number} for number in range(epoch)],
        }
        for epoch in (1, 2, 3)
    ]
    valid = root.parent / f"checkpoint-{os.getpid()}"
    for epoch, state in enumerate(states, 1):
        checkpoint.save(valid, epoch, state)
    files = {path.name: path.read_bytes() for path in sorted(valid.iterdir())}
    shutil.rmtree(valid)

    def check(changes: dict[str, list[Mutation]], folder: Path) -> None:
        run = folder / "run"
        run.mkdir()
        for name, content in files.items():
            (run / name).write_bytes(mutated(content, changes.get(name, [])))
        try:
            found = checkpoint.load(run)
        except BadCheckpoint:
            return
        assert found is not None, "a silent start from the beginning"
        state = states[len(found["history"]) - 1]
        assert found["history"] == state["history"], "another history"
        assert torch.equal(found["model"]["w"], state["model"]["w"]), "other weights"

    return Target(st.dictionaries(st.sampled_from(sorted(files)), MUTATIONS, max_size=3), check)


def results(root: Path) -> Target:
    """A worker's results bundle."""
    made = root.parent / f"pack-{os.getpid()}"
    every = [records.read(path) for path in sorted((root / "runs/soak").glob("*/*.json"))]
    results_bundle.write(made, Store(root), "soak", every, "float32")
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    shutil.rmtree(made)

    def check(changes: dict[str, list[Mutation]], folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(mutated(content, changes.get(name, [])))
        found = results_bundle.read(folder)
        assert list(found.records) == every, "other records were taken for them"
        for one in found.records:
            found.weights(one)

    return Target(st.dictionaries(st.sampled_from(sorted(files)), MUTATIONS, max_size=2), check)
