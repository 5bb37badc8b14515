"""The ``tramontane`` command: which subcommand, with which options? (stdlib only)"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import __version__
from .errors import ParityError, TramontaneError

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_NOT_READ = 1, 2, 130, 141
CHECKPOINT = "folder as on Hugging Face or as of Mistral, or a GGUF file"

_EXAMPLES = """examples:
  tramontane export models/stdlib-5m --quant int8 --out artifacts/stdlib-5m-int8
  tramontane run artifacts/stdlib-5m-int8 --prompt "def fibonacci("
  tramontane validate artifacts/stdlib-5m-int8 --reference models/stdlib-5m
  tramontane validate other/model.onnx --reference models/stdlib-5m --explain
  tramontane inspect models/stdlib-5m
  tramontane inspect artifacts/stdlib-5m-int8
  tramontane inspect other/model.onnx
  tramontane bench artifacts/stdlib-5m-int8
  tramontane card artifacts/stdlib-5m-int8
  tramontane synthesize mistral-7b-v0.1 artifacts/mistral-8-layers --layers 8
"""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; 0 done, 1 parity failed, 2 bad input, 130 interrupted."""
    args = _parser().parse_args(argv)

    def stage() -> int:
        from . import commands

        return int(getattr(commands, args.command)(args))

    return exit_status(stage, as_json=args.json)


def exit_status(stage: Callable[[], int], *, as_json: bool = False) -> int:
    """Run a stage; its status, or that of what stopped it, which is told on standard error."""
    try:
        return stage()
    except ParityError as error:
        return _complain(error, EXIT_FAILED, as_json=as_json)
    except TramontaneError as error:
        return _complain(error, EXIT_BAD_INPUT, as_json=as_json)
    except ModuleNotFoundError as error:
        print(
            f"tramontane: {error.name} is not installed; exporting and validating need "
            "pip install 'tramontane[export]'",
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("\ntramontane: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to flush
        return EXIT_NOT_READ


def _complain(error: TramontaneError, status: int, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
    print(f"tramontane: {error}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tramontane",
        description="Mistral-family checkpoints to proven ONNX artifacts for edge devices.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    export = _command(commands, "export", "checkpoint folder to artifact folder, proved")
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    export.add_argument(
        "--out", type=Path, help="artifact folder (artifacts/CHECKPOINT-QUANT-TARGET)"
    )
    add_export_options(export)

    run = _command(commands, "run", "decode from an artifact")
    run.add_argument("artifact", type=Path, metavar="ARTIFACT", help="folder written by export")
    run.add_argument("--prompt", default="", help="text to continue")
    run.add_argument("--max-new-tokens", type=int, default=128, help="at most (%(default)s)")
    run.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    run.add_argument("--top-k", type=int, default=0, help="0 is all (%(default)s)")
    run.add_argument("--top-p", type=float, default=1.0, help="(%(default)s)")
    run.add_argument("--seed", type=int, default=0, help="of the sampling (%(default)s)")
    run.add_argument("--threads", type=int, help="(physical cores)")
    run.add_argument("--max-memory", metavar="SIZE", help="refuse what would take more, e.g. 6GiB")
    run.add_argument("--verify", action="store_true", help="compare every file's hash first")

    validate = _command(commands, "validate", "parity of an artifact with its source")
    validate.add_argument(
        "artifact", type=Path, metavar="ARTIFACT", help="folder to check, or anybody's model.onnx"
    )
    validate.add_argument(
        "--reference", type=Path, required=True, metavar="CHECKPOINT", help=CHECKPOINT
    )
    validate.add_argument(
        "--explain", action="store_true", help="name the first tensor at fault, and the cause"
    )
    validate.add_argument("--report", type=Path, metavar="DIR", help="write report.html and .json")
    validate.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    validate.add_argument("--markdown", type=Path, metavar="FILE", help="write a summary")
    _add_measuring(validate)

    inspect = _command(commands, "inspect", "what a checkpoint, an artifact or a graph is")
    inspect.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="checkpoint, artifact, anybody's model.onnx, or a known geometry's name",
    )
    inspect.add_argument("--window", type=int, help="plan for this one, not the checkpoint's own")
    _add_cache(inspect)
    inspect.add_argument(
        "--target", choices=("ort", "portable", "web"), default="ort", help="(%(default)s)"
    )
    inspect.add_argument("--block", type=int, default=128, help="(%(default)s)")

    bench = _command(
        commands, "bench", "speed and memory of an artifact, beside the machine's limits"
    )
    bench.add_argument("artifact", type=Path, metavar="ARTIFACT", help="folder written by export")
    bench.add_argument("--rounds", type=int, default=5, help="of a process each (%(default)s)")
    bench.add_argument("--threads", type=int, help="(physical cores)")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="draw both over positions, .svg")
    bench.add_argument("--out", type=Path, metavar="FILE", help="write the JSON")

    card = _command(commands, "card", "an artifact's model card, as a hub shows it")
    card.add_argument("artifact", type=Path, metavar="ARTIFACT", help="folder written by export")

    synthesize = _command(
        commands, "synthesize", "random weights in the geometry of a known model"
    )
    synthesize.add_argument(
        "geometry", metavar="GEOMETRY", help="e.g. mistral-7b-v0.1; another word lists all"
    )
    synthesize.add_argument("out", type=Path, metavar="OUT", help="checkpoint folder to write")
    synthesize.add_argument("--layers", type=int, help="only the first of them (all)")
    synthesize.add_argument(
        "--layout", choices=("huggingface", "mistral"), default="huggingface", help="(%(default)s)"
    )
    synthesize.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        default="bfloat16",
        help="(%(default)s)",
    )
    synthesize.add_argument("--seed", type=int, default=0, help="of the weights (%(default)s)")
    synthesize.add_argument(
        "--max-shard", metavar="SIZE", help="cut Hugging Face's layout into such files (5GB)"
    )
    return parser


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    examples = [line for line in _EXAMPLES.splitlines() if line.startswith(f"  tramontane {name}")]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary.capitalize() + ".",
        epilog="\n".join(["example:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(command=name)
    return parser


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add all that an export can be asked for, whichever command asks."""
    parser.add_argument(
        "--quant",
        choices=("fp32", "int8", "int4", "int8-dynamic"),
        default="int8",
        help="(%(default)s)",
    )
    parser.add_argument(
        "--block", type=int, default=128, help="weights that share a scale (%(default)s)"
    )
    parser.add_argument(
        "--target", choices=("ort", "portable", "web"), default="ort", help="kernels (%(default)s)"
    )
    parser.add_argument(
        "--window", type=int, help="keys a query sees, instead of the checkpoint's"
    )
    _add_cache(parser)
    parser.add_argument(
        "--base-model", metavar="ORG/NAME", help="the checkpoint's repository, for the model card"
    )
    parser.add_argument(
        "--max-shard", metavar="SIZE", help="cut the weights into files of at most, e.g. 2GB"
    )
    parser.add_argument(
        "--no-resume", action="store_true", help="start anew where a run was interrupted"
    )
    parser.add_argument(
        "--calibration-text",
        type=Path,
        metavar="FILE",
        help="where int8-dynamic sees how large activations get; another than --text (our own)",
    )
    _add_measuring(parser)
    parser.add_argument("--no-validate", action="store_true", help="skip the parity gate")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="graph as text after each pass")


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        choices=("windowed", "growing"),
        default="windowed",
        help="rows kept: the window's, or all, for runtimes that let the past grow (%(default)s)",
    )
    parser.add_argument(
        "--kv",
        choices=("float32", "int8"),
        default="float32",
        help="what keys and values are held in; int8 for a quarter of the memory (%(default)s)",
    )


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", type=Path, help="file to measure parity on, of the kind that the model knows"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random tokens (%(default)s)")
    parser.add_argument(
        "--tolerance", type=float, default=1.0, metavar="FACTOR", help="scale all bounds (1)"
    )
    parser.add_argument(
        "--thorough", action="store_true", help="all lengths and layers, however long it takes"
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="keep the reference's work here (user's cache)"
    )


if __name__ == "__main__":
    raise SystemExit(main())
