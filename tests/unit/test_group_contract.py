"""`cdkd test loss` of losses of several networks: the built-in ones pass, faulty ones are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cdkd.core import own_code
from cdkd.losses import contract, signature

GROUPS = [name for name in signature.built_in() if signature.is_group(name)]
AGREEMENT = """
import itertools

import torch
from torch import nn

from cdkd import GroupLoss, at_least_float32

TICKS = itertools.count()


class Agreement(GroupLoss):
    def __init__(self, outputs, teachers, *, scale: float = 1.0):
        super().__init__(outputs, teachers)
        self.own = nn.Linear(10, 10)
        self.start = 1.0 + torch.rand(())

    def forward(self, outputs, teachers, batch):
        z = torch.stack([at_least_float32(one.logits) for one in outputs.each.values()])
        target = at_least_float32(teachers["teacher"].logits).detach()
        return (self.own(z) - target).square().mean()
"""


@pytest.fixture
def project(new_project: Path, tmp_path: Path) -> Path:
    shutil.copytree(new_project, tmp_path / "study", symlinks=True)
    own_code.use(tmp_path / "study")
    return tmp_path / "study"


def faults(project: Path, old: str, new: str) -> set[str]:
    assert old in AGREEMENT
    (project / "losses" / "agreement.py").write_text(AGREEMENT.replace(old, new))
    own_code.forget()
    return {one.check for one in contract.check("agreement") if one.fault}


@pytest.mark.parametrize("name", GROUPS)
def test_a_built_in_loss_of_several_networks_passes(name: str) -> None:
    found = list(contract.check(name))
    assert len(found) >= 10
    assert [one.line() for one in found if one.fault] == []


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("scale: float = 1.0", "scale: float", "every option has a default"),
        (".square().mean()", ".square()", "it gives a single number, or named parts of one number each"),
        (
            ".mean()",
            ".mean() / (len(batch.labels) - 2)",
            "the number and its gradients are finite, for batches of 2, 4 and 8",
        ),
        (
            ".square().mean()",
            ".square().mean() + (z[0] - z[1]).square().sum().sqrt()",
            "equal networks give finite gradients",
        ),
        (
            ".square().mean()",
            ".square().mean() + z.square().sum().sqrt()",
            "zero and tiny features give finite gradients that are not huge",
        ),
        (".mean()", ".mean() * (1 if z.sum() > 0 else 2)", "it waits for no value on the device"),
        (".mean()", ".mean().double()", "it computes in float32"),
        (".mean()", ".mean().float()", "float64 features give a float64 loss"),
        (
            "at_least_float32(one.logits) for",
            "at_least_float32(one.logits.bfloat16()) for",
            "float64 features give a float64 loss",
        ),
        (".mean()", ".mean() * torch.rand(())", "the same seed and batch give the same number"),
        ("self.own(z)", "self.own(z.detach())", "the networks' features get a finite gradient"),
        (".detach()", "", "the teachers' features get no gradient"),
        (
            "self.own(z)",
            "self.own(z) - outputs.ema['peer0'].logits.to(z)",
            "the moving averages get no gradient",
        ),
        ("self.own(z)", "z", "every learned part gets a gradient"),
        (
            "nn.Linear(10, 10)",
            "nn.Linear(10, 10)\n        self.register_buffer('tick', torch.tensor([next(TICKS)]))",
            "equal seeds give equal initial values",
        ),
        ("self.own(z)", "self.own(z) * self.start", "a state dict restores the loss"),
        (
            "z = torch",
            "teachers['teacher'].logits.mul_(2)\n        z = torch",
            "it does not change its inputs",
        ),
    ],
)
def test_a_faulty_one_fails_its_check(project: Path, old: str, new: str, check: str) -> None:
    assert check in faults(project, old, new)


def test_the_faultless_one_passes(project: Path) -> None:
    assert faults(project, "square", "square") == set()
