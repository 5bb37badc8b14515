"""Compare speed with other runtimes on the same weights: ``python -m tramontane.bench.peers``.

Ours, llama.cpp and onnxruntime-genai run in turns, round after round, so that other load on the
machine affects all of them; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...console.one_line_parser import OneLineParser
from ...console.progress import say
from ...console.status import status_of
from ...environments.errors import Absent
from ...export.config import MistralConfig
from ...runtime.errors import ConfigError, ContractError
from ...runtime.ort.ort_session import physical_cores
from .. import option_types
from ..artifact.speed import token_ids
from ..machine import machine
from .convert import NAMES, Peer, PeerWeights
from .figures import Measured, compare, print_tables, sum_up, to_json

ROUNDS = 3
CHUNK = 512  # tokens per chunk: the default of llama.cpp and of our driver
PREFILL = (32, 256, 2048)
PREFILL_TOKENS = 512  # at least, of the runs of one length in a round
PIECE = 128  # tokens computed to fill a long cache with copies of them
POSITIONS = (16, 4000, 16000, 32000)  # of the speeds at and beyond the window
WARM_UP, STEPS = 4, 32


def main(argv: list[str] | None = None) -> int:
    """Make each runtime's weights, measure in turns, print tables, or one line of JSON."""
    args = _parser().parse_args(argv)
    names = [name for name in NAMES if not args.only or any(_means(a, name) for a in args.only)]
    if not names or args.rounds < 1:
        raise ContractError(
            f"--only {args.only}, --rounds {args.rounds}: nothing to measure, expected at least "
            f"a round of one of {'; '.join(NAMES)}"
        )
    weights = PeerWeights(args.model, args.work, threads=args.threads)
    config = weights.checkpoint.config
    job = {
        "threads": args.threads,
        "chunk": CHUNK,
        "piece": PIECE,
        "prefill": args.prefill,
        "prefill_tokens": PREFILL_TOKENS,
        "decode": positions(config) if args.decode is None else args.decode,
        "warm_up": WARM_UP,
        "steps": STEPS,
        "computes_all": args.computes_all,
    }
    _refuse_too_long(args.model, config, job)
    tokens = token_ids(config.vocab_size, max([CHUNK, *job["prefill"]]))
    measured, absent = measure(weights, names, {**job, "tokens": tokens}, rounds=args.rounds)
    speeds = [
        *(f"prefill {n}" for n in job["prefill"]),
        *(f"decode at {n}" for n in job["decode"]),
    ]
    comparisons = list(compare(measured, absent, speeds))
    line = to_json(
        measured,
        comparisons,
        absent,
        model=args.model.resolve().name,
        machine=machine(args.threads),
        protocol={**job, "rounds": args.rounds},
    )
    if args.out is not None:
        args.out.write_text(f"{line}\n", encoding="utf-8")
    print(line) if args.json else print_tables(measured, comparisons, absent)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m tramontane.bench.peers", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made of it")
    parser.add_argument(
        "--only", nargs="+", metavar="RUNTIME", help="a name, or a part of several"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(%(default)s)")
    parser.add_argument(
        "--threads", type=option_types.THREADS, default=physical_cores(), help="(%(default)s)"
    )
    parser.add_argument("--prefill", nargs="*", type=int, default=PREFILL, metavar="TOKENS")
    parser.add_argument("--decode", nargs="*", type=int, metavar="POSITION")
    parser.add_argument(
        "--computes-all", action="store_true", help="fill caches without copies: slow, the proof"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    return parser


def _means(asked: str, name: str) -> bool:
    """Whether a runtime was asked for: by its name, or by a part that is no other's name."""
    return asked == name or (asked not in NAMES and asked in name)


def positions(config: MistralConfig) -> list[int]:
    """Positions to decode at: those asked for; else 0.5, 1 and 5 windows, if they fit."""
    W = config.sliding_window
    own = () if W is None else (W // 2, W, 5 * W)
    longest = config.max_position_embeddings - STEPS
    return sorted(n for n in {*POSITIONS, *own} if WARM_UP < n <= longest)


def measure(
    weights: PeerWeights, names: Sequence[str], job: Mapping[str, Any], *, rounds: int
) -> tuple[list[Measured], dict[str, str]]:
    """Run all runtimes in turns, each in a process of its own.

    Returns:
        What was measured, and the reason by name why others are absent.
    """
    absent: dict[str, str] = {}
    peers: dict[str, Peer] = {}
    for name in names:
        try:
            peers[name] = weights.peer(name)
        except Absent as why:
            absent[name] = str(why)
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for name, peer in peers.items():
                if name in absent:
                    continue
                say(f"round {number + 1} of {rounds}: {name}")
                try:
                    answers[name].append(peer.ask(dict(job), Path(folder)))
                except Absent as why:
                    absent[name] = str(why)
    measured = [
        sum_up(name, peers[name].file_bytes, found)
        for name, found in answers.items()
        if name not in absent
    ]
    return measured, absent


def _refuse_too_long(model: Path, config: MistralConfig, job: Mapping[str, Any]) -> None:
    needed = max([*job["prefill"], *(n + STEPS for n in job["decode"])], default=0)
    shortest = min(job["decode"], default=WARM_UP + 1)
    if needed > config.max_position_embeddings:
        raise ConfigError(
            f"{model}: {config.max_position_embeddings} positions, expected at least {needed}; "
            "give fewer with --prefill and --decode"
        )
    if shortest <= WARM_UP:
        raise ConfigError(f"--decode {shortest}: expected more than {WARM_UP}, the warm-up")


if __name__ == "__main__":
    sys.exit(status_of(main))
