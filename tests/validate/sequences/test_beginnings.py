"""Is what several ways begin with fed once, and are results those of feeding each way whole?"""

from __future__ import annotations

from typing import Any

import numpy as np
from tramontane.runtime.cache import CacheLayout
from tramontane.validate.reference.reference import ReferenceRun
from tramontane.validate.sequences.beginnings import Beginnings, Pieces
from tramontane.validate.sequences.sequences import feed_and_watch, greedy_tokens, pieces_of

LAYOUT = CacheLayout(window=None, rows=None)
TOKENS = np.arange(40)


class Sums:
    """A runner whose logits are sums of all tokens so far; it counts what is fed."""

    def __init__(self) -> None:
        self.fed, self.now, self.tokens = 0, 0, 0

    def reset(self) -> None:
        self.now = self.tokens = 0

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        self.fed += len(tokens)
        found = self.now + np.cumsum(tokens)
        self.now, self.tokens = int(found[-1]), self.tokens + len(tokens)
        return np.stack([found, -found], axis=-1).astype(np.float32)

    def cache(self) -> Any:
        rows = np.full((1, self.tokens, 2), 1.0, np.float32)
        return [(rows, rows)]

    def state(self) -> Any:
        return self.now, self.tokens

    def restore(self, state: Any) -> None:
        self.now, self.tokens = state

    def close(self) -> None:
        pass


def run_of(tokens: np.ndarray) -> ReferenceRun:
    rows = np.ones((1, 1, len(tokens), 2), np.float32)
    logits = np.zeros((len(tokens), 2), np.float32)
    return ReferenceRun(tokens=tokens, logits=logits, keys=rows, values=rows)


def fed(ways: list[Pieces], beginnings: Beginnings, runner: Sums) -> list[np.ndarray]:
    run = run_of(TOKENS)
    return [feed_and_watch(runner, run, way, [LAYOUT], beginnings)[0] for way in ways]


def test_shared_pieces_are_fed_once_and_logits_stay() -> None:
    cuts = [[20], [20, 5, 15], [20, 5, 1, 1], [3, 37], [40]]
    ways = [pieces_of("text", each, 0) for each in cuts]
    runner = Sums()
    found = fed(ways, Beginnings(ways), runner)
    assert runner.fed == 20 + (5 + 15) + (1 + 1) + 40 + 40
    expected = Sums().feed(TOKENS)
    for logits, each in zip(found, cuts, strict=True):
        np.testing.assert_array_equal(logits, expected[: sum(each)])


def test_sources_share_only_what_is_alike_in_both() -> None:
    ways = [pieces_of(source, [20, 20], 20) for source in ("text", "random")]
    runner = Sums()
    fed(ways, Beginnings(ways), runner)
    assert runner.fed == 20 + 20 + 20
    other = [pieces_of(source, [20, 20], 19) for source in ("text", "random")]
    assert Beginnings(other).shared == set()


def test_a_greedy_prompt_is_one_of_the_beginnings_and_its_cache_is_looked_at() -> None:
    way = pieces_of("text", [20, 20], 0)
    prompt = pieces_of("text", [20], 0)
    beginnings, runner = Beginnings([prompt, prompt, way]), Sums()
    tokens = greedy_tokens(runner, TOKENS[:20], 3, prompt, beginnings)
    assert len(tokens) == 23
    run = run_of(TOKENS)
    run.keys[0, 0, 3] = 7  # the row of the prompt that is wrong
    _, worst = feed_and_watch(runner, run, prompt, [LAYOUT], beginnings)
    assert (worst.position, worst.kind) == (3, "key")
    feed_and_watch(runner, run, way, [LAYOUT], beginnings)
    assert runner.fed == 20 + 2 + 20


def test_states_are_dropped_when_no_other_way_begins_with_them() -> None:
    ways = [pieces_of("text", each, 0) for each in ([20], [20, 20])]
    beginnings = Beginnings(ways)
    fed(ways, beginnings, Sums())
    assert beginnings.longest(ways[0]) is None
