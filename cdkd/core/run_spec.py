"""The specification of a run: everything that affects its result, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cdkd.core.digest import digest
from cdkd.core.group import Group
from cdkd.core.schedule import TEACHER, Method, Recipe, Term, Weight


@dataclass(frozen=True)
class RunSpec:
    """One run before it is trained: one method (or the teacher's own training) with one seed.

    config: every value that affects the result, and nothing else. Intervals of logs and checkpoints, device,
        number of workers and names are not in it.
    code: digest of the code that affects the result (`runs.code_digest`)
    """

    experiment: str
    method: str
    seed: int
    config: Mapping[str, Any]
    code: str

    @property
    def fingerprint(self) -> str:
        return digest({"config": self.config, "code": self.code})

    @property
    def is_teacher(self) -> bool:
        return self.method == TEACHER

    @property
    def recipe(self) -> Recipe:
        return Recipe.of(self.config["training"])

    @property
    def terms(self) -> Method:
        return method_of(self.config)

    @property
    def judged_on(self) -> str:
        """The split that the run is evaluated on: test, or validation for a search's trial."""
        return str(self.config["data"]["judged_on"])

    @property
    def losses(self) -> tuple[str, ...]:
        return self.terms.losses

    @property
    def networks(self) -> tuple[str, ...]:
        """Every network of the run: those that are trained, and the teacher."""
        return networks_of(self.config["network"], self.terms, self.config["teacher"])


def networks_of(network: str, method: Method, teacher: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Networks of a run: its own, or those of its method's group, and the teacher's; each once."""
    own = (network,) if method.group is None else tuple(method.group.networks.values())
    return tuple(dict.fromkeys((*own, *((teacher["network"],) if teacher else ()))))


def plain_method(method: Method) -> dict[str, Any]:
    """A method as the values of a configuration; the inverse of `method_of`."""
    terms = {
        name: {
            "loss": term.loss,
            "weight": asdict(term.weight),
            "options": dict(term.options),
            "of": None if term.of is None else list(term.of),
            "from": term.source,
        }
        for name, term in sorted(method.items())
    }
    group = {} if method.group is None else {"group": method.group.values()}
    return {"method": terms, "inactive": method.inactive, **group}


def method_of(config: Mapping[str, Any]) -> Method:
    """The method that a configuration holds."""
    terms = {
        name: Term(
            Weight(**{**term["weight"], "milestones": tuple(term["weight"]["milestones"])}),
            term["options"],
            term["loss"],
            None if term["of"] is None else tuple(term["of"]),
            term["from"],
        )
        for name, term in config["method"].items()
    }
    group = Group.of(config["group"]) if "group" in config else None
    return Method(terms, config["inactive"], group)
