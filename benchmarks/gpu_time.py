"""How fast cohorts train on a device, one variant at a time; what `benchmarks.gpu` does after its checks."""

from __future__ import annotations

import gc
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import images
from benchmarks.gpu_checks import deterministic, launched, recipe
from benchmarks.stand_in import as_if_trained
from cdkd.core.schedule import Augmentation, Method, Recipe, Term, Weight
from cdkd.data.batches import Batch, Batches, Split, evaluation
from cdkd.data.load import load
from cdkd.models.measure import multiply_adds
from cdkd.training.cohort import student_run
from cdkd.training.cuda_graph import WARM_UP
from cdkd.training.evaluation import Evaluation, Reference
from cdkd.training.loop import cohort_step
from cdkd.training.setup import network
from cdkd.training.teacher import Teacher

SHAPE = {"classes": images.CLASSES, "image": [images.SIDE, images.SIDE, 3]}
ON = Weight(1.0)  # from the first step: a gate that opens late would make its method look cheap
CE, KD, CD, GKD = Term(ON, {}), Term(ON, {"temperature": 4.0}), Term(ON, {}), Term(ON, {"temperature": 1.0})
CD_GKD = Method({"ce": CE, "cd": CD, "gkd": GKD})
# K students are the first K; the paper's own five come first, and those that read maps last
TEN: tuple[Method, ...] = (
    Method({"ce": CE, "kd": KD}),
    Method({"ce": CE, "cd": CD}),
    CD_GKD,
    CD_GKD,
    Method({"ce": CE}),
    CD_GKD,
    CD_GKD,
    *(Method({"ce": CE, loss: Term(ON)}) for loss in ("rkd", "at", "hint")),
)


class Pair(NamedTuple):
    """A teacher, a student, and what a whole table of theirs is."""

    teacher: str
    student: str
    batch: int
    epochs: int
    methods: int
    images: int = 50_000

    def __str__(self) -> str:
        return f"{self.teacher}->{self.student}"


@dataclass(frozen=True)
class Variant:
    """One way to train a pair; as it comes, the way of a campaign with bf16."""

    pair: Pair
    students: int
    precision: str = "bf16"
    engine: str = "eager"
    graphs: bool = True
    streams: int = 1
    deterministic: bool = True

    @property
    def recipe(self) -> Recipe:
        crop = Augmentation(4, "zeros", True, None)
        return recipe(
            batch=self.pair.batch,
            precision=self.precision,
            engine=self.engine,
            epochs=1 << 20,
            milestones=(),
            augmentation=crop,
        )


PAIRS = (Pair("resnet32x4", "resnet8x4", 64, 240, 10), Pair("resnet152-cifar", "resnet50-cifar", 128, 200, 5))
TINY = (Pair("resnet14", "resnet8", 8, 2, 2),)


def variants(pairs: Iterable[Pair], *, tiny: bool) -> list[Variant]:
    """All of them, the most telling first: time may end before the list does, and what compiles takes
    minutes.
    """
    if tiny:
        return [
            Variant(pair, students, precision)
            for pair in pairs
            for students in (1, 2)
            for precision in ("float32", "bf16")
        ]
    pairs = tuple(pairs)
    rounds: tuple[dict[str, Any], ...] = (
        {"students": 10}, {"students": 1}, {"students": 10, "streams": 4}, {"students": 5},
        {"students": 10, "deterministic": False}, {"students": 10, "graphs": False},
        {"students": 10, "precision": "float32"},
        {"students": 1, "graphs": False}, {"students": 1, "precision": "float32"},
        {"students": 1, "deterministic": False},
        {"students": 10, "streams": 10}, {"students": 10, "engine": "compile"},
        {"students": 1, "engine": "compile"},
    )  # fmt: skip
    first = [Variant(pair, **chosen) for chosen in rounds for pair in pairs]
    grid = itertools.product(
        ("eager", "compile"), pairs, (10, 1, 5), ("bf16", "float32"), (True, False), (True, False)
    )
    rest = [
        Variant(pair, students, precision, engine, replayed, deterministic=same)
        for engine, pair, students, precision, replayed, same in grid
    ]
    return list(dict.fromkeys([*first, *rest]))


class Source(NamedTuple):
    """What is trained and tested on."""

    train: images.Images
    test: images.Images

    @classmethod
    def noise(cls, train: int, test: int) -> Source:
        return cls(images.load("train", train, "random"), images.load("test", test, "random"))

    @classmethod
    def of(cls, archives: list[Path], train: int) -> Source:
        """The test split and some training images of `<split>/<class>/<image>` in zips."""
        from cdkd.data.prepare import prepare

        with tempfile.TemporaryDirectory() as name:
            folder, paths = Path(name) / "data", [str(path.absolute()) for path in archives]
            prepare(
                folder,
                folder,
                source="folder",
                paths=paths,
                size=images.SIDE,
                train_images=train,
                validation=0.0,
                seed=0,
                normalisation="measured",
            )
            return cls(
                *(
                    images.Images(pixels.numpy(), labels.numpy())
                    for pixels, labels in (load(folder, split) for split in ("train", "test"))
                )
            )  # type: ignore[union-attr]

    def splits(self, batch: int, device: torch.device) -> tuple[Split, Split]:
        """Training images in whole batches: an epoch's last, smaller one is one of hundreds, and would be one
        of few here.
        """
        whole = len(self.train.labels) // batch * batch
        cut = images.Images(self.train.pixels[:whole], self.train.labels[:whole])
        train, test = (
            Split(torch.from_numpy(one.pixels), torch.from_numpy(one.labels), images.MEAN, images.STD, device)
            for one in (cut, self.test)
        )
        return train, test


class Device:
    """Clocks and memory of a CPU or of CUDA."""

    def __init__(self, name: str) -> None:
        self.torch = torch.device(name)
        self.cuda = self.torch.type == "cuda"

    def now(self) -> float:
        """Seconds, once everything that was asked of the device is done."""
        if self.cuda:
            torch.cuda.synchronize(self.torch)
        return time.perf_counter()

    def fresh(self) -> None:
        """What is no longer used is given back, and the peak is forgotten."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize(self.torch)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.torch)

    def peak_gb(self) -> float:
        return torch.cuda.max_memory_reserved(self.torch) / 1e9 if self.cuda else 0.0

    @property
    def described(self) -> str:
        name = torch.cuda.get_device_name(self.torch) if self.cuda else "cpu"
        cudnn = torch.backends.cudnn.version() if self.cuda else None  # type: ignore[no-untyped-call]
        return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}"

    def rate(self, piece: Callable[[], Any], seconds: float) -> float:
        """Seconds that a piece takes: the mean over as many calls as fit into some seconds, and at least
        three.
        """
        piece()
        begin = self.now()
        for _ in range(3):
            piece()
        count = max(3, int(seconds / max((self.now() - begin) / 3, 1e-9)))
        begin = self.now()
        for _ in range(min(count, 5000)):
            piece()
        return (self.now() - begin) / min(count, 5000)


def matmul_tflops(device: Device, side: int, dtype: torch.dtype, seconds: float) -> float:
    """What large matrix products reach on random numbers: the ceiling that utilisation is stated against."""
    device.fresh()
    a, b = (torch.randn(side, side, device=device.torch, dtype=torch.float32).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device.torch, dtype=dtype)
    return 2 * side**3 / device.rate(lambda: torch.matmul(a, b, out=out), seconds) / 1e12


def copy_gbs(device: Device, megabytes: int, seconds: float) -> float:
    """Bytes read and written in a second by a large copy on the device, in GB/s."""
    device.fresh()
    source = torch.randint(256, (megabytes * 10**6,), device=device.torch, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * megabytes * 1e6 / device.rate(lambda: target.copy_(source), seconds) / 1e9


def measure(
    variant: Variant, source: Source, device: Device, seconds: float, ceiling: float
) -> dict[str, Any]:
    """Train for some seconds, once what is recorded or compiled is so.

    `stream_images_per_second`: how fast all students of the cohort move on; `images_per_second_per_student`:
    K times as many, the images that students were trained on, and comparable with one student's own training.
    ceiling: TFLOP/s
    """
    device.fresh()
    with (
        deterministic(variant.deterministic),
        launched(graphs=variant.graphs, streams=variant.streams),
        tempfile.TemporaryDirectory() as folder,
    ):
        how, pair = variant.recipe, variant.pair
        train, test = source.splits(pair.batch, device.torch)
        teacher = Teacher(_teacher(pair, device.torch), how)
        sample = next(evaluation(test, how.augmentation, batch=2))
        runs = []
        for place, method in enumerate(TEN[: variant.students]):
            model = network(pair.student, SHAPE, 0, device.torch)
            folder_of = Path(folder) / str(place)
            run = student_run(str(place), model, method, how, 0, sample, {"teacher": teacher}, folder_of)
            run.open_epoch()
            runs.append(run)
        batches = Batches(train, how.augmentation, pair.batch)
        recorded = cohort_step(runs, {"teacher": teacher}, 0, batches)
        stream = _endless(batches)
        begin = device.now()
        for _ in range(WARM_UP + 1):  # with the one that is recorded
            recorded(next(stream))
        first = device.now() - begin
        exam = Evaluation(
            test,
            how,
            reference=Reference(
                [teacher.without_maps(batch.images) for batch in evaluation(test, how.augmentation)]
            ),
        )
        a_step = device.rate(lambda: recorded(next(stream)), seconds)
        exam.row(runs[0].learner.alone())
        begin = device.now()
        exam.row(runs[0].learner.alone())
        tested = device.now() - begin
        madds = (
            multiply_adds(teacher.model, (*SHAPE["image"],)),
            multiply_adds(runs[0].learner.alone(), (*SHAPE["image"],)),
        )  # type: ignore[misc]
        losses = [float(total) for run in runs for total in run._sums.values()]
        found = _numbers(variant, a_step, tested, madds, ceiling)
    note = "" if all(map(_finite, losses)) else "a loss is not finite"
    return found | {
        "first_steps_seconds": first,
        "evaluation_seconds": tested,
        "peak_gb": device.peak_gb(),
        "note": note,
    }


@cache
def _teacher(pair: Pair, device: torch.device) -> torch.nn.Module:
    """Frozen, and so the same for every variant: a deep network takes seconds to begin with."""
    model = as_if_trained(
        network(pair.teacher, SHAPE, 0, torch.device("cpu")), images.load("train", 32, "random")
    )
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _endless(batches: Batches) -> Iterator[Batch]:
    return itertools.chain.from_iterable(batches.epoch(0, epoch) for epoch in itertools.count())


def _numbers(
    variant: Variant, a_step: float, tested: float, madds: tuple[int, int], ceiling: float
) -> dict[str, float]:
    """A forward pass is two FLOP a multiply-add, a student's step three passes.

    Connectors, losses and the optimiser are not counted.
    """
    pair, count = variant.pair, variant.students
    stream = pair.batch / a_step
    tflops = 2 * (madds[0] + 3 * count * madds[1]) * stream / 1e12
    cohorts = -(-pair.methods // count)
    minutes = cohorts * pair.epochs * (pair.images / stream + min(count, pair.methods) * tested) / 60
    return {
        "milliseconds_per_step": 1000 * a_step,
        "stream_images_per_second": stream,
        "images_per_second_per_student": count * stream,
        "tflops": tflops,
        "utilisation": tflops / ceiling,
        "projected_minutes": minutes
        if count <= pair.methods
        else float("nan"),  # more students than methods is another table
    }


def _finite(value: float) -> bool:
    return abs(value) < float("inf")
