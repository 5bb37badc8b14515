"""One thread at a time: the others are refused, and what was not refused is right."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tramontane.runtime import Session
from tramontane.runtime.errors import ContractError

from .guarded_sessions import IN_USE, SEQUENCE, USES, Patched, close, in_threads


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_another_thread_is_refused_while_a_call_is_inside_and_the_call_is_right(
    session: Session, expected: np.ndarray, use: Callable[[Session], object]
) -> None:
    inside, go = threading.Event(), threading.Event()
    found: list[np.ndarray] = []

    def prefill() -> None:
        with Patched(session, lambda: (inside.set(), go.wait(20)), at=2):
            found.append(session.prefill(SEQUENCE, chunk=100))

    thread = threading.Thread(target=prefill)
    thread.start()
    assert inside.wait(20)
    for call in (use, Session.reset):
        with pytest.raises(ContractError, match=IN_USE):
            call(session)
    go.set()
    thread.join()
    close(found[0], expected[-1])
    assert session.tokens == len(SEQUENCE)
    session.reset()
    use(session)


def test_steps_of_threads_that_were_not_refused_are_all_counted_and_all_right(
    folder: Path, session: Session
) -> None:
    refused = in_threads(lambda: session.step(7))  # how many are, is up to the scheduler
    done = session.tokens
    assert done + len(refused) == 240
    assert all("is in use by thread" in message for message in refused)
    alone = Session.load(folder, threads=1)
    close(session.step(9), alone.prefill([*[7] * done, 9]))
    for (key, value), (expected_key, expected_value) in zip(
        session.cache(), alone.cache(), strict=True
    ):
        close(key, expected_key)
        close(value, expected_value)


def test_threads_that_generate_get_the_tokens_of_one_sequence_or_an_error(
    folder: Path, session: Session
) -> None:
    turns: list[list[int]] = []

    def turn() -> None:
        made = session.generate([5, 6], max_new_tokens=3).finish().tokens
        turns.append(made)  # in the order of the sequence only where tokens are right

    refused = in_threads(turn)
    assert len(turns) + len(refused) == 240
    assert all("one thread" in message or "has not ended" in message for message in refused)
    alone = Session.load(folder, threads=1)
    replayed = [alone.generate([5, 6], max_new_tokens=3).finish().tokens for _ in turns]
    assert sorted(turns) == sorted(replayed)
    close(session.step(9).copy(), alone.step(9))


def test_threads_that_share_one_iterator_lose_no_token(folder: Path, session: Session) -> None:
    pieces, made = session.generate([5, 6], max_new_tokens=200), []
    in_threads(lambda: made.extend(islice(pieces, 1)))
    made += pieces
    alone = Session.load(folder, threads=1).generate([5, 6], max_new_tokens=200)
    assert sorted(made) == sorted(alone)
    assert pieces.result.tokens == alone.result.tokens
