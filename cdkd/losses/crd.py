"""CRD, contrastive representation distillation: the two embeddings of an image are alike, others are not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, l2_normalise

if TYPE_CHECKING:
    from typing import Annotated

    from pydantic import Field, PositiveFloat, PositiveInt

STREAM = "negatives of crd"


def contrastive_representation(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    indices: Tensor,
    temperature: float = 0.07,
    momentum: float = 0.5,
    normalisers: tuple[Tensor | float, Tensor | float] | None = None,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Noise-contrastive estimation against banks of the training set's embeddings, on both sides.

        s_bj = v_b · m_j / temperature for the bank's rows j in indices_b
        P_bj = exp(s_bj) / Z,   c = negatives / N
        side = −(1/B) Σ_b [log(P_b,own / (P_b,own + c + 1e-7)) + Σ_{j negative} log(c / (P_bj + c + 1e-7))]
        CRD  = side(student's embedding, teacher's bank) + side(teacher's embedding, student's bank)
        Z    = mean_{b,j} exp(s_bj) · N of the batch where no normalisers are given; no gradient

    student_embedding, teacher_embedding: [B, D], rows of length 1; student_bank, teacher_bank: [N, D], one
    row an image of the training set; indices: [B, 1 + negatives] int64, the image's own place first, own
    places distinct; normalisers: the student's and the teacher's Z, which the method fixes at its first
    batch. The gradient goes to both embeddings, not to the banks.

    Returns the loss, the two banks after this batch (row ← momentum · row + (1 − momentum) · embedding, at
    length 1; the given ones stay as they are) and the normalisers.

    Paper and released code agree on the loss. Z depends on the first batch and so on the seed.

    Source: Tian, Krishnan and Isola, Contrastive Representation Distillation, 1910.10699; RepDistiller,
    `crd/`.
    """
    student, teacher = at_least_float32(student_embedding), at_least_float32(teacher_embedding)
    scores = (
        compare(student, teacher_bank, indices) / temperature,
        compare(teacher, student_bank, indices) / temperature,
    )
    rows = len(student_bank)
    first, second = (normaliser(side, rows) for side in scores) if normalisers is None else normalisers
    fixed = torch.as_tensor(first).to(student), torch.as_tensor(second).to(student)
    loss = one_side(scores[0], fixed[0], rows) + one_side(scores[1], fixed[1], rows)
    own = indices[:, 0]
    return (
        loss,
        student_bank.index_copy(0, own, moved(student_bank, own, student, momentum)),
        teacher_bank.index_copy(0, own, moved(teacher_bank, own, teacher, momentum)),
        fixed,
    )


def compare(embedding: Tensor, bank: Tensor, indices: Tensor) -> Tensor:
    """[B, D], [N, D] and [B, M] to products [B, M].

    All N products an image cost less time and memory than a copy of M rows for each.
    """
    return (embedding @ bank.detach().to(embedding).mT).gather(1, indices)


def normaliser(scores: Tensor, rows: int) -> Tensor:
    return scores.detach().exp().mean() * rows


def one_side(scores: Tensor, z: Tensor, rows: int) -> Tensor:
    """Scores [B, 1 + negatives], own first, to a scalar."""
    noise = (scores.shape[1] - 1) / rows
    logarithm = scores - z.log()
    denominator = (logarithm.exp() + noise + 1e-7).log()
    own = logarithm[:, 0] - denominator[:, 0]
    negatives = ((math.log(noise) if noise else 0.0) - denominator[:, 1:]).sum(1)
    return -(own + negatives).mean()


def moved(bank: Tensor, own: Tensor, embedding: Tensor, momentum: float) -> Tensor:
    """The bank's rows `own` [B, D] after this batch."""
    rows = momentum * bank.detach()[own] + (1 - momentum) * embedding.detach().to(bank)
    return l2_normalise(rows, 1)


class ContrastiveRepresentation(Loss):
    """A linear embedding of the pooled features and a bank for each network; both embeddings are trained.

    Negatives are images of other classes, each at most once an image where there are enough, drawn anew in
    each step. Both banks, 2 · images · dimension numbers, and the normalisers are in the run's checkpoints.
    """

    needs = Needs.POOLED
    across_ranks = "gathered"
    student_bank: Tensor
    teacher_bank: Tensor
    normalisers: Tensor
    indices: Tensor

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        data: DataInfo,
        dimension: PositiveInt = 128,
        negatives: PositiveInt = 16384,
        temperature: PositiveFloat = 0.07,
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.5,
    ) -> None:
        super().__init__(student, teacher)
        self.negatives = Negatives(data.labels, negatives)
        self.temperature, self.momentum = temperature, momentum
        self.embed_student = nn.Linear(student.pooled.shape[1], dimension)
        self.embed_teacher = nn.Linear(teacher.pooled.shape[1], dimension)
        bound = 1 / math.sqrt(dimension / 3)
        for bank in ("student_bank", "teacher_bank"):
            self.register_buffer(bank, torch.empty(data.images, dimension).uniform_(-bound, bound))
        self.register_buffer("normalisers", torch.zeros(2))  # 0: not fixed yet
        # the step's, at an address that a CUDA graph knows; a last batch may have an image more
        indices = torch.zeros(data.batch + 1, 1 + negatives, dtype=torch.int64)
        self.register_buffer("indices", indices, persistent=False)

    def before_step(self, batch: Batch) -> None:
        count = len(batch.labels)
        self.indices[:count, 0] = batch.indices
        self.indices[:count, 1:] = self.negatives.draw(batch)

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        ours = l2_normalise(self.embed_student(at_least_float32(student.pooled)), 1)
        theirs = l2_normalise(self.embed_teacher(at_least_float32(teacher.pooled.detach())), 1)
        indices = self.indices[: len(ours)]
        # copies: the banks change below, and the backward pass reads them as they were
        scores = (
            compare(ours, self.teacher_bank.clone(), indices) / self.temperature,
            compare(theirs, self.student_bank.clone(), indices) / self.temperature,
        )
        rows, own = len(self.student_bank), indices[:, 0]
        fresh = torch.stack([normaliser(side, rows) for side in scores])
        fixed = torch.where(self.normalisers > 0, self.normalisers, fresh)
        if self.training:
            self.normalisers.copy_(fixed)
            self.student_bank.index_copy_(0, own, moved(self.student_bank, own, ours, self.momentum))
            self.teacher_bank.index_copy_(0, own, moved(self.teacher_bank, own, theirs, self.momentum))
        return one_side(scores[0], fixed[0], rows) + one_side(scores[1], fixed[1], rows)


class Negatives:
    """Draws images of other classes. labels: of the training set, [N] int64; count: an image"""

    def __init__(self, labels: Tensor, count: int) -> None:
        self.count = count
        self.by_class = labels.argsort(stable=True)
        sizes = labels.bincount()
        self.size, self.start = sizes, sizes.cumsum(0) - sizes
        self.others = [len(labels) - size for size in sizes.tolist()]
        if 0 in self.others:
            raise BadParams("crd: a training set of one class; expected images of other classes as negatives")
        self.equal = len({size for size in sizes.tolist() if size}) == 1

    def draw(self, batch: Batch) -> Tensor:
        """[B, count] int64 places in the training set, on the batch's device."""
        random = np.random.Generator(np.random.PCG64(_seed(batch)))
        ranks = np.stack(
            [
                random.choice(others, self.count, replace=self.count > others, shuffle=False)
                for others in self._others(batch)
            ]
        )
        drawn = torch.from_numpy(ranks).to(batch.labels.device)
        # ranks among the images sorted by class, where those of the own class are left out
        start, size = self.start[batch.labels, None], self.size[batch.labels, None]
        return self.by_class[drawn + size * (drawn >= start)]

    def _others(self, batch: Batch) -> list[int]:
        """How many others each image has. With classes of one size nothing waits for the device."""
        if self.equal:
            return [min(self.others)] * len(batch.labels)
        return [self.others[label] for label in batch.labels.tolist()]


def _seed(batch: Batch) -> int:
    return int(torch.randint(2**63 - 1, (), generator=batch.generator(STREAM)))
