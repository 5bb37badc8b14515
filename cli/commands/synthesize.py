"""``tramontane synthesize``: write a checkpoint of random weights. (stdlib only)"""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ...console import hints
from ...console.rows import print_rows
from ...runtime.sizes import format_bytes
from ..flags import size_of
from ..subcommand import add_subcommand

EXAMPLES = ("tramontane synthesize mistral-7b-v0.1 artifacts/mistral-8-layers --layers 8",)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "synthesize",
        "write a checkpoint of random weights, as large as a known model",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument(
        "--list", action=_ListGeometries, nargs=0, help="print the known models and stop"
    )
    parser.add_argument(
        "geometry", metavar="MODEL", help="a known model, e.g. mistral-7b-v0.1; --list lists them"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="checkpoint folder to write")
    parser.add_argument(
        "--layers", type=int, metavar="N", help="write only the first N layers (default: all)"
    )
    parser.add_argument(
        "--layout",
        choices=("huggingface", "mistral"),
        default="huggingface",
        help="names of files and tensors (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        default="bfloat16",
        help="type of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the weights (default: %(default)s)"
    )
    parser.add_argument(
        "--max-shard",
        metavar="SIZE",
        help="cut the weights into files of at most this size (default: 5GB)",
    )


class _ListGeometries(argparse.Action):
    """Print the names of the known models and exit."""

    def __call__(self, *_: Any) -> None:
        from ...export.known_models import GEOMETRIES

        print("\n".join(GEOMETRIES))
        raise SystemExit(0)


def main(args: Namespace) -> int:
    """Write a checkpoint of random weights."""
    from ...export.synthesize.synthesize import synthesize

    written = synthesize(
        args.geometry,
        args.out,
        layers=args.layers,
        layout=args.layout,
        dtype=args.dtype,
        seed=args.seed,
        max_shard_bytes=size_of(args.max_shard, flag="--max-shard"),
    )
    counts = {"parameters": written.num_parameters, "files": written.num_files}
    if args.json:
        print(json.dumps({"checkpoint": str(args.out), **counts, "bytes": written.num_bytes}))
    else:
        print_rows({**counts, "size": format_bytes(written.num_bytes)})
        print(
            f"\nwrote {args.out}; try\n  {hints.suggest('export', MODEL=args.out, QUANT='int8')}"
        )
    return 0
