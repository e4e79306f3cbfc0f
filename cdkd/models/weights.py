"""A network's weights, read from a file that is trusted only by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load as from_safetensors
from torch import Tensor, nn

from cdkd.core.errors import BadCheckpoint


def load_weights(model: nn.Module, path: Path, sha256: str) -> None:
    """Load a safetensors file of known digest. Names and shapes must fit, values must be finite."""
    model.load_state_dict(_checked(model, path, sha256, ()))


def load_start(model: nn.Module, path: Path, sha256: str, *, classifier: bool = True) -> None:
    """The same for the start of a training. The file may lack the classifier, which then stays as it is.

    classifier: whether to load it where the file has it
    """
    last = classifier_of(model)
    found = _checked(model, path, sha256, last)
    chosen = {name: value for name, value in found.items() if classifier or name not in last}
    model.load_state_dict(chosen, strict=False)


def classifier_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the tensors of the last linear layer."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return tuple(name for name in model.state_dict() if layers and name.rpartition(".")[0] == layers[-1])


def _checked(model: nn.Module, path: Path, sha256: str, may_lack: Collection[str]) -> dict[str, Tensor]:
    """may_lack: names of which the file has all or none"""
    if path.exists() and not path.is_file():  # a FIFO would wait forever, a device never end
        raise BadCheckpoint(f"{path}: not a file")
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
    missing = [name for name in own if name not in state]
    faults = [f"missing {name}" for name in missing if set(missing) != set(may_lack)]
    faults += [f"unexpected {name}" for name in state if name not in own]
    shapes = [
        (name, tuple(state[name].shape), tuple(value.shape)) for name, value in own.items() if name in state
    ]
    faults += [f"{name} is {found}, expected {wanted}" for name, found, wanted in shapes if found != wanted]
    faults += [f"{name} is not finite" for name, value in state.items() if not torch.isfinite(value).all()]
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise BadCheckpoint(f"{path}: not the weights of this network: {'; '.join(faults[:6])}{more}")
    return state
