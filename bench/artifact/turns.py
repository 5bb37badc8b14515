"""Measure what going back and drafts save: ``python -m tramontane.bench.artifact.turns ARTIFACT``.

A conversation of two turns: the time to the first token of the second, whose prompt is the whole
conversation, with and without ``reuse``; a rewind of its last tokens and the step after it; a
snapshot and its restore; and how many times faster ``speculate`` decodes an edited function, an
answer with quotes, and a text sampled freely. The first two are chosen token by token, so that any
model writes them; what is computed does not depend on who chooses. Ways of one figure are measured
in turns, so that other load on the machine affects both; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from rich.table import Table

from ...console.rich_console import rich_console
from ...console.status import status_of
from ...runtime import Model, Sampler, Session
from ...runtime.decoding.history import History
from ...runtime.decoding.processors import Logits, Processor
from ...runtime.sizes import format_bytes
from .copied_texts import TEXTS
from .speed import token_ids

_TURN, _NEXT = 0.5, 8  # share of the positions that a turn takes, at most 512; tokens of the next
_PROMPT, _NEW = 16, 256  # tokens of a text sampled freely
_BACK = 4  # tokens taken back


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tramontane.bench.artifact.turns", description=__doc__
    )
    parser.add_argument("artifact", type=Path, help="folder written by export")
    parser.add_argument("--threads", type=int, help="(physical cores)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    args = parser.parse_args(argv)
    found = measure(Model.load(args.artifact, threads=args.threads), rounds=args.rounds)
    if not args.json:
        table = Table(args.artifact.name, "")
        for what, value in found.items():
            is_bytes = what.endswith("bytes")
            table.add_row(what, format_bytes(int(value)) if is_bytes else f"{value:.4g}")
        rich_console(width=100).print(table)
    print(json.dumps(found))
    return 0


def measure(model: Model, *, rounds: int) -> dict[str, float]:
    """Milliseconds, bytes, and how many times faster decoding is with drafts."""
    geometry = model.manifest.geometry
    turn = min(512, int(_TURN * geometry.max_positions))
    tokens = token_ids(geometry.vocab_size, turn + _NEXT)
    session = model.session(keep=_BACK)
    figures: dict[str, list[float]] = {}

    def timed(what: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        figures.setdefault(what, []).append(1000 * (time.perf_counter() - start))

    for _ in range(rounds):
        for reuse in (False, True):
            session.reset()
            session.prefill(tokens[:turn])
            if not reuse:
                session.reset()
            way = "with" if reuse else "without"
            timed(
                f"first token of a second turn, ms, {way} reuse",
                lambda: session.prefill(tokens, reuse=reuse),  # noqa: B023 - called at once
            )
        timed("rewind and a step, ms", lambda: _rewind(session))
        timed("snapshot, ms", session.snapshot)
        snapshot = session.snapshot()
        timed("restore, ms", lambda: session.restore(snapshot))  # noqa: B023 - called at once
    session.close()
    found = {what: median(values) for what, values in figures.items()}
    return found | {"snapshot, bytes": snapshot.size_bytes, **_speculation(model, rounds)}


def _rewind(session: Session) -> None:
    session.rewind(_BACK)
    session.step(5)


def _speculation(model: Model, rounds: int) -> dict[str, float]:
    """How many times faster decoding is with drafts, by text.

    A session decodes each text once before it is measured, and knows the times of runs then.
    """
    work = []
    for text in TEXTS:
        prompt = model.tokenizer.encode(text.prompt)
        answer = model.tokenizer.encode(text.answer, is_first=False)
        sampler = Sampler(processors=(_writing(answer),))
        most = model.manifest.geometry.max_positions - len(prompt)
        work.append((text.what, prompt, min(len(answer), most), sampler))
    free = token_ids(model.manifest.geometry.vocab_size, _PROMPT)
    work.append(("a text sampled freely", free, _NEW, Sampler(temperature=1.0, seed=3)))
    found = {}
    for what, prompt, count, sampler in work:
        seconds: dict[bool, list[float]] = {False: [], True: []}
        with model.session() as session:
            for _ in range(rounds + 1):
                for speculate in (False, True):
                    made = session.generate(
                        prompt,
                        max_new_tokens=count,
                        sampler=sampler,
                        speculate=speculate,
                        reuse=True,
                    ).finish()
                    seconds[speculate].append(made.decode_seconds / max(1, len(made.tokens)))
        ratios = [plain / ahead for plain, ahead in zip(*seconds.values(), strict=True)]
        found[f"decoding of {what} with drafts, times faster"] = median(ratios[1:])
    return found


def _writing(answer: list[int]) -> Processor:
    """A processor that lets a session write an answer."""

    def write(logits: Logits, history: History) -> Logits:
        changed = np.full_like(logits, -np.inf)
        changed[answer[len(history.new_tokens)]] = 0
        return changed

    return write


if __name__ == "__main__":
    sys.exit(status_of(main))
