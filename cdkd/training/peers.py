"""The errors of a group's networks, of their ensembles, and their diversity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdkd.data.batches import evaluation as batches_of
from cdkd.training.evaluation import Evaluation, Row

if TYPE_CHECKING:
    from cdkd.training.group import GroupLearner


def peers_row(learner: GroupLearner, evaluation: Evaluation) -> Row:
    """peers, ensembles, diversity: values of a history's row, over all images of a split.

    peers: top-1 error in percent of each network
    ensembles: of each ensemble: `mean` of the logits, and a loss's own ensemble under its term's name
    diversity: see `diversity`; of the branches, where networks have some inside
    """
    device, count = evaluation.split.device, len(evaluation.split)
    wrong: dict[str, dict[str, Tensor]] = {"peers": {}, "ensembles": {}}
    distance = torch.zeros((), dtype=torch.float64, device=device)
    learner.eval()
    with torch.inference_mode():
        for batch in batches_of(evaluation.split, evaluation.recipe.augmentation):
            outputs = learner.answer(batch.images)
            each = {name: features.logits.float() for name, features in outputs.each.items()}
            joined = {"mean": torch.stack(list(each.values())).mean(0)} | learner.ensembles(batch.images)
            for kind, answers in (("peers", each), ("ensembles", joined)):
                for name, logits in answers.items():
                    errors = (logits.argmax(1) != batch.labels).sum()
                    wrong[kind][name] = wrong[kind].get(name, torch.zeros_like(errors)) + errors
            members = [
                logits
                for features in outputs.each.values()
                for logits in (features.branches or (features.logits,))
            ]
            distance += diversity(members).double().sum()
    errors_of = {
        kind: {name: 100 * one.item() / count for name, one in found.items()} for kind, found in wrong.items()
    }
    return {**errors_of, "diversity": distance.item() / count}


def diversity(logits: Sequence[Tensor]) -> Tensor:
    """Mean distance of the networks' probabilities, image by image: [B].

        1/(number of pairs) Σ_{i<j} ‖softmax(z_i) − softmax(z_j)‖₂

    logits: m times [B, K]. One network alone: 0. The released code of OKDDip and CSS adds 1e-6 everywhere.

    Source: Chen et al., 1912.00350, section 4.4.
    """
    answers = [one.float().softmax(1) for one in logits]
    pairs = [torch.linalg.vector_norm(a - b, dim=1) for a, b in combinations(answers, 2)]
    return torch.stack(pairs).mean(0) if pairs else answers[0].new_zeros(len(answers[0]))
