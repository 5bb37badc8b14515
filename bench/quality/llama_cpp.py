"""llama.cpp's formats of one model: their files, sizes and logits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...environments import folders
from ...environments.errors import Absent
from ...export import write_gguf as gguf_writer
from ...export.code_digest import code_digest
from ...export.formats.checkpoint import Checkpoint
from ...export.formats.gguf.file import read_gguf
from ...export.write_gguf import write_gguf
from ...validate.reference.reference import Reference
from ..peers import llama_runtime
from . import importance
from .rows import Weights

_LARGE_BLOCK, _BLOCK = 256, 32  # columns that share scales; Source: ggml, ggml-common.h


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaFormat:
    """A kind of file that llama.cpp's quantizer writes; None: the file that it reads."""

    kind: str | None
    block: int = 1  # its matrices' columns must be a multiple of this; else they fall back
    has_importance: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind or 'unquantized'}{' imatrix' if self.has_importance else ''}"


FORMATS = (
    LlamaFormat(kind=None),
    LlamaFormat(kind="Q8_0", block=_BLOCK),
    LlamaFormat(kind="Q6_K", block=_LARGE_BLOCK),
    LlamaFormat(kind="Q5_K_M", block=_LARGE_BLOCK),
    LlamaFormat(kind="Q5_K_M", block=_LARGE_BLOCK, has_importance=True),
    LlamaFormat(kind="Q4_K_M", block=_LARGE_BLOCK),
    LlamaFormat(kind="Q4_K_M", block=_LARGE_BLOCK, has_importance=True),
    LlamaFormat(kind="IQ4_XS", block=_LARGE_BLOCK),
    LlamaFormat(kind="IQ4_XS", block=_LARGE_BLOCK, has_importance=True),
    LlamaFormat(kind="Q3_K_M", block=_LARGE_BLOCK),
    LlamaFormat(kind="Q3_K_M", block=_LARGE_BLOCK, has_importance=True),
    LlamaFormat(kind="Q4_0", block=_BLOCK),
    LlamaFormat(kind="Q4_0", block=_BLOCK, has_importance=True),
)


class LlamaFiles:
    """GGUF files of one checkpoint, each made once, in a folder that is kept."""

    def __init__(
        self, checkpoint: Checkpoint, reference: Reference, folder: Path, *, threads: int
    ) -> None:
        """Make nothing yet.

        Args:
            checkpoint: what is converted.
            reference: that measures the importance matrix.
            folder: keeps the files.
            threads: of llama.cpp.
        """
        self._checkpoint, self._reference = checkpoint, reference
        self._folder, self._threads = folder, threads

    def path(self, one: LlamaFormat) -> Path:
        """The file of a format.

        Raises:
            Absent: llama.cpp cannot be built here, or cannot quantize to it.
            CheckpointError: the checkpoint cannot be written as GGUF.
        """
        try:
            llama_runtime.runner("llama_quantize.py")  # before anything is written
        except Absent as why:
            raise Absent(f"not installed: {why}") from why
        made_of = (
            sorted(self._checkpoint.hashes().items()),
            code_digest(str(gguf_writer.__file__)),
            _importance_digest() if one.has_importance else "",
            llama_runtime.PACKAGES,
            one,
        )
        name = f"llama-{one.name.replace(' ', '-')}"
        made = folders.make_once(
            self._folder / name,
            made_of,
            lambda folder: self._make(one, folder),
            saying=f"writing {name}",
        )
        return made / "model.gguf"

    def _make(self, one: LlamaFormat, folder: Path) -> None:
        path = folder / "model.gguf"
        if one.kind is None:
            write_gguf(self._checkpoint, path)
            self._checkpoint.refuse_changed()
            return
        whole = self.path(FORMATS[0])
        job = {"model": str(whole), "quantize": {one.kind: str(path)}, "threads": self._threads}
        if one.has_importance:
            job["imatrix"] = str(self._importance())
        runner = llama_runtime.runner("llama_quantize.py")
        if llama_runtime.ask(runner, job, folder)["failed"]:
            raise Absent(f"llama.cpp cannot quantize this model to {one.kind}")

    def _importance(self) -> Path:
        """The importance matrix, which all formats share."""
        name = "importance.npz"

        def make(folder: Path) -> None:
            importance.write_importance(self._checkpoint, self._reference, folder / name)
            self._checkpoint.refuse_changed()

        made_of = (sorted(self._checkpoint.hashes().items()), _importance_digest())
        folder = self._folder / "importance"
        return folders.make_once(folder, made_of, make, saying="importance matrix") / name

    def score(self, path: Path, sequences: np.ndarray, logits: Path) -> dict[str, Any]:
        """Run sequences (N, T) int64, each from an empty cache, through llama.cpp.

        Args:
            path: the GGUF file.
            sequences: tokens.
            logits: file that takes (N * T, V) float32.

        Returns:
            The versions of llama.cpp.

        Raises:
            Absent: it failed.
        """
        job = {
            "model": str(path),
            "sequences": sequences.tolist(),
            "logits": str(logits),
            "threads": self._threads,
            "repacks": False,  # its AMX kernels crash on some virtual machines; see the page
        }
        runner = llama_runtime.runner("llama_speed.py")
        versions: dict[str, Any] = llama_runtime.ask(runner, job, path.parent)["versions"]
        return versions


def _importance_digest() -> str:
    return code_digest(str(importance.__file__))


def weights_of(path: Path, one: LlamaFormat) -> Weights:
    """The size of a file's tensors with their padding, without its metadata and tokenizer."""
    tensors = read_gguf(path).tensors
    matrices = {name: each for name, each in tensors.items() if len(each.shape) > 1}
    found = Counter(each.dtype for each in matrices.values())
    return Weights(
        weights_bytes=path.stat().st_size - min(each.offset for each in tensors.values()),
        types=", ".join(f"{name} x {count}" for name, count in sorted(found.items())),
        fallen_back=sum(each.shape[-1] % one.block > 0 for each in matrices.values()),
    )
