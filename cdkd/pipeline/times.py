"""How long an experiment takes on this machine, roughly: from a step of each of its networks.

A network is measured once; its pace is kept in `.cdkd/pace.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cdkd.config.params import Params
from cdkd.config.teachers import views
from cdkd.core.errors import BadParams
from cdkd.core.host import host
from cdkd.core.processes import has_gpu
from cdkd.data.downloadable import SIZES
from cdkd.pipeline.scheduler import jobs
from cdkd.report.wording import duration
from cdkd.storage.files import write_atomically

Image = tuple[int, int, int]
FILE = Path(".cdkd", "pace.json")
EACH = 1000  # training images that a time is for, where their number is not known
NOTE = (
    "Times are rough, and of this machine if nothing else runs on it: each network's forward and backward"
    " pass was timed on a few images. Losses and the reading of images come on top; a search that prunes"
    " takes less. Expect from half as long to twice as long."
)


class Paces:
    """Seconds for one image of networks: (step, forward), as `training.pace` measures them."""

    def __init__(
        self, root: Path, measured: Callable[[str, Image], tuple[float, float]] | None = None
    ) -> None:
        """root: the project's folder; measured: what measures, instead of `training.pace`"""
        self._file, self._measured = root / FILE, measured or _measure
        self._machine = f"{host()['processor']}, {'GPU' if has_gpu() else 'CPU'}"
        self._known: dict[str, list[float]] = self._read()
        self.used = False  # whether any was asked for

    def of(self, network: str, image: Image) -> tuple[float, float]:
        """Raises BadParams where the network cannot be built."""
        name = f"{network} {'x'.join(map(str, image))}, {self._machine}"
        self.used = True
        if name not in self._known:
            self._known[name] = list(self._measured(network, image))
            self._file.parent.mkdir(exist_ok=True)
            write_atomically(self._file, json.dumps(self._known, indent=1) + "\n")
        step, forward = self._known[name]
        return step, forward

    def _read(self) -> dict[str, list[float]]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return {str(name): [float(value) for value in values] for name, values in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):  # missing or damaged: measured again
            return {}


def _measure(network: str, image: Image) -> tuple[float, float]:
    from cdkd.training.pace import measure  # imports torch

    return measure(network, image)


def text(params: Params, paces: Paces) -> str:
    """The time of an experiment: "about 3 min here"."""
    image = _image(params)
    if image is None:
        return "time not known before the images are read"
    size = SIZES.get(params.data.source)
    images = params.data.train_images or (None if size is None else size.train)
    try:
        seconds = estimate(params, paces, image, images or EACH, 0 if size is None else size.test)
    except BadParams as fault:
        return f"time not known: {fault}"
    most = "up to" if params.rule is not None else "about"  # a rule may need fewer seeds
    return f"{most} {_rough(seconds)} here" + ("" if images else f" for each {EACH:,} training images")


def estimate(params: Params, paces: Paces, image: Image, train: int, test: int) -> float:
    """Seconds until every run and every trial of a search is trained.

    train, test: numbers of images. Seeds are trained side by side, as many as there are cores; a teacher's
    pass serves all methods of a seed.
    """
    found = sum(_of_teacher(view, paces, image, train, test) for view in views(params))
    step, _ = paces.of(params.student.network, image)
    _, teacher_forward = paces.of(params.teacher.network, image)
    for space in (one for one in params.search.values() if one.study.method is not None):
        trials = space.study.trials * len(space.study.seeds) * space.trial_epochs
        found += trials * train * (step + teacher_forward) / jobs(params)
    return found


def _of_teacher(params: Params, paces: Paces, image: Image, train: int, test: int) -> float:
    """Seconds for a teacher and its students; params: its view"""
    teacher_step, teacher_forward = paces.of(params.teacher.network, image)
    given = params.teacher.weights is not None or params.teacher.untrained
    teacher = 0.0 if given else params.teacher.training.epochs * train * teacher_step
    seed, longest = 0.0, 0
    for name, method in params.methods.items():
        epochs = params.recipe(name).epochs
        group = method.group
        for network in (params.student.network,) if group is None else group.networks.values():
            step, forward = paces.of(network, image)
            seed += epochs * (train * step + test * forward)
        longest = max(longest, epochs)
    seed += longest * train * teacher_forward
    return float(teacher + len(params.seeds) * seed / jobs(params))


def _image(params: Params) -> Image | None:
    """(H, W, C) of what the networks see."""
    data, crop = params.data, params.training.augmentation.resized_crop
    size = SIZES.get(data.source)
    if size is None and not (crop or data.size):
        return None
    height, width, channels = (0, 0, 3) if size is None else size.image
    side = crop or data.size
    return (side, side, channels) if side else (height, width, channels)


def _rough(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 2:
        return duration(float(f"{seconds:.2g}"))
    return f"{hours:.0f} h" if hours < 72 else f"{float(f'{hours / 24:.2g}'):,.0f} days"
