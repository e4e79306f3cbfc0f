"""Networks with branches inside: one trunk, n tails that each answer class and branch together (CSS)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cdkd.core.features import Features, Trunk
from cdkd.core.needs import Needs
from cdkd.models.build import build
from cdkd.models.staged import Staged


def masked_branches(network: str, classes: int, channels: int) -> MaskedBranches:
    """{network}+css{branches}."""
    plain, _, branches = network.rpartition("+css")
    return MaskedBranches(lambda outputs: build(plain, outputs, channels), int(branches), classes)


class MaskedBranches(nn.Module):
    """A trunk of stem and two stages; branch i starts from its map with corner i zero, in eval mode too.

    Logits: mean_i z^i[:, i::n], the branches' logits of their own labels; pooled: the mean of the branches'.
    Maps are those of the first branch. `Features.branches` has all n·K logits of each branch.

    make: a freshly drawn plain network for so many classes; branches: n, at most 4

    Source: Fan et al., 2203.11660; PumpkinsLemon/CSS, `resnet_css.py`. Its fourth mask is wrong: one column.
    """

    STAGES_SHARED = 2

    def __init__(self, make: Callable[[int], nn.Module], branches: int, classes: int) -> None:
        super().__init__()
        first, *others = (make(branches * classes) for _ in range(branches))
        if not isinstance(first, Staged):
            raise TypeError(f"{type(first).__name__} has no trunk that branches could share")
        self.first = first
        self.others = nn.ModuleList(other.cut(self.STAGES_SHARED) for other in others)  # type: ignore

    def forward(self, x: Tensor, needs: Needs = Needs.NOTHING) -> Features:
        start = self.first.trunk(x, self.STAGES_SHARED, needs)
        tails = (self.first, *self.others)
        each: list[Features] = [tail.tail(_masked(start, i), needs) for i, tail in enumerate(tails)]
        count, first = len(each), each[0]
        logits = torch.stack([one.logits[:, i::count] for i, one in enumerate(each)]).mean(0)
        pooled = torch.stack([one.pooled for one in each]).mean(0)
        branches = tuple(one.logits for one in each)
        return first._replace(pooled=pooled, logits=logits, classifier=None, branches=branches)


def _masked(start: Trunk, branch: int) -> Trunk:
    mask = corner_mask(branch, start.x)
    return start._replace(x=start.x * mask)


def corner_mask(branch: int, like: Tensor) -> Tensor:
    """[H, W] of ones, with zeros in a corner of ⌊H/4⌋×⌊W/4⌋.

    branch: 0 top left, 1 bottom right, 2 bottom left, 3 top right; like: [B, C, H, W]
    """
    height, width = like.shape[2:]
    mask = torch.ones((height, width), dtype=like.dtype, device=like.device)
    rows = slice(0, height // 4) if branch in (0, 3) else slice(height - height // 4, height)
    columns = slice(0, width // 4) if branch in (0, 2) else slice(width - width // 4, width)
    mask[rows, columns] = 0
    return mask
