"""What decided an artifact's bytes? The checkpoint, the options, the tools and our code."""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..graphs.writing.journal import Identity

_TOOLS = ("gguf", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch")
_LAYERS = ("runtime", "graphs", "export")


def tool_versions() -> dict[str, str]:
    """Version by package, ours included."""
    return {"tramontane": __version__, **{name: version(name) for name in _TOOLS}}


def code_digest() -> str:
    """One hash of all our modules that decide the bytes of an artifact."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(path for layer in _LAYERS for path in (root / layer).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def identity(
    options: Mapping[str, Any], *, source: Mapping[str, str], tools: Mapping[str, str]
) -> Identity:
    """All of it by name: what must be equal for two runs to write equal weights."""
    return {
        **options,
        **{f"file {name}": digest for name, digest in source.items()},
        **{f"version of {name}": found for name, found in tools.items()},
        "code": code_digest(),
    }


def in_background(work: Callable[[], dict[str, str]]) -> Future[dict[str, str]]:
    """Begin work in a thread that does not delay the process's end."""
    future: Future[dict[str, str]] = Future()

    def settle() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised again by ``result``
            future.set_exception(error)

    threading.Thread(target=settle, daemon=True).start()
    return future


def processor() -> str:
    """What the machine's processor calls itself, if the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
