"""Pieces of text, the result at the end, stop strings and cancelling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tramontane.runtime import Model, Sampler, Session
from tramontane.runtime.errors import ContractError
from tramontane.runtime.memory import DEFAULT_CHUNK
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from ..sequences.guarded_sessions import NOT_ENDED, SEQUENCE, Patched, close

FREELY = Sampler(temperature=1, seed=3)


def test_pieces_make_the_text_of_the_result_and_its_tokens_follow_the_prompt(
    session: Session,
) -> None:
    new = session.generate("def f(x):", max_new_tokens=60, sampler=FREELY)
    pieces = list(new)
    result = new.result
    assert all(pieces)
    assert "".join(pieces) == result.text
    words = session.tokenizer
    prompt = words.encode("def f(x):")
    assert words.decode(prompt) + result.text == words.decode([*prompt, *result.tokens])
    assert (result.finish_reason, result.stop_string) == ("length", None)
    assert (result.prompt_tokens, len(result.tokens)) == (len(prompt), 60)
    assert session.tokens == len(prompt) + 60
    assert min(result.prefill_seconds, result.decode_seconds) > 0


def test_tokens_and_their_text_are_one_prompt(session: Session) -> None:
    prompt = session.tokenizer.encode("def f(x):")
    expected = session.generate("def f(x):", max_new_tokens=20).finish()
    session.reset()
    assert session.generate(prompt, max_new_tokens=20).finish().tokens == expected.tokens


def test_times_leave_out_what_is_between_pieces(session: Session) -> None:
    new = session.generate([5, 6], max_new_tokens=9, sampler=FREELY)
    for _ in new:
        time.sleep(0.1)
    assert new.result.prefill_seconds + new.result.decode_seconds < 0.1


def test_there_is_no_result_before_the_end(session: Session) -> None:
    new = session.generate([5], max_new_tokens=9)
    with pytest.raises(ContractError, match=r"has not ended; read it to its end, call finish\(\)"):
        _ = new.result
    result = new.finish()
    session.reset()
    assert new.result == result == new.finish()


def test_a_stop_string_across_tokens_ends_the_text_before_it(session: Session) -> None:
    words = session.tokenizer
    prompt = words.encode("def f(x):")
    whole = session.generate(prompt, max_new_tokens=60, sampler=FREELY).finish()
    start = len(words.decode(prompt))
    ends = [
        len(words.decode([*prompt, *whole.tokens[:n]])) - start
        for n in range(len(whole.tokens) + 1)
    ]
    checked = 0
    for length in (1, 3, 9):
        for at in range(0, len(whole.text) - length, 7):
            stop = whole.text[at : at + length]
            session.reset()
            new = session.generate(prompt, max_new_tokens=60, sampler=FREELY, stop=stop)
            text = "".join(new)
            found = whole.text.index(stop)
            assert text == new.result.text == whole.text[:found]
            assert (new.result.finish_reason, new.result.stop_string) == ("stop_string", stop)
            # The token that completes it is not appended, those before it are.
            assert new.result.tokens == whole.tokens[: len(new.result.tokens)]
            assert ends[len(new.result.tokens)] < found + length
            assert session.tokens == len(prompt) + len(new.result.tokens)
            checked += len([n for n in ends if found < n < found + length]) > 0
    assert checked > 5  # cross tokens


def test_after_a_stop_string_the_sequence_goes_on_from_the_tokens_of_the_result(
    session: Session,
) -> None:
    text = session.generate([5, 6], max_new_tokens=30, sampler=FREELY).finish().text
    session.reset()
    made = session.generate([5, 6], max_new_tokens=30, sampler=FREELY, stop=text[12:15]).finish()
    logits = session.step(9).copy()
    session.reset()
    close(logits, session.prefill([5, 6, *made.tokens, 9]))


@torch.no_grad()
def test_log_probabilities_are_the_log_softmax_of_the_logits(session: Session) -> None:
    new = session.generate([5, 6], max_new_tokens=20, sampler=FREELY, logprobs=3).finish()
    session.reset()
    logits = session.prefill([5, 6, *new.tokens], all_logits=True)[1:-1]
    expected = torch.log_softmax(torch.from_numpy(logits).double(), dim=-1)
    assert [one.token for one in new.logprobs] == new.tokens
    found = [one.logprob for one in new.logprobs]
    close(found, expected[range(20), new.tokens].numpy())
    top = expected.topk(3)
    assert [[token for token, _ in one.top] for one in new.logprobs] == top.indices.tolist()
    close([[logprob for _, logprob in one.top] for one in new.logprobs], top.values.numpy())


def test_log_probabilities_are_of_the_tokens_of_the_result_alone(session: Session) -> None:
    whole = session.generate([5, 6], max_new_tokens=20, sampler=FREELY, logprobs=0).finish()
    assert [one.top for one in whole.logprobs] == [[]] * 20
    session.reset()
    stop = whole.text[8:11]
    ended = session.generate([5, 6], sampler=FREELY, logprobs=0, stop=stop).finish()
    assert [one.token for one in ended.logprobs] == ended.tokens
    session.reset()
    assert session.generate([5, 6], max_new_tokens=3).finish().logprobs == []


def test_the_penalty_of_repetition_sees_prompt_and_answer(session: Session) -> None:
    sampler = Sampler(repetition_penalty=1.5)
    found = session.generate([5, 6], max_new_tokens=20, sampler=sampler).finish().tokens
    session.reset()
    penalty = RepetitionPenaltyLogitsProcessor(1.5)
    tokens, logits = [5, 6], session.prefill([5, 6])
    for _ in range(20):
        scores = penalty(torch.tensor([tokens]), torch.from_numpy(logits.copy())[None])
        tokens.append(int(scores.argmax()))
        logits = session.step(tokens[-1])
    assert found == tokens[2:]


def test_cancelled_between_pieces_the_sequence_has_all_that_was_given(session: Session) -> None:
    expected = session.generate([5, 6], max_new_tokens=40, sampler=FREELY).finish()
    for cancel in (Session.cancel, None):
        session.reset()
        event = threading.Event()
        new = session.generate([5, 6], max_new_tokens=40, sampler=FREELY, cancel=event)
        given = next(new)
        event.set() if cancel is None else cancel(session)
        given += "".join(new)
        assert new.result.finish_reason == "cancelled"
        made = new.result.tokens
        assert 0 < len(made) < 40
        assert (given, made) == (new.result.text, expected.tokens[: len(made)])
        assert expected.text.startswith(given)
        assert session.tokens == 2 + len(made)
        logits = session.step(9).copy()
        session.reset()
        close(logits, session.prefill([5, 6, *made, 9]))


def test_cancelled_from_another_thread_it_ends_within_one_step(session: Session) -> None:
    def cancel() -> None:
        thread = threading.Thread(target=session.cancel)
        thread.start()
        thread.join()

    with Patched(session, cancel, at=5):  # the prompt, then four steps
        result = session.generate([5, 6], max_new_tokens=40).finish()
    assert (result.finish_reason, len(result.tokens), session.tokens) == ("cancelled", 4, 6)


def test_a_prompt_is_cancelled_between_chunks_and_leaves_the_session_usable(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tramontane.runtime.decoding.generation.DEFAULT_CHUNK", 50)
    seen: list[tuple[int, int]] = []

    def progress(done: int, whole: int) -> None:
        seen.append((done, whole))
        if done == 100:
            session.cancel()

    result = session.generate(SEQUENCE, progress=progress).finish()
    assert seen == [(50, 262), (100, 262)]
    assert (result.finish_reason, result.text, result.tokens) == ("cancelled", "", [])
    assert result.prompt_tokens == session.tokens == 100
    logits = session.prefill(SEQUENCE[100:])
    session.reset()
    close(logits, session.prefill(SEQUENCE))
    cancelled = threading.Event()
    cancelled.set()
    session.reset()
    assert session.generate(SEQUENCE, cancel=cancelled).finish().prompt_tokens == 0
    assert session.tokens == 0


def test_chunks_of_the_prompt_change_no_token(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = session.generate(SEQUENCE, max_new_tokens=30, sampler=FREELY).finish().tokens
    assert len(SEQUENCE) < DEFAULT_CHUNK
    for chunk in (1, 7, 100):
        session.reset()
        monkeypatch.setattr("tramontane.runtime.decoding.generation.DEFAULT_CHUNK", chunk)
        found = session.generate(SEQUENCE, max_new_tokens=30, sampler=FREELY).finish().tokens
        assert found == expected


def test_no_stop_strings_are_none_or_an_empty_list(session: Session) -> None:
    expected = session.generate([5, 6], max_new_tokens=9).finish().tokens
    for stop in (None, (), []):
        session.reset()
        found = session.generate([5, 6], max_new_tokens=9, stop=stop).finish()
        assert (found.tokens, found.stop_string) == (expected, None)


def test_a_cancel_without_a_generation_does_nothing(session: Session) -> None:
    session.cancel()
    assert session.generate([5], max_new_tokens=3).finish().finish_reason == "length"
    session.cancel()
    assert session.generate([5], max_new_tokens=3).finish().finish_reason == "length"


def test_an_error_of_the_consumer_leaves_the_session_usable(session: Session) -> None:
    def consume(pieces: object) -> None:
        with session.generate([5, 6], max_new_tokens=30) as new:
            for _ in new:
                raise KeyError("consumer")

    with pytest.raises(KeyError, match="consumer") as raised:
        consume(session)
    assert raised.tb is not None  # though it holds the generation
    known = session.tokens
    assert known >= 2
    assert session.generate([7], max_new_tokens=3).finish().tokens
    assert session.tokens == known + 4


def test_a_closed_generation_has_a_result_and_lets_the_next_begin(session: Session) -> None:
    new = session.generate([5, 6], max_new_tokens=30)
    first = next(new)
    with pytest.raises(ContractError, match=NOT_ENDED):
        session.generate([7])
    new.close()
    assert list(new) == []
    assert (new.result.text, new.result.finish_reason) == (first, "cancelled")
    assert session.generate([7], max_new_tokens=3).finish().tokens


def test_after_an_error_that_holds_its_generation_a_cancel_lets_the_next_begin(
    session: Session,
) -> None:
    def consume() -> None:
        new = session.generate([5, 6], max_new_tokens=30)
        for _ in new:
            raise KeyError("consumer")

    with pytest.raises(KeyError, match="consumer") as raised:
        consume()
    assert raised.tb is not None  # whose frames hold the generation
    with pytest.raises(ContractError, match=NOT_ENDED):
        session.generate([7])
    session.cancel()
    known = session.tokens
    assert session.generate([7], max_new_tokens=3).finish().finish_reason == "length"
    assert session.tokens == known + 4


@pytest.mark.parametrize("cancel", ["session", "event"])
def test_a_cancelled_generation_that_another_replaces_has_a_result(
    session: Session, cancel: str
) -> None:
    event = threading.Event()
    old = session.generate([5, 6], max_new_tokens=30, cancel=event)
    first = next(old)
    event.set() if cancel == "event" else session.cancel()
    new = session.generate([7], max_new_tokens=3)
    assert list(old) == []
    assert (old.result.text, old.result.finish_reason) == (first, "cancelled")
    assert new.finish().finish_reason == "length"


def test_a_generation_that_another_thread_closes_in_a_step_stays_closed(session: Session) -> None:
    new = session.generate([5, 6], max_new_tokens=30)
    with Patched(session, new.close, at=2):
        given = list(new)
    assert (new.result.text, new.result.finish_reason) == ("".join(given), "cancelled")
    assert len(new.tokens) < 30
    assert session.generate([7], max_new_tokens=3).finish().tokens


def test_a_model_generates_in_a_session_of_its_own(folder: Path) -> None:
    model = Model.load(folder, threads=1)
    expected = Session(model).generate("Once upon").finish()
    assert "".join(model.generate("Once upon")) == expected.text
    assert model.generate("Once upon", max_new_tokens=3).finish().tokens == expected.tokens[:3]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.generate([5], stop=""), "stop has ''; expected strings of one character"),
        (lambda s: s.generate([5], logprobs=-1), "logprobs is -1; expected 0 .* to 2048"),
        (lambda s: s.generate([5], logprobs=2049), "logprobs is 2049"),
        (lambda s: s.generate([5, 9999]), "token 9999; expected 0 to 2047"),
        (lambda s: s.generate([5], max_new_tokens=2.5), "max_new_tokens is 2.5; expected a whole"),
        (lambda s: s.generate([5], max_new_tokens="5"), "max_new_tokens is '5'; expected a whole"),
        (lambda s: s.generate([5], logprobs=2.5), "logprobs is 2.5; expected a whole number, 0"),
        (lambda s: s.generate(b"abc"), "tokens: b'abc', expected a text or a list of whole"),
        (
            lambda s: s.generate([5], sampler={"temperature": 1}),
            r"sampler is {'temperature': 1}; expected a Sampler, such as Sampler\(temp",
        ),
        (lambda s: s.samples([5], 0), "count is 0; expected 1 or more"),
        (lambda s: s.samples([5], 1.5), "count is 1.5; expected a whole number, 1 or more"),
        (lambda s: s.samples([5], 2, stop=""), "stop has ''"),
        (lambda s: s.samples([], 2), "no tokens; expected at least one"),
    ],
)
def test_what_cannot_be_generated_is_refused_and_changes_nothing(
    session: Session, ask: Callable[[Session], object], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        ask(session)
    assert session.tokens == 0


def test_samples_of_a_prompt_are_those_of_each_seed_alone(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str | list[int]] = ["def f(x):", [5], SEQUENCE]
    for prompt in prompts:
        expected = []
        for seed in (3, 4, 5):
            session.reset()
            session.prefill([9, 8])
            sampler = Sampler(temperature=1, seed=seed, repetition_penalty=1.2)
            asked = session.generate(prompt, max_new_tokens=30, sampler=sampler)
            expected.append(asked.finish())
        session.reset()
        session.prefill([9, 8])
        sampler = Sampler(temperature=1, seed=3, repetition_penalty=1.2)
        samples = session.samples(prompt, 3, max_new_tokens=30, sampler=sampler)
        found = [sample.finish() for sample in samples]
        assert [one.tokens for one in found] == [one.tokens for one in expected]
        assert [one.text for one in found] == [one.text for one in expected]
        assert [one.prompt_tokens for one in found] == [1, 1, 1]  # the rest is computed once
        assert session.tokens == expected[-1].prompt_tokens + 2 + 30


def test_samples_that_are_cancelled_while_the_prompt_is_read_are_none(session: Session) -> None:
    cancelled = threading.Event()
    cancelled.set()
    assert list(session.samples([5, 6, 7], 3, cancel=cancelled)) == []
    assert session.generate([5, 6, 7]).finish().tokens


def test_reuse_computes_the_rest_alone_and_gives_the_same_tokens(session: Session) -> None:
    first = session.generate(SEQUENCE[:100], max_new_tokens=10).finish()
    chat = [*SEQUENCE[:100], *first.tokens, *SEQUENCE[100:110]]
    second = session.generate(chat, max_new_tokens=10, reuse=True).finish()
    assert (second.prompt_tokens, session.tokens) == (10, 130)
    session.reset()
    assert session.generate(chat, max_new_tokens=10).finish().tokens == second.tokens


def test_a_later_turn_is_penalized_for_what_the_first_one_said(session: Session) -> None:
    sampler = Sampler(repetition_penalty=1.5)
    session.prefill(SEQUENCE[:100])
    found = session.generate([5], max_new_tokens=20, sampler=sampler).finish().tokens
    session.reset()
    whole = [*SEQUENCE[:100], 5]
    assert session.generate(whole, max_new_tokens=20, sampler=sampler).finish().tokens == found
