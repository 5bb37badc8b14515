"""Runs a job with the native library's graph, and says which library computed.

Runs in any Python that has numpy, onnxruntime, sentencepiece and the library:
``native.py job.json``.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tramontane.interop.runners.python.driver import do
from tramontane.runtime.contract import NATIVE_MODEL_FILE
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.ort.native_library import required_library


def main(argv: Sequence[str]) -> int:
    """Run the job that a file describes; print the result as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    artifact = Path(job["artifact"])
    library = required_library(artifact / NATIVE_MODEL_FILE)
    loaded = ctypes.CDLL(str(library))
    loaded.tramontane_version.restype = loaded.tramontane_kernels.restype = ctypes.c_char_p
    head_size = read_manifest(artifact).geometry.head_dim
    answer = do({**job, "native": True})  # fails where another graph would be run
    answer["library"] = {
        "path": str(library),
        "version": loaded.tramontane_version().decode(),
        "kernels": loaded.tramontane_kernels(head_size).decode(),
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
