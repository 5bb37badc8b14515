"""The ``tramontane`` command: which subcommand, which stage? (imports inside)"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import ParityError, TramontaneError

if TYPE_CHECKING:
    from .runtime.manifest import Manifest

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
_CHECKPOINT = "folder as on Hugging Face or as of Mistral, or a GGUF file"

_EXAMPLES = """examples:
  tramontane export models/stdlib-5m --quant int8 --out artifacts/stdlib-5m-int8
  tramontane run artifacts/stdlib-5m-int8 --prompt "def fibonacci("
  tramontane validate artifacts/stdlib-5m-int8 --reference models/stdlib-5m
  tramontane inspect artifacts/stdlib-5m-int8
  tramontane synthesize mistral-7b-v0.1 artifacts/mistral-8-layers --layers 8
"""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; 0 done, 1 parity failed, 2 bad input, 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        return int(args.command(args))
    except ParityError as error:
        return _complain(args, error, EXIT_FAILED)
    except TramontaneError as error:
        return _complain(args, error, EXIT_BAD_INPUT)
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


def _complain(args: argparse.Namespace, error: TramontaneError, status: int) -> int:
    if args.json:
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

    export = _command(commands, "export", _export, "checkpoint folder to artifact folder, proved")
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=_CHECKPOINT)
    export.add_argument(
        "--quant", choices=("fp32", "int8", "int4"), default="int8", help="(%(default)s)"
    )
    export.add_argument(
        "--block", type=int, default=128, help="weights that share a scale (%(default)s)"
    )
    export.add_argument(
        "--target", choices=("ort", "portable"), default="ort", help="kernels (%(default)s)"
    )
    export.add_argument("--window", type=int, help="keys a query sees, instead of config.json's")
    export.add_argument(
        "--out", type=Path, help="artifact folder (artifacts/CHECKPOINT-QUANT-TARGET)"
    )
    export.add_argument(
        "--max-shard", metavar="SIZE", help="cut the weights into files of at most, e.g. 2GB"
    )
    export.add_argument(
        "--no-resume", action="store_true", help="start anew where a run was interrupted"
    )
    _add_text(export)
    export.add_argument("--no-validate", action="store_true", help="skip the parity gate")
    export.add_argument("--dump", type=Path, metavar="DIR", help="graph as text after each pass")

    run = _command(commands, "run", _run, "decode from an artifact")
    run.add_argument("artifact", type=Path, metavar="ARTIFACT", help="folder written by export")
    run.add_argument("--prompt", default="", help="text to continue")
    run.add_argument("--max-new-tokens", type=int, default=128, help="at most (%(default)s)")
    run.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    run.add_argument("--top-k", type=int, default=0, help="0 is all (%(default)s)")
    run.add_argument("--top-p", type=float, default=1.0, help="(%(default)s)")
    run.add_argument("--seed", type=int, default=0, help="of the sampling (%(default)s)")
    run.add_argument("--threads", type=int, help="(physical cores)")
    run.add_argument("--verify", action="store_true", help="compare every file's hash first")

    validate = _command(commands, "validate", _validate, "parity of an artifact with its source")
    validate.add_argument("artifact", type=Path, metavar="ARTIFACT", help="folder to check")
    validate.add_argument(
        "--reference", type=Path, required=True, metavar="CHECKPOINT", help=_CHECKPOINT
    )

    _add_text(validate)

    inspect = _command(commands, "inspect", _inspect, "what a checkpoint or an artifact is")
    inspect.add_argument("path", type=Path, metavar="PATH", help="checkpoint or artifact")

    synthesize = _command(
        commands, "synthesize", _synthesize, "random weights in the geometry of a known model"
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


def _command(commands: Any, name: str, function: Any, summary: str) -> argparse.ArgumentParser:
    examples = [line for line in _EXAMPLES.splitlines() if line.startswith(f"  tramontane {name}")]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary.capitalize() + ".",
        epilog="\n".join(["example:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(command=function)
    return parser


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", type=Path, help="file to measure parity on, of the kind that the model knows"
    )


def _export(args: argparse.Namespace) -> int:
    import functools

    from .export.build import Options, export_checkpoint
    from .sizes import parse_size
    from .validate.gate import gate

    name = f"{args.checkpoint.resolve().name}-{args.quant}-{args.target}"
    out = args.out or Path("artifacts") / name
    manifest = export_checkpoint(
        args.checkpoint,
        out,
        Options(
            quant=args.quant,
            target=args.target,
            block=args.block,
            window=args.window,
            max_shard_bytes=(
                parse_size(args.max_shard, flag="--max-shard") if args.max_shard else None
            ),
        ),
        resume=not args.no_resume,
        dump=args.dump,
        gate=None if args.no_validate else functools.partial(gate, text=args.text),
    )
    summary = _summary(manifest)
    if args.json:
        print(json.dumps({"artifact": str(out), **summary}))
    else:
        _print_rows(summary)
        print(f'\nwrote {out}; try\n  tramontane run {out} --prompt "def fibonacci("')
    return 0


def _run(args: argparse.Namespace) -> int:
    from .runtime import Sampler, Session

    sampler = Sampler(
        temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, seed=args.seed
    )
    session = Session.load(args.artifact, threads=args.threads, verify=args.verify)
    pieces = session.stream(args.prompt, max_new_tokens=args.max_new_tokens, sampler=sampler)
    if args.json:
        print(json.dumps({"prompt": args.prompt, "text": "".join(pieces)}))
        return 0
    first = next(pieces, "")  # a prompt that is refused is not echoed
    print(args.prompt + first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def _validate(args: argparse.Namespace) -> int:
    from .validate.gate import print_table, report, validate

    checks = validate(args.artifact, args.reference, text=args.text)
    if args.json:
        print(json.dumps(report(checks)))
    else:
        print_table(checks)
    return EXIT_FAILED if any(check.failures for check in checks) else 0


def _inspect(args: argparse.Namespace) -> int:
    from .runtime.contract import MANIFEST_FILE
    from .runtime.manifest import read_manifest, verify_files

    if (args.path / MANIFEST_FILE).is_file():
        manifest = read_manifest(args.path)
        verify_files(args.path, manifest)
        summary = {**_summary(manifest), "files": f"{len(manifest.files)}, all as promised"}
    else:
        import dataclasses

        from .export.checkpoint import Checkpoint

        summary = dataclasses.asdict(Checkpoint.open(args.path).config)
    print(json.dumps(summary)) if args.json else _print_rows(summary)
    return 0


def _synthesize(args: argparse.Namespace) -> int:
    from .export.synthesize import synthesize
    from .sizes import format_bytes, parse_size

    written = synthesize(
        args.geometry,
        args.out,
        layers=args.layers,
        layout=args.layout,
        dtype=args.dtype,
        seed=args.seed,
        max_shard_bytes=(
            parse_size(args.max_shard, flag="--max-shard") if args.max_shard else None
        ),
    )
    counts = {"parameters": written.num_parameters, "files": written.num_files}
    if args.json:
        print(json.dumps({"checkpoint": str(args.out), **counts, "bytes": written.num_bytes}))
    else:
        _print_rows({**counts, "size": format_bytes(written.num_bytes)})
        print(f"\nwrote {args.out}; try\n  tramontane export {args.out} --quant int8")
    return 0


def _summary(manifest: Manifest) -> dict[str, Any]:
    geometry, memory = manifest.geometry, manifest.memory
    bits = [entry["bits"] for entry in manifest.tensors if len(entry["shape"]) > 1]
    return {
        "recipe": f"{manifest.quant} for {manifest.target}",
        "weights": f"{memory['weights_bytes'] / 1e6:.2f} MB",
        "bits": ", ".join(f"{bits.count(b)} matrices in {b}" for b in sorted(set(bits))),
        "window": geometry.window or "none",
        "cache": f"{memory['cache_bytes_at_most'] / 1e6:.2f} MB at most, "
        + (f"{geometry.rows} rows" if geometry.rows else "grows with the tokens"),
        **{f"parity: {name}": value for name, value in (manifest.parity or {}).items()},
    }


def _print_rows(rows: dict[str, Any]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    raise SystemExit(main())
