"""Every loss against an independent NumPy reference, its traps, and the contract that all losses keep."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cdkd.core.errors import BadParams
from cdkd.losses import base
from cdkd.losses.at import attention_transfer
from cdkd.losses.base import build, by_positions, channel_means, channel_products, l2_normalise, mean_over
from cdkd.losses.cd import channel_distillation
from cdkd.losses.ce import cross_entropy
from cdkd.losses.connectors import BatchNorm
from cdkd.losses.gkd import guided_kd
from cdkd.losses.hint import hint
from cdkd.losses.kd import kd
from cdkd.losses.rkd import relational_kd
from tests.unit import losses_reference as reference
from tests.unit.loss_inputs import SIZES, batch_of, features, pair

EXACT = {"rtol": 1e-9, "atol": 1e-12}
FORMS = ("released", "paper")


def normal(*shape, seed, scale=1.0):
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


def leaf(array, dtype=torch.float64):
    return torch.tensor(array, dtype=dtype, requires_grad=True)


def gradient(value, *inputs):
    return [g.numpy() for g in torch.autograd.grad(value, inputs)]


STUDENT, TEACHER = normal(6, 5, seed=0, scale=3), normal(6, 5, seed=1, scale=3)
LABELS = np.array(
    [int(row.argmax()) if b % 2 else int(row.argmin()) for b, row in enumerate(TEACHER)]
)  # the teacher is right in 1, 3, 5
MAPS = [normal(4, c, size, size, seed=c) for c, size in ((2, 8), (3, 4), (5, 2))]
TEACHER_MAPS = [normal(4, c, size, size, seed=10 + c) for c, size in ((2, 8), (3, 4), (5, 2))]
labels = torch.from_numpy(LABELS)


# ---- values and gradients


def test_cross_entropy():
    logits = leaf(STUDENT)
    value = cross_entropy(logits, labels)
    np.testing.assert_allclose(value.item(), reference.cross_entropy(STUDENT, LABELS), **EXACT)
    np.testing.assert_allclose(
        gradient(value, logits)[0], reference.cross_entropy_gradient(STUDENT, LABELS), **EXACT
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_with_label_smoothing(smoothing):
    logits = leaf(STUDENT)
    value = cross_entropy(logits, labels, smoothing)
    expected = reference.smoothed_cross_entropy(STUDENT, LABELS, smoothing)
    np.testing.assert_allclose(value.item(), expected, **EXACT)
    slope = reference.smoothed_cross_entropy_gradient(STUDENT, LABELS, smoothing)
    np.testing.assert_allclose(gradient(value, logits)[0], slope, **EXACT)


def test_label_smoothing_of_0_gives_the_bits_of_plain_cross_entropy():
    logits = torch.from_numpy(STUDENT).float().requires_grad_()
    plain, smoothed = functional.cross_entropy(logits, labels), cross_entropy(logits, labels, 0.0)
    assert torch.equal(plain, smoothed)
    found = [torch.autograd.grad(one, logits)[0] for one in (plain, smoothed)]
    assert torch.equal(*found)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kd(temperature):
    logits = leaf(STUDENT)
    value = kd(logits, torch.from_numpy(TEACHER), temperature)
    np.testing.assert_allclose(value.item(), reference.kd(STUDENT, TEACHER, temperature), **EXACT)
    np.testing.assert_allclose(
        gradient(value, logits)[0], reference.kd_gradient(STUDENT, TEACHER, temperature), **EXACT
    )


def test_kd_is_a_mean_over_the_batch_and_carries_the_squared_temperature():
    classes, right = STUDENT.shape[1], reference.kd(STUDENT, TEACHER, 4.0)
    value = kd(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), 4.0).item()
    for wrong in (right / classes, right * len(STUDENT), right / 4.0**2):
        assert abs(value - wrong) > 0.1 * right


def test_kd_at_a_large_temperature_is_half_the_variance_of_the_logits_differences():
    logits = leaf(STUDENT)
    value = kd(logits, torch.from_numpy(TEACHER), 1e4)
    np.testing.assert_allclose(value.item(), (STUDENT - TEACHER).var(axis=1).mean() / 2, rtol=1e-3)
    np.testing.assert_allclose(
        gradient(value, logits)[0], reference.kd_gradient(STUDENT, TEACHER, 1e4), rtol=1e-6, atol=1e-9
    )


def test_kd_is_zero_for_equal_logits_whatever_their_level():
    logits = leaf(TEACHER + 7.0)
    value = kd(logits, torch.from_numpy(TEACHER), 4.0)
    np.testing.assert_allclose(value.item(), 0, atol=1e-12)
    np.testing.assert_allclose(gradient(value, logits)[0], 0, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_guided_kd(temperature):
    logits = leaf(STUDENT)
    value = guided_kd(logits, torch.from_numpy(TEACHER), labels, temperature)
    np.testing.assert_allclose(
        value.item(), reference.guided_kd(STUDENT, TEACHER, LABELS, temperature), **EXACT
    )
    expected = reference.guided_kd_gradient(STUDENT, TEACHER, LABELS, temperature)
    np.testing.assert_allclose(gradient(value, logits)[0], expected, **EXACT)
    assert not expected[::2].any()
    assert expected[1::2].all()


def test_guided_kd_by_a_teacher_that_is_always_right_is_kd():
    right = torch.from_numpy(TEACHER.argmax(1))
    student, teacher = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    torch.testing.assert_close(
        guided_kd(student, teacher, right, 4.0), kd(student, teacher, 4.0), rtol=1e-12, atol=0
    )


def test_channel_distillation():
    maps = [leaf(m) for m in MAPS]
    value = channel_distillation(maps, [torch.from_numpy(m) for m in TEACHER_MAPS])
    np.testing.assert_allclose(value.item(), reference.channel_distillation(MAPS, TEACHER_MAPS), **EXACT)
    for found, expected in zip(
        gradient(value, *maps), reference.channel_distillation_gradient(MAPS, TEACHER_MAPS), strict=True
    ):
        np.testing.assert_allclose(found, expected, **EXACT)


def test_channel_distillation_of_maps_of_other_sizes():
    teacher = [normal(4, c, 3, 6, seed=20 + c) for c in (2, 3, 5)]
    value = channel_distillation([torch.from_numpy(m) for m in MAPS], [torch.from_numpy(m) for m in teacher])
    np.testing.assert_allclose(value.item(), reference.channel_distillation(MAPS, teacher), **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_hint(form):
    own = leaf(MAPS[1])
    value = hint(own, torch.from_numpy(TEACHER_MAPS[1]), form)
    np.testing.assert_allclose(value.item(), reference.hint(MAPS[1], TEACHER_MAPS[1], form), **EXACT)
    np.testing.assert_allclose(
        gradient(value, own)[0], reference.hint_gradient(MAPS[1], TEACHER_MAPS[1], form), **EXACT
    )


def test_the_two_forms_of_hint_are_half_the_channels_apart():
    student, teacher = torch.from_numpy(MAPS[1]), torch.from_numpy(TEACHER_MAPS[1])
    torch.testing.assert_close(
        hint(student, teacher, "paper"), hint(student, teacher) * 3 / 2, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(8, 8), (4, 4), (2, 4), (16, 8)])
def test_attention_transfer(form, size):
    """Other channels than the student's 2, and a teacher's map that is as large, smaller or larger."""
    teacher = [normal(4, 3, *size, seed=30), TEACHER_MAPS[1]]
    value = attention_transfer(
        [torch.from_numpy(m) for m in MAPS[:2]], [torch.from_numpy(m) for m in teacher], form
    )
    np.testing.assert_allclose(value.item(), reference.attention_transfer(MAPS[:2], teacher, form), **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_attention_transfer_gradient(form):
    maps, teacher = [leaf(m[:2]) for m in MAPS[1:]], [torch.from_numpy(m[:2]) for m in TEACHER_MAPS[1:]]
    assert torch.autograd.gradcheck(lambda *own: attention_transfer(own, teacher, form), maps)
    found = gradient(attention_transfer(maps, teacher, form), *maps)
    ours, theirs = [m[:2] for m in MAPS[1:]], [m[:2] for m in TEACHER_MAPS[1:]]
    np.testing.assert_allclose(
        found[1],
        central_difference(lambda m: reference.attention_transfer([ours[0], m], theirs, form), ours[1]),
        atol=1e-8,
    )


def central_difference(function, x, step=1e-5):
    slope = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        slope[index] = (function(up) - function(down)) / (2 * step)
    return slope


@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
def test_relational_kd(weights):
    """Features with outliers, so that both pieces of the smooth L1 are met."""
    student, teacher = normal(5, 4, seed=40), normal(5, 7, seed=41)
    student[0] *= 30
    assert np.abs(reference.distances(student) - reference.distances(teacher)).max() > 1
    own = leaf(student)
    value = relational_kd(own, torch.from_numpy(teacher), *weights)
    np.testing.assert_allclose(value.item(), reference.relational_kd(student, teacher, *weights), **EXACT)
    slope = central_difference(lambda x: reference.relational_kd(x, teacher, *weights), student)
    np.testing.assert_allclose(gradient(value, own)[0], slope, atol=1e-7)


def test_relational_kd_gradient():
    """The mean distance of the student is differentiated, so scaling all features changes nothing."""
    own, teacher = leaf(normal(5, 4, seed=42)), torch.from_numpy(normal(5, 7, seed=43))
    assert torch.autograd.gradcheck(lambda x: relational_kd(x, teacher), [own])
    (slope,) = torch.autograd.grad(relational_kd(own, teacher), own)
    np.testing.assert_allclose((slope * own).sum().item(), 0, atol=1e-9)
    torch.testing.assert_close(
        relational_kd(3 * own, teacher), relational_kd(own, teacher), rtol=1e-9, atol=0
    )


def test_no_two_losses_agree_by_accident():
    student, teacher = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    maps, teacher_maps = [torch.from_numpy(m) for m in MAPS], [torch.from_numpy(m) for m in TEACHER_MAPS]
    values = sorted(
        value.item()
        for value in (
            cross_entropy(student, labels),
            kd(student, teacher, 1.0),
            kd(student, teacher, 4.0),
            guided_kd(student, teacher, labels, 1.0),
            guided_kd(student, teacher, labels, 4.0),
            channel_distillation(maps, teacher_maps),
            *(hint(maps[1], teacher_maps[1], form) for form in FORMS),
            *(attention_transfer(maps, teacher_maps, form) for form in FORMS),
            relational_kd(student, teacher),
        )
    )
    assert all(after - before > 1e-3 * after for before, after in pairwise(values))


# ---- traps


def test_guided_kd_is_zero_where_the_teacher_is_always_wrong():
    logits = leaf(STUDENT, torch.float32)
    value = guided_kd(logits, torch.from_numpy(TEACHER).float(), torch.from_numpy(TEACHER.argmin(1)), 4.0)
    assert value.item() == 0
    assert not gradient(value, logits)[0].any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kept", [(1, 3, 5), ()])
def test_a_dropped_row_touches_neither_value_nor_gradient_of_guided_kd(poison, kept):
    answers = torch.tensor(
        [int(row.argmax() if b in kept else row.argmin()) for b, row in enumerate(TEACHER)]
    )
    poisoned = STUDENT.copy()
    poisoned[0] = poison
    clean, dirty = leaf(STUDENT), leaf(poisoned)
    teacher = torch.from_numpy(TEACHER)
    values = [guided_kd(logits, teacher, answers, 1.0) for logits in (clean, dirty)]
    assert torch.equal(*values)
    np.testing.assert_array_equal(gradient(values[0], clean)[0], gradient(values[1], dirty)[0])


@pytest.mark.parametrize(
    "loss", [kd, lambda s, t, temperature: guided_kd(s, t, torch.tensor([0, 0]), temperature)]
)
def test_a_teacher_probability_that_underflows_is_a_zero(loss):
    """The released code turns it into a one."""
    teacher = np.array([[200.0, -200.0, -200.0], [200.0, 199.0, -200.0]])
    student = np.array([[0.5, 1.5, -1.0], [-200.0, 200.0, 0.0]])
    logits = leaf(student, torch.float32)
    value = loss(logits, torch.tensor(teacher, dtype=torch.float32), 1.0)
    assert np.exp(np.float32(-400)) == 0
    np.testing.assert_allclose(value.item(), reference.kd(student, teacher, 1.0), rtol=1e-6)
    np.testing.assert_allclose(
        gradient(value, logits)[0], reference.kd_gradient(student, teacher, 1.0), atol=1e-6
    )


def test_l2_normalise_is_torchs_but_for_the_gradient_below_the_bound():
    x = leaf(np.array([[3.0, 4.0], [0.0, 0.0], [3e-14, 4e-14]]))
    unit = l2_normalise(x, 1)
    torch.testing.assert_close(unit, functional.normalize(x, dim=1), rtol=1e-12, atol=0)
    (slope,) = gradient(unit[:, 0].sum(), x)
    np.testing.assert_allclose(slope, [[0.128, -0.096], [0, 0], [0, 0]], **EXACT)
    (theirs,) = gradient(functional.normalize(x, dim=1)[:, 0].sum(), x)
    assert abs(theirs[2]).max() > 1e11


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", [0.0, 1e-8])
def test_attention_transfer_of_dead_maps(form, level):
    """A dead student's map has zero gradient, a dead teacher's map is a target like another."""
    for dtype in (torch.float32, torch.float64):
        own = leaf(np.concatenate([np.full((1, 3, 4, 4), level), MAPS[1][1:3]]), dtype)
        teacher = torch.from_numpy(TEACHER_MAPS[1][:3]).to(dtype)
        teacher[2] = 0
        value = attention_transfer([own], [teacher], form)
        expected = reference.attention_transfer(
            [own.detach().double().numpy()], [teacher.double().numpy()], form
        )
        np.testing.assert_allclose(value.item(), expected, rtol=1e-5)
        (slope,) = gradient(value, own)
        assert np.isfinite(slope).all()
        assert not slope[0].any()
        assert slope[1].any()
        assert slope[2].any()
        assert abs(slope).max() < 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("maps", [MAPS, [np.zeros_like(m) for m in MAPS]], ids=["alive", "dead"])
def test_attention_transfer_of_equal_maps(form, maps):
    own = [leaf(m) for m in maps]
    value = attention_transfer(own, [torch.from_numpy(m) for m in maps], form)
    assert value.item() == 0
    assert not any(g.any() for g in gradient(value, *own))


def test_the_scale_of_attention_transfer_depends_on_the_map_in_the_released_form_only():
    """The same picture at four times the side: 16 times smaller as released, the same in the paper."""
    small, other = torch.from_numpy(MAPS[0]), torch.from_numpy(TEACHER_MAPS[0])
    large, larger = (m.repeat_interleave(4, 2).repeat_interleave(4, 3) for m in (small, other))
    torch.testing.assert_close(
        attention_transfer([small], [other]), 16 * attention_transfer([large], [larger]), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(
        attention_transfer([small], [other], "paper"),
        attention_transfer([large], [larger], "paper"),
        rtol=1e-9,
        atol=0,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_relational_kd_of_one_image_is_zero(dtype):
    own = leaf(normal(1, 4, seed=50), dtype)
    value = relational_kd(own, torch.ones(1, 7, dtype=dtype))
    assert value.item() == 0
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    value.backward()
    assert not own.grad.any()


def degenerate():
    student, teacher = normal(4, 3, seed=51), normal(4, 6, seed=52)
    twins, teacher_twins = student.copy(), teacher.copy()
    twins[1], teacher_twins[2] = twins[0], teacher_twins[3]
    return {
        "twins": (twins, teacher),
        "twins in the teacher": (student, teacher_twins),
        "all equal": (np.ones((4, 3)), teacher),
        "all zero": (np.zeros((4, 3)), teacher),
        "teacher all zero": (student, np.zeros((4, 6))),
        "both all zero": (np.zeros((4, 3)), np.zeros((4, 6))),
        "two images": (student[:2], teacher[:2]),
    }


@pytest.mark.parametrize("case", degenerate())
def test_relational_kd_of_degenerate_batches(case):
    student, teacher = degenerate()[case]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        own = leaf(student, dtype)
        value = relational_kd(own, torch.tensor(teacher, dtype=dtype))
        np.testing.assert_allclose(
            value.item(),
            reference.relational_kd(student, teacher, 25.0, 50.0),
            rtol=tolerance,
            atol=tolerance,
        )
        (slope,) = gradient(value, own)
        assert np.isfinite(slope).all()
        assert abs(slope).max() < 1e3
        if "all equal" in case or (case.endswith("all zero") and case != "teacher all zero"):
            assert not slope.any()


def test_relational_kd_is_precise_for_near_duplicates():
    """In float32, where the Gram matrix would lose the distance altogether."""
    student = (10 + normal(4, 8, seed=53)).astype(np.float32)
    student[1] = student[0] + np.float32(1e-3) * normal(8, seed=54).astype(np.float32)
    teacher = normal(4, 8, seed=55)
    expected = reference.relational_kd(student.astype(np.float64), teacher, 25.0, 50.0)
    found = relational_kd(torch.from_numpy(student), torch.from_numpy(teacher).float()).item()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_inputs_are_computed_in_float32(dtype):
    student, teacher = (torch.from_numpy(x).to(dtype) for x in (STUDENT, TEACHER))
    maps, teacher_maps = ([torch.from_numpy(m).to(dtype) for m in side] for side in (MAPS, TEACHER_MAPS))
    s, t = student.double().numpy(), teacher.double().numpy()
    m, tm = [x.double().numpy() for x in maps], [x.double().numpy() for x in teacher_maps]
    cases = {
        "ce": (cross_entropy(student, labels), reference.cross_entropy(s, LABELS)),
        "kd": (kd(student, teacher, 20.0), reference.kd(s, t, 20.0)),
        "gkd": (guided_kd(student, teacher, labels, 4.0), reference.guided_kd(s, t, LABELS, 4.0)),
        "cd": (channel_distillation(maps, teacher_maps), reference.channel_distillation(m, tm)),
        "rkd": (relational_kd(student, teacher), reference.relational_kd(s, t, 25.0, 50.0)),
    }
    for form in FORMS:
        cases[f"hint {form}"] = hint(maps[1], teacher_maps[1], form), reference.hint(m[1], tm[1], form)
        cases[f"at {form}"] = (
            attention_transfer(maps, teacher_maps, form),
            reference.attention_transfer(m, tm, form),
        )
    for name, (value, expected) in cases.items():
        assert value.dtype == torch.float32, name
        np.testing.assert_allclose(value.item(), expected, rtol=1e-4, err_msg=name)


# ---- networks that do not fit


def test_another_number_of_stages_is_refused_by_the_functions():
    student, _ = pair()
    for function in (channel_distillation, attention_transfer):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            function(student.maps, student.maps[:2])


@pytest.mark.parametrize(
    ("means", "over"),
    [(channel_means, (2, 3)), *((lambda x, at=at: mean_over(x, at), at) for at in (1, (2, 3), (0, 2, 3)))],
)
def test_means_are_torchs_and_their_gradient_is_of_the_maps_layout(means, over):
    x = torch.rand(3, 5, 4, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weights = torch.rand(x.mean(over).shape, dtype=torch.float64)
    found = []
    for function in (means, lambda one: one.mean(over)):
        own = x.clone().requires_grad_()
        before = own.square()  # its backward pass reads the gradient of the mean
        strides = []
        before.register_hook(lambda grad, strides=strides: strides.append(grad.stride()))
        value = function(before)
        (value * weights).sum().backward()
        found.append((value.detach(), own.grad, own.grad.is_contiguous(memory_format=torch.channels_last)))
        if function is means:
            assert 0 in strides[0]  # a view: nothing of the map's size is written
    (ours, gradient, layout), (theirs, expected, _) = found
    assert layout
    assert torch.allclose(ours, theirs, rtol=1e-14)
    assert torch.allclose(gradient, expected, rtol=1e-14)


@pytest.mark.parametrize("same", [False, True])
def test_channel_products_and_the_layout_of_their_gradients(same):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, c, 4, 6, generator=generator, dtype=torch.float64) for c in (3, 5)]
    first, second = (x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in maps)
    second = first if same else second
    value = channel_products(by_positions(first), by_positions(second))
    expected = torch.einsum("bihw,bjhw->bij", first, second)
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    weights = torch.rand(value.shape, generator=generator, dtype=torch.float64)
    sides = (first,) if same else (first, second)
    found, wanted = (torch.autograd.grad((one * weights).sum(), sides) for one in (value, expected))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_cd_without_connectors_refuses_other_channels():
    student, teacher = pair()
    with pytest.raises(BadParams, match=r"stage 1 .*16.*32"):
        build("cd", student, teacher, {"connector": "none"})
    one = features((1, 32, 64), SIZES)  # broadcasting would hide it
    with pytest.raises(BadParams, match=r"stage 1 .*1.*16"):
        build("cd", one, student, {"connector": "none"})


def test_cd_has_connectors_where_channels_agree():
    student, _ = pair()
    other = features((16, 32, 64), SIZES, seed=3)
    loss = build("cd", student, other, {})
    assert [tuple(type(part) for part in connector) for connector in loss.connectors] == [
        (nn.Conv2d, BatchNorm, nn.ReLU)
    ] * 3
    assert all(connector[0].bias is None for connector in loss.connectors)
    bare = build("cd", student, other, {"connector": "none"})
    assert not list(bare.parameters())
    assert torch.equal(bare(student, other, torch.zeros(4)), channel_distillation(student.maps, other.maps))


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "kernel"),
    [
        ((4, 4), (4, 4), nn.Conv2d, (1, 1)),
        ((8, 8), (4, 4), nn.Conv2d, (3, 3)),
        ((4, 4), (8, 8), nn.ConvTranspose2d, (4, 4)),
        ((7, 7), (4, 4), nn.Conv2d, (4, 4)),
        ((7, 5), (4, 4), nn.Conv2d, (4, 2)),
        ((16, 16), (4, 4), nn.Conv2d, (13, 13)),
        ((2, 2), (1, 1), nn.Conv2d, (3, 3)),
    ],
)
def test_the_regressor_of_hint_reaches_the_teachers_shape(student, teacher, kind, kernel):
    own, other = features((8, 16), [student] * 2), features((8, 24), [teacher] * 2)
    loss = build("hint", own, other, {"stage": 2})
    assert type(loss.regressor[0]) is kind
    assert loss.regressor[0].kernel_size == kernel
    assert loss.regressor(own.maps[1]).shape == other.maps[1].shape


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 4), (7, 7)), ((2, 2), (8, 8)), ((8, 4), (4, 8)), ((8, 4), (4, 5))]
)
def test_hint_refuses_maps_it_cannot_match(student, teacher):
    with pytest.raises(BadParams, match=f"{student[0]}×{student[1]}.*{teacher[0]}×{teacher[1]}"):
        build("hint", features((8, 16), [student] * 2), features((8, 24), [teacher] * 2), {})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_hint_reads_its_stage_counted_from_one(stage, form):
    student, teacher = pair()
    loss = build("hint", student, teacher, {"stage": stage, "form": form})
    own, other = student.maps[stage - 1], teacher.maps[stage - 1]
    assert loss.regressor[0].in_channels == own.shape[1]
    assert torch.equal(loss(student, teacher, torch.zeros(4)), hint(loss.regressor(own), other, form))


def test_hint_pairs_a_stage_of_the_student_with_another_of_the_teacher():
    student, teacher = pair()
    loss = build("hint", student, teacher, {"stage": (3, 2)})
    own, other = student.maps[2], teacher.maps[1]
    assert torch.equal(loss(student, teacher, torch.zeros(4)), hint(loss.regressor(own), other))
    with pytest.raises(BadParams, match="hint: stage 4; the teacher has stages 1 to 3"):
        build("hint", student, teacher, {"stage": (3, 4)})


def test_hint_refuses_a_stage_that_one_side_has_not():
    student, teacher = pair()
    with pytest.raises(BadParams, match="stage 4; the student has stages 1 to 3"):
        build("hint", student, teacher, {"stage": 4})
    with pytest.raises(BadParams, match="stage 3; the teacher has stages 1 to 2"):
        build("hint", student, features((8, 16), SIZES[:2]), {"stage": 3})


@pytest.mark.parametrize(("student", "teacher"), [((7, 7), (4, 4)), ((4, 4), (6, 6)), ((8, 4), (4, 8))])
def test_attention_transfer_pools_to_any_smaller_size(student, teacher):
    own, other = normal(2, 3, *student, seed=1), normal(2, 3, *teacher, seed=2)
    size = min(student[0], teacher[0]), min(student[1], teacher[1])
    pooled = [functional.adaptive_avg_pool2d(torch.from_numpy(m), size) for m in (own, other)]
    value = attention_transfer([torch.from_numpy(own)], [torch.from_numpy(other)])
    torch.testing.assert_close(value, attention_transfer(*([m] for m in pooled)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ["kd", "gkd", "dkd"])
def test_logits_of_other_classes_are_refused(loss):
    student, _ = pair()
    with pytest.raises(BadParams, match=f"{loss}: .*10 classes.*1;"):
        build(loss, student, features((16, 32, 64), SIZES, classes=1), {})


# ---- making a loss


def test_a_loss_without_a_teacher():
    student, _ = pair()
    batch = batch_of(torch.arange(4))
    value = build("ce", student, None, {})(student, None, batch)
    assert torch.equal(value, cross_entropy(student.logits, batch.labels))
    smoothed = build("ce", student, None, {"label_smoothing": 0.3})(student, None, batch)
    assert torch.equal(smoothed, cross_entropy(student.logits, batch.labels, 0.3))
    assert not torch.equal(smoothed, value)


def test_an_unknown_loss_is_named():
    student, teacher = pair()
    with pytest.raises(KeyError, match="no loss 'base'"):
        build("base", student, teacher, {})
    with pytest.raises(TypeError, match="has no forward"):
        base.Loss(student, teacher)(student, teacher, None)


@pytest.mark.parametrize("name", ["kd", "gkd", "at", "rkd"])
def test_options_reach_the_function(name):
    student, teacher = pair()
    answers = teacher.logits.argmax(1)
    options = {
        "kd": {"temperature": 7.0},
        "gkd": {"temperature": 7.0},
        "at": {"form": "paper"},
        "rkd": {"distance_weight": 1.0, "angle_weight": 2.0},
    }
    expected = {
        "kd": lambda: kd(student.logits, teacher.logits, 7.0),
        "gkd": lambda: guided_kd(student.logits, teacher.logits, answers, 7.0),
        "at": lambda: attention_transfer(student.maps, teacher.maps, "paper"),
        "rkd": lambda: relational_kd(student.pooled, teacher.pooled, 1.0, 2.0),
    }
    batch = batch_of(answers)
    value = build(name, student, teacher, options[name])(student, teacher, batch)
    assert torch.equal(value, expected[name]())
    assert not torch.equal(value, build(name, student, teacher, {})(student, teacher, batch))
