"""Weights that another project trained, under the names that their tensors have here.

Read: safetensors, and what torch.save wrote, of any suffix: of that only tensors and plain values.
RepDistiller's and torchvision's networks have their own names here, but for RepDistiller's Wide ResNets.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cdkd.core.errors import BadCheckpoint
from cdkd.models import names
from cdkd.models.build import build

WRAPPERS = ("model", "state_dict", "net", "teacher", "student", "model_state_dict", "network", "weights")
COUNTER = "num_batches_tracked"
RENAMED = (
    (re.compile(r"(^|\.)(block\d)\.layer\."), r"\1\2."),
    (re.compile(r"\.convShortcut\."), ".shortcut."),
)
SHOWN = 3  # names in a message


class Imported(NamedTuple):
    """state: fits the network strictly; classes, channels: the network's; notes: what was done, in lines."""

    state: dict[str, Tensor]
    classes: int
    channels: int
    notes: list[str]


class _Network(NamedTuple):
    """What a network expects. classifier, first: names of its last linear layer's and its first weights."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    classifier: str
    first: str


class _Match(NamedTuple):
    """found: the file's tensors by the network's names; missing: names of the network that the file lacks.

    extra: names of the file inside one of the network's own modules, as a deeper network's; foreign: the rest
    """

    prefix: str
    found: dict[str, Tensor]
    missing: list[str]
    extra: list[str]
    foreign: list[str]


def import_weights(
    path: Path, network: str, classes: int | None = None, channels: int | None = None
) -> Imported:
    """The file's weights for a network of that name.

    classes, channels: of the data; None where they are not known, and then the file's.
    Raises BadCheckpoint for a file that cannot be read safely, or with the cause why its weights do not fit.
    """
    state, notes = read_state(path)
    wanted = _expected(network, classes or 2, channels or 3)
    match = _match(path, state, wanted)
    if (
        (classifier := match.found.get(wanted.classifier)) is not None
        and classifier.dim()
        and classes is None
    ):
        classes = len(classifier)
    if (first := match.found.get(wanted.first)) is not None and first.dim() > 1 and channels is None:
        channels = first.shape[1]
    wanted = _expected(network, classes or 2, channels or 3)
    if (cause := _misfit(state, network, wanted, match)) is not None:
        raise BadCheckpoint(f"{path}: not the weights of {network}: {cause}")
    if match.prefix:
        notes.append(f"all names without {match.prefix!r}")
    if match.foreign:
        notes.append(f"ignored: {_some(match.foreign)}")
    filled = [name for name in wanted.shapes if name not in match.found]
    if filled:
        notes.append(f"{len(filled)} counters of batches that the file lacks are 0")
    kinds = {
        str(value.dtype).removeprefix("torch.") for value in match.found.values() if value.is_floating_point()
    }
    if kinds - {"float32"}:
        notes.append(f"converted from {', '.join(sorted(kinds - {'float32'}))} to float32")
    own = {
        name: match.found[name].detach().to(kind).clone()
        if name in match.found
        else torch.zeros((), dtype=kind)
        for name, kind in wanted.dtypes.items()
    }
    if bad := [name for name, value in own.items() if not torch.isfinite(value).all()]:
        raise BadCheckpoint(f"{path}: not finite: {_some(bad)}")
    return Imported(own, classes or 2, channels or 3, notes)


def without_classifier(found: Imported, network: str, note: str) -> Imported:
    """The same without the tensors of the network's last linear layer. note: a line that says so"""
    layer = _expected(network, found.classes, found.channels).classifier.removesuffix("weight")
    state = {name: value for name, value in found.state.items() if not layer or not name.startswith(layer)}
    return found._replace(state=state, notes=[*found.notes, note])


def read_state(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The file's tensors by their names, out of the dicts around them; and lines on what was ignored."""
    content = _read(path)
    notes, inside = [], ""
    while isinstance(content, Mapping):
        key = next((key for key in WRAPPERS if _holds_tensors(content.get(key))), None)
        if key is None:
            break
        if ignored := [str(other) for other in content if other != key]:
            notes.append(f"read {inside}{key}; ignored: {_some(ignored)}")
        content, inside = content[key], f"{inside}{key}."
    if not isinstance(content, Mapping):
        raise BadCheckpoint(
            f"{path}: holds {type(content).__name__}; expected a state dict: names with tensors"
        )
    state = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not state:
        keys = _some([str(key) for key in content]) if content else "nothing"
        raise BadCheckpoint(f"{path}: holds no state dict; expected names with tensors, found {keys}")
    if others := [str(name) for name in content if name not in state]:
        notes.append(f"ignored, not tensors: {_some(others)}")
    return state, notes


def _read(path: Path) -> Any:
    if not path.is_file():
        raise BadCheckpoint(f"{path}: {'not a file' if path.exists() else 'there is no such file'}")
    try:
        with path.open("rb") as file:  # an OSError here is the file system's; torch raises it for damage too
            if not file.read(1):
                raise BadCheckpoint(f"{path}: is empty")
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (kind := re.search(r"GLOBAL ([\w.]+)", str(error))) is None:
            raise BadCheckpoint(f"{path}: not a file of torch.save, or a damaged one") from None
        raise BadCheckpoint(
            f"{path}: holds {kind[1]}, an object that could run code when it is read; nothing was run."
            " Where the file comes from, save the tensors alone: torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # both libraries raise many kinds for the ways in which a file can be broken
        library = "safetensors" if path.suffix == ".safetensors" else "torch.save"
        what = str(error).partition("\n")[0][:120]
        reason = f" ({what})" if " " in what and not isinstance(error, OSError) else ""
        raise BadCheckpoint(f"{path}: not a file of {library}, or a damaged one{reason}") from None


def _holds_tensors(value: Any) -> bool:
    """Whether a state dict is in there, at any depth."""
    return isinstance(value, Mapping) and any(
        isinstance(one, Tensor) or (key in WRAPPERS and _holds_tensors(one)) for key, one in value.items()
    )


def _expected(network: str, classes: int, channels: int) -> _Network:
    with torch.random.fork_rng(devices=()), torch.device("meta"):
        model = build(network, classes, channels)
    state = model.state_dict()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    first = next((name for name, shape in shapes.items() if len(shape) == 4), "")
    classifier = f"{linear[-1]}.weight" if linear else ""
    return _Network(shapes, {name: value.dtype for name, value in state.items()}, classifier, first)


def _match(path: Path, state: Mapping[str, Tensor], wanted: _Network) -> _Match:
    """The file's tensors at the network's names, behind the prefix with which most of them are there."""
    needed = [name for name in wanted.shapes if not name.endswith(COUNTER)]
    renamed = {name if name in wanted.shapes else _renamed(name): value for name, value in state.items()}
    ends = {wanted.classifier, wanted.first, *needed[:1]} - {""}
    prefixes = {name.removesuffix(end) for name in renamed for end in ends if name.endswith(f".{end}")} | {""}
    counts = {prefix: sum(f"{prefix}{name}" in renamed for name in needed) for prefix in sorted(prefixes)}
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if len(best) > 1 and "" not in best:
        raise BadCheckpoint(f"{path}: holds several networks, {_some(best)}; save one of them alone")
    prefix = best[0]
    found = {name: renamed[f"{prefix}{name}"] for name in wanted.shapes if f"{prefix}{name}" in renamed}
    taken = {f"{prefix}{name}" for name in found}
    rest = [name for name in renamed if name not in taken]
    modules = tuple({f"{prefix}{name.partition('.')[0]}." for name in wanted.shapes})
    extra = [name for name in rest if name.startswith(modules)]
    foreign = [name for name in rest if name not in extra]
    return _Match(prefix, found, [name for name in needed if name not in found], extra, foreign)


def _renamed(name: str) -> str:
    for pattern, ours in RENAMED:
        name = pattern.sub(ours, name)
    return name


def _misfit(state: Mapping[str, Tensor], network: str, wanted: _Network, match: _Match) -> str | None:
    """Why the weights do not fit, in one line; None where they do."""
    shapes = {name: tuple(value.shape) for name, value in match.found.items()}
    other = [name for name, shape in shapes.items() if shape != wanted.shapes[name]]
    if not (match.missing or match.extra or match.foreign or other):
        return None
    whole = not (match.missing or match.extra)
    bias = wanted.classifier.removesuffix("weight") + "bias"
    if whole and other and not set(other) - {wanted.classifier, bias, wanted.first}:
        found, expected = shapes.get(wanted.classifier, ()), wanted.shapes.get(wanted.classifier, ())
        if found[:1] != expected[:1] and found[1:] == expected[1:]:
            return f"the classifier has {found[0]} classes, the data {expected[0]}"
        found, expected = shapes.get(wanted.first, ()), wanted.shapes.get(wanted.first, ())
        if found[1:2] != expected[1:2] and found[:1] + found[2:] == expected[:1] + expected[2:]:
            return f"the first layer reads images of {found[1]} channels, the data have {expected[1]}"
    if meant := _looks_like(state, network):
        known = f"torchvision's {meant.removesuffix('-imagenet')}" if meant.endswith("-imagenet") else meant
        return f"this looks like {known}: `network: {meant}`"
    if whole and not other:
        return None
    if whole:
        place = other[0]
        what = f"{place} is {shapes[place]}, expected {wanted.shapes[place]}"
        return f"weights of another width: {what} ({len(other)} of {len(wanted.shapes)} tensors)"
    if match.missing and all(name.endswith(("running_mean", "running_var")) for name in match.missing):
        return f"the file lacks BatchNorm's running statistics ({len(match.missing)} tensors)"
    if not match.found:
        start = _common_prefix(list(state))
        begin = f"all keys begin with {start}; " if start else ""
        what = f"the file has {_some(list(state))}, expected {_some(match.missing)}"
        return f"{begin}no name is one of the network's: {what}"
    parts = [f"the file lacks {_some(match.missing)}"] if match.missing else []
    parts += [f"the file has more: {_some(match.extra)}"] if match.extra else []
    return f"another depth or kind of network: {'; '.join(parts)}"


def _looks_like(state: Mapping[str, Tensor], network: str) -> str | None:
    """The built-in network, another than this one, that these are exactly the weights of."""
    for name in names.NETWORKS:
        if name == network or name in names.CSS_NETWORKS:
            continue
        wanted = _expected(name, 2, 3)
        try:
            match = _match(Path(), state, wanted)
        except BadCheckpoint:
            continue
        free = {wanted.classifier, wanted.classifier.removesuffix("weight") + "bias", wanted.first}
        if match.missing or match.extra or match.foreign:
            continue
        first = match.found[wanted.first].shape
        same = all(
            tuple(value.shape) == wanted.shapes[key] for key, value in match.found.items() if key not in free
        )
        if (
            same
            and first[:1] + first[2:] == wanted.shapes[wanted.first][:1] + wanted.shapes[wanted.first][2:]
        ):
            return name
    return None


def _common_prefix(found: list[str]) -> str:
    start = found[0].partition(".")
    return start[0] + "." if start[1] and all(name.startswith(f"{start[0]}.") for name in found) else ""


def _some(found: list[str]) -> str:
    shown = ", ".join(repr(name[:60]) for name in found[:SHOWN])
    return f"{shown} and {len(found) - SHOWN} more" if len(found) > SHOWN else shown
