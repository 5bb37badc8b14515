"""Prove that GGUF files are read as llama.cpp reads them: ``python -m ...bench.peers.gguf_types``.

llama.cpp quantizes a checkpoint to every kind of file that its tool makes, and to every type of
tensor that no such file has. Each is compared twice: the weights with those that llama.cpp
dequantizes, bit by bit; and the logits of llama.cpp with our reference's on the same file.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...console.one_line_parser import OneLineParser
from ...console.progress import say
from ...console.status import EXIT_FAILED, status_of
from ...environments.errors import Absent
from ...export.formats.checkpoint import Checkpoint
from ...export.formats.gguf.file import GgufFile, read_gguf, readable_types
from ...export.formats.weight_files.stored_tensor import StoredTensor
from ...export.write_gguf import write_gguf
from ...runtime.errors import CheckpointError, ContractError
from ...runtime.ort.ort_session import physical_cores
from .. import option_types
from . import llama_runtime

# Mean KL, in nats, of the reference from llama.cpp. On the weights that it dequantized itself, it
# computes in float32: at most 1e-5, and 0.4 with the rows of query and key in the wrong order.
KL_BOUND = 1e-4
# On the quantized file it rounds activations to 8 bits too: 2e-3 of the bundled demo model, and
# 2e-2 of stories15M.
ROUNDED_KL_BOUND = 5e-2
# Kinds whose blocks of 256 become others in a model of another width.
_FALLING_BACK = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ3_M", "IQ4_XS")
_ROWS = 1 << 12  # read at once
_WAYS = ("quantize", "all", "save")  # of making a file, as the runner's jobs name them
_SAVED = "saved by llama.cpp"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRead:
    """How one kind of file was read."""

    kind: str
    types: str  # of its matrices, most frequent first
    differing: int | None = None  # weights that are not llama.cpp's; None: not read
    mean_kl: float = 0.0  # on the weights that llama.cpp dequantized
    rounded_mean_kl: float = 0.0  # on the file
    same_top: float = 0.0  # likewise
    why: str = ""  # it was refused

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.differing is None:
            return "refused"
        is_near = self.mean_kl <= KL_BOUND and self.rounded_mean_kl <= ROUNDED_KL_BOUND
        return "same" if is_near and not self.differing else "**differs**"


def main(argv: list[str] | None = None) -> int:
    """Quantize, compare, print and write the table; 1 if a weight or a KL is out of bounds."""
    parser = OneLineParser(prog="python -m tramontane.bench.peers.gguf_types", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint")
    parser.add_argument(
        "--narrow", type=Path, help="checkpoint whose hidden size is no multiple of 256"
    )
    parser.add_argument("--only", nargs="+", metavar="KIND", help="kinds, such as Q4_K_M")
    parser.add_argument(
        "--threads", type=option_types.THREADS, default=physical_cores(), help="(%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as Markdown")
    args = parser.parse_args(argv)
    asked = {args.model: args.only}
    if args.narrow is not None:
        asked[args.narrow] = args.only or _FALLING_BACK
    tables, version = {}, ""
    try:
        for model, kinds in asked.items():
            with tempfile.TemporaryDirectory() as folder:
                version, rows = examine(model, Path(folder), threads=args.threads, only=kinds)
            tables[model.resolve().name] = rows
    except Absent as why:
        raise ContractError(f"llama.cpp: cannot be built or run here ({why})") from why
    text = as_markdown(tables, version=version)
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    found = [row.verdict for rows in tables.values() for row in rows]
    return EXIT_FAILED if "**differs**" in found else 0


def examine(
    model: Path, folder: Path, *, threads: int, only: Sequence[str] | None = None
) -> tuple[str, list[FileRead]]:
    """Quantize a checkpoint to every kind, or to some, and compare each file.

    Returns:
        The version of llama.cpp's Python package, and what was found of each file.

    Raises:
        Absent: llama.cpp cannot be built, or fails.
        ContractError: it makes no such kind.
    """
    whole = folder / "whole.gguf"
    write_gguf(Checkpoint.open(model), whole)
    listed = _quantize({"list": True}, folder)
    columns = {name: t.shape[-1] for name, t in _matrices(read_gguf(whole)).items()}
    job = {"model": str(whole), "importance": columns, "threads": threads}
    types = [each for each in readable_types() if each in listed["types"]]
    if unknown := set(only or ()) - {*listed["kinds"], *types}:
        raise ContractError(
            f"--only {sorted(unknown)[0]}: expected kinds of {', '.join(listed['kinds'])}"
        )
    rows: list[FileRead] = []
    kinds = [kind for kind in listed["kinds"] if only is None or kind in only]
    for kind in kinds:
        rows += _examined({**job, "quantize": {kind: ""}}, kind, folder, threads=threads)
    seen = {name for row in rows for name in row.types.split(", ")}
    others = [each for each in types if each not in (seen if only is None else kinds)]
    for name in (each for each in others if only is None or each in only):
        rows += _examined({**job, "all": {name: ""}}, name, folder, threads=threads)
    if only is None:
        rows += _examined({**job, "save": {_SAVED: ""}}, _SAVED, folder, threads=threads)
    return str(listed["version"]), rows


def _examined(job: dict[str, Any], kind: str, folder: Path, *, threads: int) -> Iterator[FileRead]:
    """Make one kind of file, and compare it; nothing where llama.cpp does not make it."""
    say(f"{kind}: llama.cpp quantizes the model; then weights and logits are compared")
    how = next(way for way in _WAYS if way in job)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / f"{kind}.gguf"
        if _quantize({**job, how: {kind: str(path)}}, folder)["failed"]:
            say(f"{kind}: skipped, llama.cpp cannot write this type for this model")
            return
        yield _compared(kind, path, threads=threads)


def _compared(kind: str, path: Path, *, threads: int) -> FileRead:
    try:
        checkpoint = Checkpoint.open(path)
    except CheckpointError as error:
        if not _has_other_types(path):
            raise
        return FileRead(kind=kind, types="", why=str(error).removeprefix(f"{path}: "))
    with checkpoint:
        found = Counter(t.dtype for t in _matrices(read_gguf(path)).values())
        dequantized = path.with_name("dequantized.gguf")
        job = {"dequantize": {str(path): str(dequantized)}, "threads": threads}
        if _quantize(job, path.parent)["failed"]:
            raise Absent(f"it cannot dequantize {kind}")
        tokens = llama_runtime.proof_tokens(checkpoint)
        exact, rounded = (
            llama_runtime.compare_logits(checkpoint, each, tokens, threads=threads)
            for each in (dequantized, path)
        )
        return FileRead(
            kind=kind,
            types=", ".join(name for name, _ in found.most_common()),
            differing=count_differing(read_gguf(path), read_gguf(dequantized)),
            mean_kl=exact.mean_kl,
            rounded_mean_kl=rounded.mean_kl,
            same_top=rounded.same_top,
        )


def _has_other_types(path: Path) -> bool:
    """Whether the gguf package lacks a type of the file's tensors: to name it, or its numbers."""
    try:
        tensors = read_gguf(path).tensors.values()
    except CheckpointError:
        return True
    return any(tensor.dtype not in readable_types() for tensor in tensors)


def count_differing(ours: GgufFile, theirs: GgufFile) -> int:
    """How many weights are not the same to the bit; both files hold the same tensors."""
    return sum(
        int((a.view(np.uint32) != b.view(np.uint32)).sum())
        for name, tensor in ours.tensors.items()
        for a, b in zip(tensor.slices(_ROWS), theirs.tensors[name].slices(_ROWS), strict=True)
    )


def _quantize(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    return llama_runtime.ask(llama_runtime.runner("llama_quantize.py"), job, folder)


def _matrices(file: GgufFile) -> dict[str, StoredTensor]:
    return {name: tensor for name, tensor in file.tensors.items() if len(tensor.shape) > 1}


def as_markdown(tables: Mapping[str, Sequence[FileRead]], *, version: str) -> str:
    """The page: what was compared, and for each model a table with a row a kind of file."""
    lines = [
        "# GGUF files",
        "",
        f"Printed by `make gguf`, with the llama.cpp of llama-cpp-python {version}. llama.cpp",
        "quantized a model to each kind of file that its tool makes, and to each type of tensor",
        "that no such file has, and saved it with all keys that it knows.",
        "",
        "- *Weights that differ*: weights whose bits are not those that llama.cpp dequantizes.",
        "- *KL, float*: mean KL divergence between llama.cpp's logits and those of our PyTorch",
        "  model, in nats. llama.cpp runs in float32, on the weights that it dequantized. The",
        f"  bound is {KL_BOUND:g}.",
        "- *KL, quantized* and *top-1 agreement*: the same comparison with llama.cpp on the file",
        f"  itself, where it rounds activations to 8 bits too. The bound is {ROUNDED_KL_BOUND:g}.",
        "- *Result*: `same` if no weight differs and both KL are within their bounds; `refused`",
        "  if the `gguf` package cannot dequantize a type of the file: the export then stops with",
        "  the error in the second column.",
        "",
        "Then `make gguf` runs the tests that compare the logits of llama.cpp with those of",
        "transformers, on tiny models of the other architectures: `mistral3` (Ministral 3,",
        "Devstral 2, Mistral Small 3) past the original length of its rope, `qwen2`, `qwen3` and",
        "`smollm3`. Other tests in the same files compare what tramontane reads with what",
        "transformers has.",
    ]
    columns = (
        *("file type", "tensor types", "weights that differ", "KL, float", "KL, quantized"),
        *("top-1 agreement", "result"),
    )
    for model, rows in tables.items():
        lines += [
            "",
            f"## {model}",
            "",
            f"| {' | '.join(columns)} |",
            "| --- | --- | ---: | ---: | ---: | ---: | --- |",
            *(f"| {' | '.join(_cells(row))} |" for row in rows),
        ]
    return "\n".join(lines) + "\n"


def _cells(row: FileRead) -> list[str]:
    if row.why:
        return [row.kind, row.why.partition(", expected")[0], "", "", "", "", row.verdict]
    figures = [f"{row.mean_kl:.1e}", f"{row.rounded_mean_kl:.1e}", f"{row.same_top:.0%}"]
    return [row.kind, row.types, str(row.differing), *figures, row.verdict]


if __name__ == "__main__":
    sys.exit(status_of(main))
