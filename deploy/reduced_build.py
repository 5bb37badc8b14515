"""Lists the operators that an artifact needs, and converts it to ORT format (onnxruntime's).

A phone's onnxruntime can be built with only these operators, and to read only that format.
onnxruntime's tool makes both from a copy; the result is compared with the artifact.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..console.one_line_parser import OneLineParser
from ..console.option_numbers import whole
from ..console.progress import say
from ..console.status import status_of
from ..runtime import contract
from ..runtime.errors import ContractError
from ..runtime.manifest import Manifest, read_manifest
from ..runtime.ort.ort_session import ort, physical_cores

MOST_BYTES = (1 << 31) - 1  # a flatbuffer's offsets are 32 bits, signed
NUM_TOKENS = 160
_MOST_TOKENS = 10_000_000
_PROMPT_TOKENS = 16
_TOOL = "onnxruntime.tools.convert_onnx_models_to_ort"
_REPLAY = "session.enable_saved_runtime_optimizations"
# Style, as the tool calls it; what it appends to a file's name; whether loading has work left.
_STYLES = (("Fixed", "", False), ("Runtime", ".with_runtime_opt", True))
_STATE = ort.capi.onnxruntime_pybind11_state
_LOAD_ERRORS = (_STATE.Fail, _STATE.InvalidArgument, _STATE.InvalidGraph, _STATE.NotImplemented)
# The same sums in another order: fusions differ by style.
_ROUNDING = 2e-4  # of a logit of the bundled model, by the same sums in another order

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Greedy tokens of a graph, and the logits that each was chosen from."""

    tokens: list[int]
    logits: Floats  # (T, V)
    keeps_last: bool  # whether num_logits_to_keep still works


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedGraph:
    """One converted graph, compared with the artifact's own."""

    style: str
    file: Path
    tokens: int
    agreeing: int = 0  # greedy tokens before the first that differs
    max_difference: float | None = None  # between logits, up to the first token that differs
    keeps_last: bool = False
    failure: str | None = None  # why onnxruntime does not load the converted graph

    @property
    def is_equal(self) -> bool:
        """Whether tokens, logits (up to rounding) and the option equal the artifact's."""
        return (
            self.agreeing == self.tokens
            and self.max_difference is not None
            and self.max_difference <= _ROUNDING
            and self.keeps_last
        )


def main(argv: list[str] | None = None) -> int:
    """Convert, decode with both, print a table, or one line of JSON; return 1 if they differ."""
    parser = OneLineParser(prog="python -m tramontane.deploy.reduced_build", description=__doc__)
    parser.add_argument("artifact", type=Path, help="folder written by export")
    parser.add_argument("out", type=Path, help="folder to write the graphs and lists to")
    parser.add_argument(
        "--tokens",
        type=whole(least=1, most=_MOST_TOKENS),
        default=NUM_TOKENS,
        help="to decode greedily (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    args = parser.parse_args(argv)
    manifest = read_manifest(args.artifact)
    convert(args.artifact, args.out, manifest)
    operators = {style: read_operators(args.out, suffix) for style, suffix, _ in _STYLES}
    say("decoding with the artifact's own graph")
    own = decode(args.artifact / contract.MODEL_FILE, manifest, tokens=args.tokens)
    rows = []
    for style, suffix, replays in _STYLES:
        file = converted(args.out, suffix)
        say(f"decoding with {file.name}")
        try:
            other = decode(file, manifest, tokens=args.tokens, replays=replays)
        except _LOAD_ERRORS as error:
            rows.append(
                ConvertedGraph(style=style, file=file, tokens=args.tokens, failure=str(error))
            )
        else:
            rows.append(compare(own, other, style, file))
    line = json.dumps(as_json(rows, operators, manifest))
    print(line if args.json else as_table(rows, operators))
    return 0 if all(row.is_equal for row in rows) else 1


def convert(artifact: Path, out: Path, manifest: Manifest) -> None:
    """Run onnxruntime's tool, which writes its format and lists of operators.

    Raises:
        ContractError: the graph is too large for the format, ``out`` is in the artifact, or the
            tool failed.
    """
    files = _files(manifest)
    if contract.MODEL_FILE not in files:
        raise ContractError(
            f"{artifact}: its manifest names no {contract.MODEL_FILE}; export again"
        )
    total = sum(int(manifest.files[name]["bytes"]) for name in files)
    if total > MOST_BYTES:
        raise ContractError(
            f"{artifact}: graph and weights take {total} bytes, ORT format holds at "
            f"most {MOST_BYTES} in its one file; ship the artifact as it is, weights beside it"
        )
    if importlib.util.find_spec("flatbuffers") is None:
        raise ContractError(
            "flatbuffers: not installed, onnxruntime's tool reads its format with it; install it"
        )
    if out.resolve().is_relative_to(artifact.resolve()):
        raise ContractError(f"{out}: lies in the artifact, which is left as it is; name another")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContractError(f"{out}: cannot be made ({error}); name another folder") from error
    with tempfile.TemporaryDirectory() as folder:  # the tool writes beside the graph
        for name in files:
            shutil.copyfile(artifact / name, Path(folder) / Path(name).name)
        say("converting")
        styles = [style for style, _, _ in _STYLES]
        words = [sys.executable, "-m", _TOOL, folder, "--output_dir", str(out)]
        done = subprocess.run(
            [*words, "--optimization_style", *styles],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ContractError(f"{_TOOL}: exit status {done.returncode}; {' '.join(said)}")


def read_operators(out: Path, suffix: str) -> set[str]:
    """Operators that the tool lists, as ``domain;opset;name``."""
    lines = (out / f"required_operators{suffix}.config").read_text(encoding="utf-8").splitlines()
    rows = [line.split(";") for line in lines if line and not line.startswith("#")]
    return {f"{domain};{opset};{name}" for domain, opset, ops in rows for name in ops.split(",")}


def converted(out: Path, suffix: str = "") -> Path:
    """Where the tool wrote the graph."""
    return out / f"{Path(contract.MODEL_FILE).stem}{suffix}.ort"


def decode(
    path: Path, manifest: Manifest, *, tokens: int = NUM_TOKENS, replays: bool = False
) -> Decoded:
    """Decode greedily from a fixed prompt, with nothing but onnxruntime and numpy.

    Args:
        path: a graph in either format.
        manifest: of the artifact that it was converted from.
        tokens: new ones.
        replays: apply the optimizations that are saved in the file.

    Raises:
        ContractError: fewer than one token, or more than the artifact has positions.
    """
    geometry = manifest.geometry
    if not 1 <= tokens <= geometry.max_positions - _PROMPT_TOKENS:
        raise ContractError(
            f"--tokens {tokens}; expected 1 to {geometry.max_positions - _PROMPT_TOKENS}, since "
            f"the artifact has {geometry.max_positions} positions"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = physical_cores()
    options.add_session_config_entry(_REPLAY, "1" if replays else "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    overridable = {one.name for one in session.get_overridable_initializers()}
    keep = {contract.NUM_LOGITS_TO_KEEP: np.array(1, np.int64)}
    feeds: dict[str, Any] = keep if contract.NUM_LOGITS_TO_KEEP in overridable else {}
    pairs = contract.cache_pairs(geometry)
    for name, shape in contract.empty_cache_shapes(geometry):
        feeds[name] = np.zeros(shape, np.float32)
    ids = np.arange(3, 3 + _PROMPT_TOKENS, dtype=np.int64)[None] % geometry.vocab_size
    chosen: list[int] = []
    logits = []
    keeps_last, total = bool(overridable), 0
    for _ in range(tokens):
        total += ids.shape[1]
        feeds |= {contract.INPUT_IDS: ids, contract.ATTENTION_MASK: np.ones((1, total), np.int64)}
        rows, *cache = session.run([contract.LOGITS, *(present for _, present in pairs)], feeds)
        keeps_last &= rows.shape[1] == 1
        logits.append(rows[0, -1])
        chosen.append(int(logits[-1].argmax()))
        ids = np.array([[chosen[-1]]], np.int64)
        feeds |= dict(zip((past for past, _ in pairs), cache, strict=True))
    return Decoded(tokens=chosen, logits=np.stack(logits), keeps_last=keeps_last)


def compare(own: Decoded, other: Decoded, style: str, file: Path) -> ConvertedGraph:
    """Compare a converted graph's tokens and logits with the artifact's own."""
    same = [one == two for one, two in zip(own.tokens, other.tokens, strict=True)]
    agreeing = same.index(False) if False in same else len(same)
    compared = slice(0, agreeing + 1)  # those of the first other token were of equal tokens too
    difference = np.abs(own.logits[compared] - other.logits[compared])
    return ConvertedGraph(
        style=style,
        file=file,
        agreeing=agreeing,
        tokens=len(same),
        max_difference=float(difference.max()),
        keeps_last=other.keeps_last,
    )


def as_table(rows: Sequence[ConvertedGraph], operators: dict[str, set[str]]) -> str:
    """Operators by domain and opset, then one line for each graph."""
    lines = ["| domain | opset | operators |", "| --- | ---: | --- |"]
    grouped: dict[tuple[str, int], list[str]] = {}
    for line in sorted(set().union(*operators.values())):
        domain, opset, name = line.split(";")
        only = [style for style, listed in operators.items() if line in listed]
        shown = name if len(only) == len(operators) else f"{name} ({only[0]} alone)"
        grouped.setdefault((domain, int(opset)), []).append(shown)
    lines += [f"| {d} | {o} | {', '.join(names)} |" for (d, o), names in sorted(grouped.items())]
    lines += [
        "",
        "| style | file | bytes | greedy tokens | max \\|Δlogit\\| | num_logits_to_keep |",
    ]
    lines += ["| --- | --- | ---: | ---: | ---: | --- |"]
    for row in rows:
        kept = "can be given" if row.keeps_last else "**lost**"
        largest = "" if row.max_difference is None else f"{row.max_difference:.1e}"
        cells = [f"{row.agreeing} of {row.tokens}", largest, kept]
        if row.failure is not None:
            cells = ["**does not load**", "", ""]
        cells = [row.style, row.file.name, str(row.file.stat().st_size), *cells]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"{row.file.name}: {row.failure}" for row in rows if row.failure is not None)]
    return "\n".join(lines).rstrip() + "\n"


def as_json(
    rows: Sequence[ConvertedGraph], operators: dict[str, set[str]], manifest: Manifest
) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "quant": manifest.quant,
        "target": manifest.target,
        "onnxruntime": ort.__version__,
        "operators": {style: sorted(listed) for style, listed in operators.items()},
        "graphs": [
            {
                "style": row.style,
                "file": row.file.name,
                "bytes": row.file.stat().st_size,
                "agreeing": row.agreeing,
                "tokens": row.tokens,
                "max_difference": row.max_difference,
                "num_logits_to_keep": row.keeps_last,
                "failure": row.failure,
                "equal": row.is_equal,
            }
            for row in rows
        ],
    }


def _files(manifest: Manifest) -> list[str]:
    """The graph and its weights, as the manifest names them."""
    graph = Path(contract.MODEL_FILE)
    return [
        name
        for name in manifest.files
        if Path(name).parent == graph.parent and Path(name).name.startswith(graph.name)
    ]


if __name__ == "__main__":
    sys.exit(status_of(main))
