"""Converts one checkpoint into what each measured runtime reads."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...console.progress import say, track
from ...environments import commands, folders, python
from ...export.build import (
    export_checkpoint,
    weights_code_digest,
)
from ...export.code_digest import code_digest
from ...export.fingerprint import tool_versions
from ...export.formats.checkpoint import Checkpoint
from ...export.formats.gguf import writer as gguf_writer
from ...export.formats.gguf.writer import write_gguf
from ...export.options import (
    ExportOptions,
)
from ...runtime.errors import ParityError
from ...runtime.sizes import counted
from ...validate.figures import compare
from ...validate.reference.reference import Reference
from ...validate.reference.reference_cache import Store
from ..artifact.speed import token_ids
from .figures import GENAI, LARGE_BLOCKS, LLAMA_CPP, OURS, SMALL_CACHE

Command = tuple[str | Path, ...]
RUNNERS = Path(__file__).parent
GGUF_TYPES = ("Q4_0", "Q4_K_M", "Q8_0")
# Our recipes; int4 also with larger blocks, and with keys and values in 8 bits beside them.
RECIPES = {
    "int4": ExportOptions(quant="int4", target="ort"),
    LARGE_BLOCKS: ExportOptions(quant="int4", target="ort", block=256),
    SMALL_CACHE: ExportOptions(quant="int4", target="ort", block=256, kv="int8"),
    "int8": ExportOptions(quant="int8", target="ort"),
    "int8-dynamic": ExportOptions(quant="int8-dynamic", target="ort"),
}
NAMES = (
    *(f"{OURS} {recipe}" for recipe in RECIPES),
    *(f"{LLAMA_CPP} {kind}" for kind in GGUF_TYPES),
    f"{GENAI} int4",
)

# Built from source for this processor, unlike a wheel.
_LLAMA_CPP = ("llama-cpp-python==0.3.36", "--no-binary", "llama-cpp-python", "psutil")
# The builder needs all of these; torch is installed first, so that later steps find it.
_GENAI = (
    ("torch==2.13.0",),
    (
        *("onnxruntime-genai==0.18.0", "transformers==5.23.0", "onnx-ir==1.1.0"),
        *("sentencepiece", "psutil"),
    ),
)
_PROOF_TOKENS = 32
# The bundled demo model has 3e-5 with matrices in bfloat16, whose kernels round activations too,
# and 4e-7 in float32; with the rows of query and key in the wrong order 0.4.
_PROOF_KL = 1e-3
_BUILDER = ("-m", "onnxruntime_genai.models.builder", "-e", "cpu")
_QUIET = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A runtime, and the file or folder that it is measured on."""

    name: str
    runner: Command  # the command, without the job
    model: Path
    file_bytes: int

    def ask(self, job: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Run a job in a new process.

        Raises:
            Absent: it failed.
        """
        return _ask(self.runner, {**job, "model": str(self.model.resolve())}, folder)


class PeerWeights:
    """One checkpoint, converted once for each runtime, in a folder that is kept."""

    def __init__(self, model: Path, folder: Path, *, threads: int) -> None:
        """Read the checkpoint's headers and hashes.

        Args:
            model: checkpoint.
            folder: keeps the converted files; they are made again if the input changed.
            threads: of the conversion.
        """
        self.checkpoint = Checkpoint.open(model)
        self._folder = folder
        self._threads = threads
        self._source = sorted(self.checkpoint.hashes().items())

    def peer(self, name: str) -> Peer:
        """Prepare one of ``NAMES``.

        Raises:
            Absent: it cannot be installed or run here.
            TramontaneError: as ``export_checkpoint`` and ``write_gguf``.
        """
        runtime, _, kind = name.rpartition(" ")
        return _MAKERS[runtime](self, kind)

    def _artifact(self, recipe: str) -> Peer:
        """Our own export."""

        def make(folder: Path) -> None:
            options = RECIPES[recipe]
            export_checkpoint(self.checkpoint.path, folder / "artifact", options, resume=False)

        made = self._made(f"ours-{recipe}", (weights_code_digest(), tool_versions()), make)
        artifact = made / "artifact"
        runner = (sys.executable, "-m", "tramontane.bench.artifact.session_speed")
        return _peer(f"{OURS} {recipe}", runner, artifact, (artifact / "onnx").iterdir())

    def _gguf(self, kind: str) -> Peer:
        """A GGUF file of one of llama.cpp's types, by its own quantizer.

        Raises:
            Absent: llama.cpp cannot be built, or cannot quantize.
            ParityError: its logits differ from the reference's.
        """
        runner = (python.python_with("llama-cpp", _LLAMA_CPP), RUNNERS / "llama_speed.py")

        def make(folder: Path) -> None:
            whole = folder / "whole.gguf"
            write_gguf(self.checkpoint, whole)
            paths = {name: str(folder / f"{name}.gguf") for name in GGUF_TYPES}
            job = {"model": str(whole), "quantize": paths, "threads": self._threads}
            self._refuse_other_model(runner, whole)
            say(f"quantizing to {', '.join(paths)}")
            _ask(runner, job, folder)
            whole.unlink()

        how = (code_digest(str(gguf_writer.__file__)), _LLAMA_CPP)
        path = self._made("gguf", how, make) / f"{kind}.gguf"
        return _peer(f"{LLAMA_CPP} {kind}", runner, path, [path])

    def _refuse_other_model(self, runner: Command, whole: Path) -> None:
        """Compare llama.cpp's logits on the unquantized file with the reference's.

        Within one window only: beyond it llama.cpp computes another model, since it has no window
        for this architecture.
        """
        say(f"comparing {whole.name} in llama.cpp with the reference")
        config = self.checkpoint.config
        tokens = token_ids(config.vocab_size, min(_PROOF_TOKENS, config.sliding_window or 1 << 30))
        with tempfile.TemporaryDirectory() as kept:
            logits = Path(kept) / "logits.bin"
            job = {"model": str(whole), "score": tokens, "logits": str(logits)}
            _ask(runner, {**job, "threads": self._threads, "chunk": len(tokens)}, Path(kept))
            reference = Reference(config, self.checkpoint, store=Store(Path(kept)), track=track)
            (run,) = reference.runs([np.array(tokens)])
            theirs = np.fromfile(logits, "<f4").reshape(run.logits.shape)
            found = compare(np.asarray(run.logits), theirs, np.array(tokens))
        say(f"mean KL {found.mean_kl:.1e} on {counted(len(tokens), 'token')}")
        if found.mean_kl > _PROOF_KL:
            raise ParityError(
                f"{whole}: mean KL of llama.cpp's logits is {found.mean_kl:.1e}, expected at most "
                f"{_PROOF_KL:.0e} where nothing is quantized; the file is not the model of "
                f"{self.checkpoint.path}"
            )

    def _built(self, precision: str) -> Peer:
        """An artifact of onnxruntime-genai's own builder.

        Raises:
            Absent: it cannot be installed, or its builder failed.
        """
        builder = python.python_with("genai-builder", *_GENAI)

        def make(folder: Path) -> None:
            say("exporting with onnxruntime-genai's builder")
            source, out, cache = self.checkpoint.path, folder / "model", folder / "cache"
            paths = ("-i", source, "-o", out, "-c", cache)
            commands.run([builder, *_BUILDER, "-p", precision, *paths], env=_QUIET)
            shutil.rmtree(cache, ignore_errors=True)

        model = self._made("genai", _GENAI, make) / "model"
        runner = (builder, RUNNERS / "genai_speed.py")
        return _peer(f"{GENAI} {precision}", runner, model, model.glob("*.onnx*"))

    def _made(self, name: str, how: object, make: Callable[[Path], None]) -> Path:
        """A folder, made again unless a complete one of the same checkpoint and recipe exists.

        Raises:
            Absent: a folder that is not ours has that name; or raised by ``make``.
            CheckpointError: the checkpoint changed since its hashes were taken.
        """
        folder, made_of = self._folder / name, (self._source, how)
        with folders.locked(folder):
            if not folders.is_ready(folder, made_of):
                folders.clear(folder)
                make(folder)
                self.checkpoint.refuse_changed()
                folders.mark_ready(folder, made_of)
        return folder


_MAKERS: Mapping[str, Callable[[PeerWeights, str], Peer]] = {
    OURS: PeerWeights._artifact,
    LLAMA_CPP: PeerWeights._gguf,
    GENAI: PeerWeights._built,
}


def _peer(name: str, runner: Command, model: Path, files: Iterable[Path]) -> Peer:
    file_bytes = sum(path.stat().st_size for path in files)
    return Peer(name=name, runner=runner, model=model, file_bytes=file_bytes)


def _ask(runner: Command, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    try:
        said = commands.run([*runner, path], env=_QUIET)
    finally:
        path.unlink()
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answer
