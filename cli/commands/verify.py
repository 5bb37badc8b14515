"""``tramontane verify``: verify who signed an artifact, offline. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..flags import ARTIFACT_HELP
from ..subcommand import add_subcommand

EXAMPLES = ("tramontane verify artifacts/stdlib-5m-int8-ort --key key.pub",)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "verify",
        "verify that a key you trust signed all files of an artifact",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help=ARTIFACT_HELP)
    trusted = parser.add_mutually_exclusive_group(required=True)
    trusted.add_argument("--key", type=Path, metavar="FILE", help="the signer's public key in PEM")
    trusted.add_argument(
        "--certificates",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="root certificates in PEM; a signature by any certificate below them is accepted",
    )
    parser.add_argument(
        "--signature",
        type=Path,
        metavar="FILE",
        help="signature to verify (default: ARTIFACT.sig, beside the folder)",
    )


def main(args: Namespace) -> int:
    """Verify a signature and print what it covers."""
    from ...deploy.signature import Trusted, signature_beside, verify
    from ...runtime.sizes import counted

    signature = args.signature or signature_beside(args.artifact)
    trusted = Trusted(key=args.key, roots=tuple(args.certificates or ()))
    manifest = verify(args.artifact, signature, trusted)
    count = len(manifest.files) + 1
    if args.json:
        print(json.dumps({"signature": str(signature), "files": count, "verified": True}))
    else:
        print(f"{args.artifact}: verified, {counted(count, 'file')} as signed by {signature}")
    return 0
