"""The ``tramontane`` command: its subcommands and their options. (stdlib only)"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import __version__
from ..console import status
from ..console.streams import accept_any_text

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_BUG = status.EXIT_FAILED, status.EXIT_BAD_INPUT, status.EXIT_BUG
EXIT_INTERRUPTED, EXIT_NOT_READ = status.EXIT_INTERRUPTED, status.EXIT_NOT_READ
MAX_KL, MIN_AGREEMENT = 2.0, 0.2  # as in ``validate.tolerance``, which imports numpy
CHECKPOINT = "checkpoint: a folder as of Hugging Face or of Mistral, or a GGUF file"
_ARTIFACT = "artifact folder, as export writes it"

EXAMPLES = """examples:
  tramontane export models/stdlib-5m --quant int8
  tramontane run artifacts/stdlib-5m-int8-ort "def fibonacci("
  tramontane validate artifacts/stdlib-5m-int8-ort --reference models/stdlib-5m
  tramontane validate other/model.onnx --reference models/stdlib-5m --explain
  tramontane inspect models/stdlib-5m
  tramontane inspect mistral-7b-v0.1
  tramontane inspect artifacts/stdlib-5m-int8-ort
  tramontane inspect other/model.onnx
  tramontane bench artifacts/stdlib-5m-int8-ort
  tramontane card artifacts/stdlib-5m-int8-ort
  tramontane synthesize mistral-7b-v0.1 artifacts/mistral-8-layers --layers 8
"""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; its exit status is one of those that ``--help`` lists."""
    accept_any_text()
    args = parser().parse_args(argv)

    def stage() -> int:
        from . import commands

        return int(getattr(commands, args.command)(args))

    return status.status_of(stage, name=f"tramontane {args.command}", as_json=args.json)


def parser() -> argparse.ArgumentParser:
    """All subcommands and their options."""
    whole = argparse.ArgumentParser(
        prog="tramontane",
        description="Export Mistral-family checkpoints to ONNX, compared with PyTorch.",
        epilog="\n".join([EXAMPLES, "exit status:", *_statuses()]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_export, _add_run, _add_validate, _add_inspect, _add_bench, _add_card):
        add(commands)
    _add_synthesize(commands)
    return whole


def _statuses() -> list[str]:
    return [f"  {number:<4} {meaning}" for number, meaning in status.MEANINGS.items()]


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    examples = [line for line in EXAMPLES.splitlines() if line.startswith(f"  tramontane {name}")]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="\n".join(["example:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(command=name)
    return parser


def _add_export(commands: Any) -> None:
    export = _command(
        commands, "export", "write an artifact folder from a checkpoint, compared with PyTorch"
    )
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    export.add_argument(
        "--out",
        type=Path,
        help="artifact folder (default: artifacts/ and a name made of CHECKPOINT and the options)",
    )
    export.add_argument(
        "--print-out", action="store_true", help="print the artifact folder's name and stop"
    )
    add_export_options(export)


def _add_run(commands: Any) -> None:
    run = _command(commands, "run", "continue a prompt with an artifact")
    run.add_argument("artifact", type=Path, metavar="ARTIFACT", help=_ARTIFACT)
    prompts = run.add_mutually_exclusive_group()
    prompts.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="text to continue (default: standard input)"
    )
    prompts.add_argument("--prompt", dest="prompt_option", metavar="PROMPT", help="the same")
    run.add_argument(
        "--max-new-tokens",
        type=int,
        default=128,
        metavar="N",
        help="stop after so many tokens (default: %(default)s)",
    )
    run.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0: take the most likely token; larger: sample more freely (default: %(default)s)",
    )
    run.add_argument(
        "--top-k",
        type=int,
        default=0,
        metavar="K",
        help="sample from the K most likely tokens; 0: from all (default: %(default)s)",
    )
    run.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the likeliest tokens that reach this probability (default: %(default)s)",
    )
    run.add_argument("--seed", type=int, default=0, help="seed of sampling (default: %(default)s)")
    _add_threads(run)
    run.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="refuse to run in more memory than this, e.g. 6GiB (default: no limit)",
    )
    run.add_argument(
        "--verify",
        action="store_true",
        help="first compare the hash of every file with the manifest",
    )


def _add_validate(commands: Any) -> None:
    validate = _command(
        commands, "validate", "compare an artifact, or any exporter's graph, with its checkpoint"
    )
    validate.add_argument(
        "artifact", type=Path, metavar="ARTIFACT", help="folder, or any exporter's model.onnx"
    )
    validate.add_argument(
        "--reference", type=Path, required=True, metavar="CHECKPOINT", help=CHECKPOINT
    )
    validate.add_argument(
        "--explain", action="store_true", help="name the first bad tensor and the likely cause"
    )
    validate.add_argument(
        "--window",
        type=int,
        help="window in tokens of another exporter's graph (default: the checkpoint's)",
    )
    validate.add_argument(
        "--report", type=Path, metavar="DIR", help="write report.html and report.json there"
    )
    validate.add_argument("--junit", type=Path, metavar="FILE", help="write a report in JUnit XML")
    validate.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write a summary in Markdown"
    )
    _add_measuring(validate)


def _add_inspect(commands: Any) -> None:
    inspect = _command(
        commands,
        "inspect",
        "describe an artifact or a graph, or plan an export and check what would stop it",
    )
    inspect.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="checkpoint, artifact, any exporter's model.onnx, or a known model's name",
    )
    _add_recipe(inspect)
    inspect.add_argument(
        "--no-validate", action="store_true", help="plan an export without its parity check"
    )


def _add_bench(commands: Any) -> None:
    bench = _command(
        commands, "bench", "measure an artifact's speed and memory, and the machine's limits"
    )
    bench.add_argument("artifact", type=Path, metavar="ARTIFACT", help=_ARTIFACT)
    bench.add_argument(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="repetitions, each in a new process (default: %(default)s)",
    )
    _add_threads(bench)
    bench.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot speed and memory by position, in SVG"
    )
    bench.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")


def _add_card(commands: Any) -> None:
    card = _command(commands, "card", "print an artifact's model card")
    card.add_argument("artifact", type=Path, metavar="ARTIFACT", help=_ARTIFACT)


def _add_synthesize(commands: Any) -> None:
    synthesize = _command(
        commands, "synthesize", "write a checkpoint of random weights, as large as a known model"
    )
    synthesize.add_argument(
        "--list", action=_ListGeometries, nargs=0, help="print the known models and stop"
    )
    synthesize.add_argument(
        "geometry", metavar="MODEL", help="a known model, e.g. mistral-7b-v0.1; --list lists them"
    )
    synthesize.add_argument("out", type=Path, metavar="OUT", help="checkpoint folder to write")
    synthesize.add_argument(
        "--layers", type=int, metavar="N", help="write only the first N layers (default: all)"
    )
    synthesize.add_argument(
        "--layout",
        choices=("huggingface", "mistral"),
        default="huggingface",
        help="names of files and tensors (default: %(default)s)",
    )
    synthesize.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        default="bfloat16",
        help="type of the weights (default: %(default)s)",
    )
    synthesize.add_argument(
        "--seed", type=int, default=0, help="seed of the weights (default: %(default)s)"
    )
    synthesize.add_argument(
        "--max-shard",
        metavar="SIZE",
        help="cut the weights into files of at most this size (default: 5GB)",
    )


class _ListGeometries(argparse.Action):
    """Print the names of the known models and exit."""

    def __call__(self, *_: Any) -> None:
        from ..export.known_models import GEOMETRIES

        print("\n".join(GEOMETRIES))
        raise SystemExit(0)


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of an export, whichever command offers it."""
    _add_recipe(parser)
    parser.add_argument(
        "--base-model",
        metavar="ORG/NAME",
        help="the checkpoint's name on the Hub, for the model card",
    )
    parser.add_argument(
        "--max-shard",
        metavar="SIZE",
        help="cut the weights into files of at most this size, e.g. 2GB (default: one file; "
        "1GB for --target web)",
    )
    parser.add_argument(
        "--no-resume",
        action="store_true",
        help="start anew, although an interrupted export could be resumed",
    )
    parser.add_argument(
        "--no-replace",
        action="store_true",
        help="fail if the artifact folder exists, instead of replacing it",
    )
    parser.add_argument(
        "--calibration-text",
        type=Path,
        metavar="FILE",
        help="text that sets the scales of int8-dynamic and --kv int8; must differ from --text "
        "(default: our own)",
    )
    _add_measuring(parser)
    parser.add_argument("--no-validate", action="store_true", help="skip the parity check")
    parser.add_argument(
        "--dump", type=Path, metavar="DIR", help="write the graph there as text after each pass"
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quant",
        choices=("fp32", "int8", "int4", "int8-dynamic"),
        default="int8",
        help="weight format (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        choices=("ort", "portable", "web"),
        default="ort",
        help="kernels: onnxruntime's, any ONNX runtime's, or those of browsers' WASM "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--block",
        type=int,
        default=128,
        metavar="N",
        help="weights that share a scale: 16, 32, 64, 128 or 256 (default: %(default)s)",
    )
    parser.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="window length in tokens, overrides the checkpoint's, changes the model",
    )
    parser.add_argument(
        "--cache",
        choices=("windowed", "growing"),
        default="windowed",
        help="KV cache of a fixed size, or one that grows with the text, for runtimes that need a "
        "cache growing from length 0 (default: %(default)s)",
    )
    parser.add_argument(
        "--kv",
        choices=("float32", "int8"),
        default="float32",
        help="type of keys and values in the cache; int8 takes a quarter of the memory "
        "(default: %(default)s)",
    )


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="text to measure parity on, of the kind that the model was trained on "
        "(default: our own, half code, half story)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the random tokens and of the text's start (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="factor on the recipe's bounds (default: 1)",
    )
    parser.add_argument(
        "--max-kl",
        type=float,
        default=MAX_KL,
        metavar="NATS",
        help="largest mean KL divergence from the float32 model on the text "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=MIN_AGREEMENT,
        metavar="SHARE",
        help="least top-1 agreement with the float32 model on the text, 0 to 1 "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="measure all lengths and layers, however long it takes",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="folder that keeps the reference's results (default: the user's cache)",
    )


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads to compute with (default: as many as physical cores)",
    )


if __name__ == "__main__":
    raise SystemExit(main())
