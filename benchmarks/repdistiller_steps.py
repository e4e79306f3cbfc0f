"""RepDistiller's own loop and this project's, step by step, from the same weights and on the same batches.

    git clone https://github.com/HobbitLong/RepDistiller ../RepDistiller
    python -m benchmarks.repdistiller_steps ../RepDistiller resnet8x4 ShuffleV1

Networks have RepDistiller's names. Both sides run in float64 on random images, with SGD at the rate of
RepDistiller's tables. Printed for each method: the largest difference of a student's weight after the steps,
and how far the weights have moved. The first stages of AB, FT and FSP are compared by themselves.

Two differences are taken out. A regressor has a bias there, which its BatchNorm cancels: it is 0. AB's first
stage leaves a Wide ResNet's last BatchNorm out there: so does ours here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from cdkd.config.schema import Training
from cdkd.core.batch import Batch, DataInfo
from cdkd.core.errors import BadParams
from cdkd.core.schedule import Method, Term, Weight
from cdkd.models.build import build
from cdkd.models.weights_import import import_weights
from cdkd.training.cohort import student_run
from cdkd.training.loop import needs_of
from cdkd.training.run import Run
from cdkd.training.teacher import Teacher

CLASSES, IMAGES, NEGATIVES = 100, 40, 16
NAMES = {"MobileNetV2": "mobilenetv2", "ShuffleV1": "shufflenetv1", "ShuffleV2": "shufflenetv2"}
NAMES |= {"ResNet50": "resnet50-crd"}
SLOW = ("MobileNetV2", "ShuffleV1", "ShuffleV2")  # students with a rate of 0.01
# RepDistiller's name of a method: our loss, its weight and options; in a first stage it is alone
METHODS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "kd": ("kd", 0.9, {"temperature": 4.0}),
    "hint": ("hint", 100, {}),
    "attention": ("at", 1000, {}),
    "similarity": ("sp", 3000, {}),
    "correlation": ("cc", 0.02, {}),
    "vid": ("vid", 1, {}),
    "rkd": ("rkd", 1, {}),
    "pkt": ("pkt", 30000, {}),
    "abound": ("ab", 1, {}),
    "factor, first stage": ("ft", 200, {"paraphraser_epochs": 1}),
    "factor": ("ft", 200, {"paraphraser_epochs": 0}),
    "fsp": ("fsp", 1, {}),
    "nst": ("nst", 50, {}),
    "crd": ("crd", 0.8, {"negatives": NEGATIVES}),
}
FIRST_STAGES = ("abound", "factor, first stage", "fsp")


class Theirs:
    """RepDistiller's modules, and the networks of a pair. Tensors stay where they are and become float64."""

    def __init__(self, folder: Path, teacher: str, student: str) -> None:
        sys.path.insert(0, str(folder))
        for name in ("models", "zoo", "loops", "pretrain", "parts", "crd"):
            module = {"zoo": "distiller_zoo", "loops": "helper.loops", "pretrain": "helper.pretrain"}
            module |= {"parts": "models.util", "crd": "crd.criterion"}
            setattr(self, name, importlib.import_module(module.get(name, name)))
        self.names = {"teacher": teacher, "student": student}
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign] # its loop asks for float32
        torch.Tensor.cuda = lambda self, *_: self  # type: ignore[assignment] # and CRD's for a GPU
        trained = self.network("teacher")
        with torch.no_grad():  # running statistics that are not 0 and 1
            trained.train()(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(5)))
        self.state = trained.state_dict()

    def __getattr__(self, name: str) -> Any:  # of the modules that are set above
        raise AttributeError(name)

    def network(self, side: str) -> nn.Module:
        """The same weights each time."""
        torch.manual_seed(1 if side == "teacher" else 2)
        made: nn.Module = self.models.model_dict[self.names[side]](num_classes=CLASSES)
        if side == "teacher" and "state" in vars(self):
            made.load_state_dict(self.state)
        return made


class Batches:
    """Batches of random images, as either side takes them."""

    def __init__(self, steps: int, size: int) -> None:
        random = torch.Generator().manual_seed(3)
        self.images = torch.randn(steps, size, 3, 32, 32, generator=random)
        self.indices = torch.stack([torch.randperm(IMAGES, generator=random)[:size] for _ in range(steps)])
        self.labels = torch.arange(IMAGES) % 5
        self.negatives: list[Tensor] | None = None

    def ours(self) -> Iterator[Batch]:
        for step, (images, indices) in enumerate(zip(self.images, self.indices, strict=True)):
            yield Batch((images,), self.labels[indices], indices, None, 0, 0, step)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self.ours():
            drawn = () if self.negatives is None else (self.negatives[batch.step],)
            yield (batch.images.clone(), batch.labels, batch.indices, *drawn)

    def __len__(self) -> int:
        return len(self.images)


def our_name(name: str) -> str:
    return NAMES.get(name, name.replace("_", "-"))


def converted(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Their weights under our names."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        torch.save({"model": model.state_dict()}, path)
        return import_weights(path, our_name(name), CLASSES, 3).state


def our_network(theirs: Theirs, side: str) -> nn.Module:
    model = build(our_name(theirs.names[side]), CLASSES, 3)
    model.load_state_dict(converted(theirs.network(side), theirs.names[side]))
    return model.double()


def our_run(theirs: Theirs, batches: Batches, method: str, rate: float) -> tuple[Run, Teacher]:
    loss, weight, options = METHODS[method]
    terms = {loss: Term(Weight(float(weight)), options)}
    if method not in FIRST_STAGES:
        terms["ce"] = Term(Weight(0.1 if method == "kd" else 1.0))
    recipe = Training(epochs=1, batch=batches.images.shape[1], learning_rate=rate).resolved
    teacher = Teacher(our_network(theirs, "teacher"), recipe)
    student = our_network(theirs, "student")
    if method == "abound" and theirs.names["student"].startswith("wrn"):
        last = student.get_submodule("bn1").requires_grad_(False).eval()
        last.train = lambda mode=True: last  # type: ignore[method-assign]
    first = next(batches.ours())
    sample = Batch((first.images[:2],), first.labels[:2], first.indices[:2])
    data = DataInfo(IMAGES, CLASSES, batches.labels, recipe.batch)
    folder = Path(tempfile.mkdtemp())
    run = student_run(
        "run", student, Method(terms), recipe, 0, sample, {"teacher": teacher}, folder, {}, data
    )
    return run, teacher


def train_ours(run: Run, teacher: Teacher, batches: Batches) -> None:
    run.open_epoch(len(batches))
    needs = needs_of([run], 0, "teacher")
    for batch in batches.ours():
        features = {"teacher": teacher(batch, needs)}
        run.before_step(batch)
        run.step(batch, features, {})


def copied(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """Our parameters into theirs, in their order; a convolution's bias that ours has not becomes 0."""
    values = list(ours.parameters())
    left_out = () if _biases(ours) else _biases(theirs)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if any(parameter is one for one in left_out):
                parameter.zero_()
            else:
                parameter.copy_(values.pop(0))
    return theirs


def _biases(module: nn.Module) -> list[Tensor]:
    convolutions = (one for one in module.modules() if isinstance(one, nn.Conv2d | nn.ConvTranspose2d))
    return [one.bias for one in convolutions if one.bias is not None]


def criterion(
    theirs: Theirs, method: str, loss: Any, shapes: tuple[list[Any], list[Any]], batches: Batches
) -> tuple[nn.Module, list[nn.Module], nn.Module | None]:
    """Their loss, the modules that it reads, and what of them is trained besides the student; ours copied.

    loss: our loss of the run; shapes: of the student's and the teacher's `feat`
    """
    zoo, parts, (own, other) = theirs.zoo, theirs.parts, shapes
    plain = {"attention": "Attention", "nst": "NSTLoss", "similarity": "Similarity", "rkd": "RKDLoss"}
    if method in plain or method == "pkt":
        return getattr(zoo, plain.get(method, "PKT"))(), [], None
    if method == "hint":
        regressor = copied(loss.regressor, parts.ConvReg(own[2], other[2]))
        return zoo.HintLoss(), [regressor], regressor
    if method == "correlation":
        pairs = ((loss.embed_student, own), (loss.embed_teacher, other))
        embeds = [copied(ours, parts.LinearEmbed(side[-1][1], 128)) for ours, side in pairs]
        return zoo.Correlation(), embeds, nn.ModuleList(embeds)
    if method == "vid":
        pairs = zip(own[1:-1], other[1:-1], strict=True)
        losses = nn.ModuleList(zoo.VIDLoss(first[1], second[1], second[1]) for first, second in pairs)
        with torch.no_grad():
            for one, regress, raw in zip(losses, loss.regressors, loss.raw_variances, strict=True):
                copied(regress, one.regressor)
                raw.copy_(one.log_scale)
        return losses, [], losses
    if method.startswith("factor"):
        paraphraser, translator = parts.Paraphraser(other[-2]), parts.Translator(own[-2], other[-2])
        copied(loss.encoder, paraphraser.encoder)
        copied(loss.decoder, paraphraser.decoder)
        copied(loss.translator, translator)
        return zoo.FactorTransfer(), [translator, paraphraser], translator
    if method == "crd":
        return _crd(theirs, loss, own[-1][1], other[-1][1], batches)
    return zoo.DistillKL(4), [], None


def _crd(
    theirs: Theirs, loss: Any, own: int, other: int, batches: Batches
) -> tuple[nn.Module, list[nn.Module], nn.Module]:
    options = SimpleNamespace(s_dim=own, t_dim=other, feat_dim=128, n_data=IMAGES)
    options.nce_k, options.nce_t, options.nce_m = NEGATIVES, 0.07, 0.5
    made = theirs.crd.CRDLoss(options)
    embeds = [copied(loss.embed_student, made.embed_s), copied(loss.embed_teacher, made.embed_t)]
    made.contrast.memory_v1.copy_(loss.student_bank)
    made.contrast.memory_v2.copy_(loss.teacher_bank)
    drawn = [(batch.indices[:, None], loss.negatives.draw(batch)) for batch in batches.ours()]
    batches.negatives = [torch.cat(parts, 1) for parts in drawn]
    return made, embeds, nn.ModuleList(embeds)


def first_stage(
    theirs: Theirs,
    method: str,
    loss: Any,
    student: nn.Module,
    teacher: nn.Module,
    shapes: tuple[list[Any], list[Any]],
    options: SimpleNamespace,
    batches: Batches,
) -> nn.Module | None:
    """Their first stage; returns what it trained besides the student, where ours has the same."""
    own, other = shapes
    trained: nn.Module
    if method == "abound":
        connector = theirs.parts.Connector(own[1:-1], other[1:-1])
        for ours, one in zip(loss.connectors, connector.connectors, strict=True):
            copied(ours, one)
        trained = nn.ModuleList([connector, student.get_feat_modules()])
        criterion = theirs.zoo.ABLoss(len(own[1:-1]))
    elif method == "fsp":
        trained = nn.ModuleList([student.get_feat_modules()])
        criterion = theirs.zoo.FSP(own[:-1], other[:-1])
    else:
        paraphraser = theirs.parts.Paraphraser(other[-2])
        copied(loss.encoder, paraphraser.encoder)
        copied(loss.decoder, paraphraser.decoder)
        options.model_s = "any"  # with the student's rate; of ResNets theirs has 0.01 here
        trained, criterion = nn.ModuleList([paraphraser]), nn.MSELoss()
    options.distill = options.distill.partition(",")[0]
    silent = SimpleNamespace(log_value=lambda *_: None)
    theirs.pretrain.init(student, teacher, trained, criterion, batches, silent, options)
    return trained[0] if method.startswith("factor") else None


def compared(theirs: Theirs, batches: Batches, method: str, rate: float) -> tuple[float, float]:
    """The largest difference after the steps, and how far a weight has moved at most."""
    run, our_teacher = our_run(theirs, batches, method, rate)
    names = METHODS[method][0]
    loss: Any = next(
        one for one in run.learner.objective.modules() if type(one).__module__ == f"cdkd.losses.{names}"
    )
    student, teacher = theirs.network("student"), theirs.network("teacher").eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with torch.no_grad():
        shown = [net.eval()(batches.images[0][:2], is_feat=True)[0] for net in (student, teacher)]
    shapes = tuple([one.shape for one in features] for features in shown)
    options = SimpleNamespace(
        gamma=0.1 if method == "kd" else 1.0,
        alpha=0.9 if method == "kd" else 0.0,
        beta=0.0 if method == "kd" else METHODS[method][1],
        distill=method,
        hint_layer=2,
        print_freq=10**9,
        init_epochs=1,
        learning_rate=rate,
        momentum=0.9,
        weight_decay=5e-4,
        model_s=theirs.names["student"],
    )
    batches.negatives, also = None, None
    with contextlib.redirect_stdout(io.StringIO()):
        if method in FIRST_STAGES:
            also = first_stage(theirs, method, loss, student, teacher, shapes, options, batches)
        else:
            made, read, trained = criterion(theirs, method, loss, shapes, batches)
            owned = nn.ModuleList([student] if trained is None else [student, trained])
            optimiser = torch.optim.SGD(owned.parameters(), rate, 0.9, weight_decay=5e-4)
            losses = [nn.CrossEntropyLoss(), theirs.zoo.DistillKL(4), made]
            theirs.loops.train_distill(1, batches, [student, *read, teacher], losses, optimiser, options)
    train_ours(run, our_teacher, batches)
    return _difference(run, theirs, student, loss, also), _moved(before, student)


def _difference(run: Run, theirs: Theirs, student: nn.Module, loss: Any, also: nn.Module | None) -> float:
    ours = run.learner.alone().state_dict()
    pairs = [
        (ours[name], value)
        for name, value in converted(student, theirs.names["student"]).items()
        if "running" not in name and "num_batches" not in name
    ]
    if also is not None:
        mine = (*loss.encoder.parameters(), *loss.decoder.parameters())
        pairs += zip(mine, also.parameters(), strict=True)
    if not all(one.isfinite().all() and other.isfinite().all() for one, other in pairs):
        raise SystemExit("a weight is not finite; take a larger batch or fewer steps")
    return max((one - other).abs().max().item() for one, other in pairs)


def _moved(before: dict[str, Tensor], student: nn.Module) -> float:
    after = student.state_dict()
    names = [name for name in before if "running" not in name and "num_batches" not in name]
    return max((after[name] - before[name]).abs().max().item() for name in names)


def main() -> None:
    options = argparse.ArgumentParser(description="RepDistiller's loop and this project's, step by step")
    options.add_argument("folder", type=Path, help="a clone of RepDistiller")
    options.add_argument("teacher", help="RepDistiller's name, such as wrn_40_2")
    options.add_argument("student", help="likewise")
    options.add_argument("--steps", type=int, default=2, help="%(default)s")
    options.add_argument("--batch", type=int, default=8, help="%(default)s")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    found = options.parse_args()
    folder = found.folder.resolve()
    if not (folder / "helper" / "loops.py").is_file():
        options.error(f"{found.folder}: no clone of RepDistiller; expected helper/loops.py in it")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    theirs, batches = Theirs(folder, found.teacher, found.student), Batches(found.steps, found.batch)
    rate = 0.01 if found.student in SLOW else 0.05
    print(f"{found.teacher} -> {found.student}, {found.steps} steps of {found.batch} images")
    for method in found.methods:
        try:
            difference, moved = compared(theirs, batches, method, rate)
            print(f"{method:20} {difference:.1e}  (weights have moved by up to {moved:.1e})", flush=True)
        except BadParams as fault:
            print(f"{method:20} {fault}", flush=True)


if __name__ == "__main__":
    main()
