"""Recipes of papers by name: `training: {preset: crd}`. Own values in params.yaml go before a preset's.

Epochs are shares of the training (0.625 of 240 epochs is epoch 150), so that an own number of epochs scales
them. Normalisation belongs to `data` and is in no preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cdkd.config.epochs import MAX_EPOCHS
from cdkd.config.layers import layered

PRESET, RECIPE = "preset", "recipe"


class Preset(NamedTuple):
    """values: of `training`; source: whose recipe it is, and what of it is left out"""

    values: Mapping[str, Any]
    source: str


_SGD = {"optimiser": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "step"}
_CROP = {"pad": 4, "padding": "zeros", "flip": True}
PRESETS: Mapping[str, Preset] = {
    "crd": Preset(
        _SGD
        | {
            "epochs": 240,
            "batch": 64,
            "learning_rate": 0.05,
            "milestones": [0.625, 0.75, 0.875],
            "decay": 0.1,
        }
        | {"augmentation": _CROP},
        "CIFAR-100 in RepDistiller (CRD) and in the tables of ICKD, DKD, SSKD and ReviewKD; MobileNetV2 and"
        " ShuffleNets have learning_rate 0.01 there",
    ),
    "cd-cifar": Preset(
        _SGD
        | {"epochs": 200, "batch": 128, "learning_rate": 0.1, "milestones": [0.3, 0.6, 0.8], "decay": 0.2}
        | {"augmentation": _CROP | {"padding": "reflect"}},
        "CIFAR-100 in channel-distillation (CD)",
    ),
    "cd-imagenet": Preset(
        _SGD
        | {"epochs": 100, "batch": 256, "learning_rate": 0.1, "milestones": [0.3, 0.6, 0.9], "decay": 0.1}
        | {"weight_decay": 1e-4, "augmentation": {"resized_crop": 224, "flip": True}},
        "ImageNet in channel-distillation (CD)",
    ),
    "online": Preset(
        _SGD
        | {"epochs": 300, "batch": 128, "learning_rate": 0.1, "milestones": [0.5, 0.75], "decay": 0.1}
        | {"nesterov": True, "augmentation": _CROP},
        "CIFAR in OKDDip and PCL; ONE and CSS have nesterov false, ONE weight_decay 0.0001, and CSS warmup 4"
        " and milestones [149, 224]",
    ),
    "modern": Preset(
        {"optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "epochs": 300, "batch": 1024}
        | {"schedule": "cosine", "rate_per": "step", "warmup": 1 / 15, "clip": 1.0}
        | {"augmentation": {"resized_crop": 224, "flip": True}},
        "ImageNet in Swin Transformer (arXiv 2103.14030, appendix A2.1), without its mixing, erasing,"
        " stochastic depth and label smoothing; weight decay acts on all parameters; for another batch scale"
        " learning_rate by batch / 1024",
    ),
}


def expanded(written: Any) -> Any:
    """A training section with its preset's values under its own; one without a preset as it is.

    Its recipe, if it has no name, is named after the preset and what was changed of it.
    """
    if not isinstance(written, Mapping) or PRESET not in written:
        return written
    preset = PRESETS.get(str(written[PRESET]))
    if preset is None:  # a fault, which alone is listed
        return {"epochs": MAX_EPOCHS, **written}
    own = {name: value for name, value in written.items() if name != PRESET}
    changed = [name for name, value in own.items() if _differs(preset.values.get(name), value)]
    name = written[PRESET] + (f" with other {', '.join(changed)}" if changed else "")
    return {RECIPE: name, **layered(preset.values, written)}


def _differs(value: Any, own: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(own, Mapping):
        return any(_differs(value.get(name), one) for name, one in own.items())
    return bool(value != own)
