"""A finished run's network as an MLflow model: safetensors, a signature, and no pickled code.

`mlflow.pyfunc.load_model("models:/<id>")` builds the network from its name and loads the weights strictly.
It takes normalised images, float32 [N, C, H, W], and returns logits, float32 [N, classes].
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdkd.runs.record import Record

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

WEIGHTS, DESCRIPTION = "model.safetensors", "MLmodel"


def description(record: Record, model_id: str, run_id: str) -> str:
    """The file MLmodel, which is YAML: JSON is a part of it."""
    network, classes, (height, width, channels) = _shape(record.config)
    flavour = {"network": network, "classes": classes, "channels": channels}
    python = {"loader_module": __name__, "python_version": platform.python_version()}
    return json.dumps(
        {
            "artifact_path": f"models:/{model_id}",
            "flavors": {
                "python_function": python,
                "cdkd": flavour | {"weights": WEIGHTS, "sha256": record.result["weights_sha256"]},
            },
            "model_id": model_id,
            "run_id": run_id,
            "signature": {
                "inputs": _tensor([-1, channels, height, width]),
                "outputs": _tensor([-1, classes]),
                "params": None,
            },
        },
        indent=1,
    )


def _shape(config: dict[str, Any]) -> tuple[str, int, tuple[int, int, int]]:
    height, width, channels = config["data"]["image"]
    return config["network"], config["data"]["classes"], (height, width, channels)


def _tensor(shape: list[int]) -> str:
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": shape}}])


class Predictor:
    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    def predict(self, images: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        import torch

        with torch.inference_mode():
            logits: np.ndarray = self.network(torch.from_numpy(images)).logits.numpy()
        return logits


def _load_pyfunc(folder: str) -> Predictor:
    """MLflow calls this by its name."""
    from cdkd.models.build import build
    from cdkd.models.weights import load_weights

    own = json.loads(Path(folder, DESCRIPTION).read_text(encoding="utf-8"))["flavors"]["cdkd"]
    network = build(own["network"], own["classes"], own["channels"])
    load_weights(network, Path(folder, own["weights"]), own["sha256"])
    return Predictor(network)
