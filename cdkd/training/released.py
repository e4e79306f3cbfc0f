"""State dicts that released code writes, under the names that their tensors have in a group."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from cdkd.core.errors import BadCheckpoint
from cdkd.training.group import GroupLearner

Code = Literal["okddip", "one", "pcl", "css", "dml", "ctkd"]
TRUNK = re.compile(r"(conv1|bn1|layer1|layer2)\..*")


def from_released(code: Code, state: Mapping[str, Tensor], learner: GroupLearner) -> dict[str, Tensor]:
    """A released state dict as one of the learner's, for `load_state_dict`.

    okddip, one, pcl: branches in the order of the group's networks
    dml: stu0, stu1, ... in the same order
    css: the two networks' states, with names prefixed by `t.` and `s.`
    ctkd: parameters and statistics of the joint network, for a group of the scratch teacher and the student,
        in this order; moving averages and the expert are separate state dicts

    Raises BadCheckpoint for a name that has no place.
    """
    names = tuple(learner.networks)
    found = {}
    for name, value in state.items():
        place = _PLACES[code](name, names, learner.deployed)
        if place is None:
            raise BadCheckpoint(f"{name}: not a name of the released code of {code}")
        if place:
            found[place] = value
    return found


def _branches(
    layer: str, classifier: str, start: int, losses: Mapping[str, str]
) -> Callable[..., str | None]:
    """Rules for one trunk. layer, classifier: patterns with a branch's number; start: the first number."""

    def place(name: str, names: tuple[str, ...], trunk: str) -> str | None:
        if TRUNK.fullmatch(name):
            return f"networks.{trunk}.{name}"
        for pattern, part in ((layer, "layer3"), (classifier, "fc")):
            if match := re.fullmatch(pattern + r"(\..*)", name):
                return f"networks.{names[int(match[1]) - start]}.{part}{match[2]}"
        for prefix, ours in losses.items():
            if name.startswith(f"{prefix}."):
                return f"objective.losses.{ours}{name.removeprefix(prefix)}"
        return None

    return place


def _css(name: str, names: tuple[str, ...], trunk: str) -> str | None:
    network, _, rest = name.partition(".")
    if network not in ("t", "s"):
        return None
    root = f"networks.{names[network == 's']}"
    if TRUNK.fullmatch(rest):
        return f"{root}.first.{rest}"
    match = re.fullmatch(r"(layer3|classifier3)_(\d)(\..*)", rest)
    if match is None:
        return None
    branch = f"others.{int(match[2]) - 1}" if int(match[2]) else "first"
    return f"{root}.{branch}.{'fc' if match[1] == 'classifier3' else 'layer3'}{match[3]}"


def _dml(name: str, names: tuple[str, ...], trunk: str) -> str | None:
    match = re.fullmatch(r"stu(\d)\.(.*)", name)
    return f"networks.{names[int(match[1])]}.{match[2]}" if match else None


def _ctkd(name: str, names: tuple[str, ...], trunk: str) -> str | None:
    """The student's parts end in s.

    Each block has both networks' BatchNorms but uses one; the other gives "".
    """
    if name == "conv0":
        return f"networks.{trunk}.conv1.weight"
    if match := re.fullmatch(r"(bn|fc)(s?)(\..*)", name):
        return f"networks.{names[match[2] == 's']}.{'bn1' if match[1] == 'bn' else 'fc'}{match[3]}"
    match = re.fullmatch(r"group(s?)(\d)\.block(\d+)\.(conv|bn)(s?)(0|1|dim)(\..*)?", name)
    if match is None:
        return None
    student, stage, block, kind, of_student, number, rest = match.groups()
    if kind == "bn" and of_student != student:
        return ""
    part = "shortcut" if number == "dim" else f"{kind}{int(number) + 1}"
    return f"networks.{names[student == 's']}.block{int(stage) + 1}.{block}.{part}{rest or '.weight'}"


_ATTENTION = {f"{part}_weight": f"okddip.loss.{part}" for part in ("query", "key")}
_GATE = {"control_v1": "one.loss.gate.0", "bn_v1": "one.loss.gate.1"}
_PLACES: Mapping[Code, Callable[..., str | None]] = {
    "okddip": _branches(r"layer3_(\d)", r"classifier3_(\d)", 0, _ATTENTION),
    "one": _branches(r"layer3_(\d)", r"classfier3_(\d)", 1, _GATE),
    "pcl": _branches(r"branch(\d)\.layer", r"branch(\d)\.fc", 1, {"en_fc": "pcl.loss.head"}),
    "css": _css,
    "dml": _dml,
    "ctkd": _ctkd,
}
