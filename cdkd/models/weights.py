"""A network's weights, read from a file that is trusted only by its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load as from_safetensors

from cdkd.core.errors import BadCheckpoint


def load_weights(model: torch.nn.Module, path: Path, sha256: str) -> None:
    """Load a safetensors file of known digest. Names and shapes must fit, values must be finite."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error.strerror})") from None
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise BadCheckpoint(
            f"{path}: sha256 {found[:12]}...; expected {sha256[:12]}...: another file, or a damaged one"
        )
    try:
        state = from_safetensors(content)
    except Exception as error:  # safetensors raises its own kinds for each way a file can be broken
        raise BadCheckpoint(f"{path}: not a safetensors file ({error})") from None
    own = model.state_dict()
    faults = [f"missing {name}" for name in own if name not in state] + [
        f"unexpected {name}" for name in state if name not in own
    ]
    shapes = [
        (name, tuple(state[name].shape), tuple(value.shape)) for name, value in own.items() if name in state
    ]
    faults += [f"{name} is {found}, expected {wanted}" for name, found, wanted in shapes if found != wanted]
    faults += [f"{name} is not finite" for name, value in state.items() if not torch.isfinite(value).all()]
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise BadCheckpoint(f"{path}: not the weights of this network: {'; '.join(faults[:6])}{more}")
    model.load_state_dict(state)
