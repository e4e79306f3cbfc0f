"""The machine, as far as it may change the last bits of a result, or decides which precision is fast."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
VECTOR = ("avx", "amx", "fma", "asimd", "sve", "bf16")  # how the names of vector instructions begin


def host() -> dict[str, Any]:
    """processor: its name; instructions: its vector instructions, as kernels are chosen by them."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _entry("model name", CPUINFO) or platform.processor(),
        "instructions": " ".join(instructions()),
        "cores": os.cpu_count(),
    }


def _entry(name: str, cpuinfo: Path) -> str:
    """Of the first processor; empty where the system does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def instructions(cpuinfo: Path = CPUINFO) -> list[str]:
    """The vector instructions that the system lists (x86: flags, ARM: Features); empty: none."""
    listed = (_entry("flags", cpuinfo) or _entry("Features", cpuinfo)).split()
    return sorted(word for word in set(listed) if word.startswith(VECTOR))


def bf16_arithmetic(cpuinfo: Path = CPUINFO) -> bool | None:
    """Whether the processor multiplies bfloat16 itself; otherwise that is emulated.

    None: the system does not say. x86 lists avx512_bf16 and amx_bf16, ARM bf16.
    """
    found = instructions(cpuinfo)
    return any(word.endswith("bf16") for word in found) if cpuinfo.exists() else None
