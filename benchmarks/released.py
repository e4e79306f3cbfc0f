"""Three steps of released online methods, in clones that you name, against the same steps of cdkd.

    git clone https://github.com/DefangChen/OKDDip-AAAI2020 ../released/okddip
    git clone https://github.com/Lan1991Xu/ONE_NeurIPS2018 ../released/one
    git clone https://github.com/PumpkinsLemon/CSS ../released/css
    git clone https://github.com/shaoeric/Peer-Collaborative-Learning-for-Online-Knowledge-Distillation \\
        ../released/pcl
    python -m benchmarks.released ../released

The networks, divergences and moving averages are those of the clones, with one block in each stage, 4 classes
and float64; the sums of a step are written here, as their training scripts are no libraries. Both sides start
from the same weights, by `cdkd.training.released.from_released`, and take three steps of SGD in epoch 40 of
300. Prints, over all weights and running statistics after the third step, the largest difference relative to
the largest value of its tensor, and for comparison the largest change since the start. The code of DML
(TensorFlow 1) and of CTKD (Python 2) does not run here.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.group import Group
from cdkd.core.schedule import Augmentation, Method, Recipe, Term, Weight
from cdkd.models.build import build
from cdkd.training.group import GroupLearner
from cdkd.training.released import Code, from_released

CLASSES, BATCH, SIDE, STEPS, EPOCH, RATE, DECAY = 4, 8, 32, 3, 40, 0.1, 5e-4
CE = Term(Weight(1))
Loss = Callable[[Batch], Tensor]  # of the released networks


class Released(NamedTuple):
    """A method of a clone.

    state: its weights under the names that `from_released` reads
    modules: what its optimiser trains; after: what it does after each step
    averages: the state of its moving averages
    """

    code: Code
    group: Group
    terms: Mapping[str, Term]
    nesterov: bool
    state: Callable[[], Mapping[str, Tensor]]
    modules: Sequence[nn.Module]
    loss: Loss
    after: Callable[[int], None] = lambda step: None
    averages: Callable[[], Mapping[str, Tensor]] = dict


def module(path: Path) -> ModuleType:
    """A file of a clone, without the package that it is in."""
    spec = importlib.util.spec_from_file_location(f"released_{path.parent.name}_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{path}: no such file; the top of benchmarks/released.py says what to clone")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def risen(**named: Any) -> Term:
    return Term(Weight(1, rise=80), {**named})


def branches(count: int, deployed: str, **named: Any) -> Group:
    return Group({f"peer{i}": "resnet8" for i in range(count)}, deployed, 2, **named)


def okddip(folder: Path, ramp: float) -> Released:
    released = module(folder / "models/model_cifar/resnet_GL.py")
    net = released.ResNet(released.BasicBlock, [1, 1, 1], num_classes=CLASSES, num_branches=4)
    follow = module(folder / "utils.py").KL_Loss(3)

    def loss(batch: Batch) -> Tensor:
        peers, mixtures, leader = net(batch.images)
        total = F.cross_entropy(leader, batch.labels) + ramp * follow(leader, peers.mean(2))
        for i in range(3):
            total = total + F.cross_entropy(peers[:, :, i], batch.labels)
            total = total + ramp * follow(peers[:, :, i], mixtures[:, :, i])
        return total

    terms = {"ce": CE, "okddip": risen(form="released", leader="peer3")}
    return Released("okddip", branches(4, "peer3"), terms, True, net.state_dict, [net], loss)


def dml(folder: Path, ramp: float) -> Released:
    """OKDDip's version: each network follows the mean of the others' logits, which is not detached."""
    released = module(folder / "models/model_cifar/resnet.py")
    net = nn.ModuleDict(
        {f"stu{i}": released.ResNet(released.BasicBlock, [1, 1, 1], num_classes=CLASSES) for i in range(3)}
    )
    follow = module(folder / "utils.py").KL_Loss(3)

    def loss(batch: Batch) -> Tensor:
        logits = [one(batch.images) for one in net.values()]
        others = [(sum(logits) - own) / 2 for own in logits]
        each = [
            F.cross_entropy(z, batch.labels) + follow(z, mean) for z, mean in zip(logits, others, strict=True)
        ]
        return torch.stack(each).sum()

    options = {"temperature": 3.0, "target": "mean_logits", "detach": False, "form": "released"}
    group = Group({f"peer{i}": "resnet8" for i in range(3)}, "peer0")
    terms = {"ce": CE, "mutual": Term(Weight(1), options)}
    return Released("dml", group, terms, True, net.state_dict, [net], loss)


def one(folder: Path, ramp: float) -> Released:
    net = module(folder / "models/cifar/resnet.py").ONE_ResNet(depth=8, num_classes=CLASSES)
    follow = module(folder / "loss/kl_loss.py").KLLoss()

    def loss(batch: Batch) -> Tensor:
        *logits, ensemble = net(batch.images)
        total = sum(F.cross_entropy(z, batch.labels) for z in (*logits, ensemble))
        return total + ramp * sum(follow(z, ensemble) for z in logits)

    terms = {"ce": CE, "one": risen(form="released")}
    return Released("one", branches(3, "peer0"), terms, False, net.state_dict, [net], loss)


def css(folder: Path, ramp: float) -> Released:
    released = module(folder / "resnet_css.py")
    depths = {"t": 2, "s": 1}  # blocks in a stage
    nets = {
        name: released.ResNet(released.BasicBlock, [blocks] * 3, num_classes=CLASSES)
        for name, blocks in depths.items()
    }

    def state() -> Mapping[str, Tensor]:
        return {f"{name}.{key}": x for name, net in nets.items() for key, x in net.state_dict().items()}

    def loss(batch: Batch) -> Tensor:
        logits = {name: net(batch.images).unbind(2) for name, net in nets.items()}
        ce = {
            name: sum(F.cross_entropy(z, 3 * batch.labels + i) for i, z in enumerate(each)) / 3
            for name, each in logits.items()
        }
        pairs = (("t", "s"), ("s", "t"))
        follow = {
            own: sum(_kl(z, x) for z, x in zip(logits[own], logits[other], strict=True)) / 3
            for own, other in pairs
        }
        return torch.stack([ce[own] + ce[own] / ce[other] * follow[own] for own, other in pairs]).sum()

    group = Group({"t": "resnet14+css3", "s": "resnet8+css3"}, "s")
    return Released("css", group, {"css": CE}, False, state, list(nets.values()), loss)


def pcl(folder: Path, ramp: float) -> Released:
    released = module(folder / "src/models/resnet.py")
    net, mean = (
        released.ResNet(released.BasicBlock, [1, 1, 1], num_classes=CLASSES, ema=ema) for ema in (False, True)
    )
    losses, update = module(folder / "src/losses/kd_loss.py"), module(folder / "src/utils/ema.py")
    kd, peers = losses.KDLoss(), losses.PMLoss()

    def loss(batch: Batch) -> Tensor:
        *logits, ensemble = net(*batch.views)
        averaged = mean(*batch.views)
        total = F.cross_entropy(ensemble, batch.labels)
        for i, z in enumerate(logits):
            others = [x for j, x in enumerate(averaged) if j != i]
            total = total + F.cross_entropy(z, batch.labels)
            total = total + ramp * (kd(z, ensemble.detach()) + peers(z, others))
        return total

    def after(step: int) -> None:
        update.update_ema_variables(net, mean, 0.999, step)

    group = branches(3, "peer0", views=3, ema=0.999, evaluate="ema")
    terms = {"ce": CE, "pcl": risen()}
    return Released("pcl", group, terms, True, net.state_dict, [net], loss, after, mean.state_dict)


METHODS: Mapping[str, tuple[str, Callable[[Path, float], Released]]] = {  # the clone's folder, and the method
    "OKDDip": ("okddip", okddip),
    "DML, OKDDip's version": ("okddip", dml),
    "ONE": ("one", one),
    "CSS": ("css", css),
    "PCL, with its moving averages": ("pcl", pcl),
}


def _kl(own: Tensor, target: Tensor) -> Tensor:
    return 9 * F.kl_div((own / 3).log_softmax(1), (target / 3).softmax(1), reduction="batchmean")


def batch_of(step: int, views: int) -> Batch:
    draw = torch.Generator().manual_seed(step)
    images = torch.randn(views, BATCH, 3, SIDE, SIDE, generator=draw, dtype=torch.float64)
    labels = torch.randint(CLASSES, (BATCH,), generator=draw)
    return Batch(tuple(images), labels, torch.arange(BATCH), None, 0, EPOCH, step)


def ours(released: Released) -> GroupLearner:
    """A learner with the released weights."""
    augmentation = Augmentation(0, "zeros", False, None)
    recipe = Recipe(
        300, BATCH, RATE, 0.9, DECAY, released.nesterov, (), 0.1, 0, "float32", "eager", augmentation, "kept"
    )
    networks = {name: build(kind, CLASSES) for name, kind in released.group.networks.items()}
    method = Method(released.terms, group=released.group)
    data = DataInfo(100, CLASSES, torch.zeros(100, dtype=torch.long), BATCH)
    sample = batch_of(0, released.group.views)
    learner = GroupLearner(networks, released.group, method, recipe, sample, {}, 0, data=data)
    learner.open_epoch(EPOCH, RATE)
    learner.load_state_dict({**learner.state_dict(), **dict(expected(released, learner))})
    return learner


def expected(released: Released, learner: GroupLearner) -> Iterator[tuple[str, Tensor]]:
    """The released weights and running statistics under the learner's names."""
    yield from from_released(released.code, released.state(), learner).items()
    for name, value in from_released(released.code, released.averages(), learner).items():
        if name.startswith("networks."):
            yield f"averages.{name.removeprefix('networks.')}", value


class Line(NamedTuple):
    tensors: int  # compared
    apart: float  # largest relative difference after the last step
    moved: float  # largest relative change of a released tensor in all steps


def compare(released: Released) -> Line:
    learner = ours(released)
    before = {name: value.clone() for name, value in expected(released, learner)}
    parameters = [one for part in released.modules for one in part.parameters()]
    optimiser = torch.optim.SGD(parameters, RATE, 0.9, weight_decay=DECAY, nesterov=released.nesterov)
    for step in range(STEPS):
        batch = batch_of(step, learner.views)
        optimiser.zero_grad()
        released.loss(batch).backward()
        optimiser.step()
        released.after(step)
        learner.backward(batch, {}, {})
        learner.step()
    found, after = learner.state_dict(), dict(expected(released, learner))
    names = [name for name, value in after.items() if value.is_floating_point()]
    apart = max(relative(found[name], after[name]) for name in names)
    return Line(len(names), apart, max(relative(before[name], after[name]) for name in names))


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the clones: okddip, one, css, pcl")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment]  # the clones ask for a GPU
    ramp = Weight(1, rise=80).rise_at(EPOCH)
    print(f"{'method':32}{'tensors':>8}{'largest difference':>20}{'moved':>9}")
    for name, (clone, make) in METHODS.items():
        torch.manual_seed(0)
        line = compare(make(folder / clone, ramp))
        print(f"{name:32}{line.tensors:>8}{line.apart:>20.1e}{line.moved:>9.1e}", flush=True)


if __name__ == "__main__":
    main()
