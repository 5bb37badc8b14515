"""``tramontane export``: write an artifact folder from a checkpoint. (stdlib only)"""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...console import hints
from ...console.rows import print_rows
from ...export.budget.asked import Asked
from ..artifact_name import ARTIFACTS, artifact_name
from ..artifact_summary import summarize
from ..check_arguments import (
    refuse_parity_check_beyond_memory,
    refuse_same_text,
    refuse_short_text,
)
from ..export_gate import ExportGate
from ..flags import (
    CHECKPOINT_HELP,
    add_adapter,
    add_calibration_text,
    add_choices,
    add_measuring,
    add_scheduler,
    choices_of,
    size_of,
)
from ..subcommand import add_subcommand

if TYPE_CHECKING:
    from ...export.options import ExportOptions


EXAMPLES = ("tramontane export models/stdlib-5m --quant int8",)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "export",
        "write an artifact folder from a checkpoint, compared with PyTorch",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    parser.add_argument(
        "--out",
        type=Path,
        help="artifact folder (default: artifacts/ and a name made of CHECKPOINT and the options)",
    )
    parser.add_argument(
        "--print-out", action="store_true", help="print the artifact folder's name and stop"
    )
    add_export_options(parser)


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of an export, whichever command offers it."""
    add_adapter(parser)
    add_choices(parser, has_auto=True)
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
        "--native",
        action="store_true",
        help="add a second graph over the same weights, with our own attention kernel, for "
        "processes that load the native library",
    )
    parser.add_argument(
        "--no-resume",
        action="store_true",
        help="start anew instead of resuming an interrupted export",
    )
    parser.add_argument(
        "--no-replace",
        action="store_true",
        help="fail if the artifact folder exists, instead of replacing it",
    )
    add_calibration_text(
        parser,
        what="text, like what the model will read, by which int4 and int4-small are rounded, and "
        "int8-smooth, int8-small, int8-dynamic and --kv int8 are scaled; must differ from --text",
    )
    parser.add_argument(
        "--calibration-tokens",
        type=int,
        metavar="N",
        help="tokens of those texts by which int4 is rounded: fewer are faster, more are closer "
        "(default: 16384)",
    )
    add_scheduler(parser, what="where --quant auto measures matrices")
    add_measuring(parser)
    parser.add_argument("--no-validate", action="store_true", help="skip the parity check")
    parser.add_argument(
        "--dump",
        type=Path,
        metavar="DIR",
        help="folder to write the graph to, as text, after each pass",
    )


def main(args: Namespace) -> int:
    """Export a checkpoint; compare it with PyTorch except with ``--no-validate``."""
    choices = choices_of(args)
    name = artifact_name(args.checkpoint, args.adapter, **choices)
    out: Path = args.out or ARTIFACTS / name
    if args.print_out:
        print(out)
        return 0
    from ...export.build import export_checkpoint
    from ...export.example_prompt import example_prompt
    from ...export.formats.checkpoint import read_merged_config

    _refuse_bad_arguments(args)
    if isinstance(choices["quant"], Asked):
        choices |= _found_for_size(args, choices["quant"], out)
    if not args.no_validate:
        published = read_merged_config(args.checkpoint, args.adapter)
        refuse_parity_check_beyond_memory(published, args, quant=choices["quant"])
    gate = None if args.no_validate else ExportGate(args, out, name=name)
    manifest = export_checkpoint(
        args.checkpoint,
        out,
        _export_options(args, choices),
        adapters=args.adapter,
        resume=not args.no_resume,
        replace=not args.no_replace,
        dump=args.dump,
        gate=gate,
        tokenizer_gate=None if gate is None else gate.prove_tokenizer,
        base_model=args.base_model,
    )
    summary = summarize(manifest)
    if args.json:
        print(json.dumps({"artifact": str(out), **summary}))
    else:
        if manifest.parity is not None:
            _print_parity(out)
        print_rows(summary)
        run_it = hints.suggest("run", OUT=out, PROMPT=example_prompt(manifest.origin))
        print(f"\nwrote {out}; try\n  {run_it}")
    return 0


def _refuse_bad_arguments(args: Namespace) -> None:
    """Refuse, before any work, what would stop the parity check after the export.

    Raises:
        ConfigError, ContractError: naming the option.
    """
    from ...validate.can_measure import refuse_bad_options
    from ...validate.tolerance import tolerance_for

    if not args.no_validate:
        refuse_bad_options(text=args.text, seed=args.seed)
        tolerance_for(scale=args.tolerance, max_kl=args.max_kl, min_agreement=args.min_agreement)
        refuse_short_text(args.checkpoint, args.text, args.adapter)
    refuse_same_text(calibration=args.calibration_text, measured=args.text)


def _found_for_size(args: Namespace, asked: Asked, out: Path) -> dict[str, Any]:
    """The recipe for a size, and where it lies among others, as ``ExportOptions`` names them."""
    from ...console.progress import say
    from ...export.budget.find import find_for_size
    from ...export.cache_choice import choose_cache
    from ...export.options import read_texts
    from ...graphs.writing.staging import refuse_occupied

    refuse_occupied(out, replace=not args.no_replace)  # before the long work
    cache = choose_cache(args.cache, kv=args.kv)
    found = find_for_size(
        args.checkpoint,
        args.adapter,
        asked,
        read_texts(args.calibration_text),
        target=args.target,
        cache=cache,
        window=args.window,
        scheduler=args.scheduler,
    )
    say(
        f"{found.recipe.name}: {found.about.chosen.bits_per_weight:.2f} bits a weight, expected "
        f"KL {found.about.chosen.kl:.1e}"
    )
    return {"quant": found.recipe, "budget": found.about}


def _export_options(args: Namespace, choices: Mapping[str, Any]) -> ExportOptions:
    """The values of the options that decide the artifact's files."""
    from ...export.options import ExportOptions

    return ExportOptions(
        **choices,
        native=args.native,
        max_shard_bytes=size_of(args.max_shard, flag="--max-shard"),
        calibration_tokens=args.calibration_tokens,
        calibration_texts=tuple(args.calibration_text),
    )


def _print_parity(artifact: Path) -> None:
    """Print the verdict of the parity check, from the report inside a new artifact."""
    from ...runtime.untrusted.json_text import read_object
    from ...validate.report.summaries import print_verdict
    from ...validate.run_gate import FOLDER, JSON_FILE

    print_verdict(read_object(artifact / FOLDER / JSON_FILE))
