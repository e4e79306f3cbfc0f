"""Draws that keep each class's share, and are a function of their purpose and seed alone."""

from __future__ import annotations

import hashlib

import numpy as np

from cdkd.data.arrays import Labels


def shares(per_class: Labels, count: int) -> Labels:
    """How many of `count` fall to each class: its share rounded down, and the rest to the largest remainders (ties: the first class)."""
    total = int(per_class.sum())
    share, remainder = np.divmod(count * per_class, total)
    share[np.argsort(-remainder, kind="stable")[: count - int(share.sum())]] += 1
    return np.asarray(share, np.int64)


def draw(labels: Labels, count: int, purpose: str, seed: int) -> Labels:
    """The places, rising, of `count` labels out of all.

    The images of a class are put in order by one 64-bit Philox number each. (NumPy promises the raw numbers for good, but not what
    its `permutation` makes of them.)
    """
    key = int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:16], "little")
    order = np.random.Philox(key=key).random_raw(len(labels))
    per_class = np.bincount(labels).astype(np.int64)
    chosen = []
    for label, share in enumerate(shares(per_class, count)):
        places = np.flatnonzero(labels == label)
        chosen.append(places[np.argsort(order[places], kind="stable")[:share]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
