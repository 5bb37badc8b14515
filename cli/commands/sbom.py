"""``tramontane sbom``: print an artifact's bill of materials. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ...console.streams import write_utf8
from ..flags import ARTIFACT_HELP
from ..subcommand import add_subcommand

EXAMPLES = ("tramontane sbom artifacts/stdlib-5m-int8-ort",)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "sbom",
        "print what an artifact holds and where it came from, in CycloneDX's format",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help=ARTIFACT_HELP)


def main(args: Namespace) -> int:
    """Print an artifact's bill of materials."""
    from ...deploy.bill_of_materials import as_text, bill_of_materials

    content = bill_of_materials(args.artifact)
    write_utf8()
    print(json.dumps(content) if args.json else as_text(content), end="\n" if args.json else "")
    return 0
