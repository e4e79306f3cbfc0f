"""The contract that every loss of one network keeps. A new file in cdkd/losses is taken up by existing.

Most of it are the checks of `cdkd test loss`, which a loss of a user's own must pass too. The tests here ask
for more, which a user's loss may do without: it may be negative, stop a gradient on purpose, or ask for
features that only some of its options read.
"""

import copy
import importlib
import inspect
import shutil

import pytest
import torch

from cdkd.core import own_code
from cdkd.core.batch import DataInfo
from cdkd.core.needs import Needs
from cdkd.losses import contract, signature
from cdkd.losses.base import Loss, build, channel_means
from tests.unit.loss_inputs import (
    SIZES,
    batch_of,
    features,
    mapped,
    pair,
    tensors,
    wanting_gradients,
    with_tensors,
)

NAMES = [name for name in signature.names() if not signature.is_group(name)]
OPTIONS = {"crd": {"negatives": 5, "dimension": 8}}  # smaller than the default
SAME_CHANNELS = {"fsp"}  # losses that cannot do with fewer than the teacher's
EPOCHS = (0, 1000)  # before and after whatever a loss does first
every_loss = pytest.mark.parametrize("name", NAMES)


def made(name, batch=4, sides=None, seed=0):
    """A loss, what it is given, and a batch whose randomness is drawn."""
    student, teacher = sides or pair(batch, wide=1 if name in SAME_CHANNELS else 2)
    labels = teacher.logits.argmax(1)
    labels[0] = (labels[0] + 1) % teacher.logits.shape[1]  # one image the teacher is wrong about
    given = batch_of(labels, epoch=EPOCHS[1])
    classes = teacher.logits.shape[1]
    data = DataInfo(12, classes, torch.cat([labels, torch.arange(12 - len(labels)) % classes]), batch)
    torch.manual_seed(seed)
    loss = build(name, student, teacher, OPTIONS.get(name, {}), data)
    loss.before_step(given)
    return loss, student, teacher, given


def value_of(loss, *given):
    """The loss as it is now; what it changes of itself is forgotten."""
    return copy.deepcopy(loss)(*given)


def test_there_are_losses():
    assert {"ce", "kd", "gkd", "cd", "hint", "at", "rkd", "ickd", "crd"} <= set(NAMES)
    assert "base" not in NAMES


@every_loss
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_loss_is_one_finite_number_from_zero_up(name, batch):
    loss, student, teacher, given = made(name, batch)
    marked = wanting_gradients(student)
    value = loss(marked, teacher, given)
    assert isinstance(loss, Loss)
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    # one image has no relations, and the one distance of two is its own mean
    none = {"rkd": 2, "sp": 1, "cc": 1, "pkt": 1, "gkd": 1}
    assert value > 0 or (batch <= none.get(name, 0) and value == 0)
    value.backward()
    assert all(
        torch.isfinite(x.grad).all() for x in [*tensors(marked), *loss.parameters()] if x.grad is not None
    )


@every_loss
def test_a_gradient_reaches_exactly_the_student_features_that_the_loss_reads(name):
    loss, student, teacher, given = made(name)
    marked = wanting_gradients(student)
    value = value_of(loss, marked, teacher, given)
    slopes = torch.autograd.grad(value, tensors(marked), allow_unused=True)
    other = tensors(features((16, 32, 64), SIZES, seed=9))
    for index, slope in enumerate(slopes):
        changed = tensors(student)
        changed[index] = other[index]
        moved = value_of(loss, with_tensors(student, changed), teacher, given)
        assert (not torch.equal(moved, value)) == (slope is not None and bool(slope.any())), index


FIELDS = {
    Needs.LOGITS: "logits",
    Needs.POOLED: "pooled",
    Needs.MAPS: "maps",
    Needs.CHANNEL_MEANS: "maps",
    Needs.LAST_MAP: "last_map",
    Needs.STEM: "stem",
    Needs.PREACTIVATION: "preactivations",
    Needs.CLASSIFIER: "classifier",
}


def altered(teacher, field):
    def nothing(one):
        return torch.full_like(one, float("nan"))

    value = getattr(teacher, field)
    return teacher._replace(
        **{field: tuple(map(nothing, value)) if isinstance(value, tuple) else nothing(value)}
    )


@every_loss
def test_a_loss_reads_of_the_teacher_exactly_what_it_says(name):
    """A shared or kept teacher pass leaves out the rest: the same value and gradients, to the bit."""
    loss, student, teacher, given = made(name)
    if loss.needs == Needs.NOTHING:
        left = None
    else:
        left = teacher
        for field in set(FIELDS.values()) - {FIELDS[need] for need in loss.needs}:
            left = altered(left, field)
        if Needs.MAPS not in loss.needs and Needs.CHANNEL_MEANS in loss.needs:
            left = left._replace(maps=tuple(channel_means(one)[:, :, None, None] for one in teacher.maps))

    def outcome(seen):
        marked = wanting_gradients(student)
        value = value_of(loss, marked, seen, given)
        slopes = torch.autograd.grad(value, tensors(marked), allow_unused=True)
        return [value, *(slope for slope in slopes if slope is not None)]

    for ours, whole in zip(outcome(left), outcome(teacher), strict=True):
        assert torch.equal(ours, whole)
    for need in loss.needs:  # the control: what it asks for makes a difference
        if FIELDS[need] != "stem" or name != "fsp":
            assert not torch.equal(outcome(altered(teacher, FIELDS[need]))[0], outcome(teacher)[0]), need


@every_loss
def test_the_gradient_is_the_values_slope(name):
    """In float64, in every feature that the loss reads and in its learned parts."""
    sides = [
        features(
            (2, 3, 4 if side == 0 or name in SAME_CHANNELS else 5),
            [(4, 4), (4, 4), (2, 2)],
            5,
            3,
            seed,
            torch.float64,
        )
        for side, seed in enumerate((1, 2))
    ]
    sides = [mapped(side, lambda x: x + 0.01) for side in sides]  # a slope at 0 is not one
    loss, student, teacher, given = made(name, 3, sides)
    loss = loss.double()
    loss(student, teacher, given)  # CRD fixes its normalisers at the first batch
    marked = wanting_gradients(student)
    value = value_of(loss, marked, teacher, given)
    slopes = torch.autograd.grad(value, tensors(marked), allow_unused=True)
    read = [index for index, slope in enumerate(slopes) if slope is not None]

    def function(*changed):
        all_of = tensors(student)
        for index, one in zip(read, changed, strict=True):
            all_of[index] = one
        return value_of(loss, with_tensors(student, all_of), teacher, given)

    assert torch.autograd.gradcheck(function, [tensors(marked)[index] for index in read], fast_mode=True)


@every_loss
def test_options_read_from_the_source_are_the_constructors(name):
    module = importlib.import_module(f"cdkd.losses.{name}")
    kind = getattr(module, signature.class_name(name))
    real = {
        key: p
        for key, p in inspect.signature(kind.__init__).parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and key != signature.DATA
    }
    read = signature.options(name)
    assert list(read) == list(real)
    for key, option in read.items():
        assert option.annotation == real[key].annotation
        assert option.default == (
            signature.REQUIRED if real[key].default is inspect.Parameter.empty else real[key].default
        )


@every_loss
def test_a_built_in_loss_passes_what_a_users_own_must_pass(name):
    found = list(contract.check(name))
    assert len(found) == len(contract.CHECKS)
    assert [one.line() for one in found if one.fault] == []


OWN = """
import itertools

import torch
from torch import nn

from cdkd import Loss, Needs, at_least_float32

TICKS = itertools.count()


class Own(Loss):
    needs = Needs.LOGITS
    part_key = "own"

    def __init__(self, student, teacher, *, scale: float = 1.0):
        super().__init__(student, teacher)
        self.linear = nn.Linear(10, 10)
        self.register_buffer("count", torch.zeros(()))

    def teacher_part(self, teacher):
        return at_least_float32(teacher.logits).detach()

    def forward(self, student, teacher, batch, part=None):
        own = at_least_float32(student.logits)
        target = part if part is not None else self.teacher_part(teacher)
        self.count += 1
        own = self.linear(own)
        return (own - target).square().mean() + self.count
"""
NEEDS, NUMBER = "it reads no more of the teacher than `needs` names", "it gives a single number"
FINITE = "the number and its gradients are finite, for batches of 1, 2 and 4"
HALF = "half-precision features give the float32 loss of their values"
DOUBLE, STATE = "float64 features give a float64 loss", "a state dict restores the loss"
GRADIENT, PARTS = "the student's features get a finite gradient", "every learned part gets a gradient"
SEEDS, PART = "equal seeds give equal initial values", "a precomputed `teacher_part` gives the same number"
REPEATED, LAYOUT = (
    "the same seed and batch give the same number",
    "it does not depend on the memory format of maps",
)
EQUAL = "equal networks give finite gradients"
DEAD = "zero and tiny features give finite gradients that are not huge"
WAITS, RANKS = (
    "it waits for no value on the device",
    "two ranks compute what one does, or it says that they do not",
)
END, SQUARES, DETACHED = "+ self.count", "(own - target).square().mean()", "teacher.logits).detach()"
FAULTS = [
    ("scale: float = 1.0", "scale: float", "every option has a default"),
    (".square().mean()", ".square()", NUMBER),
    (SQUARES, f"{SQUARES} / (len(own) - 2)", FINITE),
    ("target).square()", "own.mean(0)).square().sum(0).sqrt()", FINITE),  # of one image: the root of 0
    (END, ".double()", "it computes in float32"),
    ("at_least_float32(student.logits)", "self.linear(student.logits)", HALF),
    (END, ".float()", DOUBLE),
    (SQUARES, f"{SQUARES} * (1 if own.dtype == torch.float32 else 2)", DOUBLE),
    (END, "* torch.rand(())", REPEATED),
    ("self.linear(own)", "self.linear(own.detach())", GRADIENT),
    (DETACHED, "teacher.logits)", "the teacher's features get no gradient"),
    ("self.linear(own)", "own", PARTS),
    ("self.linear(own)", "own + 0 * self.linear(own)", PARTS),
    ("torch.zeros(()))", "torch.rand(()), persistent=False)", STATE),
    ("torch.zeros(())", "torch.tensor(float(next(TICKS)))", SEEDS),
    ("nn.Linear(10, 10)", "nn.Linear(10, 10)\n        nn.init.eye_(self.linear.weight)", SEEDS),
    ("Needs.LOGITS", "Needs.POOLED", NEEDS),
    ("own = at_least", "teacher.logits.mul_(2)\n        own = at_least", "it does not change its inputs"),
    (END, "+ student.maps[0].stride(1) * own.mean()", LAYOUT),
    ("target = part if", "target = part * 2 if", PART),
    ("target = part if part is not None else ", "target = ", PART),  # not used
    ('part_key = "own"', "part_key = property(id)", PART),  # another for each loss
    (SQUARES, "(at_least_float32(student.logits) - target).square().sum().sqrt() + own.mean()", EQUAL),
    (SQUARES, f"{SQUARES} + at_least_float32(student.logits).square().sum().sqrt()", DEAD),
    (SQUARES, f"{SQUARES} if target.sum().item() else own.sum()", WAITS),
    (SQUARES, "(own - target)[target > 0].square().sum() + own.mean()", WAITS),
    (SQUARES, f"{SQUARES} + own.var(0, correction=0).sum()", RANKS),
]


@pytest.fixture
def own(new_project, tmp_path):
    """Writes losses/own.py after a replacement, and gives the names of the checks that fail."""
    shutil.copytree(new_project, tmp_path / "study", symlinks=True)
    own_code.use(tmp_path / "study")

    def faults(old="", new=""):
        assert old in OWN
        (tmp_path / "study" / "losses" / "own.py").write_text(OWN.replace(old, new) if old else OWN)
        own_code.forget()
        return {one.check for one in contract.check("own") if one.fault}

    return faults


def test_a_faultless_loss_of_ones_own_passes(own):
    assert own() == set()


@pytest.mark.parametrize(("old", "new", "check"), FAULTS)
def test_a_faulty_loss_fails_its_check(own, old, new, check):
    assert check in own(old, new)


def test_every_check_has_a_faulty_loss():
    assert {check for *_, check in FAULTS} == set(contract.CHECKS)
