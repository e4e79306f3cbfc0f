"""Learners of several networks against steps written out by hand, and against a single student."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.errors import BadCheckpoint, BadParams
from cdkd.core.group import Group
from cdkd.core.schedule import Augmentation, Method, Recipe, Term, Weight
from cdkd.models.branched import corner_mask
from cdkd.models.build import build
from cdkd.training.group import GroupLearner
from cdkd.training.learner import STUDENT, Learner
from cdkd.training.released import from_released

K, B, STEPS, EPOCH, RATE = 4, 6, 3, 40, 0.1
RISEN = math.exp(-5 / 4)  # of rise 80 in epoch 40
RECIPE = Recipe(
    300,
    B,
    RATE,
    0.9,
    5e-4,
    True,
    (),
    0.1,
    0,
    "float32",
    "eager",
    Augmentation(0, "zeros", False, None),
    "kept",
)
EXACT = {"rtol": 1e-7, "atol": 1e-9}


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def batch(step: int, views: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(views, B, 3, 8, 8, generator=generator)
    labels = torch.randint(K, (B,), generator=generator)
    return Batch(tuple(images), labels, torch.arange(B), None, 0, EPOCH, step)


def branches(count: int, deployed: str = "peer0", **named: Any) -> Group:
    return Group({f"peer{i}": "resnet8" for i in range(count)}, deployed, shared=2, **named)


def networks(group: Group) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: build(kind, K) for name, kind in group.networks.items()}


def learner(
    group: Group, terms: Mapping[str, Term], teachers: Mapping[str, Any] | None = None
) -> GroupLearner:
    data = DataInfo(100, K, torch.zeros(100, dtype=torch.long), B)
    made = networks(group)
    method = Method(terms, group=group)
    found = GroupLearner(made, group, method, RECIPE, batch(0), teachers or {}, 0, data=data)
    found.open_epoch(EPOCH, RATE)
    return found


def train(made: GroupLearner, steps: int = STEPS) -> None:
    for step in range(steps * made.draws):
        one = batch(step, made.views)
        for phase in range(len(made.phases)) if made.draws == 1 else (step % len(made.phases),):
            made.backward(one, {}, {}, phase)
            made.step(phase)


def sgd(*modules: nn.Module) -> torch.optim.SGD:
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.SGD(parameters, RATE, 0.9, weight_decay=5e-4, nesterov=True)


def start(net: nn.Module, x: Tensor) -> Tensor:
    return net.layer2(net.layer1(F.relu(net.bn1(net.conv1(x)))))


def tail(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    pooled = net.layer3(x).mean((2, 3))
    return pooled, net.fc(pooled)


def kl(own: Tensor, target: Tensor, temperature: float = 3.0) -> Tensor:
    p = (target / temperature).softmax(1)
    return temperature**2 * F.kl_div((own / temperature).log_softmax(1), p, reduction="batchmean")


def assert_equal(found: nn.Module, expected: nn.Module) -> None:
    own = dict(found.state_dict())
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(own[name], value, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


# ---- steps by hand


def test_one_trains_as_written_out(double: None) -> None:
    made = learner(branches(3), {"ce": Term(Weight(1)), "one": Term(Weight(1, rise=80))})
    peers = [copy.deepcopy(made.alone(f"peer{i}")) for i in range(3)]
    gate = copy.deepcopy(made.objective.losses["one"].loss.gate)
    trunk = peers[0]
    optimiser = sgd(trunk, *(part for peer in peers[1:] for part in (peer.layer3, peer.fc)), gate)
    for step in range(STEPS):
        x, y = batch(step).images, batch(step).labels
        shared = start(trunk, x)
        logits = [tail(peer, shared)[1] for peer in peers]
        g = gate(shared.mean((2, 3))).softmax(1)
        ensemble = sum(g[:, i, None] * z for i, z in enumerate(logits))
        loss = sum(F.cross_entropy(z, y) for z in (*logits, ensemble))
        loss = loss + RISEN * sum(kl(z, ensemble.detach()) for z in logits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    train(made)
    assert_equal(made.alone("peer0"), trunk)
    assert_equal(made.alone("peer2").layer3, peers[2].layer3)
    assert_equal(made.objective.losses["one"].loss.gate, gate)


def test_okddip_trains_as_written_out_and_its_attention_moves(double: None) -> None:
    made = learner(
        branches(4, "peer3"), {"ce": Term(Weight(1)), "okddip": Term(Weight(1, rise=80), {"leader": "peer3"})}
    )
    peers = [copy.deepcopy(made.alone(f"peer{i}")) for i in range(4)]
    loss_of = made.objective.losses["okddip"].loss
    query, key = copy.deepcopy(loss_of.query), copy.deepcopy(loss_of.key)
    before = query.weight.detach().clone()
    optimiser = sgd(peers[3], *(part for peer in peers[:3] for part in (peer.layer3, peer.fc)), query, key)
    for step in range(STEPS):
        x, y = batch(step).images, batch(step).labels
        shared = start(peers[3], x)
        found = [tail(peer, shared) for peer in peers]
        q, k = (torch.stack([layer(h) for h, _ in found[:3]], 1) for layer in (query, key))
        attention = torch.einsum("bid,bjd->bij", q, k).softmax(2)
        z = torch.stack([one for _, one in found[:3]], 1)
        mixed = torch.einsum("bij,bjk->bik", attention, z)
        follow = sum(kl(z[:, i], mixed[:, i]) for i in range(3)) + kl(found[3][1], z.mean(1))
        loss = sum(F.cross_entropy(one, y) for _, one in found) + RISEN * follow
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    train(made)
    assert_equal(made.alone("peer3"), peers[3])
    assert_equal(made.alone("peer1").layer3, peers[1].layer3)
    assert_equal(loss_of.query, query)
    assert not torch.equal(loss_of.query.weight, before)


def test_pcl_trains_as_written_out_with_its_averages(double: None) -> None:
    group = branches(3, views=3, ema=0.999, evaluate="ema", classifiers="equal")
    made = learner(group, {"ce": Term(Weight(1)), "pcl": Term(Weight(1, rise=80))})
    peers = [copy.deepcopy(made.networks[f"peer{i}"]) for i in range(3)]
    slow = copy.deepcopy(peers)
    head = copy.deepcopy(made.objective.losses["pcl"].loss.head)
    assert torch.equal(peers[0].fc.weight, peers[2].fc.weight)
    optimiser = sgd(*peers, head)
    for step in range(STEPS):
        one = batch(step, 3)
        views, y = one.views, one.labels
        shared = [start(peers[0], view) for view in views]
        found = [tail(peer, x) for peer, x in zip(peers, shared, strict=True)]
        with torch.no_grad():
            averaged = [tail(peer, start(slow[0], view))[1] for peer, view in zip(slow, views, strict=True)]
        ensemble = head(torch.cat([h for h, _ in found], 1))
        loss = F.cross_entropy(ensemble, y)
        for i, (_, z) in enumerate(found):
            others = sum(kl(z, averaged[j]) for j in range(3) if j != i) / 2
            loss = loss + F.cross_entropy(z, y) + RISEN * (kl(z, ensemble.detach()) + others)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay = min(1 - 1 / (step + 1), 0.999)
        with torch.no_grad():
            for average, peer in zip(slow, peers, strict=True):
                for mean, value in zip(average.parameters(), peer.parameters(), strict=True):
                    mean.copy_(decay * mean + (1 - decay) * value)
    train(made)
    for i in range(3):
        assert_equal(made.networks[f"peer{i}"], peers[i])
        assert_equal(made.averages[f"peer{i}"], slow[i])
    assert made.alone() is made.averages["peer0"]


def test_css_trains_as_written_out(double: None) -> None:
    made = learner(Group({"t": "resnet14+css3", "s": "resnet8+css3"}, "s"), {"css": Term(Weight(1))})
    nets = [copy.deepcopy(made.networks[name]) for name in ("t", "s")]
    optimiser = sgd(*nets)
    for step in range(STEPS):
        x, y = batch(step).images, batch(step).labels
        logits, losses = [], []
        for net in nets:
            shared = start(net.first, x)
            parts = []
            for i, part in enumerate((net.first, *net.others)):
                mask = torch.ones(4, 4)
                row, column = ((0, 0), (3, 3), (3, 0))[i]
                mask[row, column] = 0
                parts.append(tail(part, shared * mask)[1])
            logits.append(parts)
            losses.append(sum(F.cross_entropy(z, 3 * y + i) for i, z in enumerate(parts)) / 3)
        ce_t, ce_s = losses
        kl_t = sum(kl(a, b) for a, b in zip(*logits, strict=True)) / 3
        kl_s = sum(kl(b, a) for a, b in zip(*logits, strict=True)) / 3
        loss = ce_t + ce_t / ce_s * kl_t + ce_s + ce_s / ce_t * kl_s
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    train(made)
    for name, net in zip(("t", "s"), nets, strict=True):
        assert_equal(made.networks[name], net)


@pytest.mark.parametrize("batches", ["same", "fresh"])
def test_dml_alternates_as_written_out(double: None, batches: Any) -> None:
    group = Group({"peer0": "resnet8", "peer1": "resnet8"}, "peer0", update="alternate", batches=batches)
    made = learner(group, {"ce": Term(Weight(1)), "mutual": Term(Weight(1))})
    nets = [copy.deepcopy(made.networks[f"peer{i}"]) for i in range(2)]
    optimisers = [sgd(net) for net in nets]
    for update in range(2 * STEPS):
        own = update % 2
        one = batch(update if batches == "fresh" else update // 2)
        other = copy.deepcopy(nets[1 - own])  # whose statistics stay
        with torch.no_grad():
            target = other(one.images).logits
        z = nets[own](one.images).logits
        optimisers[own].zero_grad()
        (F.cross_entropy(z, one.labels) + kl(z, target, 1.0)).backward()
        optimisers[own].step()
    train(made)
    for i in range(2):
        assert_equal(made.networks[f"peer{i}"], nets[i])


def test_ctkd_trains_as_written_out_with_one_stem(double: None) -> None:
    group = Group({"scratch": "wrn-16-2", "student": "wrn-16-1"}, "student", shared=0)
    terms = {
        "ce": Term(Weight(1)),
        "logit_match": Term(Weight(0.1), of=("student",), source="scratch"),
    }
    made = learner(group, terms)
    nets = {name: copy.deepcopy(made.alone(name)) for name in group.networks}
    scratch, student = nets["scratch"], nets["student"]
    scratch.conv1 = student.conv1
    optimiser = torch.optim.SGD(
        {id(p): p for net in nets.values() for p in net.parameters()}.values(),
        RATE,
        0.9,
        weight_decay=5e-4,
        nesterov=True,
    )
    for step in range(STEPS):
        x, y = batch(step).images, batch(step).labels
        z_t, z_s = scratch(x).logits, student(x).logits
        loss = (
            F.cross_entropy(z_t, y) + F.cross_entropy(z_s, y) + 0.1 * (z_t.detach() - z_s).square().sum() / B
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    train(made)
    for name, net in nets.items():
        assert_equal(made.alone(name), net)


# ---- against a single student


@pytest.mark.parametrize("shared", [0, 2, None])
def test_a_group_of_one_is_the_lone_student_to_the_bit(shared: int | None) -> None:
    group = Group({"peer0": "resnet8"}, "peer0", shared)
    made = learner(group, {"ce": Term(Weight(1)), "mutual": Term(Weight(1))})
    lone = Learner(
        {STUDENT: networks(group)["peer0"]}, Method({"ce": Term(Weight(1))}), RECIPE, batch(0), {}, 0
    )
    lone.open_epoch(EPOCH, RATE)
    for step in range(STEPS):
        for one in (made, lone):
            one.backward(batch(step), {}, {})
            one.step()
    expected = lone.alone().state_dict()
    for name, value in made.alone().state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("network", ["resnet8", "wrn-16-1"])
def test_tails_do_not_write_into_the_trunks_map(network: str) -> None:
    net = build(network, K)
    trunk = net.trunk(batch(0).images, 2)
    before = trunk.x.detach().clone()
    tails = [build(network, K).cut(2) for _ in range(4)]
    sum(one.tail(trunk).logits.sum() for one in (net, *tails)).backward()
    assert torch.equal(trunk.x, before)


@pytest.mark.parametrize("name", ["peer0", "peer1", "peer2"])
def test_every_peer_alone_loads_into_its_plain_network_and_answers_alike(name: str) -> None:
    made = learner(branches(3, "peer1"), {"ce": Term(Weight(1)), "one": Term(Weight(1))})
    train(made)
    plain = build("resnet8", K)
    plain.load_state_dict(made.alone(name).state_dict())
    made.eval()
    plain.eval()
    images = batch(9).images
    with torch.no_grad():
        assert torch.equal(plain(images).logits, made.answer(images).each[name].logits)


def test_the_gradient_of_a_common_trunk_is_the_mean_where_asked_for(double: None) -> None:
    grads = {}
    for gradient in ("sum", "mean"):
        made = learner(branches(4, gradient=gradient), {"ce": Term(Weight(1)), "mutual": Term(Weight(1))})
        made.backward(batch(0), {}, {})
        grads[gradient] = (made.alone().conv1.weight.grad, made.alone().fc.weight.grad)
    torch.testing.assert_close(grads["mean"][0], grads["sum"][0] / 4, rtol=1e-10, atol=0)
    assert torch.equal(grads["mean"][1], grads["sum"][1])


def test_a_group_that_is_resumed_ends_in_the_same_bits() -> None:
    group = branches(3, views=3, ema=0.9, evaluate="ema")
    terms = {"ce": Term(Weight(1)), "pcl": Term(Weight(1, rise=80))}
    whole, half = learner(group, terms), learner(group, terms)
    train(whole, 4)
    train(half, 2)
    state = copy.deepcopy(half.state())
    resumed = learner(group, terms)
    resumed.load_state(state)
    for step in (2, 3):
        resumed.backward(batch(step, 3), {}, {})
        resumed.step()
    expected = whole.state_dict()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_averages_never_learn_and_are_no_target_that_does() -> None:
    made = learner(branches(2, ema=0.9, evaluate="ema"), {"ce": Term(Weight(1)), "pcl": Term(Weight(1))})
    made.backward(batch(0), {}, {})
    assert all(p.grad is None and not p.requires_grad for p in made.averages.parameters())


# ---- masks, released names, faults


def test_a_mask_zeroes_its_corner() -> None:
    like = torch.ones(1, 1, 8, 8)
    corners = [
        (slice(0, 2), slice(0, 2)),
        (slice(6, 8), slice(6, 8)),
        (slice(6, 8), slice(0, 2)),
        (slice(0, 2), slice(6, 8)),
    ]
    for branch, (rows, columns) in enumerate(corners):
        mask = corner_mask(branch, like)
        assert mask[rows, columns].sum() == 0
        assert mask.sum() == 60


def test_a_branched_network_predicts_the_mean_of_its_branches_own_labels() -> None:
    net = build("resnet8+css3", K).eval()
    with torch.no_grad():
        features = net(batch(0).images)
    assert [tuple(z.shape) for z in features.branches] == [(B, 3 * K)] * 3
    expected = sum(z[:, i::3] for i, z in enumerate(features.branches)) / 3
    torch.testing.assert_close(features.logits, expected)


def test_a_released_state_dict_has_a_place_for_every_name() -> None:
    made = learner(branches(3), {"ce": Term(Weight(1)), "one": Term(Weight(1))})
    own = made.state_dict()
    foreign = {
        "conv1.weight": own["networks.peer0.conv1.weight"] + 1,
        "layer3_2.0.bn1.weight": own["networks.peer1.layer3.0.bn1.weight"] + 1,
        "classfier3_3.bias": own["networks.peer2.fc.bias"] + 1,
        "control_v1.bias": own["objective.losses.one.loss.gate.0.bias"] + 1,
    }
    made.load_state_dict(from_released("one", foreign, made), strict=False)
    assert torch.equal(made.networks["peer2"].fc.bias, foreign["classfier3_3.bias"])
    assert torch.equal(made.objective.losses["one"].loss.gate[0].bias, foreign["control_v1.bias"])
    with pytest.raises(BadCheckpoint, match="layer9"):
        from_released("one", {"layer9.weight": foreign["conv1.weight"]}, made)


@pytest.mark.parametrize(
    ("group", "terms", "message"),
    [
        (
            Group({"a": "resnet8", "b": "resnet8"}, "a"),
            ("ce", "one"),
            "one: the networks have nothing in common",
        ),
        (branches(2), ("ce", "pcl"), "pcl: the networks have no moving averages"),
        (branches(2), ("css",), "css: peer0 with 0 branches"),
        (branches(1), ("ce", "okddip"), "okddip: pooled features of the peers: none"),
        (
            Group({"a": "mobilenetv2", "b": "mobilenetv2"}, "a", 2),
            ("ce", "mutual"),
            "mobilenetv2 has no trunk",
        ),
        (Group({"a": "resnet8", "b": "resnet8"}, "a", 3), ("ce", "mutual"), "after 3; expected at most 2"),
        (Group({"a": "resnet8", "b": "resnet14"}, "a", 2), ("ce", "mutual"), "start differently"),
        (Group({"a": "wrn-16-1", "b": "resnet8"}, "a", 0), ("ce", "mutual"), "start differently"),
    ],
)
def test_a_group_that_cannot_be_is_refused(group: Group, terms: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadParams, match=message):
        learner(group, {name: Term(Weight(1)) for name in terms})
