"""A learner of several networks: separate ones, or branches on a common trunk; and their moving averages."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.errors import BadParams
from cdkd.core.features import Features, Outputs
from cdkd.core.group import Group
from cdkd.core.needs import Needs
from cdkd.core.schedule import Method, Recipe
from cdkd.losses.base import Ensemble, loss_class
from cdkd.models.forward import asked
from cdkd.models.measure import multiply_adds, parameters
from cdkd.models.staged import NO_TRUNK, Staged
from cdkd.training.evaluation import Evaluation, Row
from cdkd.training.learner import Learner
from cdkd.training.objective import Parts
from cdkd.training.peers import peers_row


class GroupLearner(Learner):
    """The networks of a `Group`.

    A common trunk is part of the deployed network, and the others are tails; `alone` gives each of them
    complete. Moving averages are copies of all networks, updated after every step and never trained. They see
    the same images in train mode, so that their BatchNorm has its own running statistics.
    """

    updates: Tensor  # of the moving averages

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        group: Group,
        method: Method,
        recipe: Recipe,
        sample: Batch,
        teachers: Mapping[str, Features],
        seed: int,
        *,
        data: DataInfo | None = None,
    ) -> None:
        """networks: complete and newly initialised, in the group's order; see `Learner` for the rest."""
        self.group = group
        joined = share(networks, group)
        super().__init__(
            joined,
            method,
            recipe,
            sample,
            teachers,
            seed,
            deployed=group.deployed,
            phases=group.phases,
            draws=group.draws,
            data=data,
        )
        self.views = group.views
        compiled = recipe.engine == "compile"  # as `Forward`, which has looked for a compiler
        self._compiled = torch.compile(self._pass, dynamic=False) if compiled else self._pass
        self.averages = nn.ModuleDict()
        if group.ema is not None:
            self.averages = copy.deepcopy(self.networks).requires_grad_(False)
            self.register_buffer("updates", torch.zeros((), dtype=torch.float64, device=sample.images.device))

    def _look(self, sample: Batch, method: Method) -> Outputs:
        self.eval()
        with torch.no_grad():
            wanted = reduce(or_, (loss_class(term.loss).needs for term in method.values()), Needs.NOTHING)
            outputs = self._pass(self.networks, sample.views[:1], wanted)
        return outputs._replace(ema=None if self.group.ema is None else outputs.each)

    def forward(self, views: Sequence[Tensor], learning: Collection[str] | None = None) -> Outputs:
        """learning: the networks that get a gradient; None: all. The others leave their statistics alone."""
        with self._autocast(views[0]):
            full = len(views[0]) == self.recipe.batch
            outputs = (self._compiled if full else self._pass)(self.networks, views, self.needs, learning)
            if self.group.ema is not None:
                with torch.no_grad():
                    averaged = self._pass(self.averages, views, self.needs)
                outputs = outputs._replace(ema=averaged.each)
        return outputs

    def _pass(
        self,
        networks: nn.ModuleDict,
        views: Sequence[Tensor],
        needs: Needs,
        learning: Collection[str] | None = None,
    ) -> Outputs:
        stages = self.group.shared
        view_of = {name: view % len(views) for view, name in enumerate(networks)}
        if stages is None:
            each = {}
            for name, network in networks.items():
                with still(network, learning is None or name in learning):
                    each[name] = asked(network, views[view_of[name]], needs)
            return Outputs(each)
        trunks = [_staged(networks[self.deployed]).trunk(view, stages, needs) for view in views]
        count = len(networks)
        if self.group.gradient == "mean":
            starts = [trunk._replace(x=scale_gradient(trunk.x, 1 / count)) for trunk in trunks]
        else:
            starts = trunks
        each = {
            name: _staged(network).tail(starts[view_of[name]], needs) for name, network in networks.items()
        }
        return Outputs(each, trunks[0].x)

    def backward(
        self, batch: Batch, teachers: Mapping[str, Features], parts: Parts, phase: int = 0
    ) -> tuple[Outputs, dict[str, Tensor]]:
        learning = None if len(self.phases) == 1 else self.phases[phase]
        outputs = self(batch.views[: self.views], learning)
        total, losses = self.objective(outputs, teachers, batch, parts, learning)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        total.backward()
        return outputs, losses

    def step(self, phase: int = 0) -> None:
        super().step(phase)
        if self.group.ema is not None:
            self._update_averages(self.group.ema)

    @torch.no_grad()
    def _update_averages(self, decay: float) -> None:
        """average = d · average + (1 − d) · network, d = min(1 − 1/(t + 1), decay).

        t: updates before this one. Parameters only. t is a tensor, so that a recorded CUDA graph counts on.
        """
        kept = torch.clamp(1 - 1 / (self.updates + 1), max=decay)
        averages: list[Tensor] = list(self.averages.parameters())
        networks: list[Tensor] = list(self.networks.parameters())
        torch._foreach_mul_(averages, kept)
        torch._foreach_add_(averages, torch._foreach_mul(networks, 1 - kept))
        self.updates += 1

    def alone(self, name: str | None = None) -> nn.Module:
        """One complete network; without a name the one that is evaluated as the result."""
        networks = self.averages if self.group.evaluate == "ema" else self.networks
        name = name or self.deployed
        if self.group.shared is None or name == self.deployed:
            return networks[name]
        return _staged(networks[name]).on_trunk_of(_staged(networks[self.deployed]), self.group.shared)

    def metrics(self, evaluation: Evaluation) -> Row:
        return peers_row(self, evaluation)

    def training_cost(self, image: tuple[int, int, int]) -> dict[str, Any]:
        """trained: parameters of all networks; multiply-adds of an image's forward passes in one update."""
        multiplied = multiply_adds(self, image, lambda x: self((x,) * self.views))
        if self.draws == 1:  # each phase has a pass of its own
            multiplied *= len(self.phases)
        return {"trained": {"parameters": parameters(self.networks), "multiply_adds": multiplied}}

    def answer(self, images: Tensor) -> Outputs:
        """Outputs of all networks that are evaluated, in the learner's current mode."""
        networks = self.averages if self.group.evaluate == "ema" else self.networks
        with self._autocast(images):
            return self._pass(networks, (images,), Needs.NOTHING)

    def ensembles(self, images: Tensor) -> dict[str, Tensor]:
        """Logits [B, K] of the ensembles that losses have, by the terms' names; of those that learn."""
        found = {one.name: one.loss for one in self.objective.each() if isinstance(one.loss, Ensemble)}
        if not found:
            return {}
        with self._autocast(images):
            outputs = self._pass(self.networks, (images,), Needs.NOTHING)
        return {name: loss.ensemble(outputs) for name, loss in found.items()}

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def share(networks: Mapping[str, nn.Module], group: Group) -> dict[str, nn.Module]:
    """The networks of the group. With a common trunk, only the deployed one keeps its own.

    Raises BadParams where a network cannot be cut there, or its trunk is another than the deployed network's.
    """
    if group.classifiers == "equal":
        _equal_classifiers(networks, group.deployed)
    if group.shared is None:
        return dict(networks)
    for name, network in networks.items():
        if not isinstance(network, Staged) or not network.STEM:
            raise BadParams(f"group: {group.networks[name]} {NO_TRUNK}")
    deployed = _staged(networks[group.deployed])
    stages_too = f" and the same first {group.shared} stages" if group.shared else ""
    found: dict[str, nn.Module] = {}
    for name, network in networks.items():
        kind, stages = group.networks[name], len(_staged(network).STAGES)
        if group.shared >= stages:
            raise BadParams(
                f"group: after {group.shared}; expected at most {stages - 1}: {kind} has {stages} stages"
            )
        if _trunk_shapes(_staged(network), group.shared) != _trunk_shapes(deployed, group.shared):
            raise BadParams(
                f"group: {name} ({kind}) and {group.deployed} ({group.networks[group.deployed]})"
                f" start differently; expected the same stem{stages_too}"
            )
        found[name] = network if network is deployed else _staged(network).cut(group.shared)
    return found


def _staged(network: nn.Module) -> Staged:
    if not isinstance(network, Staged):
        raise BadParams(f"group: {type(network).__name__} {NO_TRUNK}")
    return network


def _trunk_shapes(network: Staged, stages: int) -> dict[str, tuple[int, ...]]:
    parts = network.trunk_parts(stages)
    return {key: tuple(v.shape) for key, v in network.state_dict().items() if key.partition(".")[0] in parts}


def _equal_classifiers(networks: Mapping[str, nn.Module], deployed: str) -> None:
    source = _classifier(networks[deployed]).state_dict()
    for network in networks.values():
        _classifier(network).load_state_dict(source)


def _classifier(network: nn.Module) -> nn.Linear:
    found = network.head if isinstance(network, Staged) else getattr(network, "fc", None)
    if not isinstance(found, nn.Linear):
        kind = type(network).__name__
        raise BadParams(f"group: classifiers equal; expected a network with one classifier, and no {kind}")
    return found


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x, with its gradient multiplied by the factor."""
    result: Tensor = _Scale.apply(x, factor)
    return result


@contextmanager
def still(network: nn.Module, learns: bool) -> Iterator[None]:
    """Unless it learns, the network runs without a gradient and leaves its running statistics alone."""
    if learns:
        yield
        return
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        with torch.no_grad():
            yield
    finally:
        for norm, track in zip(norms, tracked, strict=True):
            norm.track_running_stats = track
