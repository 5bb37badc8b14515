"""Tokens that an artifact is measured on, and the pieces in which they are fed.

The lengths and the borders between pieces come from the window and the rows of the artifact at
hand: errors of the window show where it is full, and errors of the cache where rows are evicted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...export.formats.checkpoint import Checkpoint
from ...export.tokenizer.tokenizer import CheckpointTokenizer
from ...runtime.cache import CacheLayout
from ...runtime.errors import ContractError
from ...runtime.sizes import counted

SAMPLE = Path(__file__).with_name("sample.txt")
STAND_IN_WINDOW = 64  # lengths for a model that has no window
_TELLING_LENGTH = 1024  # positions over which a mean distinguishes recipes
_FEWEST_TOKENS = 32  # of a text; fewer give no useful mean
LARGE_WINDOW = 1024  # beyond it, default runs are as short as possible
_FEW_STEPS = 128  # across an eviction
_PROMPT = 8  # tokens before a greedy continuation
SOURCES = ("text", "random")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spans:
    """Lengths of each kind of check."""

    one_shot: dict[str, tuple[int, ...]]  # lengths by source, ascending
    shared: int  # tokens of the text that random tokens follow
    greedy_prompt: int
    greedy_steps: int
    stepped: dict[str, tuple[int, int]]  # by source: tokens of one prefill, and where steps end
    layers_checked: int  # over which operators are compared with the reference's one by one

    @property
    def longest(self) -> int:
        """Tokens of the longest run."""
        return self.lengths[-1]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of one-shot runs of any source, ascending."""
        return tuple(sorted({length for each in self.one_shot.values() for length in each}))


def spans(layouts: Iterable[CacheLayout], *, positions: int, thorough: bool = False) -> Spans:
    """Lengths that straddle every window and an eviction, and go as far as they must.

    Single steps cover three windows of text, and an eviction on random tokens. A large window is
    crossed once, with one eviction; there the random tokens follow W - 1 tokens of the text, and
    the lengths W and W + 1 are fed from one source each. ``thorough`` steps all the way, over
    three windows, and continues greedily for four.

    >>> spans([CacheLayout(window=64, rows=80)], positions=4096).lengths
    (1, 63, 64, 65, 192, 1024)
    >>> spans([CacheLayout(window=4096, rows=4608)], positions=32768).lengths
    (1, 4095, 4096, 4097, 5129)
    """
    each = [_spans(one, positions=positions, thorough=thorough) for one in distinct(layouts)]
    stepped, one_shot = {}, {}
    for source in SOURCES:
        starts, ends = zip(*(one.stepped[source] for one in each), strict=True)
        stepped[source] = min(starts), max(ends)
        one_shot[source] = tuple(sorted({n for one in each for n in one.one_shot[source]}))
    farthest = max(each, key=lambda one: one.greedy_steps)
    return Spans(
        one_shot=one_shot,
        shared=min(one.shared for one in each),
        greedy_prompt=farthest.greedy_prompt,
        greedy_steps=farthest.greedy_steps,
        stepped=stepped,
        layers_checked=max(one.layers_checked for one in each),
    )


def _spans(layout: CacheLayout, *, positions: int, thorough: bool) -> Spans:
    W = layout.window or STAND_IN_WINDOW
    evicted = _rows(layout) + _evicted_at_once(layout) + 8
    is_short = W > LARGE_WINDOW and not thorough
    far = {evicted} if is_short else {3 * W, max(3 * W, _TELLING_LENGTH)}
    near = {"text": {1, W - 1, W, W + 1}, "random": {1, W - 1, W, W + 1}}
    if is_short:  # the random sequence begins with W - 1 tokens of the text
        near = {"text": {1, W - 1, W}, "random": {1, W + 1}}
    one_shot = {
        source: tuple(sorted({min(max(n, 1), positions) for n in {*lengths, *far}}))
        for source, lengths in near.items()
    }
    longest = one_shot["text"][-1]
    past_edge = min(_rows(layout) + _FEW_STEPS // 2, longest)
    few = max(1, min(_rows(layout), past_edge) - _FEW_STEPS // 2), past_edge
    steps = min(_FEW_STEPS if is_short else 4 * W, positions // 2)
    return Spans(
        one_shot=one_shot,
        shared=min(W - 1, longest - 1) if is_short else 0,
        greedy_prompt=min(W - 1, positions - steps) if is_short else _PROMPT,
        greedy_steps=steps,
        stepped={
            "text": few if is_short else (0, longest if thorough else min(3 * W, longest)),
            "random": (0, longest) if thorough else few,
        },
        layers_checked=min(evicted, positions),
    )


def chunks(layouts: Iterable[CacheLayout], length: int) -> list[int]:
    """Sizes of chunks whose borders lie on, before and after each window's edge and an eviction.

    >>> list(itertools.accumulate(chunks([CacheLayout(window=64, rows=80)], 200)))
    [63, 65, 79, 80, 82, 98, 131, 200]
    """
    cuts: set[int] = set()
    for layout in layouts:
        W, C = layout.window or STAND_IN_WINDOW, _rows(layout)
        cuts |= {W - 1, W + 1, C - 1, C, C + 2, C + _evicted_at_once(layout) + 1, 2 * W + 3}
    borders = [0, *sorted(cut for cut in cuts if 0 < cut < length), length]
    return [b - a for a, b in itertools.pairwise(borders)]


def at_most(most: int, sizes: Iterable[int]) -> list[int]:
    """The same pieces, those of more tokens cut into pieces of ``most``.

    >>> at_most(100, [63, 2, 250])
    [63, 2, 100, 100, 50]
    """
    return [piece for size in sizes for piece in until(itertools.repeat(most), size)]


def until(sizes: Iterable[int], length: int) -> list[int]:
    """The pieces of these sizes, cut off after so many tokens.

    >>> until([63, 2, 14, 1], 70)
    [63, 2, 5]
    """
    ends = itertools.accumulate(sizes)
    borders = [0, *itertools.takewhile(lambda end: end < length, ends), length]
    return [b - a for a, b in itertools.pairwise(borders) if b > a]


def turns(layouts: Iterable[CacheLayout], length: int) -> list[int]:
    """Sizes of pieces as in several turns: a prompt, then single tokens, repeated.

    For each layout, prompts of half a window, of one that crosses the edge, and of more than the
    cache has rows.

    >>> sizes = turns([CacheLayout(window=64, rows=80)], 400)
    >>> [size for size in sizes if size > 1], sum(sizes)
    ([32, 48, 85, 32, 48, 85, 22], 400)
    """
    answer, prompts = [1] * 8, []
    for layout in distinct(layouts):
        W = layout.window or STAND_IN_WINDOW
        prompts += [W // 2, 3 * W // 4, _rows(layout) + 5]
    sizes: list[int] = []
    for prompt in itertools.cycle(prompts):
        sizes += [max(2, prompt), *answer]
        if sum(sizes) >= length:
            break
    while sum(sizes) > length:
        over = sum(sizes) - length
        sizes[-1:] = [sizes[-1] - over] if sizes[-1] > over else []
    return sizes


class TokenText:
    """The checkpoint's own tokenizer: text to tokens, and tokens to text for reports."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Read the checkpoint's tokenizer, with the start token that the driver will use.

        Raises:
            CheckpointError, ConfigError: there is none, or not one that an export takes.
        """
        tokenizer = CheckpointTokenizer.read(checkpoint)
        self._codec, self._start = tokenizer.codec, tokenizer.vocabulary.prompt_start

    def tokens(self, text: str, length: int, *, skipped: int = 0) -> np.ndarray:
        """The text's tokens from one on, repeated where it is too short: (length,) int64."""
        ids = np.array([*self._start, *self._codec.encode(text)], dtype=np.int64)
        return np.resize(np.roll(ids, -skipped), length)

    def count(self, text: str) -> int:
        """Tokens of a text.

        Raises:
            ContractError: they are too few to measure on.
        """
        count = len(self._codec.encode(text))
        if count < _FEWEST_TOKENS:
            raise ContractError(
                f"--text: {counted(count, 'token')}, expected at least {_FEWEST_TOKENS}; name a "
                "longer text like the model's training data"
            )
        return count

    def piece(self, token: int) -> str:
        """Text of a token, a space as a space; empty for one without text."""
        return self._codec.label(token) if 0 <= token < len(self._codec) else ""


def random_tokens(vocab_size: int, length: int, *, seed: int) -> np.ndarray:
    """Seeded tokens from the whole vocabulary: (length,) int64."""
    return np.random.default_rng(seed).integers(0, vocab_size, length)


def distinct(layouts: Iterable[CacheLayout]) -> list[CacheLayout]:
    """Each layout once; those without a window only where no other has one."""
    each = list(dict.fromkeys(layouts))
    return [layout for layout in each if layout.window is not None] or each


def _rows(layout: CacheLayout) -> int:
    return layout.rows or (layout.window or STAND_IN_WINDOW) + 16


def _evicted_at_once(layout: CacheLayout) -> int:
    return _rows(layout) - (layout.window or STAND_IN_WINDOW) + 1
