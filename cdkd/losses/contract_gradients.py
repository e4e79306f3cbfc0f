"""The checks of a loss where a formula's derivative may fail, and of what makes the device wait."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cdkd.core.batch import Batch
from cdkd.core.checks import require
from cdkd.core.features import Features, Outputs
from cdkd.losses.base import GroupLoss, Loss
from cdkd.losses.contract_inputs import changed, changed_all, tensors
from cdkd.losses.contract_ranks import Given

Compute = Callable[[Any, Outputs, Mapping[str, Features], Batch], Tensor]

DEAD: Mapping[str, Any] = {"a channel": (slice(None), 0), "an image": 0, "everything": ...}
LEVELS = (0.0, 1e-20)  # squared, the second is 0 in float32
LARGEST = 1e4  # of a gradient; with the inputs of `features` a usual one is below 1

READS: Mapping[Any, str] = {
    torch.ops.aten._local_scalar_dense: "reads a number (`.item()`, `float(x)`, `if x:`)",
    torch.ops.aten.nonzero: "asks where a tensor is not 0",
    torch.ops.aten.masked_select: "selects by a mask; multiply by it, or use torch.where",
}


def finite_gradients(loss: Loss | GroupLoss, given: Given, compute: Compute, where: str = "") -> None:
    """Raises Failed unless the value and every gradient are finite, and none is huge."""
    loss = copy.deepcopy(loss)
    marked, _ = changed_all(given.outputs, {}, lambda x: x.detach().clone().requires_grad_(), _of_images)
    value = compute(loss, marked, given.teachers, given.batch)
    require(torch.isfinite(value), f"{value.item()}{where}")
    if not value.requires_grad:
        return
    torch.autograd.backward(value)
    features = [x for one in marked.each.values() for x in tensors(one)]
    shared = [] if marked.shared is None else [marked.shared]
    leaves = [*features, *shared, *loss.parameters()]
    slopes = [one.grad for one in leaves if one.grad is not None]
    require(all(torch.isfinite(one).all() for one in slopes), f"a gradient that is not finite{where}")
    largest = max((one.abs().max().item() for one in slopes), default=0.0)
    require(largest < LARGEST, f"a gradient of {largest:.2g}{where}")


def check_dead(loss: Loss | GroupLoss, given: Given, compute: Compute) -> None:
    """Zero or tiny inputs: norms, roots and quotients have no bounded derivative there."""
    for level in LEVELS:
        for what, place in DEAD.items():

            def dead(x: Tensor, level: float = level, place: Any = place) -> Tensor:
                x = x.clone()
                x[place] = level
                return x

            outputs, teachers = changed_all(given.outputs, given.teachers, dead, _of_images)
            networks = given._replace(outputs=outputs._replace(ema=given.outputs.ema))
            of = f" where {what} of"
            finite_gradients(loss, networks, compute, f"{of} the trained network's features is {level:g}")
            both = given._replace(outputs=outputs, teachers=teachers)
            finite_gradients(loss, both, compute, f"{of} all features is {level:g}")


def check_waits(loss: Loss | GroupLoss, given: Given, compute: Compute) -> None:
    """Neither the value nor its gradient needs a number from the device."""
    marked, _ = changed_all(given.outputs, {}, lambda x: x.detach().clone().requires_grad_(), _of_images)
    with _NothingRead():  # type: ignore[no-untyped-call]
        torch.autograd.backward(compute(copy.deepcopy(loss), marked, given.teachers, given.batch))


class _NothingRead(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises Failed at an operation whose result the processor must know before it can go on."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = function.overloadpacket
        places = args[1] if operation is torch.ops.aten.index else ()
        if any(one is not None and one.dtype == torch.bool for one in places):
            operation = torch.ops.aten.masked_select
        require(operation not in READS, f"{READS.get(operation)}: a GPU waits at each step")
        return function(*args, **(kwargs or {}))


def _of_images(one: Features, function: Callable[[Tensor], Tensor]) -> Features:
    """Change what depends on the images, not the classifier."""
    return changed(one._replace(classifier=None), function)._replace(classifier=one.classifier)
