"""The named experiments, and how one becomes the active params.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from cdkd.config.faults import suggest
from cdkd.config.params import Params, load
from cdkd.config.schema import Data
from cdkd.config.templates import filled
from cdkd.core.errors import BadParams
from cdkd.data.downloadable import SIZES
from cdkd.storage.files import write_atomically


class Experiments:
    """Those of experiments/*.yaml, and those that the templates give. A file goes before a template."""

    def __init__(self, root: Path) -> None:
        """root: the folder of params.yaml and experiments/"""
        self._root = root
        self._files = {path.stem: path for path in (root / "experiments").glob("*.yaml")}
        self._filled = filled(root)

    @property
    def names(self) -> list[str]:
        return sorted({*self._files, *self._filled})

    @property
    def templates(self) -> dict[str, list[str]]:
        """Template -> the experiments that it gives, but for one that is a file too."""
        found: dict[str, list[str]] = {}
        for name, (path, _) in self._filled.items():
            if path.stem not in self.names:  # an experiment's name goes before a template's
                found.setdefault(path.stem, []).append(name)
        return found

    def text(self, name: str) -> str:
        """What params.yaml holds while this experiment is the active one. Raises BadParams."""
        self._check(name)
        path = self._files.get(name)
        return self._filled[name][1] if path is None else path.read_text(encoding="utf-8")

    def load(self, name: str) -> Params:
        """Checked and resolved, its relative paths from the root. Raises BadParams."""
        self._check(name)
        path, text = (self._files[name], None) if name in self._files else self._filled[name]
        return load(path, text).model_copy(update={"root": self._root.resolve()})

    def _check(self, name: str) -> None:
        if name not in self.names:
            listed = f"{suggest(name, self.names)}; expected one of {', '.join(self.names)}"
            raise BadParams(f"no experiment {name!r} in experiments/{listed}")


def use(root: Path, name: str, *, force: bool = False) -> str:
    """Make the experiment the active params.yaml. Returns a line to print.

    force: overwrite a params.yaml that was edited by hand
    Raises `BadParams` before anything is written.
    """
    known, active = Experiments(root), root / "params.yaml"
    known.load(name)  # raises if it is faulty
    if active.exists() and not force:
        saved = {known.text(other) for other in known.names}
        if active.read_text(encoding="utf-8") not in saved:
            raise BadParams(
                f"{active.name}: differs from every file of experiments/, so it was edited by hand;"
                f" keep it as experiments/NAME.yaml, or overwrite it with `cdkd use --force {name}`"
            )
    write_atomically(active, known.text(name))
    return f"params.yaml is now {name}; `dvc repro` runs it"


def listing(root: Path, time: Callable[[Params], str]) -> Iterator[str]:
    """Every experiment: networks, how much is trained, the data that it needs, and its time; two lines each.

    One that cannot be loaded here (timm may be missing) gives its fault instead.
    time: of an experiment, in words. Images are those that the students see in training
    """
    known = Experiments(root)
    if not known.names:
        raise BadParams(f"no experiments in {root / 'experiments'}; `cdkd init FOLDER` makes a project")
    for name in known.names:
        try:
            params = known.load(name)
        except BadParams as fault:
            first = str(fault).splitlines()[:2]  # how many faults, and the first one
            yield f"{name}: {': '.join(line.strip() for line in first)}"
        else:
            yield _entry(params, time)


def _entry(params: Params, time: Callable[[Params], str]) -> str:
    epochs = params.training.epochs
    each = sum(params.recipe(name).epochs for name in params.methods) * params.runs // len(params.methods)
    most = "up to " if params.rule is not None else ""
    size = SIZES.get(params.data.source)
    train = params.data.train_images or (None if size is None else size.train)
    seen = "" if train is None else f", {each * train / 1e6:,.1f} million training images"
    return (
        f"{params.experiment}: {params.teacher.network} -> {params.student.network},"
        f" {most}{params.runs} runs x {epochs} epochs{seen}\n    {_needed(params.data)}; {time(params)}"
    )


def _needed(data: Data) -> str:
    size = SIZES.get(data.source)
    if size is None:
        return (
            f"your files: {', '.join(data.paths)}"
            if data.paths
            else f"{data.source}: a source of this project"
        )
    kept = f"{data.train_images:,} of {size.train:,}" if data.train_images else f"{size.train:,}"
    place = f"downloaded once, {size.megabytes} MB" if size.megabytes else "no download"
    return f"{data.source}: {place}; {kept} training and {size.test:,} test images"
