"""Stratified draws: they keep each class's share, and are functions of a purpose and a seed."""

from __future__ import annotations

import hashlib

import numpy as np

from cdkd.data.arrays import Labels


def shares(per_class: Labels, count: int) -> Labels:
    """How many of `count` each class gets: its share rounded down, and one more for the largest remainders.
    Of equal remainders the first class's comes first.
    """
    total = int(per_class.sum())
    share, remainder = np.divmod(count * per_class, total)
    share[np.argsort(-remainder, kind="stable")[: count - int(share.sum())]] += 1
    return np.asarray(share, np.int64)


def draw(labels: Labels, count: int, purpose: str, seed: int) -> Labels:
    """Indices, ascending, of `count` of the labels.

    Each image gets one 64-bit Philox number, and each class takes its images in the order of these numbers.
    NumPy guarantees Philox's raw numbers across versions; it does not guarantee those of `permutation`.
    """
    key = int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:16], "little")
    order = np.random.Philox(key=key).random_raw(len(labels))
    per_class = np.bincount(labels).astype(np.int64)
    chosen = []
    for label, share in enumerate(shares(per_class, count)):
        indices = np.flatnonzero(labels == label)
        chosen.append(indices[np.argsort(order[indices], kind="stable")[:share]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
