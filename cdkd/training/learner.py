"""What a run trains: one or more named networks, their losses and their optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.features import Features, Outputs
from cdkd.core.needs import Needs
from cdkd.core.schedule import Method, Recipe
from cdkd.losses.base import loss_class
from cdkd.models.forward import Forward
from cdkd.training.evaluation import Evaluation, Row
from cdkd.training.objective import Objective, Parts
from cdkd.training.optimiser import optimiser_of

STUDENT = "student"  # the name of a network that is trained alone


class Learner(nn.Module):
    """Networks that are trained together; a lone student is a learner of one.

    deployed: the network that is evaluated as the result and exported
    phases: the networks that one backward pass and one step of the optimiser update, phase by phase
    draws: batches that one update of all phases takes; with as many draws as phases, each has its own batch
    views: augmented pictures of each image that it reads
    """

    views = 1

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        method: Method,
        recipe: Recipe,
        sample: Batch,
        teachers: Mapping[str, Features],
        seed: int,
        *,
        deployed: str = STUDENT,
        phases: Sequence[Sequence[str]] | None = None,
        draws: int = 1,
        data: DataInfo | None = None,
    ) -> None:
        """sample: a batch, for the shapes of features; teachers: their features of it"""
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.deployed, self.draws, self.recipe = deployed, draws, recipe
        self.phases = tuple(tuple(phase) for phase in phases or (tuple(networks),))
        self.passes = {name: Forward(network, recipe) for name, network in networks.items()}
        self.needs = Needs.NOTHING  # what active losses read of the networks
        seen = self._look(sample, method)
        self.objective = Objective(method, seen, teachers, seed, data).to(sample.images.device)
        decay_inactive = method.inactive == "decayed"
        self.optimisers = [
            optimiser_of(self._trained(phase), recipe, decay_inactive=decay_inactive) for phase in self.phases
        ]

    def _look(self, sample: Batch, method: Method) -> Outputs:
        """One batch's features, for their shapes; BatchNorm's statistics do not change."""
        self.eval()
        wanted = reduce(or_, (loss_class(term.loss).needs for term in method.values()), Needs.NOTHING)
        with torch.no_grad():
            return Outputs(
                {name: forward.eager_float32(sample.images, wanted) for name, forward in self.passes.items()}
            )

    def _trained(self, phase: Sequence[str]) -> list[nn.Parameter]:
        """The parameters that a phase updates; those of losses over several networks belong to the first."""
        networks = [parameter for name in phase for parameter in self.networks[name].parameters()]
        losses = [
            parameter
            for one in self.objective.each()
            if one.network in phase or (one.network is None and phase == self.phases[0])
            for parameter in one.parameters()
        ]
        return [*networks, *losses]

    def open_epoch(self, epoch: int, learning_rate: float, *, begun: bool = False) -> None:
        """begun: whether steps of the epoch were made before, by a process that has ended"""
        self.train()
        self.objective.open_epoch(epoch)
        self.needs = self.objective.needs_of_networks()
        self.set_rate(learning_rate)
        reset = self.recipe.momentum_at_milestones == "reset" and not begun
        if reset and epoch in self.recipe.milestones:
            for optimiser in self.optimisers:
                optimiser.reset()

    def set_rate(self, learning_rate: float) -> None:
        for optimiser in self.optimisers:
            optimiser.rate.fill_(learning_rate)

    def forward(self, views: Sequence[Tensor]) -> Outputs:
        return Outputs({name: forward(views[0], self.needs) for name, forward in self.passes.items()})

    def backward(
        self, batch: Batch, teachers: Mapping[str, Features], parts: Parts, phase: int = 0
    ) -> tuple[Outputs, dict[str, Tensor]]:
        """Gradients of the phase's networks; returns the outputs, and each loss before its weight."""
        outputs = self(batch.views)
        networks = None if len(self.phases) == 1 else self.phases[phase]
        total, losses = self.objective(outputs, teachers, batch, parts, networks)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        total.backward()
        return outputs, losses

    def step(self, phase: int = 0) -> None:
        self.optimisers[phase].step()

    def averaged(self, phase: int = 0) -> list[Tensor]:
        """After a backward pass, what ranks average: the phase's gradients, and BatchNorm's statistics."""
        norms = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        statistics = [x for norm in norms for x in (norm.running_mean, norm.running_var) if x is not None]
        gradients = [x.grad for x in self.optimisers[phase].parameters if x.grad is not None]
        return [*gradients, *statistics]

    def alone(self, name: str | None = None) -> nn.Module:
        """One network, as `build` makes it; without a name the deployed one."""
        return self.networks[name or self.deployed]

    def metrics(self, evaluation: Evaluation) -> Row:
        """Further values for the history, about all networks; none for a lone student."""
        return {}

    def training_cost(self, image: tuple[int, int, int]) -> dict[str, Any]:
        """Further values for the result, about all networks; none for a lone student. image: (H, W, C)"""
        return {}

    def state(self) -> dict[str, Any]:
        return {"learner": self.state_dict(), "optimisers": [one.state_dict() for one in self.optimisers]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.load_state_dict(state["learner"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
