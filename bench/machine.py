"""The machine and the versions that figures were measured with, and how a page names them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import psutil

from ..export.fingerprint import processor
from ..runtime.ort.ort_session import physical_cores
from ..runtime.sizes import counted


def machine(threads: int | None) -> dict[str, Any]:
    """Machine, versions and settings of the figures."""
    return {
        "processor": processor(),
        "cores": physical_cores(),
        "threads": threads or physical_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.system(),
        "versions": {name: version(name) for name in ("tramontane", "onnxruntime", "numpy")},
    }


def describe_machines(machines: Sequence[Mapping[str, Any]]) -> str:
    """The machine of the measurements, or all machines if they differ."""
    told = dict.fromkeys(
        f"{one['processor']}, {counted(one['cores'], 'core')}, "
        f"{counted(one['threads'], 'thread')}, "
        f"{one['memory_bytes'] / 2**30:.0f} GiB, {one['system']}, "
        + ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        for one in machines
    )
    return f"Measured on: {'; and on '.join(told)}."
