"""The classes of the field's losses: connectors, banks, negatives, phases, and which maps are compared."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cdkd.core.batch import DataInfo
from cdkd.core.errors import BadParams
from cdkd.core.features import Outputs
from cdkd.core.schedule import Method, Term, Weight
from cdkd.losses import ab, cwd, ft, ickd, reviewkd, srrl, vid
from cdkd.losses.base import build
from cdkd.losses.connectors import BatchNorm
from cdkd.losses.stages import paired
from cdkd.training.objective import Objective
from tests.unit import field_reference as reference
from tests.unit.loss_inputs import SIZES, batch_of, features, pair, tensors, wanting_gradients

LABELS = torch.tensor([0, 1, 2, 0])


def made(name, sides=None, data=None, **options):
    student, teacher = sides or pair()
    torch.manual_seed(0)
    return build(name, student, teacher, options, data), student, teacher


# ---- which maps


@pytest.mark.parametrize(
    ("ours", "theirs", "stages", "expected"),
    [
        (3, 3, None, [(0, 0), (1, 1), (2, 2)]),
        (3, 4, None, [(0, 1), (1, 2), (2, 3)]),
        (4, 2, None, [(2, 0), (3, 1)]),
        (3, 4, [[1, 2], (3, 4)], [(0, 1), (2, 3)]),
    ],
)
def test_stages_are_paired_from_the_deepest(ours, theirs, stages, expected):
    assert paired("at", ours, theirs, stages) == expected


@pytest.mark.parametrize("name", ["at", "cd", "nst", "vid", "ab", "sp", "reviewkd"])
def test_a_stage_that_a_network_does_not_have_is_refused(name):
    with pytest.raises(BadParams, match=f"{name}: stage 4; the student has stages 1 to 3"):
        made(name, stages=[(4, 1)])
    with pytest.raises(BadParams, match=f"{name}: stage 5; the teacher has stages 1 to 3"):
        made(name, stages=[(1, 5)])
    with pytest.raises(BadParams, match=f"{name}: no stages"):
        made(name, stages=[])


@pytest.mark.parametrize("name", ["at", "cd", "nst", "vid", "ab", "sp", "reviewkd"])
def test_stages_select_the_maps(name):
    """Of networks with other numbers of stages, and another size of the map."""
    student, _ = pair()
    teacher = features((8, 32, 64, 128), [(16, 16), *SIZES], seed=3)
    if name == "ab":  # whose connectors do not enlarge by more than 2
        teacher = features((8, 32, 64, 128), [(8, 8), *SIZES], seed=3)
    loss, *_ = made(name, (student, teacher), stages=[(2, 3)])
    marked, given = wanting_gradients(student), batch_of(LABELS)
    loss(marked, teacher, given).backward()
    read = marked.preactivations if name == "ab" else marked.maps
    assert [one.grad is not None for one in read] == [False, True, False]
    default, *_ = made(name, (student, teacher))
    assert torch.isfinite(default(student, teacher, given))


@pytest.mark.parametrize("name", ["ickd", "cwd"])
def test_a_network_without_a_last_map_is_refused(name):
    student, teacher = pair()
    with pytest.raises(BadParams, match=f"{name}: .*last map"):
        made(name, (student._replace(last_map=None), teacher))


# ---- ICKD


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({}, 1),
        ({"form": "paper"}, 1),
        ({"form": "imagenet"}, 3),
        ({"form": "imagenet", "embedding": "conv1x1"}, 1),
        ({"embedding": "conv3x3"}, 3),
    ],
)
def test_the_embedding_of_ickd(options, kernel):
    loss, student, teacher = made("ickd", **options)
    convolution, norm = loss.embedding
    assert convolution.kernel_size == (kernel, kernel)
    assert convolution.bias is None
    assert isinstance(norm, BatchNorm)
    assert loss.embedding(student.last_map).shape == teacher.last_map.shape
    form = options.get("form", "cifar")
    expected = ickd.inter_channel_correlation(loss.embedding(student.last_map), teacher.last_map, form)
    torch.testing.assert_close(loss(student, teacher, batch_of(LABELS)), expected)


def test_ickd_on_a_grid():
    student, teacher = features((4, 6), [(8, 8), (4, 4)]), features((4, 5), [(8, 8), (6, 6)], seed=1)
    loss, *_ = made("ickd", (student, teacher), grid=3)
    expected = ickd.inter_channel_correlation(loss.embedding(student.last_map), teacher.last_map, grid=3)
    assert torch.equal(loss(student, teacher, batch_of(LABELS)), expected)
    with pytest.raises(BadParams, match="grid 7 on the teacher's map of 6×6"):
        made("ickd", (student, teacher), grid=7)


# ---- VID, AB, FSP, CWD, SRRL


def test_the_variance_of_vid_is_trained_from_five_and_does_not_overflow():
    loss, student, teacher = made("vid")
    for raw in loss.raw_variances:
        torch.testing.assert_close(functional.softplus(raw) + 1e-5, torch.full_like(raw, 5.0))
        torch.nn.init.constant_(raw, 100.0)  # log(1 + exp(100)) is infinite in float32
    assert all(raw.requires_grad for raw in loss.raw_variances)
    value = loss(student, teacher, batch_of(LABELS))
    parts = [
        vid.variational_information(regress(own), other, torch.full((own.shape[1] * 2,), 100 + 1e-5))
        for regress, own, other in zip(loss.regressors, student.maps, teacher.maps, strict=True)
    ]
    torch.testing.assert_close(value, sum(parts))


def test_ab_has_a_connector_only_where_shapes_differ():
    student, wider = pair()
    loss, *_ = made("ab")
    assert [[type(layer) for layer in connector] for connector in loss.connectors] == [
        [nn.Conv2d, BatchNorm]
    ] * 3
    same = features((16, 32, 64), SIZES, seed=5)
    bare, *_ = made("ab", (student, same))
    assert not list(bare.parameters())
    value = bare(student, same, batch_of(LABELS))
    assert torch.equal(value, ab.activation_boundaries(student.preactivations, same.preactivations))
    with pytest.raises(BadParams, match="ab: a network without maps before the activation"):
        made("ab", (student, wider._replace(preactivations=None)))


def test_fsp_starts_at_the_stem_and_refuses_other_channels():
    student, wider = pair()
    with pytest.raises(BadParams, match=r"fsp: channels \[16, 16, 32, 64\] .* \[32, 32, 64, 128\]"):
        made("fsp", (student, wider))
    with pytest.raises(BadParams, match="fsp: a network without a stem's map"):
        made("fsp", (student, student._replace(stem=None)))
    same = features((16, 32, 64), SIZES, seed=5)
    loss, *_ = made("fsp", (student, same))
    lists = [[one.stem.double().numpy(), *(m.double().numpy() for m in one.maps)] for one in (student, same)]
    expected = reference.flow_of_solution(*lists)
    np.testing.assert_allclose(loss(student, same, batch_of(LABELS)).item(), expected, rtol=1e-5)


def test_cwd_has_a_connector_only_where_channels_differ():
    loss, student, teacher = made("cwd", temperature=2.0)
    expected = cwd.channel_wise_kl(loss.connector(student.last_map), teacher.last_map, 2.0)
    assert torch.equal(loss(student, teacher, batch_of(LABELS)), expected)
    bare, *_ = made("cwd", (student, student))
    assert not list(bare.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_srrl_applies_the_teachers_classifier(bias):
    loss, student, teacher = made("srrl")
    weight, shift = teacher.classifier
    teacher = teacher._replace(classifier=(weight, shift if bias else None))
    pooled = loss.connector(student.last_map).mean((2, 3))
    logits = pooled @ weight.T + (shift if bias else 0)
    expected = srrl.regressed_representation(logits, teacher.logits, pooled, teacher.pooled)
    torch.testing.assert_close(loss(student, teacher, batch_of(LABELS)), expected)
    with pytest.raises(BadParams, match="srrl: a teacher without a linear classifier"):
        loss(student, teacher._replace(classifier=None), batch_of(LABELS))


# ---- ReviewKD


def test_review_fuses_each_level_with_the_one_below():
    """Levels of one size: what the deepest one holds reaches every output, nothing comes back from above."""
    student, teacher = features((3, 4), [(4, 4), (4, 4)]), features((5, 6), [(4, 4), (4, 4)], seed=1)
    loss, *_ = made("reviewkd", (student, teacher))
    deepest, *above = loss.fusions
    assert deepest.gate is None
    assert all(fusion.gate is not None for fusion in above)
    x, found = deepest(student.pooled[:, :, None, None], None, (1, 1))
    total = reviewkd.hierarchical_context(found, teacher.pooled[:, :, None, None])
    for fusion, own, target in zip(above, student.maps[::-1], teacher.preactivations[::-1], strict=True):
        below = functional.interpolate(x, size=(4, 4), mode="nearest")
        entered = fusion.enter(own)
        shares = torch.sigmoid(fusion.gate(torch.cat([entered, below], 1)))
        x = entered * shares[:, 0:1] + below * shares[:, 1:2]
        total = total + reviewkd.hierarchical_context(fusion.leave(x), target)
    torch.testing.assert_close(loss(student, teacher, batch_of(LABELS)), total)


def test_review_brings_its_levels_to_the_teachers_sizes():
    student, teacher = features((3, 4), [(8, 8), (4, 4)]), features((5, 6), [(4, 4), (7, 7)], seed=1)
    loss, *_ = made("reviewkd", (student, teacher))
    marked = wanting_gradients(student)
    loss(marked, teacher, batch_of(LABELS)).backward()
    assert all(one.grad.any() for one in (*marked.maps, marked.pooled))


# ---- FT


def test_ft_trains_its_paraphraser_first_and_leaves_the_student_alone_until_then():
    student, teacher = pair()
    loss, *_ = made("ft", paraphraser_epochs=2, reconstruction=0.5)
    for epoch, paraphrasing in ((0, True), (1, True), (2, False)):
        marked, given = wanting_gradients(student), batch_of(LABELS, epoch=epoch)
        loss.zero_grad(set_to_none=True)
        loss.before_step(given)
        value = loss(marked, teacher, given)
        value.backward()
        trained = {name.partition(".")[0] for name, p in loss.named_parameters() if p.grad is not None}
        assert trained == ({"encoder", "decoder"} if paraphrasing else {"translator"})
        assert any(one.grad is not None for one in tensors(marked)) == (not paraphrasing)
        target = teacher.maps[-1]
        with torch.no_grad():
            expected = (
                0.5 * functional.mse_loss(loss.decoder(loss.encoder(target)), target)
                if paraphrasing
                else ft.factor_transfer(loss.translator(student.maps[-1]), loss.encoder(target))
            )
        torch.testing.assert_close(value.detach(), expected)
    assert loss.encoder(teacher.maps[-1]).shape[1] == 64


def test_a_recorded_step_ends_with_a_phase_of_a_loss():
    """`phases` is part of what a CUDA graph is recorded for."""
    student, teacher = pair()
    term = Term(Weight(200.0), {"paraphraser_epochs": 2}, "ft")
    objective = Objective(Method({"ft": term}), Outputs({"student": student}), {"teacher": teacher}, 0)
    phases = []
    for epoch in range(4):
        objective.open_epoch(epoch)
        phases.append(objective.phases)
    assert phases[0] == phases[1] != phases[2] == phases[3]


# ---- CRD


def info(labels, batch=4):
    return DataInfo(len(labels), int(labels.max()) + 1, labels, batch)


TRAINING = torch.arange(30) % 3


def contrastive(labels=TRAINING, seed=0, **options):
    student, teacher = pair()
    torch.manual_seed(seed)
    return build("crd", student, teacher, {"dimension": 8, "negatives": 7, **options}, info(labels))


def drawn(loss, labels=TRAINING, places=(3, 10, 21, 5), **when):
    places = torch.tensor(places)
    batch = batch_of(labels[places], **when)._replace(indices=places)
    loss.before_step(batch)
    return loss.indices[: len(places)].clone()


@pytest.mark.parametrize("labels", [TRAINING, (torch.arange(30) ** 2) % 5], ids=["equal", "unequal"])
def test_negatives_are_of_other_classes_and_each_at_most_once(labels):
    loss = contrastive(labels)
    seen = set()
    for step in range(60):
        indices = drawn(loss, labels, step=step)
        assert indices[:, 0].tolist() == [3, 10, 21, 5]
        for own, *others in indices.tolist():
            assert len(set(others)) == 7
            assert all(labels[other] != labels[own] for other in others)
            seen |= {(own, other) for other in others}
    possible = {(own, j) for own in (3, 10, 21, 5) for j in range(30) if labels[j] != labels[own]}
    assert seen == possible


def test_negatives_repeat_where_there_are_too_few():
    loss = contrastive(negatives=50)
    indices = drawn(loss)
    assert indices.shape == (4, 51)
    assert all(TRAINING[j] != TRAINING[own] for own, *others in indices.tolist() for j in others)


def test_negatives_are_a_function_of_seed_epoch_and_step():
    loss, other = contrastive(), contrastive(seed=5)
    assert torch.equal(drawn(loss, epoch=1, step=2), drawn(other, epoch=1, step=2))
    for when in ({"epoch": 1, "step": 3}, {"epoch": 2, "step": 2}):
        assert not torch.equal(drawn(loss, **when), drawn(loss, epoch=1, step=2))


def test_negatives_are_uniform():
    loss = contrastive()
    counts = torch.zeros(30)
    for step in range(500):
        counts += drawn(loss, places=(3,), step=step)[0, 1:].bincount(minlength=30)
    others = counts[TRAINING != 0]
    assert not counts[TRAINING == 0].any()
    expected = 500 * 7 / 20
    assert (
        (others - expected) ** 2 / expected
    ).sum() < 60  # chi-square, 19 degrees of freedom, at most 13/20 of it


def test_one_class_has_no_negatives():
    with pytest.raises(BadParams, match="crd: a training set of one class"):
        contrastive(torch.zeros(30, dtype=torch.int64))


def test_two_steps_of_crd_are_the_functions():
    loss = contrastive().double()
    assert loss.student_bank.abs().max() <= 1 / math.sqrt(8 / 3)
    banks = [loss.student_bank.numpy().copy(), loss.teacher_bank.numpy().copy()]
    used = None
    for step in range(2):
        student, teacher = (
            features((16, 32, c), SIZES, seed=s + step, dtype=torch.float64) for c, s in ((64, 1), (128, 7))
        )
        indices = drawn(loss, step=step)
        batch = batch_of(TRAINING[indices[:, 0]], step=step)._replace(indices=indices[:, 0])
        embeddings = [
            functional.normalize(embed(side.pooled)).detach().numpy()
            for embed, side in ((loss.embed_student, student), (loss.embed_teacher, teacher))
        ]
        value = loss(student, teacher, batch)
        expected = reference.contrastive_representation(
            *embeddings, *banks, indices.numpy(), normalisers=used
        )
        np.testing.assert_allclose(value.item(), expected[0], rtol=1e-9)
        banks, used = expected[1:3], expected[3]
        np.testing.assert_allclose(loss.student_bank, banks[0], rtol=1e-9)
        np.testing.assert_allclose(loss.teacher_bank, banks[1], rtol=1e-9)
        np.testing.assert_allclose(loss.normalisers, used, rtol=1e-9)


def test_the_bank_rests_outside_training():
    loss = contrastive().eval()
    student, teacher = pair()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    indices = drawn(loss)
    loss(student, teacher, batch_of(TRAINING[indices[:, 0]]))
    assert all(torch.equal(value, loss.state_dict()[name]) for name, value in before.items())
