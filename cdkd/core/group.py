"""The networks that a method trains together: plain values, which need no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Group:
    """A method's networks, with every value resolved. `config.groups` checks them.

    networks: the architecture of each one by its name, in order
    deployed: the one that is evaluated as the result and exported; it is initialised like a lone student
    shared: how many stages after the stem all have in common, with the stem; 0: the stem alone; None: nothing
    gradient: mean: the gradient that enters the common part is divided by the number of networks (CL-ILR)
    update: alternate: one network after the other, each from the newest outputs of the others
    batches: fresh: each of the alternate updates takes a batch of its own
    views: augmented pictures of each image; 1, or as many as networks, of which each sees its own
    ema: decay of the networks' moving averages; None: there are none
    evaluate: which weights give the result: the deployed network's, or their moving average
    classifiers: equal: all classifiers start from the deployed network's
    """

    networks: Mapping[str, str]
    deployed: str
    shared: int | None = None
    gradient: Literal["sum", "mean"] = "sum"
    update: Literal["together", "alternate"] = "together"
    batches: Literal["same", "fresh"] = "same"
    views: int = 1
    ema: float | None = None
    evaluate: Literal["network", "ema"] = "network"
    classifiers: Literal["own", "equal"] = "own"

    @property
    def phases(self) -> tuple[tuple[str, ...], ...]:
        """The networks that are updated together, phase by phase."""
        names = tuple(self.networks)
        return tuple((name,) for name in names) if self.update == "alternate" else (names,)

    @property
    def draws(self) -> int:
        """Batches that one update of all networks takes."""
        return len(self.phases) if self.batches == "fresh" else 1

    def values(self) -> dict[str, Any]:
        """As a run's configuration has it: the networks are a list there, as their order counts."""
        return asdict(self) | {"networks": [list(pair) for pair in self.networks.items()]}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a run's configuration."""
        return cls(**{**values, "networks": dict(values["networks"])})
