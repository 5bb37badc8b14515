"""Eager attention: the window, the cache and padding, however tokens arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from tramontane.export.model.attention import sliding_window_attention, traced_attention
from tramontane.export.model.rope import make_rope
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.errors import TraceError

H, G, D, W = 6, 2, 4, 8
THETA = 100.0
TABLES = make_rope({"rope_theta": THETA}, head_dim=D, max_positions=128).tables(128)
LENGTHS = [1, W - 1, W, W + 1, 3 * W]
ROWS = [W, W + 3, W + 16]
# float32 against float64, on values of size 1.
BOUND = 1e-5


def random_inputs(tokens: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, tokens, heads * D, generator=generator) for heads in (H, G, G))


def rope(x: np.ndarray, position: int) -> np.ndarray:
    """(D,) rotated as complex numbers x[d] + i x[d + D / 2], float64."""
    rotated = (x[: D // 2] + 1j * x[D // 2 :]) * np.exp(
        1j * position * THETA ** (-2 * np.arange(D // 2) / D)
    )
    return np.concatenate([rotated.real, rotated.imag])


def attend_by_hand(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> np.ndarray:
    """One query of one head at a time: (T, H * D) and (T, G * D) to (T, H * D), float64."""
    T = len(q)
    queries, keys, values = (x.double().numpy().reshape(T, -1, D) for x in (q, k, v))
    out = np.zeros((T, H, D))
    for i in range(T):
        seen = range(0 if window is None else max(0, i - window + 1), i + 1)
        for h in range(H):
            g = h // (H // G)
            rotated = rope(queries[i, h], i)
            scores = np.array([rotated @ rope(keys[j, g], j) for j in seen]) / np.sqrt(D)
            weights = np.exp(scores - scores.max())
            out[i, h] = sum(w * values[j, g] for w, j in zip(weights, seen, strict=True))
            out[i, h] /= weights.sum()
    return out.reshape(T, H * D)


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None,
    rows: int,
    pieces: Sequence[int],
    grows: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Feed the tokens piece by piece and carry the cache."""
    B = len(q)
    past_key, past_value = (torch.zeros(B, G, rows, D) for _ in "kv")
    attended, end = [], 0
    for size in pieces:
        start, end = end, end + size
        new = [x[:, start:end] for x in (q, k, v)]
        mask = torch.ones(B, end, dtype=torch.int64)
        out, past_key, past_value = sliding_window_attention(
            *new, past_key, past_value, mask, *TABLES, window, grows
        )
        attended.append(out)
    return torch.cat(attended, dim=1), past_key, past_value


def ways(tokens: int) -> list[list[int]]:
    """At once, in chunks of 3 and of W + 2, after a prefill, and one at a time."""
    chunks = [[n] * (tokens // n) + [tokens % n] * (tokens % n > 0) for n in (3, W + 2)]
    return [[tokens], *chunks, [tokens - tokens // 2, *[1] * (tokens // 2)], [1] * tokens]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("tokens", [*LENGTHS, 5 * W])
def test_each_query_attends_to_its_window_however_tokens_arrive(tokens: int, rows: int) -> None:
    inputs = random_inputs(tokens)
    expected = attend_by_hand(*(x[0] for x in inputs), W)
    for pieces in ways(tokens):
        found, _, _ = run(*inputs, window=W, rows=rows, pieces=pieces)
        np.testing.assert_allclose(found[0], expected, atol=BOUND, rtol=0, err_msg=str(pieces))


@pytest.mark.parametrize("tokens", LENGTHS)
def test_without_a_window_each_query_attends_to_all_before_it(tokens: int) -> None:
    inputs = random_inputs(tokens)
    expected = attend_by_hand(*(x[0] for x in inputs), None)
    for pieces in ways(tokens):
        found, past_key, _ = run(*inputs, window=None, rows=0, pieces=pieces)
        np.testing.assert_allclose(found[0], expected, atol=BOUND, rtol=0, err_msg=str(pieces))
        assert past_key.shape == (1, G, tokens, D)


@pytest.mark.parametrize("rows", [0, W - 3, 5 * W, 6 * W])
@pytest.mark.parametrize("tokens", [*LENGTHS, 5 * W])
def test_cache_that_grows_keeps_every_row_and_the_window_hides_the_same(
    tokens: int, rows: int
) -> None:
    inputs = random_inputs(tokens)
    expected = attend_by_hand(*(x[0] for x in inputs), W)
    keys, values = (x[0].double().numpy().reshape(tokens, G, D) for x in inputs[1:])
    rotated = [[rope(keys[j, g], j) for j in range(tokens)] for g in range(G)]
    for pieces in ways(tokens):
        found, key, value = run(*inputs, window=W, rows=rows, pieces=pieces, grows=True)
        np.testing.assert_allclose(found[0], expected, atol=BOUND, rtol=0, err_msg=str(pieces))
        assert key.shape == value.shape == (1, G, max(rows, tokens), D)
        np.testing.assert_allclose(key[0, :, :tokens], rotated, atol=BOUND, rtol=0)
        held = values.swapaxes(0, 1).astype(np.float32)
        np.testing.assert_array_equal(value[0, :, :tokens], held)
        assert not key[0, :, tokens:].any()
        assert not value[0, :, tokens:].any()


@pytest.mark.parametrize("tokens", [W + 1, 3 * W])
def test_planted_eviction_from_a_cache_that_grows_is_noticed(tokens: int) -> None:
    inputs = random_inputs(tokens + 1)
    expected = attend_by_hand(*(x[0] for x in inputs), W)[-1]
    past = run(*(x[:, :tokens] for x in inputs), window=W, rows=0, pieces=[tokens], grows=True)[1:]
    mask = torch.ones(1, tokens + 1, dtype=torch.int64)
    last = [x[:, tokens:] for x in inputs]

    def attend(past: Sequence[Tensor]) -> np.ndarray:
        found = sliding_window_attention(*last, *past, mask, *TABLES, W, True)[0]
        return found[0, 0].numpy()

    np.testing.assert_allclose(attend(past), expected, atol=BOUND, rtol=0)
    evicted = [x.roll(-1, dims=2) for x in past]
    assert np.abs(attend(evicted) - expected).max() > 100 * BOUND


def test_shapes_that_the_tracer_is_told_are_those_of_the_values() -> None:
    arguments = (*random_inputs(3), *(torch.zeros(1, G, 0, D) for _ in "kv"))
    mask = torch.ones(1, 3, dtype=torch.int64)
    for window, grows in ((None, False), (W, True)):
        torch.library.opcheck(
            traced_attention,
            (*arguments, mask, *TABLES, window, grows),
            test_utils="test_faketensor",
        )


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("tokens", [*LENGTHS, 5 * W])
def test_cache_rows_hold_the_positions_of_the_layout(tokens: int, rows: int) -> None:
    inputs = random_inputs(tokens)
    layout = CacheLayout(window=W, rows=rows)
    keys, values = (x[0].double().numpy().reshape(tokens, G, D) for x in inputs[1:])
    expected_key, expected_value = np.zeros((2, G, rows, D))
    for row, position in enumerate(range(layout.first(tokens), tokens)):
        for g in range(G):
            expected_key[g, row] = rope(keys[position, g], position)
            expected_value[g, row] = values[position, g]
    for pieces in ways(tokens):
        _, key, value = run(*inputs, window=W, rows=rows, pieces=pieces)
        np.testing.assert_allclose(key[0], expected_key, atol=BOUND, rtol=0, err_msg=str(pieces))
        np.testing.assert_array_equal(value[0], expected_value.astype(np.float32))


def test_layout_keeps_the_window_of_the_next_query() -> None:
    for rows in ROWS:
        layout = CacheLayout(window=W, rows=rows)
        for tokens in range(1, 6 * W):
            assert layout.first(tokens) <= max(0, tokens - W + 1)
            assert layout.held(tokens) <= rows


@pytest.mark.parametrize("planted", [W - 1, W + 1])
def test_planted_window_off_by_one_is_noticed_from_the_first_token_it_moves(planted: int) -> None:
    inputs = random_inputs(3 * W)
    expected = attend_by_hand(*(x[0] for x in inputs), W)
    found, _, _ = run(*inputs, window=planted, rows=W + 16, pieces=[3 * W])
    differs = (np.abs(found[0].numpy() - expected) > BOUND).any(axis=1)
    first = min(planted, W)
    assert not differs[:first].any()
    assert differs[first:].all()


def test_query_head_reads_the_key_value_head_of_its_group() -> None:
    q, k, v = random_inputs(3)
    v = v * 0
    v[..., :D] = 1  # key/value head 0 answers one, head 1 nothing
    found, _, _ = run(q, k, v, window=W, rows=W, pieces=[3])
    answers = found.unflatten(-1, (H, D))
    torch.testing.assert_close(answers[..., : H // G, :], torch.ones(1, 3, H // G, D))
    torch.testing.assert_close(answers[..., H // G :, :], torch.zeros(1, 3, H - H // G, D))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("window", [W, None])
def test_ragged_batch_gives_what_each_sequence_gives_alone(window: int | None, side: str) -> None:
    """Tokens lie first in either case; only the mask states the side."""
    lengths, steps = [1, W + 1, 3 * W], 4
    padded, rows = max(lengths), W + 3 if window else 0
    alone = [random_inputs(n + steps, seed=n) for n in lengths]

    def batch_of(which: int, *, start: bool, step: int = 0) -> Tensor:
        if not start:
            pairs = zip(lengths, alone, strict=True)
            return torch.cat([x[which][:, n + step : n + step + 1] for n, x in pairs])
        batch = torch.full((len(lengths), padded, (H, G, G)[which] * D), 9.0)
        for b, (n, x) in enumerate(zip(lengths, alone, strict=True)):
            batch[b, :n] = x[which][0, :n]
        return batch

    mask = (torch.arange(padded)[None] < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    cache = [torch.zeros(len(lengths), G, rows, D) for _ in "kv"]
    prefilled, *cache = sliding_window_attention(
        *(batch_of(which, start=True) for which in range(3)), *cache, mask, *TABLES, window
    )
    stepped = []
    for step in range(steps):
        mask = torch.cat([mask, mask.new_ones(len(lengths), 1)], dim=1)
        new = (batch_of(which, start=False, step=step) for which in range(3))
        out, *cache = sliding_window_attention(*new, *cache, mask, *TABLES, window)
        stepped.append(out)
    for b, n in enumerate(lengths):
        found = torch.cat([prefilled[b, :n], *(out[b] for out in stepped)])
        expected = attend_by_hand(*(x[0] for x in alone[b]), window)
        np.testing.assert_allclose(found, expected, atol=BOUND, rtol=0, err_msg=f"length {n}")
        for carried in cache:  # rows beyond those held are zero
            held = CacheLayout(window=window, rows=rows or None).held(n + steps)
            assert carried[b, :, :held].all()
            assert not carried[b, :, held:].any()


@pytest.mark.parametrize("window", [W, None])
def test_padding_on_the_left_of_a_later_call_is_not_counted(window: int | None) -> None:
    inputs, rows = random_inputs(3 * W), W + 3 if window else 0
    expected = attend_by_hand(*(x[0] for x in inputs), window)
    cache, mask, done = [torch.zeros(1, G, rows, D) for _ in "kv"], torch.zeros(1, 0).long(), 0
    for size, padding in ((W, 2), (1, 0), (5, 4), (W, 1), (1, 0)):
        new = [x[:, done : done + size] for x in inputs]
        new = [torch.cat([x, torch.full_like(x[:, :1], 9).repeat(1, padding, 1)], 1) for x in new]
        mask = torch.cat([mask, torch.zeros(1, padding).long(), torch.ones(1, size).long()], 1)
        out, *cache = sliding_window_attention(*new, *cache, mask, *TABLES, window)
        found = out[0, :size]
        np.testing.assert_allclose(found, expected[done : done + size], atol=BOUND, rtol=0)
        done += size


def call(**changes: Any) -> None:
    q, k, v = random_inputs(3)
    arguments = {
        "query": q,
        "key": k,
        "value": v,
        "past_key": torch.zeros(1, G, W, D),
        "past_value": torch.zeros(1, G, W, D),
        "attention_mask": torch.ones(1, 3, dtype=torch.int64),
        "cos_cache": TABLES[0],
        "sin_cache": TABLES[1],
        "window": W,
    }
    sliding_window_attention(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.ones(1, 3, 5 * D)}, "G = 2 key/value heads of 4 do not divide 20"),
        ({"query": torch.ones(1, 3, 4 * D + 1)}, "do not divide 17"),
        ({"key": torch.ones(1, 3, D)}, r"key has 4 columns; expected G \* D = 8"),
        ({"attention_mask": torch.ones(1, 2, dtype=torch.int64)}, "covers 2 tokens, 3 are new"),
        ({"window": 0}, "window is 0; expected 1 to C = 8"),
        ({"window": W + 1}, "window is 9; expected 1 to C = 8"),
        ({"window": 0, "grows": True}, "window is 0; expected 1 to C = 8"),
        ({"cos_cache": TABLES[0][:2]}, "position 2 is beyond the rope tables of 2 rows"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    call()
    call(window=W + 1, grows=True)
    with pytest.raises(TraceError, match=message):
        call(**changes)
