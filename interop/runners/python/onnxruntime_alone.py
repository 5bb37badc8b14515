"""Runs a job with the script of docs/runtimes.md: ``onnxruntime_alone.py job.json SCRIPT``.

Runs in any Python that has numpy and onnxruntime, and nothing else.
"""

from __future__ import annotations

import json
import platform
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort


def main(argv: Sequence[str]) -> int:
    """Run the job that a file describes; print the result as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    decode = runpy.run_path(argv[1])["decode"]
    folder = Path(job["artifact"])
    tokens = [decode(folder, prompt, job["new_tokens"]) for prompt in job["prompts"]]
    versions = {
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "python": f"{platform.python_version()} ({platform.machine()})",
    }
    print(json.dumps({"versions": versions, "tokens": tokens}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
