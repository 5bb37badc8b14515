"""``tramontane card``: print an artifact's model card. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..flags import ARTIFACT_HELP
from ..subcommand import add_subcommand

EXAMPLES = ("tramontane card artifacts/stdlib-5m-int8-ort",)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers, "card", "print an artifact's model card", examples=EXAMPLES, main=main
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help=ARTIFACT_HELP)


def main(args: Namespace) -> int:
    """Print an artifact's model card."""
    from ...export.formats.huggingface import CONFIG_FILE, read_config_json
    from ...export.sidecars.card import render_card
    from ...runtime.contract import MANIFEST_FILE
    from ...runtime.errors import TramontaneError
    from ...runtime.manifest import read_manifest

    manifest = read_manifest(args.artifact)
    config = read_config_json(args.artifact) if CONFIG_FILE in manifest.files else None
    try:
        text = render_card(manifest, config)
    except TramontaneError as error:
        raise type(error)(f"{args.artifact / MANIFEST_FILE}: {error}") from error
    print(json.dumps({"card": text}) if args.json else text, end="\n" if args.json else "")
    return 0
