"""Tokens, interrupts, threads and uses of a session: what its tests share."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from tramontane.runtime import Sampler, Session
from tramontane.runtime.errors import ContractError

V, POSITIONS = 2048, 600  # of the artifact in conftest.py
RUNTIME = Path(sys.modules[Session.__module__].__file__ or "").parent
TOLERANCE = 1e-5  # float32 sums in another order, of logits near 1
GREEDY = Sampler()
SEQUENCE = [int(token) for token in np.random.default_rng(3).integers(3, 2048, 262)]
UNFINISHED = r"an earlier call was interrupted or failed .*; call reset\(\) and give the whole"
IN_USE = r"this session is in use by thread '.*' while thread '.*' calls it, expected one thread"
NOT_ENDED = (
    r"an earlier generate\(\) of this session has not ended.*close\(\) it, or call cancel\(\)"
)
CHANGED = r"was reset or given other tokens after this generate\(\) began; start"
FAILED = r"this generate\(\) was interrupted or failed before its next piece; start a new one"

USES: dict[str, Callable[[Session], object]] = {
    "step": lambda s: s.step(5),
    "prefill": lambda s: s.prefill([5, 6]),
    "cache": lambda s: s.cache(),
    "seek": lambda s: s.seek(s.tokens),
    "generate": lambda s: s.generate([5]),
    "generate from text": lambda s: s.generate("x"),
    "snapshot": lambda s: s.snapshot(),
    "ids": lambda s: s.ids,
    "rewind": lambda s: s.rewind(0),
    "reuse": lambda s: s.prefill([5, 6], reuse=True),
}


@functools.cache
def is_ours(file: str) -> bool:
    """Whether a file of code is the driver's; asked at each call, so the answer is kept."""
    return RUNTIME in Path(file).parents


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
        if not is_ours(frame.f_code.co_filename):
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
        if event in ("call", "c_return") and is_ours(frame.f_code.co_filename):
            self.left -= 1
            if self.left < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt


class Patched:
    """A graph whose runs are followed by something."""

    def __init__(self, session: Session, after: Callable[[], object], *, at: int = 1) -> None:
        self.session, self.after, self.at = session, after, at
        self.graph = session._guarded.cached.graph

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.graph.run_with_iobinding(binding, options)
        self.at -= 1
        if self.at == 0:
            self.after()

    def __enter__(self) -> None:
        self.session._guarded.cached.graph = self

    def __exit__(self, *_: object) -> None:
        self.session._guarded.cached.graph = self.graph


def tokens(count: int, seed: int = 1) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, V, count)]


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


def collected(iterator: Iterator[Any], into: list[Any]) -> None:
    for piece in iterator:
        into.append(piece)


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
