"""Generation under asyncio: the loop is not blocked, and cancelling a task is enough."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tramontane.runtime import Model, Sampler, Session, Tokenizer
from tramontane.runtime.decoding.result import Result
from tramontane.runtime.errors import ContractError

from ..sequences.guarded_sessions import (
    CHANGED,
    FAILED,
    IN_USE,
    NOT_ENDED,
    POSITIONS,
    SEQUENCE,
    Patched,
    V,
    close,
)

FREELY = Sampler(temperature=1, seed=3)


@contextlib.asynccontextmanager
async def paused(
    session: Session, *, max_new_tokens: int, at: int = 1
) -> AsyncIterator[tuple[asyncio.Task[Result], threading.Event]]:
    """A generation that stands inside a step until the event is set."""
    entered, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        loop.call_soon_threadsafe(entered.set)
        assert go.wait(20)

    with Patched(session, wait, at=at):
        new = session.astream([5, 6], max_new_tokens=max_new_tokens)
        reading = asyncio.create_task(new.finish())
        await asyncio.wait_for(entered.wait(), 20)
        yield reading, go


def test_pieces_and_result_are_those_of_generate(session: Session) -> None:
    async def pieces() -> tuple[list[str], list[int]]:
        new = session.astream([5, 6], max_new_tokens=30, sampler=FREELY)
        found = [piece async for piece in new]
        return found, new.result.tokens

    found, tokens = asyncio.run(pieces())
    session.reset()
    expected = session.generate([5, 6], max_new_tokens=30, sampler=FREELY)
    assert found == list(expected)
    assert tokens == expected.result.tokens


def test_the_loop_runs_while_a_step_is_computed(session: Session) -> None:
    async def both() -> int:
        ticks = 0
        async with paused(session, max_new_tokens=3) as (reading, go):
            for _ in range(50):
                await asyncio.sleep(0)
                ticks += not reading.done()
            go.set()
            assert len((await reading).tokens) == 3
        return ticks

    assert asyncio.run(both()) == 50


@contextlib.contextmanager
def slow_encoding(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[asyncio.Event, threading.Event]]:
    """Texts are encoded once the second event is set; the first says that one is about to be."""
    entered, go = asyncio.Event(), threading.Event()
    loop, encode = asyncio.get_running_loop(), Tokenizer.encode

    def wait(self: Tokenizer, *args: Any, **options: Any) -> list[int]:
        loop.call_soon_threadsafe(entered.set)
        assert go.wait(5), "the loop is blocked"
        return encode(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Tokenizer, "encode", wait)
        yield entered, go


def test_the_loop_runs_while_the_prompt_is_encoded(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def both() -> list[int]:
        with slow_encoding(monkeypatch) as (entered, go):
            reading = asyncio.create_task(session.astream("def f", max_new_tokens=9).finish())
            await asyncio.wait_for(entered.wait(), 20)
            with pytest.raises(ContractError, match=IN_USE):
                session.astream([7])
            go.set()
            return (await reading).tokens

    found = asyncio.run(both())
    session.reset()
    assert found == session.generate("def f", max_new_tokens=9).finish().tokens


def test_the_loop_is_never_held_for_long_by_a_long_text(session: Session) -> None:
    text = "def area(width, height): return width * height\n" * 8_000
    start = time.perf_counter()
    session.tokenizer.encode(text)
    seconds = time.perf_counter() - start

    async def read() -> list[float]:
        with pytest.raises(ContractError, match="the artifact has 600 positions"):
            reading = asyncio.create_task(session.astream(text).finish())
            gaps, last = [], time.perf_counter()
            while not reading.done():
                await asyncio.sleep(0.001)
                gaps.append(time.perf_counter() - last)
                last += gaps[-1]
            await reading
        return gaps

    assert max(asyncio.run(read())) < max(0.5 * seconds, 0.05)


@pytest.mark.parametrize("by_task", [True, False], ids=["task", "session"])
def test_a_generation_that_is_cancelled_while_it_encodes_appends_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch, by_task: bool
) -> None:
    async def cancelled() -> None:
        with slow_encoding(monkeypatch) as (entered, go):
            reading = asyncio.create_task(session.astream("def f").finish())
            await asyncio.wait_for(entered.wait(), 20)
            (reading if by_task else session).cancel()
            await asyncio.sleep(0)
            assert not reading.done()
            go.set()
            if by_task:
                with pytest.raises(asyncio.CancelledError):
                    await reading
            else:
                assert (await reading).finish_reason == "cancelled"
        assert session.tokens == 0
        assert (await session.astream("def f", max_new_tokens=3).finish()).tokens

    asyncio.run(cancelled())


def test_options_are_refused_by_the_call_and_prompts_with_the_first_piece(
    session: Session,
) -> None:
    wrong: list[dict[str, Any]] = [
        {"max_new_tokens": 2.5}, {"max_new_tokens": -1}, {"sampler": 1}, {"stop": ""}, {"stop": [1]},
        {"logprobs": V + 1},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(ContractError, match=next(iter(options))):
            session.astream("x", **options)
    with pytest.raises(TypeError, match="unknown"):
        session.astream("x", unknown=1)

    async def refused() -> None:
        for prompt in ([], [V], [5] * (POSITIONS + 1), "\ud800", b"x"):
            new = session.astream(prompt)
            with pytest.raises(ContractError):
                await anext(new)
            with pytest.raises(ContractError, match=FAILED):
                await anext(new)
        too_many = session.astream([5], max_new_tokens=POSITIONS)
        with pytest.raises(ContractError, match="so ask for at most 599"):
            await anext(too_many)
        assert session.tokens == 0
        assert (await session.astream([7], max_new_tokens=3).finish()).tokens

    asyncio.run(refused())


def test_a_generation_is_the_only_one_and_follows_the_sequence_before_it_reads_its_prompt(
    session: Session,
) -> None:
    async def changed() -> None:
        first = session.astream("def f")
        for begin in (session.astream, session.generate):
            with pytest.raises(ContractError, match=NOT_ENDED):
                begin([7])
        session.step(5)
        with pytest.raises(ContractError, match=CHANGED):
            await anext(first)
        given_up = session.astream("def f")
        session.cancel()
        assert (await session.astream([7], max_new_tokens=3).finish()).tokens
        assert (await given_up.finish()).finish_reason == "cancelled"

    asyncio.run(changed())


def test_a_cancelled_task_cancels_the_generation_and_leaves_the_session_usable(
    session: Session,
) -> None:
    async def cancelled() -> None:
        async with paused(session, at=3, max_new_tokens=90) as (reading, go):
            reading.cancel()
            await asyncio.sleep(0)
            assert not reading.done()  # the step that runs is not abandoned
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert 3 < session.tokens < 6
        assert (await session.astream([7], max_new_tokens=3).finish()).tokens

    asyncio.run(cancelled())
    ids = session._guarded.cached.ids.tolist()
    logits = session.step(9).copy()
    session.reset()
    close(logits, session.prefill([*ids, 9]))


def test_a_task_that_is_cancelled_twice_leaves_no_generation_behind(session: Session) -> None:
    async def cancelled() -> None:
        async with paused(session, at=2, max_new_tokens=90) as (reading, go):
            for _ in range(2):
                reading.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await reading
            go.set()

    asyncio.run(cancelled())  # which waits for the executor's threads
    assert session.generate([7], max_new_tokens=3).finish().tokens


def test_a_task_that_is_cancelled_between_two_pieces_leaves_the_session_usable(
    session: Session,
) -> None:
    async def cancelled() -> None:
        given = asyncio.Event()

        async def consume() -> None:
            stream = session.astream([5, 6], max_new_tokens=90)
            async for _ in stream:
                given.set()
                await asyncio.sleep(60)  # such as a client that reads slowly

        reading = asyncio.create_task(consume())
        await given.wait()
        with pytest.raises(ContractError, match=NOT_ENDED):
            session.astream([7])
        reading.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await reading
        assert raised.tb is not None  # whose frames hold the generation
        assert (await session.astream([7], max_new_tokens=3).finish()).tokens

    asyncio.run(cancelled())


def test_an_error_of_the_consumer_leaves_the_session_usable(session: Session) -> None:
    async def consume() -> None:
        async with session.astream([5, 6], max_new_tokens=90) as pieces:
            async for _ in pieces:
                raise KeyError("consumer")

    async def failed() -> None:
        with pytest.raises(KeyError, match="consumer") as raised:
            await consume()
        assert raised.tb is not None  # though it holds the generation
        assert (await session.astream([7], max_new_tokens=3).finish()).tokens

    asyncio.run(failed())


def test_a_loop_that_breaks_off_lets_the_next_generation_begin_at_once(session: Session) -> None:
    async def broken_off() -> None:
        for _ in range(200):  # the thread that made the piece must not hold the generation
            async for _ in session.astream([5, 6], max_new_tokens=2):
                break

    asyncio.run(broken_off())


def test_errors_come_to_the_one_who_awaits(session: Session) -> None:
    async def changed() -> None:
        new = session.astream([5, 6], max_new_tokens=30)
        await anext(new)
        session.reset()
        with pytest.raises(ContractError, match=CHANGED):
            await anext(new)
        closed = session.astream([5, 6])
        await closed.aclose()
        assert [piece async for piece in closed] == []

    asyncio.run(changed())


def test_sessions_of_one_model_generate_side_by_side(folder: Path) -> None:
    model = Model.load(folder, threads=1)
    prompts = [SEQUENCE[:n] for n in (3, 30, 60)]

    async def all_of_them() -> list[list[int]]:
        asked = [model.session().astream(prompt, max_new_tokens=20) for prompt in prompts]
        return [one.tokens for one in await asyncio.gather(*(one.finish() for one in asked))]

    found = asyncio.run(all_of_them())
    expected = [model.generate(prompt, max_new_tokens=20).finish().tokens for prompt in prompts]
    assert found == expected


def test_a_session_that_waits_for_its_consumer_takes_no_processor_time(folder: Path) -> None:
    session = Session.load(folder, threads=2)
    new = session.generate([5, 6], max_new_tokens=30)
    next(new)
    time.sleep(0.05)  # onnxruntime's threads spin for a millisecond
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02
    assert next(new)
