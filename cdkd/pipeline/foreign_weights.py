"""`cdkd teacher --from FILE`, `cdkd student --from FILE`: another project's weights for params.yaml."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cdkd.config.params import Params
from cdkd.config.paths import data_folder
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import FILE, Meta, read_meta
from cdkd.runs.teacher_quality import fault
from cdkd.storage.files import sha256, write_atomically

if TYPE_CHECKING:
    from cdkd.models.weights_import import Imported

FOLDERS = {TEACHER: "teachers", "student": "students"}


def import_teacher(params: Params, file: Path) -> list[str]:
    """Write the weights, if they fit params' teacher, to teachers/ next to params.yaml; the lines to print.

    Raises BadCheckpoint with the cause where they do not fit; then nothing is written.
    """
    from cdkd.models.weights_import import import_weights

    meta, network = _meta(params), params.teacher.network
    known = (None, None) if meta is None else (len(meta.classes), meta.image[2])
    found = import_weights(file, network, *known)
    path, digest, lines = _written(params, file, found, TEACHER, network)
    if meta is None:
        lines.append(
            "the data are not prepared: neither classes nor accuracy were compared; `cdkd prepare` first"
        )
    else:
        lines += _measured(params, meta, path, digest)
    return [*lines, *_for_params(params, TEACHER, path, digest)]


def import_student(params: Params, file: Path) -> list[str]:
    """The same for the weights that students start from, in students/.

    The classifier of other classes than the data's is left out, and then starts from random weights.
    """
    from cdkd.models.weights_import import import_weights, without_classifier

    meta, network = _meta(params), params.student.network
    found = import_weights(file, network, None, None if meta is None else meta.image[2])
    if meta is not None and found.classes != len(meta.classes):
        note = f"its classifier is left out: it has {found.classes} classes, the data {len(meta.classes)}"
        found = without_classifier(found, network, note)
    path, digest, lines = _written(params, file, found, "student", network)
    if meta is None:
        lines.append("the data are not prepared: classes were not compared; `cdkd prepare` first")
    return [*lines, *_for_params(params, "student", path, digest)]


def _meta(params: Params) -> Meta | None:
    folder = data_folder(params)
    return read_meta(folder) if (folder / FILE).exists() else None


def _written(
    params: Params, file: Path, found: Imported, kind: str, network: str
) -> tuple[Path, str, list[str]]:
    """The new file, its digest, and lines about it."""
    from safetensors.torch import save

    content = save(found.state)
    digest = hashlib.sha256(content).hexdigest()
    path = _free_path(params.root / FOLDERS[kind], file, digest)
    write_atomically(path, content)
    lines = [f"{file}: {note}" for note in found.notes]
    lines.append(f"{network}, {found.classes} classes, images of {found.channels} channels; sha256 {digest}")
    return path, digest, lines


def _for_params(params: Params, kind: str, path: Path, digest: str) -> list[str]:
    written = path.relative_to(params.root)
    return [f"for params.yaml, under {kind}:", f"  weights: {written}", f"  sha256: {digest}"]


def _free_path(folder: Path, file: Path, digest: str) -> Path:
    """A path that no other weights have, because another experiment's params.yaml may name these."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-")[:80] or "weights"
    path = folder / f"{name}.safetensors"
    taken = path.exists() and sha256(path) != digest
    return folder / f"{name}-{digest[:12]}.safetensors" if taken else path


def _measured(params: Params, meta: Meta, path: Path, digest: str) -> list[str]:
    from cdkd.runs.measure import measure

    teacher = params.teacher
    row = measure(data_folder(params), teacher.network, path, digest, teacher.training.resolved)
    error, images = row["test_top1_error"], meta.counts["test"]
    lines = [f"top-1 accuracy {100 - error:.2f} %, error {error:.2f} % (measured here, {images} test images)"]
    if (what := fault(error, row["test_loss"], len(meta.classes), meta.per_class["test"])) is not None:
        lines.append(f"{what}: were the classes in this order, and the images normalised so?")
    return lines
