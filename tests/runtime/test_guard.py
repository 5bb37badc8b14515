"""One thread at a time, no use after a call that did not end, one generation at a time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from tramontane.runtime import Sampler, Session
from tramontane.runtime.errors import ContractError
from tramontane.runtime.generate import Generation, TextStream

RUNTIME = Path(sys.modules[Session.__module__].__file__ or "").parent
TOLERANCE = 1e-5  # float32 sums in another order, of logits near 1
SEQUENCE = [int(token) for token in np.random.default_rng(3).integers(3, 2048, 262)]
UNFINISHED = r"an earlier call was interrupted or failed .*; call reset\(\) and give the whole"
IN_USE = r"this session is in use by thread '.*' while thread '.*' calls it, expected one thread"
NOT_ENDED = r"an earlier generate\(\) or stream\(\) of this session has not ended.* or close\(\)"
CHANGED = r"was reset or given other tokens after this generate\(\) or stream\(\) began; start"

USES: dict[str, Callable[[Session], object]] = {
    "step": lambda s: s.step(5),
    "prefill": lambda s: s.prefill([5, 6]),
    "cache": lambda s: s.cache(),
    "seek": lambda s: s.seek(s.tokens),
    "generate": lambda s: s.generate([5]),
    "stream": lambda s: s.stream("x"),
}


class InterruptAt:
    """Raise KeyboardInterrupt before the ``place``-th instruction that our driver executes."""

    def __init__(self, place: int) -> None:
        self.left = place
        self.was = sys.gettrace()

    def __enter__(self) -> None:
        sys.settrace(self.enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.was)

    def enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if RUNTIME not in Path(frame.f_code.co_filename).parents:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.count

    def count(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.count


class InterruptAtCall:
    """Raise KeyboardInterrupt after the ``place``-th call in our driver, where Python looks for signals."""

    def __init__(self, place: int) -> None:
        self.left = place

    def __enter__(self) -> None:
        sys.setprofile(self.count)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def count(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_return") and RUNTIME in Path(frame.f_code.co_filename).parents:
            self.left -= 1
            if self.left < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt


class Patched:
    """A graph whose runs are followed by something."""

    def __init__(self, session: Session, after: Callable[[], object], *, at: int = 1) -> None:
        self.session, self.graph, self.after, self.at = session, session._graph, after, at

    def run_with_iobinding(self, binding: Any) -> None:
        self.graph.run_with_iobinding(binding)
        self.at -= 1
        if self.at == 0:
            self.after()

    def __enter__(self) -> None:
        self.session._graph = self

    def __exit__(self, *_: object) -> None:
        self.session._graph = self.graph


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """Logits after each token of the sequence, of a session that nothing strikes."""
    return Session.load(folder, threads=1).prefill(SEQUENCE, all_logits=True)


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


def strike(kind: type[BaseException]) -> None:
    raise kind("struck")


def refuses_or_continues(session: Session, expected: np.ndarray) -> bool:
    """Whether it refuses what follows; if not, it must continue as if nothing had happened."""
    tokens = session.tokens
    try:
        logits = session.step(SEQUENCE[tokens])
    except ContractError as error:
        assert "call reset() and give the whole sequence again" in str(error)  # noqa: PT017
        for use in USES.values():
            with pytest.raises(ContractError, match=UNFINISHED):
                use(session)
        session.reset()
        close(session.prefill(SEQUENCE), expected[-1])
        return True
    close(logits, expected[tokens])
    close(session.prefill(SEQUENCE[tokens + 1 :]), expected[-1])
    return False


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
    ],
    ids=["step", "step-that-grows", "prefill", "prefill-that-grows", "reset"],
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


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize(
    ("call", "run"),
    [
        (lambda s: s.step(SEQUENCE[24]), 1),
        (lambda s: s.prefill(SEQUENCE[24:34], chunk=4), 1),
        (lambda s: s.prefill(SEQUENCE[24:34], chunk=4), 3),
        (lambda s: list(s.generate(SEQUENCE[24:30], max_new_tokens=4)), 1),
        (lambda s: list(s.generate(SEQUENCE[24:30], max_new_tokens=4)), 3),
        (lambda s: list(s.stream("def f(x):", max_new_tokens=20)), 4),
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


def collected(iterator: Iterator[Any], into: list[Any]) -> None:
    for piece in iterator:
        into.append(piece)


@pytest.mark.slow
@pytest.mark.parametrize(
    "begin",
    [
        lambda s: s.generate(SEQUENCE[:20], max_new_tokens=12),
        lambda s: s.stream("x", max_new_tokens=8, sampler=Sampler(temperature=1, seed=3)),
    ],
    ids=["generate", "stream"],
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


def in_threads(work: Callable[[], object], *, count: int = 4) -> list[str]:
    """Run work in some threads at once; messages of what they were refused."""
    barrier, refused = threading.Barrier(count), []

    def run() -> None:
        barrier.wait()
        for _ in range(60):
            try:
                work()
            except ContractError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return refused


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
        made = list(session.generate([5, 6], max_new_tokens=3))
        turns.append(made)  # in the order of the sequence only where tokens are right

    refused = in_threads(turn)
    assert len(turns) + len(refused) == 240
    assert all("one thread" in message or "has not ended" in message for message in refused)
    alone = Session.load(folder, threads=1)
    replayed = [list(alone.generate([5, 6], max_new_tokens=3)) for _ in turns]
    assert sorted(turns) == sorted(replayed)
    close(session.step(9).copy(), alone.step(9))


def test_threads_that_share_one_iterator_lose_no_token(folder: Path, session: Session) -> None:
    tokens, made = session.generate([5, 6], max_new_tokens=200), []
    refused = in_threads(lambda: made.extend(islice(tokens, 1)))
    assert len(made) == 240 - len(refused) - (40 - len(refused) if len(refused) < 40 else 0)
    alone = list(Session.load(folder, threads=1).generate([5, 6], max_new_tokens=200))
    assert sorted(made) == sorted(alone[: len(made)])


BEGIN: dict[str, Callable[[Session], Generation | TextStream]] = {
    "generate": lambda s: s.generate([5, 6], max_new_tokens=5),
    "stream": lambda s: s.stream("def f(x):", max_new_tokens=5),
}


@pytest.fixture(params=BEGIN.values(), ids=list(BEGIN))
def begin(request: pytest.FixtureRequest) -> Callable[[Session], Generation | TextStream]:
    function: Callable[[Session], Generation | TextStream] = request.param
    return function


@pytest.mark.parametrize("taken", [0, 1])
def test_a_second_generation_is_refused_until_the_first_has_ended(
    session: Session, begin: Callable[[Session], Generation | TextStream], taken: int
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
    begin: Callable[[Session], Generation | TextStream],
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


def test_an_error_of_a_sampler_leaves_the_session_usable(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = session.generate([5, 6], max_new_tokens=3)
    monkeypatch.setattr(new, "_choose", lambda _: strike(RuntimeError))
    with pytest.raises(RuntimeError, match="struck"):
        next(new)
    with pytest.raises(ContractError, match=CHANGED):
        next(new)
    assert session.tokens == 2
    assert list(session.generate([7], max_new_tokens=3))
