"""The machine and the versions that figures were measured with, and how a page names them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from ..export.fingerprint import processor
from ..runtime.ort.ort_session import physical_cores
from ..runtime.sizes import counted

_CPUINFO = Path("/proc/cpuinfo")
# Flags of Linux, and the instructions that matrices are multiplied with: the first that is there.
_INSTRUCTIONS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "i8mm": "NEON with I8MM",
    "asimddp": "NEON with dot products",
    "asimd": "NEON",
}
_GIB = 1 << 30


def machine(threads: int | None) -> dict[str, Any]:
    """Machine, versions and settings of the figures."""
    return {
        "processor": processor(),
        "instructions": _instructions(),
        "cores": physical_cores(),
        "threads": threads or physical_cores(),
        "memory_bytes": round(psutil.virtual_memory().total / _GIB) * _GIB,
        "system": platform.system(),
        "versions": {name: version(name) for name in ("tramontane", "onnxruntime", "numpy")},
    }


def _instructions() -> str:
    """The widest instructions for matrices, which the processor's name may lack; "" if unknown."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.is_file() else []
    flags = {
        flag
        for line in lines
        if line.startswith(("flags", "Features"))
        for flag in line.split(":", 1)[1].split()
    }
    return next((words for flag, words in _INSTRUCTIONS.items() if flag in flags), "")


def describe_machines(machines: Sequence[Mapping[str, Any]]) -> str:
    """The machine of the measurements, or all machines if they differ."""
    described = dict.fromkeys(
        f"{_processor_of(one)}, {counted(one['cores'], 'core')}, "
        f"{counted(one['threads'], 'thread')}, "
        f"{one['memory_bytes'] / _GIB:.0f} GiB, {one['system']}, "
        + ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        for one in machines
    )
    return f"Measured on: {'; and on '.join(described)}."


def _processor_of(one: Mapping[str, Any]) -> str:
    instructions = one.get("instructions", "")  # reports of earlier versions have none
    return f"{one['processor']} ({instructions})" if instructions else str(one["processor"])
