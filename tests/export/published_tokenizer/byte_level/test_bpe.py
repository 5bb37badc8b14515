"""Merges from ranks: the parts of tokens are those of the definition, and are found at once."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from itertools import pairwise

import pytest
from tramontane.export.published_tokenizer.byte_level import bpe


def by_definition(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts joined last, if again and again the neighbours of the lowest rank are joined."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [
            (ranks[left + right], i)
            for i, (left, right) in enumerate(pairwise(parts))
            if left + right in ranks
        ]
        if not joined:
            return None
        _, i = min(joined)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None


@pytest.mark.parametrize("seed", range(4))
def test_parts_of_tokens_are_those_of_the_definition(seed: int) -> None:
    draw, known = random.Random(seed), [b"a", b"b", b"c"]
    while len(known) < 400:  # each of two that are known, so that most become one token
        known.append(draw.choice(known) + draw.choice(known[-60:]))
    tokens = sorted({token for token in known if len(token) < 300})
    ranks = {token: rank for rank, token in enumerate(draw.sample(tokens, len(tokens)))}
    found = [bpe._last_two(token, ranks) for token in tokens]
    assert found == [by_definition(token, ranks) for token in tokens]
    assert any(found)
    assert None in found


def test_a_token_of_many_bytes_takes_no_time() -> None:
    tokens = [b"a" * 2**power for power in range(16)]
    start = time.monotonic()
    merges = bpe.merges_of({token: rank for rank, token in enumerate(tokens)})
    assert time.monotonic() - start < 10  # by trial, minutes
    assert merges[-1] == ("a" * 2**14, "a" * 2**14)
