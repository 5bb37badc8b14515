"""How fast artifacts of one model are beside the first of them, measured in turns.

    python -m tramontane.bench.artifact.relative_speed FIRST OTHER [OTHER ...]

Each round reads one prompt with every artifact, then decodes with each; the ratio of a round is
taken of times that follow one another, so that other load affects both. Figures are medians, with
the lowest and highest ratio. All artifacts are loaded at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from ...console.one_line_parser import OneLineParser
from ...console.rich_console import rich_console
from ...console.status import status_of
from ...runtime import Model, Session
from ...runtime.errors import ConfigError
from ...runtime.ort.ort_session import physical_cores
from .. import option_types
from ..samples import Spread
from .speed import token_ids

PREFILL, DECODE = "prefill", "decode"
_PROMPT, _STEPS = 256, 24  # tokens


def main(argv: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = OneLineParser(
        prog="python -m tramontane.bench.artifact.relative_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", type=Path, help="the artifact that others are compared with")
    parser.add_argument("others", type=Path, nargs="+", help="artifacts of the same model")
    parser.add_argument(
        "--threads", type=option_types.THREADS, default=physical_cores(), help="(%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=8, help="(%(default)s)")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        raise ConfigError(f"--rounds {args.rounds}: expected 1 or more")
    models = [Model.load(path, threads=args.threads) for path in (args.first, *args.others)]
    found = measure(models, rounds=args.rounds)
    table = Table(
        "artifact", "bits per weight", *(f"{what}, times {args.first.name}" for what in found)
    )
    for number, model in enumerate(models[1:]):
        bits = model.manifest.bits_per_weight
        cells = (_cell(ratios[number]) for ratios in found.values())
        table.add_row(model.folder.name, "" if bits is None else f"{bits:.2f}", *cells)
    rich_console(width=110).print(table)
    return 0


def measure(models: Sequence[Model], *, rounds: int) -> Mapping[str, Sequence[Spread]]:
    """How many times as fast as the first each other model is, by what is measured.

    Args:
        models: all of one vocabulary.
        rounds: that are measured, after one that is not.

    Raises:
        ConfigError: they have other vocabularies.
        ContractError: as ``Session.prefill``.
    """
    first, *others = models
    vocab = first.manifest.geometry.vocab_size
    for other in others:
        if other.manifest.geometry.vocab_size != vocab:
            raise ConfigError(
                f"{other.folder}: a vocabulary of {other.manifest.geometry.vocab_size} tokens, "
                f"expected {vocab} as of {first.folder}; compare artifacts of one model"
            )
    room = min(one.manifest.geometry.max_positions for one in models) - _STEPS
    tokens = token_ids(vocab, max(1, min(_PROMPT, room)))
    sessions = [one.session() for one in models]
    ratios: dict[str, list[list[float]]] = {what: [] for what in (PREFILL, DECODE)}
    for number in range(rounds + 1):
        for what, work in ((PREFILL, _read), (DECODE, _decode)):
            seconds = [_seconds(work, session, tokens) for session in sessions]
            if number:
                ratios[what].append([seconds[0] / each for each in seconds[1:]])
    for session in sessions:
        session.close()
    return {
        what: [Spread(values=values) for values in zip(*each, strict=True)]
        for what, each in ratios.items()
    }


def _read(session: Session, tokens: Sequence[int]) -> None:
    session.reset()
    session.prefill(tokens)


def _decode(session: Session, tokens: Sequence[int]) -> None:
    for token in tokens[:_STEPS]:
        session.step(token)


def _seconds(
    work: Callable[[Session, Sequence[int]], None], session: Session, tokens: Sequence[int]
) -> float:
    start = time.perf_counter()
    work(session, tokens)
    return time.perf_counter() - start


def _cell(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({min(ratio.values):.2f} to {max(ratio.values):.2f})"


if __name__ == "__main__":
    raise SystemExit(status_of(main))
