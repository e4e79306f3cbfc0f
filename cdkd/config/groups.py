"""`group:` of a method: the networks that it trains together, by themselves and with the method's terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from cdkd.config.faults import Faults, Place, show, suggest
from cdkd.config.schema import Section
from cdkd.core.group import Group
from cdkd.core.schedule import TEACHER, Term
from cdkd.losses import signature
from cdkd.models import names

STUDENT, EMA = "student", "ema"
LEADER = "leader"  # a loss's option: the network that follows all others and is deployed
NETWORK_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
MOST = 16
EXAMPLE = "{branches: 3, after: 2} or {networks: [student, student]}"
WHAT = {  # what a loss may require of a group, and how a group gets it
    "several": "two or more networks: branches or networks",
    "shared": "branches of one trunk: branches and after",
    "ema": "moving averages: ema, such as ema: 0.999",
    "branches": "two networks with branches inside: networks, such as [resnet20+css3, resnet8+css3]",
}

Count = Annotated[int, Field(ge=1, le=MOST)]


class GroupSection(Section):
    """Either networks, which may have first stages in common, or branches: one network repeated on a trunk.

    networks: a list (their names are then peer0, peer1, ...), or names with networks; `student` stands for
        the student's network
    share: what networks have in common: the stem, or also so many stages after it
    after: the number of stages after the stem that branches have in common
    branches: how many
    network: of the branches; without it the student's
    deploy: the network that is the result, and the leader of okddip; by default the first, but required where
        networks have names

    For the rest see `core.group.Group`.
    """

    networks: list[str] | dict[str, str] | None = None
    branches: Count | None = None
    network: str = ""
    after: Annotated[int, Field(ge=0)] | None = None
    share: Literal["stem"] | Annotated[int, Field(ge=1)] | None = None
    deploy: str | None = None
    gradient: Literal["sum", "mean"] = "sum"
    update: Literal["together", "alternate"] = "together"
    batches: Literal["same", "fresh"] = "same"
    views: Count = 1
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    evaluate: Literal["network", "ema"] = "network"
    classifiers: Literal["own", "equal"] = "own"


def with_student(methods: Any, network: str | None) -> Any:
    """Methods as params.yaml writes them, but with this network for `student` in groups.

    network: None where it is faulty
    """
    if not isinstance(methods, dict):
        return methods
    return {name: _with_student(method, network or names.NETWORKS[0]) for name, method in methods.items()}


def _with_student(method: Any, network: str) -> Any:
    group = method.get("group") if isinstance(method, dict) else None
    if not isinstance(group, dict):
        return method
    found = dict(group)
    networks = group.get("networks")
    if isinstance(networks, dict):
        found["networks"] = {name: network if one == STUDENT else one for name, one in networks.items()}
    elif isinstance(networks, list):
        found["networks"] = [network if one == STUDENT else one for one in networks]
    elif "branches" in group:
        found.setdefault("network", network)
    return method | {"group": found}


def group_of(value: Any, place: Place, faults: Faults) -> Group | None:
    """The group; None, and its faults noted, where there can be none."""
    before = len(faults.found)
    section: GroupSection | None = faults.section(GroupSection, value, place)
    if section is None:
        return None
    networks = _networks(section, place, faults)
    if len(faults.found) > before:
        return None
    deployed = section.deploy or next(iter(networks))
    if isinstance(section.networks, dict) and section.deploy is None:
        faults.add(
            (*place, "deploy"), f"missing; expected the network that is the result: {_one_of(networks)}"
        )
    elif deployed not in networks:
        what = f"no network {show(deployed)}{suggest(deployed, networks)}; expected {_one_of(networks)}"
        faults.add((*place, "deploy"), what)
    shared = 0 if section.share == "stem" else section.after if section.branches else section.share
    group = Group(
        networks,
        deployed,
        shared,
        section.gradient,
        section.update,
        section.batches,
        section.views,
        section.ema,
        section.evaluate,
        section.classifiers,
    )
    _check_fields(group, place, faults)
    return group if len(faults.found) == before else None


def _networks(section: GroupSection, place: Place, faults: Faults) -> dict[str, str]:
    """The networks by their names."""
    if (section.networks is None) == (section.branches is None):
        found = (
            "networks together with branches"
            if section.networks is not None
            else "neither networks nor branches"
        )
        faults.add(place, f"{found}; expected one of the two, such as {EXAMPLE}")
        return {}
    if section.branches is not None:
        if section.after is None:
            faults.add(
                (*place, "after"), "missing; expected the number of stages that the branches have in common"
            )
        if section.share is not None:
            faults.add(
                (*place, "share"),
                f"{section.share}; expected `after`, the number of stages that the branches have in common",
            )
        _check_network(section.network, (*place, "network"), faults)
        return {f"peer{i}": section.network for i in range(section.branches)}
    if section.after is not None:
        faults.add((*place, "after"), f"{section.after}; expected `share`, what the networks have in common")
    given = section.networks or {}
    if not 1 <= len(given) <= MOST:
        faults.add((*place, "networks"), f"{len(given)} networks; expected 1 to {MOST}")
    pairs = given.items() if isinstance(given, dict) else ((f"peer{i}", one) for i, one in enumerate(given))
    networks = dict(pairs)
    for index, (name, network) in enumerate(networks.items()):
        where = (*place, "networks", name if isinstance(given, dict) else index)
        if not NETWORK_NAME.fullmatch(name) or name in (TEACHER, EMA):
            what = f"{show(name)} is not a valid name; expected a-z, 0-9 and _, and not teacher or ema"
            faults.add(where, what)
        _check_network(network, where, faults)
    return networks


def _check_network(network: str, place: Place, faults: Faults) -> None:
    if (message := names.fault(network)) is not None:
        faults.add(place, message.replace("expected one of", f"expected {STUDENT} or one of", 1))


def _check_fields(group: Group, place: Place, faults: Faults) -> None:
    """Cross-checks of the fields."""
    count = len(group.networks)
    if group.shared is not None:
        least = min(names.stages(network) for network in group.networks.values())
        if group.shared >= least:
            field = "after" if len(set(group.networks.values())) == 1 else "share"
            faults.add(
                (*place, field),
                f"{group.shared}; expected at most {least - 1}: the network has {least} stages",
            )
        if group.update == "alternate":
            faults.add(
                (*place, "update"), "alternate; expected together, as the networks have a part in common"
            )
    elif group.gradient == "mean":
        faults.add(
            (*place, "gradient"), "mean; expected a part that the networks have in common (after or share)"
        )
    if group.views not in (1, count):
        faults.add((*place, "views"), f"{group.views}; expected 1, or {count}, one for each network")
    if group.evaluate == EMA and group.ema is None:
        faults.add((*place, "evaluate"), "ema; expected ema, the decay of the moving averages, as well")
    if group.batches == "fresh" and group.update != "alternate":
        faults.add((*place, "batches"), "fresh; expected update: alternate as well")
    if group.classifiers == "equal" and len(set(group.networks.values())) > 1:
        faults.add((*place, "classifiers"), "equal; expected networks that are all the same")


def check_terms(
    terms: Mapping[str, Term], group: Group | None, place: Place, faults: Faults, *, complete: bool = True
) -> None:
    """Cross-checks of terms and networks: losses of several networks, and what each of them requires.

    complete: whether all terms of the method could be read
    """
    several = [name for name, term in terms.items() if signature.is_group(term.loss)]
    if group is None:
        for name in several:
            faults.add(
                (*place, name),
                f"{terms[name].loss} is a loss of several networks; expected group, such as {EXAMPLE}",
            )
        return
    networks = tuple(group.networks)
    apart = any(term.of is not None or term.source != TEACHER for term in terms.values())
    if complete and len(networks) > 1 and not several and not apart:
        what = "no loss reads a second network; expected a loss such as mutual, or a term with of or from"
        faults.add((*place, "group"), what)
    gives = {
        "several": len(networks) > 1,
        "shared": group.shared is not None,
        EMA: group.ema is not None,
        "branches": _branched(group),
    }
    for name, term in terms.items():
        for wanted in signature.requires(term.loss):
            if wanted not in gives:
                what = f"{term.loss} requires {show(wanted)}; expected one or more of {', '.join(gives)}"
                faults.add((*place, name), what)
            elif not gives[wanted]:
                faults.add((*place, "group"), f"{term.loss} needs {WHAT[wanted]}")
        if name in several and (term.of is not None or term.source != TEACHER):
            key = "from" if term.of is None else "of"
            what = f"{term.loss} reads all networks of the group; expected no `of` and no `from`"
            faults.add((*place, name, key), what)
        elif term.source in (networks if term.of is None else term.of):
            which = "without `of` the term trains it too" if term.of is None else "which is one of `of`"
            faults.add((*place, name, "from"), f"{term.source}, {which}; expected another network")
        if term.source == EMA and group.ema is None:
            faults.add((*place, name, "from"), f"ema; expected {WHAT[EMA]}")
        leader = term.options.get(LEADER)
        if leader is not None and leader not in networks:
            what = f"no network {show(leader)}{suggest(str(leader), networks)}; expected {_one_of(networks)}"
            faults.add((*place, name, LEADER), what)
        elif leader not in (None, group.deployed):
            what = f"{leader}; expected {group.deployed}, which is deployed, or deploy: {leader} in the group"
            faults.add((*place, name, LEADER), what)
        if group.update == "alternate" and name in several and term.options.get("detach") is False:
            faults.add(
                (*place, name, "detach"),
                "false; expected true where networks are updated one after the other",
            )


def with_leader(terms: Mapping[str, Term], group: Group | None) -> Mapping[str, Term]:
    """The terms, with the deployed network as the leader of losses that have one."""
    if group is None:
        return terms
    leader = {LEADER: group.deployed}
    return {
        name: term._replace(options={**term.options, **leader}) if LEADER in term.options else term
        for name, term in terms.items()
    }


def _branched(group: Group) -> bool:
    return len(group.networks) == 2 and all(
        network in names.CSS_NETWORKS for network in group.networks.values()
    )


def _one_of(networks: Mapping[str, str] | tuple[str, ...]) -> str:
    return " or ".join(networks)
