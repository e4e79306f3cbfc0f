"""The experiments on networks that teach each other, as long as their recipes say, on a machine with a GPU.

    python -m benchmarks.online FOLDER
    python -m benchmarks.online FOLDER --data cifar100-1.zip cifar100-2.zip --experiments ctkd-cifar100
    python -m benchmarks.online FOLDER --experiments digits-online --epochs 1 --cpu

Each experiment is trained to its end and reported in FOLDER/NAME: 300 epochs for cifar100-online-resnet32 and
cifar100-online-resnet110, 200 for ctkd-cifar100. Stopped and started again, it continues from the last
checkpoints. --data: CIFAR-100 as image folders, where torchvision cannot download it. --epochs and --cpu are
for a trial: the epochs of all recipes, and without a GPU. Not measured on a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.images import ROOT
from cdkd.config.experiments import Experiments
from cdkd.config.params import Params, load
from cdkd.core.processes import has_gpu

EXPERIMENTS = ("cifar100-online-resnet32", "cifar100-online-resnet110", "ctkd-cifar100")


def text_of(name: str, data: list[Path], epochs: int | None) -> str:
    """The experiment's params.yaml, with these images, and for a trial with other epochs."""
    text = Experiments(ROOT).text(name)
    if data:
        paths = ", ".join(str(path.resolve()) for path in data)
        text = re.sub(r"^  source: .*$", f"  source: folder\n  paths: [{paths}]", text, count=1, flags=re.M)
    if epochs is not None:  # epochs of the recipe become its beginning
        text = re.sub(r"\bepochs: \d+", f"epochs: {epochs}", text)
        text = re.sub(r"\bmilestones: \[[^]]*\]", "milestones: []", text)
    return text


def commands(params: Params) -> list[list[str]]:
    return [
        ["prepare"],
        ["teacher"],
        *(["distill", method] for method in params.methods),
        ["report"],
        ["show"],
    ]


def run(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for words in commands(load(path)):
        subprocess.run([sys.executable, "-m", "cdkd", *words], cwd=folder, env=environment, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS)
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="archives or folders of images")
    parser.add_argument("--epochs", type=int, help="for a trial")
    parser.add_argument("--cpu", action="store_true", help="for a trial")
    options = parser.parse_args()
    if not has_gpu() and not options.cpu:
        print("no GPU: hundreds of epochs would take weeks here; --cpu tries it anyway", file=sys.stderr)
        return 2
    for name in options.experiments:
        run(options.folder / name, text_of(name, options.data, options.epochs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
