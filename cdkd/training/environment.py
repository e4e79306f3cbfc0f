"""The device of the training, and everything in the environment that may change the last bits of a result."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from typing import Any

import numpy
import torch

from cdkd.core.host import host


def choose_device() -> torch.device:
    """CUDA if available, without TF32. Algorithms are deterministic unless CDKD_DETERMINISTIC=0 is set."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    if os.environ.get("CDKD_DETERMINISTIC", "1") != "0":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # filling fresh memory costs time and changes no result (setattr: mypy does not know the attribute)
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    return torch.device("cuda")


def environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }
    exact = {} if device.type == "cpu" else {"deterministic": torch.are_deterministic_algorithms_enabled()}
    return {"device": name, "threads": torch.get_num_threads(), **exact, **versions, **host()}


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step (glibc; elsewhere this does nothing).

    By default large blocks are returned to the kernel each time and come back as new, cleared pages, which
    costs one thread at batch 128 a third of its speed.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back
