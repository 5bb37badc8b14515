"""After a call that did not end: refused until reset, or continued exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tramontane.runtime import Sampler, Session
from tramontane.runtime.errors import ContractError

from .guarded_sessions import (
    SEQUENCE,
    InterruptAt,
    InterruptAtCall,
    Patched,
    close,
    collected,
    refuses_or_continues,
    strike,
)


# Of the windowed cache, the 25th token evicts rows; of the growing one, the 257th asks for more.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "call"),
    [
        (24, lambda s: s.step(SEQUENCE[24])),
        (256, lambda s: s.step(SEQUENCE[256])),
        (22, lambda s: s.prefill(SEQUENCE[22:32], chunk=4)),
        (255, lambda s: s.prefill(SEQUENCE[255:259], chunk=2)),
        (30, lambda s: s.reset()),
        (60, lambda s: s.rewind(s.rewindable)),
    ],
    ids=["step", "step-that-grows", "prefill", "prefill-that-grows", "reset", "rewind"],
)
def test_interrupted_anywhere_a_session_refuses_until_reset_or_continues_exactly(
    session: Session, expected: np.ndarray, before: int, call: Callable[[Session], object]
) -> None:
    outcomes = []
    while True:
        session.reset()
        session.prefill(SEQUENCE[:before])
        try:
            with InterruptAt(len(outcomes)):
                call(session)
        except KeyboardInterrupt:
            outcomes.append(refuses_or_continues(session, expected))
        else:
            break
    assert len(outcomes) > 30
    assert {True, False} == set(outcomes)


@pytest.mark.slow
def test_interrupted_anywhere_a_seek_is_refused_until_reset_or_was_done_or_not_at_all(
    session: Session, expected: np.ndarray
) -> None:
    outcomes = []
    while True:
        session.reset()
        session.prefill(SEQUENCE[:20])
        try:
            with InterruptAt(len(outcomes)):
                session.seek(258)
        except KeyboardInterrupt:
            try:
                session.step(5)
            except ContractError as error:
                assert "call reset() and give the whole sequence again" in str(error)  # noqa: PT017
                outcomes.append("refused")
            else:
                assert session.tokens in (21, 259)
                outcomes.append("done" if session.tokens == 259 else "not at all")
            session.reset()
            close(session.prefill(SEQUENCE), expected[-1])
        else:
            break
    assert {"refused", "done", "not at all"} >= set(outcomes) >= {"refused", "not at all"}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize(
    ("call", "run"),
    [
        (lambda s: s.step(SEQUENCE[24]), 1),
        (lambda s: s.prefill(SEQUENCE[24:34], chunk=4), 1),
        (lambda s: s.prefill(SEQUENCE[24:34], chunk=4), 3),
        (lambda s: s.generate(SEQUENCE[24:30], max_new_tokens=4).finish(), 1),
        (lambda s: s.generate(SEQUENCE[24:30], max_new_tokens=4).finish(), 3),
        (lambda s: s.generate("def f(x):", max_new_tokens=20).finish(), 4),
    ],
)
def test_struck_between_the_kernel_and_its_count_a_session_refuses_every_use_until_reset(
    session: Session,
    expected: np.ndarray,
    kind: type[BaseException],
    call: Callable[[Session], object],
    run: int,
) -> None:
    session.prefill(SEQUENCE[:24])
    with Patched(session, lambda: strike(kind), at=run), pytest.raises(kind, match="struck"):
        call(session)
    assert refuses_or_continues(session, expected)


def test_a_reset_by_a_handler_of_signals_inside_a_call_is_not_lost(
    session: Session, expected: np.ndarray
) -> None:
    for call in (lambda: session.step(5), lambda: session.prefill(SEQUENCE[:200], chunk=50)):
        session.reset()
        with (
            Patched(session, session.reset),
            pytest.raises(ContractError, match="was reset inside this call"),
        ):
            call()
        assert session.tokens == 0
        close(session.prefill(SEQUENCE), expected[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "begin",
    [
        lambda s: s.generate(SEQUENCE[:20], max_new_tokens=12),
        lambda s: s.generate("x", max_new_tokens=8, sampler=Sampler(temperature=1, seed=3)),
    ],
    ids=["tokens", "text"],
)
def test_interrupted_between_calls_an_iterator_skips_and_repeats_nothing_in_silence(
    session: Session, begin: Callable[[Session], Iterator[Any]]
) -> None:
    whole = list(begin(session))
    refused, place = 0, 0
    while True:
        session.reset()
        made: list[Any] = []
        iterator = begin(session)
        try:
            with InterruptAtCall(place):
                collected(iterator, made)
        except KeyboardInterrupt:
            try:
                collected(iterator, made)
                assert made == whole, place
            except ContractError:
                refused += 1
                assert made == whole[: len(made)], place
        else:
            break
        place += 1
    assert 0 < refused < place
