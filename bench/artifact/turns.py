"""Measure what going back and drafts save: ``python -m tramontane.bench.artifact.turns ARTIFACT``.

A conversation of two turns: the time to the first token of the second, whose prompt is the whole
conversation, with and without ``reuse``; a rewind of its last tokens and the step after it; a
snapshot and its restore; how many times faster several prompts are decoded together than one by
one; and how many times faster ``speculate`` decodes an edited function, an answer with quotes, and
a text sampled freely. The first two of these are chosen token by token, so that any model writes
them; what is computed does not depend on who chooses. Ways of one figure are measured in turns,
texts piece by piece, so that other load affects both; figures are medians.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from ...console.one_line_parser import OneLineParser
from ...console.rich_console import rich_console
from ...console.status import status_of
from ...runtime import Generation, Model, Sampler, Session
from ...runtime.decoding.history import History
from ...runtime.decoding.processors import Logits, Processor
from ...runtime.sizes import format_bytes
from .. import option_types
from .copied_texts import TEXTS
from .speed import token_ids

_TURN, _NEXT = 0.5, 8  # share of the positions that a turn takes, at most 512; tokens of the next
_PROMPT, _NEW = 16, 256  # tokens of a text sampled freely
_BACK = 4  # tokens taken back
_TOGETHER, _OF_EACH = (2, 4, 8), 48  # prompts of a batch; tokens of each text


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, then one line of JSON."""
    parser = OneLineParser(prog="python -m tramontane.bench.artifact.turns", description=__doc__)
    parser.add_argument("artifact", type=Path, help="folder written by export")
    parser.add_argument("--threads", type=option_types.THREADS, help="(physical cores)")
    parser.add_argument("--rounds", type=option_types.ROUNDS, default=5, help="(%(default)s)")
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
    found["snapshot, bytes"] = snapshot.size_bytes
    return {**found, **_batches(model, rounds), **_speculation(model, rounds)}


def _rewind(session: Session) -> None:
    session.rewind(_BACK)
    session.step(5)


def _batches(model: Model, rounds: int) -> dict[str, float]:
    """How many times more tokens a second several prompts have together than one by one."""
    ids = token_ids(model.manifest.geometry.vocab_size, _PROMPT * max(_TOGETHER))
    prompts = [ids[start : start + _PROMPT] for start in range(0, len(ids), _PROMPT)]
    sampler = Sampler(logit_bias=dict.fromkeys(model.manifest.vocabulary.eos_token_ids, -np.inf))
    found = {}
    for count in _TOGETHER:
        ratios = []
        for _ in range(rounds):
            options: dict[str, Any] = {"max_new_tokens": _OF_EACH, "sampler": sampler}
            alone = [model.generate(prompt, **options).finish() for prompt in prompts[:count]]
            together = model.generate_batch(prompts[:count], **options).finish()
            seconds = sum(one.decode_seconds for one in alone)
            ratios.append(seconds / max(one.decode_seconds for one in together))
        found[f"decoding of {count} prompts together, times faster"] = median(ratios)
    return found


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
    found = {}
    for what, prompt, count, sampler in work:
        options: dict[str, Any] = {"max_new_tokens": count, "sampler": sampler}
        found[f"decoding of {what} with drafts, times faster"] = _times_faster(
            model, prompt, [options] * (rounds + 1)
        )
    free = [
        {"max_new_tokens": _NEW, "sampler": Sampler(temperature=1.0, seed=max(number, 1))}
        for number in range(rounds + 1)
    ]
    prompt = token_ids(model.manifest.geometry.vocab_size, _PROMPT)
    found["decoding of a text sampled freely with drafts, times faster"] = _times_faster(
        model, prompt, free
    )
    return found


def _times_faster(model: Model, prompt: list[int], rounds: list[dict[str, Any]]) -> float:
    """How many times faster texts are decoded with drafts: the median, without the first round.

    Args:
        model: decodes.
        prompt: of all rounds.
        rounds: options of each.
    """
    ratios = []
    with model.session() as plain, model.session() as ahead:
        for options in rounds:
            texts = (
                plain.generate(prompt, reuse=True, **options),
                ahead.generate(prompt, reuse=True, speculate=True, **options),
            )
            ratios.append(_ratio(*texts))
    return median(ratios[1:])


def _ratio(plain: Generation, ahead: Generation) -> float:
    """Seconds of a token of one text divided by those of the other, made by turns."""
    for _ in zip_longest(plain, ahead):
        pass
    each = [one.decode_seconds / max(1, len(one.tokens)) for one in (plain.result, ahead.result)]
    return each[0] / each[1]


def _writing(answer: list[int]) -> Processor:
    """A processor that lets a session write an answer."""

    def write(logits: Logits, history: History) -> Logits:
        changed = np.full_like(logits, -np.inf)
        changed[answer[len(history.new_tokens)]] = 0
        return changed

    return write


if __name__ == "__main__":
    sys.exit(status_of(main))
