"""`cdkd teacher --from FILE`: another project's teacher becomes a file that params.yaml can name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from cdkd.config.params import Params
from cdkd.config.paths import data_folder
from cdkd.data.prepared import FILE, Meta, read_meta
from cdkd.runs.teacher_quality import fault
from cdkd.storage.files import sha256, write_atomically

FOLDER = "teachers"


def import_teacher(params: Params, file: Path) -> list[str]:
    """Write the weights, if they fit params' teacher, to teachers/ next to params.yaml; the lines to print.

    Raises BadCheckpoint with the cause where they do not fit; then nothing is written.
    """
    from safetensors.torch import save

    from cdkd.models.weights_import import import_weights

    folder = data_folder(params)
    meta = read_meta(folder) if (folder / FILE).exists() else None
    network = params.teacher.network
    known = (None, None) if meta is None else (len(meta.classes), meta.image[2])
    found = import_weights(file, network, *known)
    content = save(found.state)
    digest = hashlib.sha256(content).hexdigest()
    path = _free_path(params.root / FOLDER, file, digest)
    write_atomically(path, content)
    lines = [f"{file}: {note}" for note in found.notes]
    lines.append(f"{network}, {found.classes} classes, images of {found.channels} channels; sha256 {digest}")
    if meta is None:
        lines.append(
            "the data are not prepared: neither classes nor accuracy were compared; `cdkd prepare` first"
        )
    else:
        lines += _measured(params, meta, path, digest)
    written = path.relative_to(params.root)
    return [*lines, "for params.yaml, under teacher:", f"  weights: {written}", f"  sha256: {digest}"]


def _free_path(folder: Path, file: Path, digest: str) -> Path:
    """A path that no other weights have, because another experiment's params.yaml may name these."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-")[:80] or "teacher"
    path = folder / f"{name}.safetensors"
    taken = path.exists() and sha256(path) != digest
    return folder / f"{name}-{digest[:12]}.safetensors" if taken else path


def _measured(params: Params, meta: Meta, path: Path, digest: str) -> list[str]:
    from cdkd.models.weights import load_weights
    from cdkd.training.environment import choose_device
    from cdkd.training.evaluation import Evaluation
    from cdkd.training.setup import network, split

    device = choose_device()
    data = {"classes": len(meta.classes), "image": meta.image}
    model = network(params.teacher.network, data, params.teacher.seed, device)
    load_weights(model, path, digest)
    images = split(data_folder(params), meta, device, "test")
    row = Evaluation(images, params.teacher.training.resolved).row(model)
    error, loss = row["test_top1_error"], row["test_loss"]
    lines = [
        f"top-1 accuracy {100 - error:.2f} %, error {error:.2f} % (measured here, {len(images)} test images)"
    ]
    if (what := fault(error, loss, len(meta.classes), meta.per_class["test"])) is not None:
        lines.append(f"{what}: were the classes in this order, and the images normalised so?")
    return lines
