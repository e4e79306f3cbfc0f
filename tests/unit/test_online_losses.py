"""Losses over peers against independent NumPy in float64: values, gradients, and where no gradient flows.

Every reference takes the logits that targets are made of as arguments of their own. A gradient that stops at
the targets is then the numeric derivative in the other arguments alone.
"""

import math

import numpy as np
import pytest
import torch

from cdkd.losses.css import channel_self_supervision
from cdkd.losses.logit_match import logit_match
from cdkd.losses.mutual import mutual
from cdkd.losses.okddip import diverse_peers
from cdkd.losses.one import native_ensemble
from cdkd.losses.pcl import peer_collaboration

EXACT = {"rtol": 1e-11, "atol": 1e-12}
NUMERIC = {"rtol": 2e-6, "atol": 2e-8}  # central differences
B, K, M = 4, 5, 3


def normal(*shape, seed, scale=2.0):
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


def softmax(z, axis=-1):
    weights = np.exp(z - z.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def kl(target, own, temperature, form="exact"):
    """[B, K] and [B, K] to one number, image by image and class by class."""
    total = 0.0
    for x, z in zip(target, own, strict=True):
        p, q = softmax(x / temperature), softmax(z / temperature)
        for a, b in zip(p, q, strict=True):
            if form == "official":
                total += a * math.log(1e-8 + a / (b + 1e-8))
            else:
                a = a + 1e-7 if form == "released" else a
                total += a * (math.log(a) - math.log(b))
    return temperature**2 * total / len(target)


def ce(logits, labels):
    return float(np.mean([-math.log(softmax(z)[y]) for z, y in zip(logits, labels, strict=True)]))


def numeric(function, array, step=1e-5):
    """Central differences of a scalar function in every element."""
    found = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        up, down = array.copy(), array.copy()
        up[place] += step
        down[place] -= step
        found[place] = (function(up) - function(down)) / (2 * step)
    return found


def leaf(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def gradients(value, *leaves):
    """Gradients, 0 where none flows."""
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [np.zeros(tuple(x.shape)) if g is None else g.numpy() for g, x in zip(found, leaves, strict=True)]


PEERS, LEADER = normal(M, B, K, seed=0), normal(B, K, seed=1)
LABELS = np.array([0, 3, 2, 4])
GATE = softmax(normal(B, M, seed=2, scale=1.0))
ATTENTION = softmax(normal(B, M, M, seed=3, scale=1.0))
labels = torch.from_numpy(LABELS)


# ---- DML and CL-ILR


def mutual_reference(own, others, temperature, target, form):
    total = 0.0
    for i in range(len(own)):
        rest = [others[j] for j in range(len(own)) if j != i]
        targets = rest if target == "each" else [sum(rest) / len(rest)]
        total += sum(kl(x, own[i], temperature, form) for x in targets) / len(targets)
    return total


@pytest.mark.parametrize("form", ["exact", "released", "official"])
@pytest.mark.parametrize("target", ["each", "mean_logits"])
@pytest.mark.parametrize("detach", [True, False])
def test_mutual(target, detach, form):
    logits = leaf(PEERS)
    value = mutual(list(logits), 3.0, target, detach, form)
    np.testing.assert_allclose(
        value.item(), mutual_reference(PEERS, PEERS, 3.0, target, form), rtol=EXACT["rtol"]
    )
    expected = numeric(lambda z: mutual_reference(z, PEERS if detach else z, 3.0, target, form), PEERS)
    np.testing.assert_allclose(gradients(value, logits)[0], expected, **NUMERIC)


def test_mutual_of_two_networks_is_the_sum_of_both_divergences_at_temperature_1():
    one, two = torch.from_numpy(PEERS[0]), torch.from_numpy(PEERS[1])
    expected = kl(PEERS[1], PEERS[0], 1.0) + kl(PEERS[0], PEERS[1], 1.0)
    np.testing.assert_allclose(mutual([one, two]).item(), expected, **EXACT)


def test_mutual_of_one_network_is_zero():
    logits = leaf(PEERS[0])
    assert mutual([logits]).item() == 0


def test_the_released_epsilon_is_seen_beside_the_exact_divergence():
    exact, released = (
        mutual(list(torch.from_numpy(PEERS)), 3.0, form=form) for form in ("exact", "released")
    )
    assert 1e-9 < abs(exact - released) / exact < 2e-5


def test_the_exact_divergence_is_finite_where_a_probability_underflows():
    far = torch.tensor([[2000.0, 0.0, -2000.0]], dtype=torch.float32, requires_grad=True)
    near = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float32, requires_grad=True)
    value = mutual([far, near], 1.0, detach=False)
    assert torch.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients(value, far, near))


# ---- ONE


def one_reference(own, target, gate, gate_of_target, temperature, form):
    ensemble = np.einsum("bm,mbk->bk", gate_of_target, target)
    label = ce(np.einsum("bm,mbk->bk", gate, own), LABELS)
    return label, sum(kl(ensemble, z, temperature, form) for z in own)


@pytest.mark.parametrize("form", ["exact", "released"])
@pytest.mark.parametrize("detach", [True, False])
def test_native_ensemble(detach, form):
    logits, gate = leaf(PEERS), leaf(GATE)
    label, follow = native_ensemble(list(logits), gate, labels, 3.0, detach, form)
    expected = one_reference(PEERS, PEERS, GATE, GATE, 3.0, form)
    np.testing.assert_allclose([label.item(), follow.item()], expected, **EXACT)

    for part, value in enumerate((label, follow)):
        stops = detach and part == 1
        of_logits = numeric(
            lambda z, part=part, stops=stops: one_reference(z, PEERS if stops else z, GATE, GATE, 3.0, form)[
                part
            ],
            PEERS,
        )
        of_gate = numeric(
            lambda g, part=part, stops=stops: one_reference(PEERS, PEERS, g, GATE if stops else g, 3.0, form)[
                part
            ],
            GATE,
        )
        found = [
            np.zeros(tuple(x.shape)) if g is None else g.numpy()
            for x, g in zip(
                (logits, gate),
                torch.autograd.grad(value, (logits, gate), retain_graph=True, allow_unused=True),
                strict=True,
            )
        ]
        np.testing.assert_allclose(found[0], of_logits, **NUMERIC)
        np.testing.assert_allclose(found[1], of_gate, **NUMERIC)


def test_only_the_labels_train_a_detached_gate():
    gate = leaf(GATE)
    label, follow = native_ensemble(list(torch.from_numpy(PEERS)), gate, labels)
    assert np.abs(gradients(label, gate)[0]).max() > 1e-3
    assert not follow.requires_grad


# ---- OKDDip


def okddip_reference(peers, leader, attention, target_peers, temperature, form):
    total = 0.0
    for i, own in enumerate(peers):
        mixture = sum(attention[:, i, j, None] * target_peers[j] for j in range(len(peers)))
        total += kl(mixture, own, temperature, form)
    return total + kl(sum(target_peers) / len(peers), leader, temperature, form)


@pytest.mark.parametrize("form", ["exact", "released"])
@pytest.mark.parametrize("detach", [False, True])
def test_diverse_peers(detach, form):
    peers, leader, attention = leaf(PEERS), leaf(LEADER), leaf(ATTENTION)
    value = diverse_peers(list(peers), leader, attention, 3.0, detach, form)
    np.testing.assert_allclose(
        value.item(), okddip_reference(PEERS, LEADER, ATTENTION, PEERS, 3.0, form), **EXACT
    )
    found = gradients(value, peers, leader, attention)
    of_peers = numeric(
        lambda z: okddip_reference(z, LEADER, ATTENTION, PEERS if detach else z, 3.0, form), PEERS
    )
    of_leader = numeric(lambda z: okddip_reference(PEERS, z, ATTENTION, PEERS, 3.0, form), LEADER)
    of_attention = numeric(lambda a: okddip_reference(PEERS, LEADER, a, PEERS, 3.0, form), ATTENTION)
    np.testing.assert_allclose(found[0], of_peers, **NUMERIC)
    np.testing.assert_allclose(found[1], of_leader, **NUMERIC)
    np.testing.assert_allclose(found[2], 0 * of_attention if detach else of_attention, **NUMERIC)


# ---- PCL


def pcl_reference(logits, ensemble, averaged, temperature):
    total = 0.0
    for i, own in enumerate(logits):
        total += kl(ensemble, own, temperature)
        rest = [averaged[j] for j in range(len(logits)) if j != i]
        total += sum(kl(x, own, temperature) for x in rest) / max(1, len(rest))
    return total


def test_peer_collaboration():
    logits, ensemble, averaged = leaf(PEERS), leaf(LEADER), leaf(normal(M, B, K, seed=4))
    value = peer_collaboration(list(logits), ensemble, list(averaged))
    fixed = averaged.detach().numpy()
    np.testing.assert_allclose(value.item(), pcl_reference(PEERS, LEADER, fixed, 3.0), **EXACT)
    found = gradients(value, logits, ensemble, averaged)
    np.testing.assert_allclose(
        found[0], numeric(lambda z: pcl_reference(z, LEADER, fixed, 3.0), PEERS), **NUMERIC
    )
    assert not found[1].any()
    assert not found[2].any()


def test_a_peer_alone_follows_the_ensemble_only():
    own = torch.from_numpy(PEERS[0])
    value = peer_collaboration([own], torch.from_numpy(LEADER), [torch.from_numpy(PEERS[1])])
    np.testing.assert_allclose(value.item(), kl(LEADER, PEERS[0], 3.0), **EXACT)


# ---- CSS


def css_reference(t, s, target_t, target_s, ratio_t, ratio_s, temperature):
    """t, s: the learners; target_t, target_s: their networks as targets; ratio_t, ratio_s: in the ratios."""
    n = t.shape[2]

    def label(z):
        return sum(ce(z[:, :, i], n * LABELS + i) for i in range(n)) / n

    def follow(x, z):
        return sum(kl(x[:, :, i], z[:, :, i], temperature) for i in range(n)) / n

    u_t = label(ratio_t) / label(ratio_s)
    return label(t) + u_t * follow(target_s, t) + label(s) + follow(target_t, s) / u_t


@pytest.mark.parametrize("detach", ["none", "ratios", "targets", "both"])
def test_channel_self_supervision(detach):
    n = 2
    arrays = [normal(B, n * K, n, seed=seed) for seed in (5, 6)]
    t, s = (leaf(a) for a in arrays)
    value = channel_self_supervision(t, s, labels, 3.0, detach)
    fixed_t, fixed_s = arrays
    np.testing.assert_allclose(
        value.item(), css_reference(fixed_t, fixed_s, fixed_t, fixed_s, fixed_t, fixed_s, 3.0), **EXACT
    )
    targets, ratios = detach in ("targets", "both"), detach in ("ratios", "both")
    found = gradients(value, t, s)
    of_t = numeric(
        lambda z: css_reference(
            z, fixed_s, fixed_t if targets else z, fixed_s, fixed_t if ratios else z, fixed_s, 3.0
        ),
        fixed_t,
    )
    of_s = numeric(
        lambda z: css_reference(
            fixed_t, z, fixed_t, fixed_s if targets else z, fixed_t, fixed_s if ratios else z, 3.0
        ),
        fixed_s,
    )
    np.testing.assert_allclose(found[0], of_t, **NUMERIC)
    np.testing.assert_allclose(found[1], of_s, **NUMERIC)


# ---- CTKD


def test_logit_match_divides_by_the_nominal_batch_and_leaves_the_teacher_alone():
    student, teacher = leaf(PEERS[0]), leaf(PEERS[1])
    value = logit_match(student, teacher, 128)
    difference = PEERS[0] - PEERS[1]
    np.testing.assert_allclose(value.item(), (difference**2).sum() / 128, **EXACT)
    found = gradients(value, student, teacher)
    np.testing.assert_allclose(found[0], 2 * difference / 128, **EXACT)
    assert not found[1].any()


def test_half_precision_logits_are_computed_with_in_float32():
    logits = [torch.from_numpy(z).bfloat16() for z in PEERS]
    gate, attention = torch.from_numpy(GATE).float(), torch.from_numpy(ATTENTION).float()
    both = torch.from_numpy(normal(B, 2 * K, 2, seed=7)).bfloat16()
    values = [
        mutual(logits),
        mutual(logits[:1]),
        *native_ensemble(logits, gate, labels),
        diverse_peers(logits, logits[0], attention),
        peer_collaboration(logits, logits[0], logits),
        channel_self_supervision(both, both, labels),
        logit_match(logits[0], logits[1], 8),
    ]
    assert {value.dtype for value in values} == {torch.float32}
