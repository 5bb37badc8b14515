"""One prefill, then one step at a time: on a hand-made model of one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import sentencepiece
from tramontane.runtime import Model, Sampler, Session
from tramontane.runtime.errors import ContractError

from .sequences.guarded_sessions import GREEDY, POSITIONS, V, close, tokens


@pytest.mark.parametrize("length", [1, 7, 8, 9, 24, 25, 300])
def test_chunks_and_steps_equal_one_prefill(session: Session, length: int) -> None:
    sequence = tokens(length)
    expected = session.prefill(sequence, all_logits=True)
    cache = session.cache()
    assert expected.shape == (length, V)
    for chunk in (1, 5, 50):
        session.reset()
        close(session.prefill(sequence, all_logits=True, chunk=chunk), expected)
    session.reset()
    close([session.step(token).copy() for token in sequence], expected)
    assert session.tokens == length
    for (key, value), (expected_key, expected_value) in zip(session.cache(), cache, strict=True):
        assert key.shape == (2, session.manifest.geometry.layers[0].held(length), 16)
        close(key, expected_key)
        close(value, expected_value)


def test_last_logits_are_the_last_of_all(session: Session) -> None:
    all_logits = session.prefill(tokens(30), all_logits=True)
    session.reset()
    close(session.prefill(tokens(30), chunk=7), all_logits[-1])


def test_turns_that_mix_prefill_and_steps_equal_one_prefill(session: Session) -> None:
    sequence = tokens(90)
    expected = session.prefill(sequence, all_logits=True)
    session.reset()
    close(session.prefill(sequence[:20]), expected[19])
    close([session.step(token).copy() for token in sequence[20:31]], expected[20:31])
    close(session.prefill(sequence[31:89], all_logits=True, chunk=9), expected[31:89])
    close(session.step(sequence[89]), expected[89])


def test_a_step_overwrites_the_logits_of_the_one_before_and_not_those_of_a_prefill(
    session: Session,
) -> None:
    prefilled = session.prefill(tokens(3))
    kept = prefilled.copy()
    first = session.step(5)
    assert session.step(6) is first
    np.testing.assert_array_equal(prefilled, kept)


def test_a_session_says_which_tokens_it_has(session: Session) -> None:
    assert session.ids == []
    made = session.generate([5, 6], max_new_tokens=40).finish().tokens
    ids = session.ids
    assert ids == [5, 6, *made]
    session.rewind(1)
    assert session.ids == ids[:-1]
    session.seek(50)
    assert session.ids[41:] == [-1] * 9
    assert ids == [5, 6, *made]  # a copy


def test_logits_of_a_step_cannot_be_written(session: Session) -> None:
    with pytest.raises(ValueError, match="read-only"):
        session.step(5)[0] = 1


@pytest.mark.slow
def test_steps_keep_no_memory(embedded_artifact: Callable[[str], Path]) -> None:
    session = Session.load(embedded_artifact("int8-ort"), threads=1)
    process = psutil.Process()
    for token in tokens(500):
        session.step(token)
    grown = []
    for _ in range(3):  # what is kept grows each time; what else the process does, does not
        session.reset()
        before = process.memory_info().rss
        for token in tokens(3000):
            session.step(token)
        grown.append(process.memory_info().rss - before)
    assert min(grown) < 2 << 20


def test_a_step_leaves_the_rows_held_before_as_they_are(session: Session) -> None:
    session.prefill(tokens(10))
    before = session.cache()[0][0]
    session.step(9)
    assert before.any()
    np.testing.assert_array_equal(session.cache()[0][0][:, :10], before)


def test_reset_forgets_everything(session: Session) -> None:
    fresh = session.prefill(tokens(20))
    session.reset()
    session.prefill(tokens(100, seed=2))
    session.reset()
    assert session.tokens == 0
    assert session.cache()[0][0].shape == (2, 0, 16)
    np.testing.assert_array_equal(session.prefill(tokens(20)), fresh)


def test_greedy_generation_is_repeatable_and_appends_what_it_yields(session: Session) -> None:
    prompt = tokens(12)
    first = session.generate(prompt, max_new_tokens=40, sampler=GREEDY).finish().tokens
    assert session.tokens == 12 + len(first) == 52
    after = session.step(7).copy()
    session.reset()
    assert session.generate(prompt, max_new_tokens=40, sampler=GREEDY).finish().tokens == first
    session.reset()
    logits = session.prefill([*prompt, *first, 7], all_logits=True)
    assert first == logits[11:51].argmax(axis=1).tolist()
    close(logits[-1], after)


def test_generation_stops_before_an_end_token(session: Session) -> None:
    prompt = tokens(12)
    first = session.generate(prompt, max_new_tokens=10, sampler=GREEDY).finish().tokens
    words = dataclasses.replace(session.manifest.vocabulary, eos_token_ids=(2, first[4]))
    stopped = Session(
        Model(
            folder=session.folder,
            manifest=dataclasses.replace(session.manifest, vocabulary=words),
            graph=session.model.graph,
        )
    )
    expected = first[: first.index(first[4])]
    assert stopped.generate(prompt, max_new_tokens=10, sampler=GREEDY).finish().tokens == expected
    assert stopped.tokens == 12 + len(expected)


def test_streamed_pieces_are_the_text_of_the_generated_tokens(session: Session) -> None:
    sampler = Sampler(temperature=1, seed=3)
    text = "".join(session.generate("def f(x):", max_new_tokens=60, sampler=sampler))
    session.reset()
    words = session.tokenizer
    prompt = words.encode("def f(x):")
    new = session.generate(prompt, max_new_tokens=60, sampler=sampler).finish().tokens
    assert words.decode(prompt) + text == words.decode([*prompt, *new])


def test_a_stream_goes_on_past_tokens_that_have_no_piece(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    session = Session.load(make(tmp_path / "tiny"), threads=1)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["Once upon a time there was a tokenizer of few pieces"] * 9),
        model_prefix=str(tmp_path / "tiny" / "tokenizer"),
        vocab_size=290,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    assert len(session.tokenizer) == 290
    sampler = Sampler(temperature=1, seed=3)
    text = "".join(session.generate("Once", max_new_tokens=40, sampler=sampler))
    session.reset()
    prompt = session.tokenizer.encode("Once")
    new = session.generate(prompt, max_new_tokens=40, sampler=sampler).finish().tokens
    assert len(new) == 40
    assert max(new) >= 290 > min(new)
    words = session.tokenizer
    assert words.decode(prompt) + text == words.decode([*prompt, *new])


def test_text_is_handed_on_before_the_next_step(session: Session) -> None:
    new = session.generate([5], max_new_tokens=9, sampler=GREEDY)
    assert len(list(islice(new, 1))) == 1
    assert session.tokens == len(new.tokens)


@pytest.mark.parametrize("computed", [0, 1, 10, 30])
@pytest.mark.parametrize("position", [30, 40, 300, POSITIONS])
def test_seek_holds_the_rows_that_the_skipped_tokens_would_fill(
    session: Session, computed: int, position: int
) -> None:
    if computed:
        session.prefill(tokens(computed))
    before = [rows for pair in session.cache() for rows in pair]
    session.seek(position)
    assert session.tokens == position
    for key, value in session.cache():
        held = session.manifest.geometry.layers[0].held(position)
        assert key.shape == value.shape == (2, held, 16)
        assert all(rows.any(axis=(0, 2)).all() == bool(computed) for rows in (key, value))
    for rows, now in zip(before, session.cache()[0], strict=False):
        kept = min(rows.shape[1], now.shape[1])
        np.testing.assert_array_equal(rows[:, :kept], now[:, :kept])
    if position < POSITIONS:
        assert np.isfinite(session.step(5)).all()
        assert session.tokens == position + 1


def test_seek_changes_what_follows_and_reset_forgets_it(session: Session) -> None:
    sequence = tokens(20)
    expected = session.prefill(sequence)
    session.seek(20)  # where it is
    after = session.step(5).copy()
    session.reset()
    session.prefill(sequence)
    np.testing.assert_array_equal(session.step(5), after)
    session.seek(100)
    session.reset()
    np.testing.assert_array_equal(session.prefill(sequence), expected)


def test_seek_goes_forward_alone_and_no_further_than_the_last_position(session: Session) -> None:
    session.prefill(tokens(9))
    with pytest.raises(ContractError, match=r"position is 8, expected 9 or more.*reset\(\) first"):
        session.seek(8)
    with pytest.raises(ContractError, match=f"the artifact has {POSITIONS} positions"):
        session.seek(POSITIONS + 1)
    assert session.tokens == 9
