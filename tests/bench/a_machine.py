"""The machine that hand-made reports name."""

from __future__ import annotations

MACHINE = {
    "processor": "a chip",
    "cores": 2,
    "threads": 2,
    "memory_bytes": 24 << 30,
    "system": "Linux",
    "versions": {"onnxruntime": "1.2"},
}
