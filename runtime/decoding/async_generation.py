"""A generation for programs that use asyncio: the event loop runs while pieces are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .generation import Generation
from .result import Result


class AsyncGeneration(AsyncIterator[str]):
    """The pieces of a generation, each made in a thread of the loop's default executor.

    The thread that makes the first piece also encodes the prompt. Where its task is cancelled, the
    generation is cancelled too: the task ends when the step, the chunk of the prompt, or the
    encoding that runs has ended; then the session can be used again. So it can where the task is
    cancelled between two pieces. ``async with`` closes it.
    """

    def __init__(self, generation: Generation) -> None:
        """Begin where the generation is."""
        self._generation = generation

    @property
    def result(self) -> Result:
        """What was made; as ``Generation.result``."""
        return self._generation.result

    async def __anext__(self) -> str:
        """The next piece of text; raises as ``Generation`` does."""
        loop = asyncio.get_running_loop()
        self._generation.reader = asyncio.current_task()
        step = loop.run_in_executor(None, _next_piece, [self._generation])
        try:
            piece = await asyncio.shield(step)
        except asyncio.CancelledError:
            self._generation.cancel()
            try:
                await asyncio.wait([step])
            finally:
                self._generation.close()
            raise
        if not piece:
            raise StopAsyncIteration
        return piece

    async def finish(self) -> Result:
        """Read what is left; returns the result of the whole."""
        async for _ in self:
            pass
        return self.result

    async def aclose(self) -> None:
        """End it now, as ``Generation.close``."""
        self._generation.close()

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _next_piece(held: list[Generation]) -> str:
    """The next piece, empty at the end; takes the generation out of the list.

    A thread of the executor keeps its arguments for a while after the piece was handed over. It
    must not keep a generation that the loop has dropped, which would count as not ended.
    """
    return next(held.pop(), "")
