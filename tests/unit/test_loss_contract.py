"""The contract that every loss of one network keeps. A new file in cdkd/losses is taken up by existing."""

import copy
import importlib
import inspect

import pytest
import torch

from cdkd.core.batch import DataInfo
from cdkd.core.needs import Needs
from cdkd.losses import signature
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
def test_a_loss_is_differentiated_in_the_student_and_its_own_parts_never_in_the_teacher(name):
    loss, student, teacher, given = made(name)
    student, teacher = wanting_gradients(student), wanting_gradients(teacher)
    head = [one.requires_grad_() for one in teacher.classifier]
    for epoch in EPOCHS:
        loss.before_step(given._replace(epoch=epoch))
        loss(student, teacher, given._replace(epoch=epoch)).backward()
    assert any(x.grad is not None and x.grad.any() for x in tensors(student))
    assert all(x.grad is None or torch.isfinite(x.grad).all() for x in tensors(student))
    for parameter_name, parameter in loss.named_parameters():
        assert parameter.requires_grad, parameter_name
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name
    assert all(x.grad is None for x in [*tensors(teacher), *head])


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
def test_the_part_of_the_teacher_alone_may_be_computed_once_for_all(name):
    """By a loss of another seed, without a gradient: the same value and gradients, to the bit."""
    loss, student, teacher, given = made(name)
    other = made(name, seed=1)[0]
    if loss.part_key is None:
        assert loss.needs == Needs.NOTHING or loss.teacher_part(teacher) is None
        return
    assert hash(loss.part_key) == hash(other.part_key)
    assert loss.part_key == other.part_key
    with torch.no_grad():
        part = other.teacher_part(teacher)
    outcomes = []
    for shared in (part, None):
        marked = wanting_gradients(student)
        value = value_of(loss, marked, teacher, given, shared)
        slopes = torch.autograd.grad(value, tensors(marked), allow_unused=True)
        outcomes.append([value, *(slope for slope in slopes if slope is not None)])
    assert all(torch.equal(ours, alone) for ours, alone in zip(*outcomes, strict=True))
    moved = mapped(teacher, lambda x: x.roll(1, 0))
    with torch.no_grad():
        stale = other.teacher_part(moved)
    assert not torch.equal(value_of(loss, student, teacher, given, stale), outcomes[0][0])


@every_loss
def test_a_state_dict_resumes_a_loss_exactly(name):
    """Learned parts, statistics, banks: the same values from then on, to the bit."""
    loss, student, teacher, given = made(name)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(torch.rand_like(parameter))

    def step(one, number):
        now = given._replace(step=number)
        one.before_step(now)
        marked = wanting_gradients(mapped(student, lambda x: x.roll(number, 0)))
        one.zero_grad()
        value = one(marked, teacher, now)
        value.backward()
        return [value, *(p.grad for p in one.parameters() if p.grad is not None), *one.state_dict().values()]

    step(loss, 0)
    step(loss, 1)
    restored = made(name, seed=1)[0]
    restored.load_state_dict(copy.deepcopy(loss.state_dict()))
    for number in (2, 3):
        for ours, theirs in zip(step(restored, number), step(loss, number), strict=True):
            assert torch.equal(ours, theirs)


@every_loss
def test_memory_formats_do_not_matter(name):
    loss, student, teacher, given = made(name)
    value = value_of(loss, student, teacher, given)

    def turned(x):
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    ours, theirs = mapped(student, turned), mapped(teacher, turned)
    for sides in ((ours, theirs), (student, theirs), (ours, teacher)):
        torch.testing.assert_close(value_of(loss, *sides, given), value, rtol=1e-5, atol=1e-7)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_give_the_float32_loss_of_their_values(name, dtype):
    loss, student, teacher, given = made(name)
    halves = [mapped(side, lambda x: x.to(dtype)) for side in (student, teacher)]
    floats = [mapped(side, lambda x: x.float()) for side in halves]
    value = value_of(loss, *halves, given)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, value_of(loss, *floats, given), rtol=1e-6, atol=0)
    mixed = wanting_gradients(halves[0])
    loss(mixed, teacher, given).backward()
    assert all(x.grad is None or torch.isfinite(x.grad).all() for x in tensors(mixed))


@every_loss
def test_double_precision_stays(name):
    loss, student, teacher, given = made(name)
    doubles = [mapped(side, lambda x: x.double()) for side in (student, teacher)]
    value = value_of(loss, student, teacher, given)
    precise = loss.double()(*doubles, given)
    assert precise.dtype == torch.float64
    torch.testing.assert_close(precise.float(), value, rtol=1e-4, atol=1e-7)


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
def test_equal_networks(name):
    """The features of both are the same: a finite value, and gradients that are not huge."""
    student, _ = pair(wide=1)
    loss, student, teacher, given = made(name, sides=(student, mapped(student, torch.clone)))
    marked = wanting_gradients(student)
    value = loss(marked, teacher, given)
    value.backward()
    assert torch.isfinite(value)
    assert all(x.grad is None or x.grad.abs().max() < 1e3 for x in tensors(marked))


@every_loss
@pytest.mark.parametrize("dead", ["a channel", "an image", "all"])
@pytest.mark.parametrize("level", [0.0, 1e-20])
def test_what_is_dead_has_no_huge_gradient(name, dead, level):
    loss, student, teacher, given = made(name)

    def killed(x):
        x = x.clone()
        x[{"a channel": (slice(None), 0), "an image": 0, "all": ...}[dead]] = level
        return x

    sides = [with_tensors(one, [killed(x) for x in tensors(one)]) for one in (student, teacher)]
    for own, other in ((sides[0], teacher), sides):
        marked = wanting_gradients(own)
        loss.zero_grad()
        value = loss(marked, other, given)
        value.backward()
        assert torch.isfinite(value)
        for one in [*tensors(marked), *loss.parameters()]:
            assert one.grad is None or (torch.isfinite(one.grad).all() and one.grad.abs().max() < 1e4)


@every_loss
def test_a_loss_leaves_its_inputs_alone(name):
    loss, student, teacher, given = made(name)
    before = [x.clone() for x in (*tensors(student), *tensors(teacher))]
    loss(student, teacher, given)
    assert all(torch.equal(x, y) for x, y in zip(before, [*tensors(student), *tensors(teacher)], strict=True))


@every_loss
def test_a_seed_decides_what_a_loss_begins_with(name):
    first, again, other = (made(name, seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    learned = [key for key in first if first[key].is_floating_point() and first[key].unique().numel() > 1]
    assert all(not torch.equal(first[key], other[key]) for key in learned)


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
def test_a_loss_waits_for_no_value_on_the_device(name):
    """One synchronisation an epoch: no `.item()`, no `bool(tensor)`, no selection by a mask."""
    loss, student, teacher, given = made(name)

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert function.overloadpacket not in (
                torch.ops.aten._local_scalar_dense,
                torch.ops.aten.nonzero,
                torch.ops.aten.masked_select,
            ), function
            indices = args[1] if function.overloadpacket is torch.ops.aten.index else ()
            assert not any(i is not None and i.dtype == torch.bool for i in indices), function
            return function(*args, **(kwargs or {}))

    marked = wanting_gradients(student)
    with Watch():
        loss(marked, teacher, given).backward()
    with Watch(), pytest.raises(AssertionError):
        bool(student.logits[student.logits > 0].sum() > 0)
