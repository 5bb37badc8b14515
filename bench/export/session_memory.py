"""Measures the memory of a session, in a process of its own; prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path

import psutil

from ...runtime.session import Session
from ..process import MAXRSS_BYTES


def main() -> int:
    """Load, prefill in chunks, decode; resident memory after each."""
    parser = argparse.ArgumentParser(prog="python -m tramontane.bench.export.session_memory")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--tokens", type=int, default=1024, help="to prefill (%(default)s)")
    parser.add_argument("--steps", type=int, default=16, help="to decode (%(default)s)")
    parser.add_argument(
        "--copy", action="store_true", help="read the weights into memory (mapped files)"
    )
    args = parser.parse_args()
    process = psutil.Process()
    session = Session.load(args.artifact, copy=args.copy)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES
    found = {"loading_peak_bytes": peak_bytes, "loaded_bytes": process.memory_info().rss}
    V = session.manifest.geometry.vocab_size
    session.prefill([token * 7919 % V for token in range(args.tokens)])
    found["prefilled_bytes"] = process.memory_info().rss
    for step in range(args.steps):
        session.step(step % V)
    found["decoded_bytes"] = process.memory_info().rss
    print(json.dumps({**found, "tokens": session.tokens}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
