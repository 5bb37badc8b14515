"""What decides an artifact's weights, by name; versions of tools; the processor's name."""

from __future__ import annotations

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


def tool_versions() -> dict[str, str]:
    """Version by package, ours included."""
    return {"tramontane": __version__, **{name: version(name) for name in _TOOLS}}


def identity(
    options: Mapping[str, Any],
    *,
    source: Mapping[str, str],
    tools: Mapping[str, str],
    code: str,
) -> Identity:
    """All that must be equal for two runs to write equal weights, by name.

    Args:
        options: those of the export that decide weights.
        source: sha256 of the checkpoint's files, by name.
        tools: what ``tool_versions`` returned.
        code: digest of the code that computes the weights.
    """
    return {
        **options,
        **{f"file {name}": digest for name, digest in source.items()},
        **{f"version of {name}": found for name, found in tools.items()},
        "code": code,
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
