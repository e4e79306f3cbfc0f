"""Everything random is a function of (purpose, seed, epoch, step).

There is no random state to carry over or to save.
"""

from __future__ import annotations

import hashlib

import torch


def stream_seed(purpose: str, *place: int) -> int:
    """A 63-bit number that looks random and depends on its arguments alone."""
    text = ":".join([purpose, *map(str, place)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(purpose: str, seed: int, epoch: int = 0, step: int = 0) -> torch.Generator:
    """A fresh generator for one purpose in one step of one epoch of one seed.

    On the CPU, so that every device draws alike.
    """
    return torch.Generator().manual_seed(stream_seed(purpose, seed, epoch, step))
