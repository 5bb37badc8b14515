"""``tramontane sign``: sign an artifact with a key, offline. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..flags import ARTIFACT_HELP
from ..subcommand import add_subcommand

EXAMPLES = ("tramontane sign artifacts/stdlib-5m-int8-ort --key key.pem",)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "sign",
        "sign all files of an artifact with a key, in sigstore's format for models",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help=ARTIFACT_HELP)
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="private key in PEM, not encrypted: an elliptic curve, P-256, P-384 or P-521",
    )
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help="certificate of the key in PEM, for verifiers that trust its issuer (default: none, "
        "verifiers need the public key)",
    )
    parser.add_argument(
        "--chain",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="with --certificate: certificates between it and the root; repeat the option for "
        "several (default: none)",
    )
    parser.add_argument(
        "--signature",
        type=Path,
        metavar="FILE",
        help="signature to write (default: ARTIFACT.sig, beside the folder)",
    )


def main(args: Namespace) -> int:
    """Sign an artifact and print where the signature lies."""
    from ...deploy.signature import SigningKey, sign, signature_beside
    from ...runtime.errors import ConfigError
    from ...runtime.sizes import counted

    if args.chain and args.certificate is None:
        raise ConfigError(
            f"--chain {args.chain[0]}: belongs to a certificate, expected --certificate too; add "
            "it, or leave --chain out"
        )
    signature = args.signature or signature_beside(args.artifact)
    key = SigningKey(path=args.key, certificate=args.certificate, chain=tuple(args.chain))
    manifest = sign(args.artifact, signature, key)
    count = len(manifest.files) + 1
    if args.json:
        print(json.dumps({"signature": str(signature), "files": count}))
    else:
        print(f"{signature}: signs {counted(count, 'file')}, those of the manifest and itself")
    return 0
