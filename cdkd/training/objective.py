"""What a learner minimises: a weighted, scheduled sum of losses."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.features import Features, Outputs
from cdkd.core.needs import Needs
from cdkd.core.randomness import stream_seed
from cdkd.core.ranks import gathered, whole
from cdkd.core.schedule import Method, Term
from cdkd.losses import signature
from cdkd.losses.base import GroupLoss, Loss, build

Parts = dict[Hashable, Any]  # what depends on a teacher alone, by `part_key`: shared by the runs of a cohort
EMA = "ema"  # the source that stands for the networks' own moving averages


class Active(nn.Module):
    """One loss of a term: on one network, or on all networks of a group.

    key: the term's name, with the network's where there are several
    network: the one that it trains; None for a `GroupLoss`
    """

    def __init__(self, key: str, name: str, term: Term, network: str | None, loss: Loss | GroupLoss) -> None:
        super().__init__()
        self.key, self.name, self.term, self.network, self.loss = key, name, term, network, loss

    def source(self, outputs: Outputs, teachers: Mapping[str, Features]) -> Features | None:
        """The features it learns from."""
        if self.term.source == EMA:
            return None if outputs.ema is None else outputs.ema[str(self.network)]
        return outputs.each.get(self.term.source) or teachers.get(self.term.source)

    def part(self) -> Hashable | None:
        """The key of its part that depends on a teacher alone."""
        key = self.loss.part_key if isinstance(self.loss, Loss) else None
        return None if key is None else (self.term.source, type(self.loss).__name__, key, self.gathered)

    @property
    def gathered(self) -> bool:
        """Whether it is computed on the images of all ranks."""
        return self.loss.across_ranks == "gathered"

    def forward(self, outputs: Outputs, teachers: Mapping[str, Features], batch: Batch, parts: Parts) -> Any:
        if self.gathered:
            own = outputs if self.network is None else outputs._replace(shared=None)
            outputs, teachers, batch = gathered(own, teachers, batch)
        if self.network is None:
            return self.loss(outputs, teachers, batch)
        return self.loss(
            outputs.each[self.network], self.source(outputs, teachers), batch, parts.get(self.part())
        )


class Objective(nn.Module):
    """The sum of a method's terms, each times its weight in the epoch.

    Built from one batch's features of the networks and teachers, for their shapes. A loss's learned parts are
    initialised from the seed and the term's name alone, so that no network and no other loss depends on them.
    Terms are summed in alphabetical order, so that the order in params.yaml has no effect.
    """

    def __init__(
        self,
        method: Method,
        outputs: Outputs,
        teachers: Mapping[str, Features],
        seed: int,
        data: DataInfo | None = None,
    ) -> None:
        super().__init__()
        self.method = method
        self.losses = nn.ModuleDict()
        device = next(iter(outputs.each.values())).logits.device
        for name in sorted(method):
            for key, network in _targets(name, method[name], outputs):
                self.losses[key] = _made(key, name, method[name], network, outputs, teachers, seed, data)
        # the weights of the epoch, as tensors: a recorded CUDA graph reads their current values
        self.now = {name: torch.zeros((), device=device) for name in sorted(method)}
        self.rise = {name: torch.ones((), device=device) for name in sorted(method)}
        self.active: tuple[str, ...] = ()
        self.phases: tuple[Hashable, ...] = ()  # of the active losses

    @property
    def names(self) -> tuple[str, ...]:
        """Every loss, whatever its weight; a term of several networks has one for each."""
        return tuple(self.losses)

    def open_epoch(self, epoch: int) -> None:
        """The weights of this epoch apply from now on."""
        for name, term in self.method.items():
            self.now[name].fill_(term.weight.without_rise(epoch))
            self.rise[name].fill_(term.weight.rise_at(epoch))
        self.active = self.active_in(epoch)
        self.phases = tuple(
            one.loss.phase(epoch)
            for one in self.each()
            if one.key in self.active and isinstance(one.loss, Loss)
        )

    def active_in(self, epoch: int) -> tuple[str, ...]:
        """The losses whose weight is above 0."""
        return tuple(one.key for one in self.each() if one.term.weight.at(epoch) > 0)

    def needs(self, epoch: int, source: str) -> Needs:
        """What the active losses read of a teacher."""
        needs = Needs.NOTHING
        for one in self.each():
            if one.term.source == source and one.term.weight.at(epoch) > 0:
                needs |= one.loss.needs
        return needs

    def needs_of_networks(self) -> Needs:
        """What the active losses read of the networks that they train."""
        needs = Needs.NOTHING
        for one in self.each():
            if one.key in self.active:
                needs |= one.loss.needs
        return needs

    def add_parts(self, teachers: Mapping[str, Features], batch: Batch, parts: Parts) -> None:
        """Compute the parts that depend on a teacher alone, unless another run of the cohort has done so."""
        for one in self.each():
            part = one.part()
            if (
                one.key in self.active
                and part is not None
                and part not in parts
                and one.term.source in teachers
                and isinstance(one.loss, Loss)
            ):
                source = teachers[one.term.source]
                if one.gathered and batch.share is not None:
                    source = whole(source, batch.share)
                with torch.no_grad():
                    parts[part] = one.loss.teacher_part(source)

    def before_step(self, batch: Batch) -> None:
        for one in self.each():
            if one.key in self.active:
                one.loss.before_step(batch.whole if one.gathered else batch)

    def forward(
        self,
        outputs: Outputs,
        teachers: Mapping[str, Features],
        batch: Batch,
        parts: Parts,
        networks: Collection[str] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimise and each loss before its weight. A loss whose weight is 0 is not computed.

        networks: only losses that train one of these; None: all
        """
        total = next(iter(outputs.each.values())).logits.new_zeros((), dtype=torch.float32)
        values: dict[str, Tensor] = {}
        for one in self.each():
            if one.key not in self.active or (networks is not None and one.network not in (None, *networks)):
                continue
            value = self._with_rise(one, one(outputs, teachers, batch, parts))
            values[one.key] = value.detach()
            total = total + self.now[one.name] * value
        return total, values

    def _with_rise(self, one: Active, value: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The loss times the term's rise; of named parts only `kd` is scaled."""
        if isinstance(value, Tensor):
            return value if one.term.weight.rise is None else self.rise[one.name] * value
        scaled = [self.rise[one.name] * part if name == "kd" else part for name, part in value.items()]
        return torch.stack(scaled).sum()

    def each(self) -> Iterator[Active]:
        """Every loss, whatever its weight."""
        yield from self.losses.values()  # type: ignore[misc]


def _targets(name: str, term: Term, outputs: Outputs) -> Iterator[tuple[str, str | None]]:
    """A key and the network for each loss of a term."""
    networks = term.of or tuple(outputs.each)
    if signature.is_group(term.loss):
        yield name, None
    elif len(outputs.each) == 1:
        yield name, networks[0]
    else:
        yield from ((f"{name}:{network}", network) for network in networks)


def _made(
    key: str,
    name: str,
    term: Term,
    network: str | None,
    outputs: Outputs,
    teachers: Mapping[str, Features],
    seed: int,
    data: DataInfo | None,
) -> Active:
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(f"connectors of {key}", seed))
        if network is None:
            return Active(key, name, term, None, build(term.loss, outputs, teachers, term.options, data))
        source = outputs.each.get(term.source if term.source != EMA else network) or teachers.get(term.source)
        return Active(
            key, name, term, network, build(term.loss, outputs.each[network], source, term.options, data)
        )
