"""``tramontane validate``: compare an artifact with its checkpoint. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ...runtime.contract import NATIVE_MODEL_FILE
from ..check_arguments import refuse_unwritable
from ..flags import CHECKPOINT_HELP, add_adapter, add_measuring, gate_options_of, window_of
from ..subcommand import add_subcommand

EXAMPLES = (
    "tramontane validate artifacts/stdlib-5m-int8-ort --reference models/stdlib-5m",
    "tramontane validate other/model.onnx --reference models/stdlib-5m --explain",
)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "validate",
        "compare an artifact, or any exporter's graph, with its checkpoint",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument(
        "artifact",
        type=Path,
        metavar="ARTIFACT",
        help="artifact folder, or any exporter's model.onnx",
    )
    parser.add_argument(
        "--reference", type=Path, required=True, metavar="CHECKPOINT", help=CHECKPOINT_HELP
    )
    add_adapter(parser)
    parser.add_argument(
        "--explain", action="store_true", help="name the first bad tensor and the likely cause"
    )
    parser.add_argument(
        "--window",
        type=window_of,
        help="window in tokens of another exporter's graph, or a pattern of layers' windows "
        "(default: the checkpoint's)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write report.html and report.json there"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write a report in JUnit XML")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write a table of all checks, in Markdown"
    )
    add_measuring(parser)


def main(args: Namespace) -> int:
    """Check an artifact, ours or another exporter's, against its source; 1 if a check failed."""
    from ...export.formats.checkpoint import Checkpoint
    from ...validate.report.summaries import as_junit, as_markdown, print_verdict
    from ...validate.run_gate import validate, write_reports

    refuse_unwritable(args, "report", "junit", "markdown")
    with Checkpoint.open(args.reference, args.adapter) as checkpoint:
        verdict = validate(
            args.artifact,
            checkpoint,
            gate_options_of(args),
            explains=args.explain,
            window=args.window,
        )
        report = verdict.as_json()
    print(json.dumps(report)) if args.json else print_verdict(report)
    if (other := args.artifact / NATIVE_MODEL_FILE).is_file():
        from ...console.progress import say

        say(f"{other}: the graph for the native library was not measured; name it to measure it")
    if args.report is not None:
        write_reports(verdict, args.report)
    if args.junit is not None:
        args.junit.write_text(as_junit(report), encoding="utf-8")
    if args.markdown is not None:
        args.markdown.write_text(as_markdown(report), encoding="utf-8")
    return 0 if report["passed"] else 1
