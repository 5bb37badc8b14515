"""``tramontane run``: continue a prompt with an artifact. (stdlib only)"""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...console.streams import decode_argument, read_standard_input, write_utf8
from ..chat import DEFAULT_NEW_TOKENS, Chat, converse
from ..flags import ARTIFACT_HELP, add_threads, size_of
from ..sampling_options import add_sampling, sampler_of
from ..subcommand import add_subcommand

if TYPE_CHECKING:
    from ...runtime import Generation, Model, Result, Sampler, Session

EXAMPLES = (
    'tramontane run artifacts/stdlib-5m-int8-ort "def fibonacci("',
    'tramontane run artifacts/stdlib-5m-int8-ort "import " --stop "\\n\\n" --stats',
)


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
        "--chat",
        action="store_true",
        help="a conversation by the artifact's chat template: each line of standard input is a "
        "message; /exit ends it, /reset begins anew, Ctrl-C stops an answer (default: continue "
        "one prompt)",
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="with --chat: the system's message (default: none)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="stop after so many tokens (default: 128, with --chat 1024 or fewer that fit)",
    )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="stop before this text, where \\n is a line break; repeat the option for several "
        "(default: none)",
    )
    add_sampling(parser)
    parser.add_argument(
        "--samples",
        type=int,
        default=1,
        metavar="N",
        help="continue the prompt so many times, with seeds that follow each other "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--logprobs",
        type=int,
        metavar="N",
        help="with --json: the log-probability of each token, and of the N most likely ones "
        "beside it (default: none)",
    )
    parser.add_argument(
        "--allow-special",
        action="store_true",
        help="read text that spells a special token, such as <|im_end|>, as that token: for a "
        "prompt in the model's chat format (default: as any other text)",
    )
    parser.add_argument(
        "--speculate",
        action="store_true",
        help="compute several tokens in one run where the text repeats what came before: faster "
        "for answers that copy from the prompt (default: one by one)",
    )
    parser.add_argument(
        "--stats",
        action="store_true",
        help="print tokens, times, why the text ended and what computed attention, on standard "
        "error",
    )
    add_threads(parser)
    parser.add_argument(
        "--provider",
        action="append",
        metavar="NAME",
        help="execution provider of onnxruntime, such as CUDAExecutionProvider; repeat the option "
        "for several (default: CPUExecutionProvider)",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="stop a step, or a chunk of the prompt, that takes longer, as in a graph with a loop "
        "without end (default: no limit)",
    )
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
    from ...runtime import Model
    from ...runtime.errors import ConfigError

    if args.samples < 1:
        raise ConfigError(f"--samples {args.samples}: expected 1 or more")
    sampler = sampler_of(args)
    stop = [decode_argument(text, flag="--stop").replace("\\n", "\n") for text in args.stop]
    if args.system is not None and not args.chat:
        raise ConfigError("--system: is of a conversation; give --chat too, or leave it out")
    if args.chat and (args.samples > 1 or args.logprobs is not None):
        raise ConfigError("--chat: takes neither --samples nor --logprobs; leave them out")
    model = Model.load(
        args.artifact,
        threads=args.threads,
        verify=args.verify,
        max_memory=size_of(args.max_memory, flag="--max-memory"),
        providers=args.provider,
    )
    if args.chat:
        write_utf8()
        _converse(model, given, args, sampler=sampler, stop=stop)
        return 0
    session = model.session(time_limit=args.time_limit)
    prompt = read_standard_input() if given is None else given
    options = {
        "max_new_tokens": 128 if args.max_new_tokens is None else args.max_new_tokens,
        "sampler": sampler,
        "stop": stop,
        "logprobs": args.logprobs,
        "allow_special": args.allow_special,
        "speculate": args.speculate,
    }
    write_utf8()
    results = []
    for number, sample in enumerate(_continuations(session, prompt, args.samples, options)):
        if args.json:
            results.append(sample.finish())
            continue
        if args.samples > 1:
            print(f"--- seed {sampler.seed + number}")
        _print_text(prompt, sample)
        results.append(sample.result)
    if args.json:
        shown = [_as_json(result, args.logprobs) for result in results]
        print(
            json.dumps({"prompt": prompt, **(shown[0] if len(shown) == 1 else {"samples": shown})})
        )
    if args.stats:
        for result in results:
            print(_stats(result, is_native=session.model.is_native), file=sys.stderr)
    return 0


def _converse(
    model: Model, first: str | None, args: Namespace, *, sampler: Sampler, stop: list[str]
) -> None:
    most = DEFAULT_NEW_TOKENS if args.max_new_tokens is None else args.max_new_tokens
    system = None if args.system is None else decode_argument(args.system, flag="--system")
    chat = Chat(
        model,
        system=system,
        max_new_tokens=most,
        allow_special=args.allow_special,
        time_limit=args.time_limit,
        options={"sampler": sampler, "stop": stop, "speculate": args.speculate},
    )

    def after(result: Result) -> None:
        if args.stats:
            print(_stats(result, is_native=model.is_native), file=sys.stderr)

    converse(chat, first, as_json=args.json, after=after)


def _continuations(
    session: Session, prompt: str, count: int, options: dict[str, Any]
) -> Iterator[Generation]:
    if count == 1:
        yield session.generate(prompt, **options)
    else:
        yield from session.samples(prompt, count, **options)


def _print_text(prompt: str, pieces: Generation) -> None:
    first = next(pieces, "")  # a prompt that is refused is not echoed
    print(prompt + first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _as_json(result: Result, logprobs: int | None) -> dict[str, Any]:
    shown = dataclasses.asdict(result)
    if logprobs is None:
        del shown["logprobs"]
    return shown


def _stats(result: Result, *, is_native: bool) -> str:
    """Tokens, times, why the text ended and what computed attention, as one line."""

    def speed(tokens: int, seconds: float) -> str:
        each = f", {tokens / seconds:.1f} tokens/s" if seconds else ""
        return f"{tokens} tokens in {seconds:.3f} s{each}"

    found = "" if result.stop_string is None else f" {result.stop_string!r}"
    return (
        f"prompt: {speed(result.prompt_tokens, result.prefill_seconds)}; "
        f"answer: {speed(len(result.tokens), result.decode_seconds)}; "
        f"ended by {result.finish_reason}{found}; "
        f"attention by {'the native library' if is_native else 'onnxruntime'}"
    )
