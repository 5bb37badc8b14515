"""Converts one checkpoint into what each measured runtime reads."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...console.progress import say
from ...environments import commands, folders, python
from ...environments.errors import Absent
from ...export import write_gguf as gguf_writer
from ...export.build import (
    export_checkpoint,
    weights_code_digest,
)
from ...export.code_digest import code_digest
from ...export.fingerprint import tool_versions
from ...export.formats.checkpoint import Checkpoint
from ...export.options import (
    ExportOptions,
    decisive,
)
from ...export.write_gguf import write_gguf
from ...runtime.errors import ParityError
from ...runtime.ort.native_library import find_library
from ...runtime.sizes import counted
from . import llama_runtime
from .figures import (
    GENAI,
    LARGE_BLOCKS,
    LLAMA_CPP,
    NATIVE,
    NATIVE_HALF,
    NATIVE_SMALL_CACHE,
    OURS,
    SMALL_CACHE,
)
from .llama_runtime import QUIET, Command

RUNNERS = Path(__file__).parent
GGUF_TYPES = ("Q4_0", "Q4_K_M", "Q8_0")
# int4 and int4-rtn differ in the values of the codes alone: the quicker one stands for both.
_INT4 = ExportOptions(quant="int4-rtn", target="ort")
# Our recipes; int4 also with larger blocks, with keys and values in 8 bits beside them, and with
# our own attention kernel.
RECIPES = {
    "int4": _INT4,
    LARGE_BLOCKS: replace(_INT4, block=256),
    SMALL_CACHE: replace(_INT4, block=256, kv="int8"),
    NATIVE: replace(_INT4, native=True),
    NATIVE_HALF: replace(_INT4, kv="float16", native=True),
    NATIVE_SMALL_CACHE: replace(_INT4, block=256, kv="int8", native=True),
    "int8": ExportOptions(quant="int8", target="ort"),
    "int8-dynamic": ExportOptions(quant="int8-dynamic", target="ort"),
}
NAMES = (
    *(f"{OURS} {recipe}" for recipe in RECIPES),
    *(f"{LLAMA_CPP} {kind}" for kind in GGUF_TYPES),
    f"{GENAI} int4",
)

# The builder needs all of these; torch is installed first, so that later steps find it.
_GENAI = (
    ("torch==2.13.0",),
    (
        *("onnxruntime-genai==0.18.0", "transformers==5.23.0", "onnx-ir==1.1.0"),
        *("sentencepiece", "psutil"),
    ),
)
# The bundled demo model has 3e-5 with matrices in bfloat16, whose kernels round activations too,
# and 4e-7 in float32; with the rows of query and key in the wrong order 0.4.
PROOF_KL = 1e-3
_BUILDER = ("-m", "onnxruntime_genai.models.builder", "-e", "cpu")


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
        return llama_runtime.ask(self.runner, {**job, "model": str(self.model.resolve())}, folder)


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
        """Our own export.

        Raises:
            Absent: it needs the native library, which is not installed.
        """
        options = RECIPES[recipe]
        if options.native and find_library() is None:
            raise Absent("the native library is not installed; make native builds it")

        def make(folder: Path) -> None:
            export_checkpoint(self.checkpoint.path, folder / "artifact", options, resume=False)

        made_of = (decisive(options), weights_code_digest(), tool_versions())
        made = self._made(f"ours-{recipe}", made_of, make)
        artifact = made / "artifact"
        runner = (sys.executable, "-m", "tramontane.bench.artifact.session_speed")
        return _peer(f"{OURS} {recipe}", runner, artifact, (artifact / "onnx").iterdir())

    def _gguf(self, kind: str) -> Peer:
        """A GGUF file of one of llama.cpp's types, by its own quantizer.

        Raises:
            Absent: llama.cpp cannot be built, or cannot quantize.
            ParityError: its logits differ from the reference's.
        """
        runner = llama_runtime.runner("llama_speed.py")

        def make(folder: Path) -> None:
            whole = folder / "whole.gguf"
            write_gguf(self.checkpoint, whole)
            paths = {name: str(folder / f"{name}.gguf") for name in GGUF_TYPES}
            job = {"model": str(whole), "quantize": paths, "threads": self._threads}
            self._refuse_other_model(whole)
            say(f"quantizing to {', '.join(paths)}")
            answer = llama_runtime.ask(llama_runtime.runner("llama_quantize.py"), job, folder)
            if answer["failed"]:
                raise Absent(f"llama.cpp could not quantize to {', '.join(answer['failed'])}")
            whole.unlink()

        how = (code_digest(str(gguf_writer.__file__)), llama_runtime.PACKAGES)
        path = self._made("gguf", how, make) / f"{kind}.gguf"
        return _peer(f"{LLAMA_CPP} {kind}", runner, path, [path])

    def _refuse_other_model(self, whole: Path) -> None:
        """Compare llama.cpp's logits on the unquantized file with the reference's."""
        say(f"comparing {whole.name} in llama.cpp with the reference")
        tokens = llama_runtime.proof_tokens(self.checkpoint)
        found = llama_runtime.compare_logits(self.checkpoint, whole, tokens, threads=self._threads)
        say(f"mean KL {found.mean_kl:.1e} on {counted(len(tokens), 'token')}")
        if found.mean_kl > PROOF_KL:
            raise ParityError(
                f"{whole}: mean KL of llama.cpp's logits is {found.mean_kl:.1e}, expected at most "
                f"{PROOF_KL:.0e} where nothing is quantized; the file is not the model of "
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
            commands.run(
                [builder, *_BUILDER, "-p", precision, *paths],
                env=QUIET,
                limit_s=commands.LONG_LIMIT_S,
            )
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
