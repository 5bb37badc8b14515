"""One generation at a time, of the sequence that it began with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
from tramontane.runtime import Sampler, Session
from tramontane.runtime.decoding.generation import Generation
from tramontane.runtime.errors import ContractError

from .guarded_sessions import CHANGED, FAILED, NOT_ENDED, strike

BEGIN: dict[str, Callable[[Session], Generation]] = {
    "tokens": lambda s: s.generate([5, 6], max_new_tokens=5),
    "text": lambda s: s.generate("def f(x):", max_new_tokens=5),
}


@pytest.fixture(params=BEGIN.values(), ids=list(BEGIN))
def begin(request: pytest.FixtureRequest) -> Callable[[Session], Generation]:
    function: Callable[[Session], Generation] = request.param
    return function


@pytest.mark.parametrize("taken", [0, 1])
def test_a_second_generation_is_refused_until_the_first_has_ended(
    session: Session, begin: Callable[[Session], Generation], taken: int
) -> None:
    first = begin(session)
    start = list(islice(first, taken))
    for second in BEGIN.values():
        with pytest.raises(ContractError, match=NOT_ENDED):
            second(session)
    rest = [*start, *first]  # the refusal did it no harm; now it is exhausted
    session.reset()
    assert list(begin(session)) == rest
    closed = begin(session)
    list(islice(closed, taken))
    closed.close()
    assert list(closed) == []
    dropped = begin(session)
    list(islice(dropped, taken))
    del dropped
    for _ in begin(session):
        break
    assert list(begin(session))


@pytest.mark.parametrize("taken", [0, 1])
@pytest.mark.parametrize(
    "change", [Session.reset, lambda s: s.step(5), lambda s: s.prefill([5, 6])]
)
def test_a_generation_does_not_continue_a_sequence_that_others_changed(
    session: Session,
    begin: Callable[[Session], Generation],
    change: Callable[[Session], object],
    taken: int,
) -> None:
    old = begin(session)
    list(islice(old, taken))
    change(session)
    tokens = session.tokens
    for _ in range(2):
        with pytest.raises(ContractError, match=CHANGED):
            next(old)
    assert session.tokens == tokens
    assert list(begin(session))  # an old one does not hold up a new one


def test_an_error_of_a_processor_leaves_the_session_usable(session: Session) -> None:
    sampler = Sampler(processors=[lambda *_: strike(RuntimeError)])
    new = session.generate([5, 6], max_new_tokens=3, sampler=sampler)
    with pytest.raises(RuntimeError, match="struck"):
        next(new)
    for use in (lambda: next(new), lambda: new.result):
        with pytest.raises(ContractError, match=FAILED):
            use()
    assert session.tokens == 2
    assert session.generate([7], max_new_tokens=3).finish().tokens
