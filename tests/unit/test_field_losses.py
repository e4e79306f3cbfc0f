"""The losses of the field's table against independent NumPy, value and gradient, and their traps."""

import inspect
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional

from cdkd.losses import ab, cc, crd, cwd, dkd, fsp, ft, ickd, nst, pkt, reviewkd, sp, srrl, vid
from cdkd.losses.kd import kd
from cdkd.losses.pooling import pool, pool_to_match
from tests.unit import field_reference as reference

EXACT = {"rtol": 1e-9, "atol": 1e-12}
LABELS = np.array([0, 3, 2, 2])


def normal(*shape, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


def unit_rows(*shape, seed):
    rows = normal(*shape, seed=seed)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Case(NamedTuple):
    """A function of the student's arrays and the teacher's; lists of maps are given one by one."""

    name: str
    function: object
    reference: object
    student: tuple
    teacher: tuple
    trains_teacher: bool = False


def listed(function, **options):
    """A function of two lists of maps as one of their members."""

    def call(*maps):
        half = len(maps) // 2
        return function(list(maps[:half]), list(maps[half:]), **options)

    return call


def tabled(module, name, student, teacher, *, lists=False, trains_teacher=False, **options):
    pair = [
        listed(function, **options) if lists else partial(function, **options)
        for function in (getattr(module, name), getattr(reference, name))
    ]
    label = " ".join(
        [name, *(f"{value}" for value in options.values()), str(student[0].shape), str(teacher[0].shape)]
    )
    return Case(label, *pair, tuple(student), tuple(teacher), trains_teacher)


def maps(channels, *size, seed, batch=3):
    return normal(batch, channels, *size, seed=seed)


STAGES = [maps(c, side, side, seed=c) for c, side in ((2, 8), (3, 4), (4, 2))]
TEACHER_STAGES = [maps(c, side, side, seed=20 + c) for c, side in ((2, 8), (3, 4), (4, 2))]


def scaled(function, labels=None, **options):
    return lambda student, teacher: function(student, teacher, labels, **options)


CASES = [
    *(
        tabled(
            ickd,
            "inter_channel_correlation",
            [maps(4, 5, 6, seed=1)],
            [maps(4, *size, seed=2)],
            form=form,
            grid=grid,
        )
        for form in ("cifar", "imagenet", "paper")
        for size, grid in (((5, 6), 1), ((3, 7), 1), ((5, 6), 2), ((5, 6), 3))
    ),
    tabled(sp, "similarity_preserving", [maps(3, 4, 5, seed=1)], [maps(6, 2, 2, seed=2)]),
    *(
        tabled(
            cc,
            "correlation_congruence",
            [normal(4, 5, seed=1)],
            [normal(4, 5, seed=2)],
            trains_teacher=True,
            form=form,
        )
        for form in ("released", "paper")
    ),
    tabled(pkt, "probabilistic_transfer", [normal(5, 4, seed=1)], [normal(5, 7, seed=2)]),
    *(
        tabled(nst, "neuron_selectivity", [maps(3, 6, 4, seed=1)], [maps(5, *size, seed=2)])
        for size in ((6, 4), (3, 2), (12, 8), (4, 4), (7, 3))
    ),
    tabled(ab, "activation_boundaries", [2 * m for m in STAGES], TEACHER_STAGES, lists=True),
    *(
        tabled(ft, "factor_transfer", [maps(3, 4, 4, seed=1)], [maps(3, *size, seed=2)], form=form)
        for form in ("released", "paper")
        for size in ((4, 4), (2, 2), (8, 8), (3, 5))
    ),
    *(
        tabled(fsp, "flow_of_solution", STAGES, TEACHER_STAGES, lists=True, form=form)
        for form in ("released", "paper")
    ),
    tabled(
        fsp,
        "flow_of_solution",
        [STAGES[1], STAGES[0]],
        [TEACHER_STAGES[1][:, :, :3], TEACHER_STAGES[0]],
        lists=True,
    ),
    *(
        tabled(reviewkd, "hierarchical_context", [maps(3, side, side, seed=1)], [maps(3, side, side, seed=2)])
        for side in (8, 7, 5, 4, 3, 2, 1)
    ),
    *(
        tabled(
            cwd, "channel_wise_kl", [maps(3, 4, 5, seed=1)], [maps(3, 4, 5, seed=2)], temperature=temperature
        )
        for temperature in (1.0, 4.0)
    ),
    *(
        Case(
            f"decoupled_kd {options}",
            scaled(dkd.decoupled_kd, torch.from_numpy(LABELS), **options),
            scaled(reference.decoupled_kd, LABELS, **options),
            (normal(4, 5, seed=1, scale=3),),
            (normal(4, 5, seed=2, scale=3),),
        )
        for options in (
            {},
            {"temperature": 1.0},
            {"nontarget_weight": 0.0},
            {"target_weight": 0.0, "temperature": 2.0},
        )
    ),
    Case(
        "regressed_representation",
        lambda z, e, tz, te: srrl.regressed_representation(z, tz, e, te),
        lambda z, e, tz, te: reference.regressed_representation(z, tz, e, te),
        (normal(4, 3, seed=1), normal(4, 6, seed=2)),
        (normal(4, 3, seed=3), normal(4, 6, seed=4)),
    ),
    Case(
        "variational_information",
        lambda mean, variance, target: vid.variational_information(mean, target, variance),
        lambda mean, variance, target: reference.variational_information(mean, target, variance),
        (maps(4, 3, 3, seed=1), np.array([0.1, 1.0, 5.0, 30.0])),
        (maps(4, 3, 3, seed=2),),
    ),
]
BANKS = unit_rows(9, 4, seed=5), unit_rows(9, 4, seed=6)
INDICES = np.array([[2, 5, 0, 5, 7], [0, 1, 8, 3, 4], [8, 2, 6, 7, 0]])
EMBEDDINGS = unit_rows(3, 4, seed=7), unit_rows(3, 4, seed=8)
Z = (12.5, 40.0)
CASES.append(
    Case(
        "contrastive_representation",
        lambda s, t: crd.contrastive_representation(
            s, t, *map(torch.from_numpy, BANKS), torch.from_numpy(INDICES), normalisers=Z
        )[0],
        lambda s, t: reference.contrastive_representation(s, t, *BANKS, INDICES, normalisers=Z)[0],
        (EMBEDDINGS[0],),
        (EMBEDDINGS[1],),
        trains_teacher=True,
    )
)
MANY = 64  # values of an array that are perturbed; `test_gradients_are_exact` takes all of a small one
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def leaves(arrays, dtype=torch.float64):
    return [torch.tensor(a, dtype=dtype, requires_grad=True) for a in arrays]


def slope_of(function, arrays, index, step=1e-5, most=MANY):
    """Central differences in one of several arrays; NaN except in `most` places drawn by chance."""
    found = np.full_like(arrays[index], np.nan)
    draw = np.random.default_rng(0).permutation(found.size)[:most]
    for place in zip(*np.unravel_index(draw, found.shape), strict=True):
        values = []
        for sign in (1, -1):
            moved = [a.copy() for a in arrays]
            moved[index][place] += sign * step
            values.append(function(*moved))
        found[place] = (values[0] - values[1]) / (2 * step)
    return found


@every_case
def test_value_and_gradient(case):
    student, teacher = leaves(case.student), leaves(case.teacher)
    value = case.function(*student, *teacher)
    assert value.shape == ()
    np.testing.assert_allclose(value.item(), case.reference(*case.student, *case.teacher), **EXACT)
    value.backward()
    arrays = [*case.student, *case.teacher]
    expecting = [*student, *teacher] if case.trains_teacher else student
    for index, given in enumerate(expecting):
        expected = slope_of(case.reference, arrays, index)
        drawn = ~np.isnan(expected)
        assert drawn.sum() == min(expected.size, MANY)
        expected, found = expected[drawn], given.grad.numpy()[drawn]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8 + 1e-6 * abs(expected).max())
    assert case.trains_teacher or all(given.grad is None for given in teacher)


@every_case
def test_gradients_are_exact(case):
    if max(a.size for a in case.student) > 200:
        pytest.skip("tested above; too large to perturb each value again")
    teacher = [torch.from_numpy(a) for a in case.teacher]
    assert torch.autograd.gradcheck(lambda *given: case.function(*given, *teacher), leaves(case.student))


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_inputs_are_computed_in_float32(case, dtype):
    rounded = [torch.tensor(a).to(dtype) for a in (*case.student, *case.teacher)]
    value = case.function(*rounded)
    assert value.dtype == torch.float32
    expected = case.reference(*(x.double().numpy() for x in rounded))
    np.testing.assert_allclose(value.item(), expected, rtol=2e-4, atol=1e-6)


@every_case
def test_a_batch_of_one(case):
    if "contrastive" in case.name or "decoupled" in case.name:
        pytest.skip("its batch is also that of other arguments; tested by itself")
    alone = [a[:1] if a.ndim > 1 else a for a in (*case.student, *case.teacher)]
    given = leaves(alone)
    value = case.function(*given)
    np.testing.assert_allclose(value.item(), case.reference(*alone), **EXACT)
    value.backward()
    assert all(torch.isfinite(x.grad).all() for x in given if x.grad is not None)


@every_case
@pytest.mark.parametrize("teacher", [1.0, 0.0], ids=["live teacher", "dead teacher"])
def test_dead_inputs_have_finite_gradients(case, teacher):
    dead = [a * 0 if a.ndim > 1 else a for a in case.student]  # VID's variance stays
    given = leaves([*dead, *(teacher * a for a in case.teacher)], torch.float32)
    value = case.function(*given)
    value.backward()
    assert torch.isfinite(value)
    for one in given:
        assert one.grad is None or (torch.isfinite(one.grad).all() and one.grad.abs().max() < 1e3)


@every_case
def test_equal_inputs_give_zero(case):
    if any(word in case.name for word in ("contrastive", "variational", "activation")):
        pytest.skip("not a distance")
    if any(a.shape != b.shape for a, b in zip(case.student, case.teacher, strict=True)):
        pytest.skip("shapes differ")
    given = leaves(case.student)
    value = case.function(*given, *(torch.from_numpy(a) for a in case.student))
    np.testing.assert_allclose(value.item(), 0, atol=1e-12)
    value.backward()
    assert all(one.grad.abs().max() < 1e-9 for one in given)


# ---- pooling


@pytest.mark.parametrize("size", [(8, 6), (4, 3), (3, 4), (5, 5), (1, 1), (8, 2)])
def test_pooling_is_adaptive_average_pooling(size):
    x, y = leaves([maps(3, 8, 6, seed=1)] * 2)
    ours, theirs = pool(x, size), functional.adaptive_avg_pool2d(y, size)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    weights = torch.from_numpy(normal(*ours.shape, seed=2))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-14)


def test_each_side_of_a_map_is_pooled_to_the_smaller_one():
    first, second = pool_to_match(torch.zeros(1, 2, 8, 3), torch.zeros(1, 5, 4, 6))
    assert (first.shape, second.shape) == ((1, 2, 4, 3), (1, 5, 4, 3))


# ---- ICKD


def test_a_nearly_dead_channel_has_a_gradient_like_the_others():
    """Dividing a row of 1e-9 by its length would give a gradient of 1e5 and more. The value stays."""
    student = maps(8, 4, 4, seed=1)
    student[:, 3] *= 1e-9
    teacher = torch.from_numpy(maps(8, 4, 4, seed=2))
    for dtype in (torch.float32, torch.float64):
        (given,) = leaves([student], dtype)
        value = ickd.inter_channel_correlation(given, teacher.to(dtype))
        expected = reference.inter_channel_correlation(student, teacher.numpy())
        np.testing.assert_allclose(value.item(), expected, rtol=1e-5)
        value.backward()
        assert given.grad.abs().max() < 1
        assert given.grad[:, 3].any(), "the other rows still pull at it"
    plain = torch.tensor(student, requires_grad=True)
    gram = plain.flatten(2) @ plain.flatten(2).mT
    fixed = functional.normalize(teacher.flatten(2) @ teacher.flatten(2).mT, dim=2)
    (functional.normalize(gram, dim=2) - fixed).square().sum().div(24).backward()
    assert plain.grad.abs().max() > 1e4


@pytest.mark.parametrize("level", [1e-5, 1e-3, 0.1])
def test_a_weak_channel_keeps_its_gradient(level):
    student, teacher = maps(4, 3, 3, seed=1), maps(4, 3, 3, seed=2)
    student[:, 1] *= level
    (given,) = leaves([student])
    ickd.inter_channel_correlation(given, torch.from_numpy(teacher)).backward()
    expected = slope_of(
        lambda s: reference.inter_channel_correlation(s, teacher), [student], 0, step=1e-5 * level, most=None
    )
    np.testing.assert_allclose(given.grad, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


def test_a_grid_resizes_the_student_first():
    student, teacher = (torch.from_numpy(maps(4, side, side, seed=side)) for side in (4, 8))
    resized = functional.interpolate(student, (8, 8), mode="bilinear", align_corners=False)
    assert ickd.inter_channel_correlation(student, teacher, grid=2) == ickd.inter_channel_correlation(
        resized, teacher, grid=2
    )


# ---- DKD


def test_decoupled_kd_with_the_teachers_doubt_as_weight_is_kd():
    student, teacher = (torch.from_numpy(normal(1, 5, seed=seed, scale=3)) for seed in (1, 2))
    labels = torch.tensor([2])
    doubt = 1 - (teacher / 4).softmax(1)[0, 2].item()
    found = dkd.decoupled_kd(student, teacher, labels, 1.0, doubt, 4.0)
    torch.testing.assert_close(found, kd(student, teacher, 4.0), rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [500.0, 1e4])
def test_decoupled_kd_of_sure_networks_is_finite(dtype, gap):
    """The released code takes log(1 − p), which is −∞ here, and subtracts 1000, which is too little here."""
    student = torch.tensor([[gap, 0.0, 1.0], [0.0, gap, 1.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.0, gap, 1.0], [0.0, gap, 2.0]], dtype=dtype)
    value = dkd.decoupled_kd(student, teacher, torch.tensor([0, 1]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()
    assert student.grad[0, 0] > 0, "the student is too sure of what the teacher denies"


def test_decoupled_kd_of_two_classes_has_no_second_part():
    student, teacher = (torch.from_numpy(normal(4, 2, seed=seed)) for seed in (1, 2))
    labels = torch.tensor([0, 1, 1, 0])
    assert dkd.decoupled_kd(student, teacher, labels, 0.0, 8.0).item() == 0
    torch.testing.assert_close(dkd.decoupled_kd(student, teacher, labels), kd(student, teacher, 4.0))


# ---- CWD


def test_channel_wise_kl_where_a_position_underflows():
    """Softmax first and logarithm afterwards gives NaN here."""
    teacher = torch.zeros(1, 1, 1, 3)
    teacher[..., 0] = 1000
    student = torch.tensor([[[[0.0, 1000.0, 0.0]]]], requires_grad=True)
    value = cwd.channel_wise_kl(student, teacher, 1.0)
    value.backward()
    np.testing.assert_allclose(value.item(), 1000)
    np.testing.assert_allclose(student.grad.flatten(), [-1, 1, 0], atol=1e-6)


# ---- AB


def test_activation_boundaries_end_at_the_margin():
    """Nothing is lost beyond the margin on the teacher's side, and zero is on the inactive side."""
    student = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).repeat(2, 1)[:, None, None]
    teacher = torch.tensor([[0.0], [0.5]])[..., None, None].expand(2, 1, 1, 5)
    for row, expected in zip(range(2), ([0, 0, 1, 4, 9], [9, 4, 1, 0, 0]), strict=True):
        for place in range(5):
            value = ab.activation_boundaries(
                [student[row : row + 1, :, :, place : place + 1]],
                [teacher[row : row + 1, :, :, place : place + 1]],
            )
            np.testing.assert_allclose(value.item(), expected[place] * 3 / 1000, rtol=1e-6)


# ---- CRD


def contrast(*embeddings, normalisers=None, banks=BANKS, indices=INDICES):
    return crd.contrastive_representation(
        *embeddings, *map(torch.from_numpy, banks), torch.from_numpy(indices), normalisers=normalisers
    )


def test_contrastive_banks_and_normalisers():
    loss, student_bank, teacher_bank, used = contrast(*map(torch.from_numpy, EMBEDDINGS))
    expected = reference.contrastive_representation(*EMBEDDINGS, *BANKS, INDICES)
    np.testing.assert_allclose(loss.item(), expected[0], **EXACT)
    np.testing.assert_allclose(student_bank, expected[1], **EXACT)
    np.testing.assert_allclose(teacher_bank, expected[2], **EXACT)
    np.testing.assert_allclose([z.item() for z in used], expected[3], **EXACT)
    untouched = [row for row in range(9) if row not in INDICES[:, 0]]
    np.testing.assert_array_equal(student_bank[untouched], BANKS[0][untouched])


def test_a_contrastive_step_after_the_first_keeps_its_normalisers():
    first = contrast(*map(torch.from_numpy, EMBEDDINGS))
    banks = first[1].numpy(), first[2].numpy()
    again = contrast(*map(torch.from_numpy, EMBEDDINGS), banks=banks, normalisers=first[3])
    expected = reference.contrastive_representation(
        *EMBEDDINGS, *banks, INDICES, normalisers=[z.item() for z in first[3]]
    )
    np.testing.assert_allclose(again[0].item(), expected[0], **EXACT)
    assert again[3] == first[3]
    assert contrast(*map(torch.from_numpy, EMBEDDINGS), banks=banks)[3] != first[3]


def test_no_gradient_enters_normalisers_and_banks():
    given = leaves(EMBEDDINGS)
    banks = leaves(BANKS)
    loss, *rest = crd.contrastive_representation(*given, *banks, torch.from_numpy(INDICES))
    loss.backward()
    fixed = leaves(EMBEDDINGS)
    contrast(*fixed, normalisers=rest[2])[0].backward()
    for ours, theirs in zip(given, fixed, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=0)
    assert all(bank.grad is None for bank in banks)
    assert not any(z.requires_grad for z in rest[2])


def test_one_image_against_its_negatives():
    alone = [torch.from_numpy(e[:1]) for e in EMBEDDINGS]
    found = contrast(*alone, indices=INDICES[:1])
    expected = reference.contrastive_representation(*(e[:1] for e in EMBEDDINGS), *BANKS, INDICES[:1])
    np.testing.assert_allclose(found[0].item(), expected[0], **EXACT)


def test_labels_of_one_image():
    student, teacher = normal(1, 5, seed=1), normal(1, 5, seed=2)
    value = dkd.decoupled_kd(torch.from_numpy(student), torch.from_numpy(teacher), torch.tensor([3]))
    np.testing.assert_allclose(value.item(), reference.decoupled_kd(student, teacher, [3]), **EXACT)


def test_the_functions_arguments_are_the_published_ones():
    """Whoever compares with another implementation calls them so."""
    expected = {
        ickd.inter_channel_correlation: "student_map teacher_map form grid",
        sp.similarity_preserving: "student_map teacher_map",
        cc.correlation_congruence: "student_embedding teacher_embedding form",
        vid.variational_information: "mean teacher_map variance",
        pkt.probabilistic_transfer: "student_pooled teacher_pooled",
        ab.activation_boundaries: "student_maps teacher_maps",
        ft.factor_transfer: "student_factor teacher_factor form",
        fsp.flow_of_solution: "student_maps teacher_maps form",
        nst.neuron_selectivity: "student_map teacher_map",
        crd.contrastive_representation: "student_embedding teacher_embedding student_bank teacher_bank"
        " indices temperature momentum normalisers",
        srrl.regressed_representation: "student_logits teacher_logits student_pooled teacher_pooled",
        dkd.decoupled_kd: "student_logits teacher_logits labels target_weight nontarget_weight temperature",
        reviewkd.hierarchical_context: "student_map teacher_map",
        cwd.channel_wise_kl: "student_map teacher_map temperature",
    }
    for function, names in expected.items():
        assert list(inspect.signature(function).parameters) == names.split()
