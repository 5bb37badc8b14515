"""``tramontane run``: continue a prompt with an artifact. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ...console.streams import decode_argument, read_standard_input
from ..flags import ARTIFACT_HELP, add_threads, size_of
from ..subcommand import add_subcommand

EXAMPLES = ('tramontane run artifacts/stdlib-5m-int8-ort "def fibonacci("',)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers, "run", "continue a prompt with an artifact", examples=EXAMPLES, main=main
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help=ARTIFACT_HELP)
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="text to continue (default: standard input)"
    )
    prompts.add_argument(
        "--prompt", dest="prompt_option", metavar="PROMPT", help="same as the argument"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=128,
        metavar="N",
        help="stop after so many tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0: take the most likely token; larger: sample more freely (default: %(default)s)",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=0,
        metavar="K",
        help="sample from the K most likely tokens; 0: from all (default: %(default)s)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the fewest tokens that reach this probability (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of sampling (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-special",
        action="store_true",
        help="read text that spells a special token, such as <|im_end|>, as that token: for a "
        "prompt in the model's chat format (default: as any other text)",
    )
    add_threads(parser)
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="fail instead of using more memory than this, e.g. 6GiB (default: no limit)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="first compare the hash of every file with the manifest",
    )


def main(args: Namespace) -> int:
    """Continue a prompt, writing text as it comes."""
    given: str | None = args.prompt if args.prompt is not None else args.prompt_option
    if given is not None:
        given = decode_argument(given, flag="the prompt")
    from ...runtime import Sampler, Session

    sampler = Sampler(
        temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, seed=args.seed
    )
    session = Session.load(
        args.artifact,
        threads=args.threads,
        verify=args.verify,
        max_memory=size_of(args.max_memory, flag="--max-memory"),
    )
    prompt = read_standard_input() if given is None else given
    pieces = session.generate(
        prompt,
        max_new_tokens=args.max_new_tokens,
        sampler=sampler,
        allow_special=args.allow_special,
    )
    if args.json:
        print(json.dumps({"prompt": prompt, "text": "".join(pieces)}))
        return 0
    first = next(pieces, "")  # a prompt that is refused is not echoed
    print(prompt + first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0
