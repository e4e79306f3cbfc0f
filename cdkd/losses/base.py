"""The contract of losses, and how one is built by its name."""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdkd.core import own_code
from cdkd.core.batch import Batch, DataInfo
from cdkd.core.features import Features, Outputs
from cdkd.core.needs import Needs
from cdkd.losses import signature

AcrossRanks = Literal["averaged", "gathered", "per_share"]


class Loss(nn.Module):
    """A number to minimise, of one network against one source: a teacher, or another network.

    A subclass is built from one batch of `Features` of each side. Its options are keyword-only:

        def __init__(self, student: Features, teacher: Features, *, temperature: PositiveFloat = 4.0) -> None

    Option types are Python's and pydantic's (`PositiveFloat`, `NonNegativeInt`, `Literal[...]`), imported
    under `TYPE_CHECKING` only; defaults are plain values. An argument `data: DataInfo` is no option: it
    receives what the loss may know about the training set. Learned parts (connectors) are submodules and are
    trained with the network; banks are buffers. Both are in the run's checkpoints. The teacher's features
    never carry a gradient.

    needs: what the loss reads of the source. `Needs.STEM` and `Needs.PREACTIVATION` also apply to the network
        that it trains. The less a loss needs, the more can be shared between runs.
    across_ranks: what several ranks make of it, each of which has a share of the batch
        averaged: it is a mean over images, so each rank computes it on its share, and the values are averaged
        gathered: it looks at several images at once, so every rank computes it on the images of all ranks
        per_share: it looks at several images at once, but at those of a share only: ranks change the result
    """

    needs: ClassVar[Needs] = Needs.LOGITS | Needs.POOLED | Needs.MAPS
    across_ranks: AcrossRanks = "averaged"

    def __init__(self, student: Features, teacher: Features | None) -> None:
        super().__init__()

    @property
    def part_key(self) -> Hashable | None:
        """Equal for losses whose `teacher_part` is equal; None: there is none."""
        return None

    def teacher_part(self, teacher: Features) -> Any:
        """What depends on the teacher alone.

        Computed without a gradient, once a batch for the whole cohort.
        """
        return None

    def phase(self, epoch: int) -> Hashable:
        """Differs between epochs in which `forward` takes different branches.

        Each phase has a CUDA graph of its own.
        """
        return None

    def before_step(self, batch: Batch) -> None:
        """Draw random numbers into buffers. Called before each step, outside the recorded CUDA graph."""

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        """student, teacher: one batch's features; part: this batch's `teacher_part`. Returns a scalar."""
        raise TypeError(f"{type(self).__name__} has no forward")


class GroupLoss(nn.Module):
    """A number to minimise, of several networks at once.

    Built from one batch of `Outputs` and of the teachers' features by name. Options and `across_ranks` are as
    in `Loss`.
    """

    needs: ClassVar[Needs] = Needs.NOTHING
    across_ranks: AcrossRanks = "averaged"

    def __init__(self, outputs: Outputs, teachers: Mapping[str, Features]) -> None:
        super().__init__()

    def before_step(self, batch: Batch) -> None:
        """See `Loss.before_step`."""

    def forward(
        self, outputs: Outputs, teachers: Mapping[str, Features], batch: Batch
    ) -> Tensor | Mapping[str, Tensor]:
        """Returns a scalar, or named parts whose sum is minimised; a term's `rise` scales only `kd`."""
        raise TypeError(f"{type(self).__name__} has no forward")


@runtime_checkable
class Ensemble(Protocol):
    """A `GroupLoss` that combines the networks' outputs in its own way."""

    def ensemble(self, outputs: Outputs) -> Tensor:
        """Logits [B, K]."""
        ...


def loss_class(name: str) -> type[Loss] | type[GroupLoss]:
    """The class of the loss `name`. Raises KeyError for an unknown name."""
    if not signature.exists(name):
        raise KeyError(f"no loss {name!r}; there are {', '.join(signature.names())}")
    module = signature.module(name)
    loaded = (
        importlib.import_module(module)
        if module.startswith("cdkd.")
        else own_code.load(own_code.LOSSES, name)
    )
    found: type[Loss] | type[GroupLoss] = getattr(loaded, signature.class_name(name))
    return found


def build(
    name: str,
    student: Features | Outputs,
    teacher: Features | Mapping[str, Features] | None,
    options: Mapping[str, Any],
    data: DataInfo | None = None,
) -> Loss | GroupLoss:
    """Build the loss `name` for networks whose features have these shapes."""
    kind = loss_class(name)
    extra = {"data": data} if signature.takes_data(name) else {}
    made: Loss | GroupLoss = kind(student, teacher, **options, **extra)  # type: ignore[arg-type]
    return made


def channel_means(feature_map: Tensor) -> Tensor:
    """[B, C, H, W] to [B, C] in float32 at least: means over height and width.

    A 1x1 map keeps its values, to the bit.
    """
    found: Tensor = _ChannelMeans.apply(feature_map)
    return found


class _ChannelMeans(torch.autograd.Function):
    """Its backward pass gives a view: see `mean_over`. It also rounds [B, C] values and not a whole map."""

    @staticmethod
    def forward(ctx: Any, feature_map: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = feature_map.shape, feature_map.dtype
        return at_least_float32(feature_map).mean((2, 3))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        height, width = ctx.shape[2:]
        each: Tensor = (gradient / (height * width)).to(ctx.dtype)[:, :, None, None]
        return each.expand(ctx.shape)


def mean_over(x: Tensor, over: int | tuple[int, ...]) -> Tensor:
    """x.mean(over), with a backward pass that writes no gradient of x's size.

    torch's own mean writes one, and not in the memory layout of a map whose channels lie together: the
    operation before it then takes ten times as long.
    """
    total = x.sum(over)
    return total / (x.numel() // max(1, total.numel()))


def by_positions(feature_map: Tensor) -> Tensor:
    """[B, C, H, W] to [B, H·W, C], without a copy where the channels of a position lie together in memory."""
    return feature_map.permute(0, 2, 3, 1).flatten(1, 2)


def channel_products(first: Tensor, second: Tensor) -> Tensor:
    """[B, N, C_1] and [B, N, C_2] to [B, C_1, C_2]: firstᵀ second of each image.

    The gradients are laid out in memory like the arguments, which torch's own product does not see to.
    """
    found: Tensor = _ChannelProducts.apply(first, second)
    return found


class _ChannelProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        return first.mT @ second

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        first, second = ctx.saved_tensors
        of_first, of_second = ctx.needs_input_grad
        return second @ gradient.mT if of_first else None, first @ gradient if of_second else None


def mean_squared_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """mean (ours − theirs)² over everything, in float32 at least; no gradient flows to theirs."""
    return functional.mse_loss(at_least_float32(ours), at_least_float32(theirs.detach()))


def at_least_float32(x: Tensor) -> Tensor:
    """Losses are computed in float32 whatever the networks run in; float64 stays float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def l2_normalise(x: Tensor, dim: int) -> Tensor:
    """x / max(‖x‖₂, 1e-12) along a dimension; below the bound the gradient is zero."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    above = norm > 1e-12
    return torch.where(above, x / torch.where(above, norm, 1.0), x.detach() / 1e-12)
