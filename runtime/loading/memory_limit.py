"""The limit on the memory of a model's sessions, and what caches and snapshots take of it."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

from ..contract import Geometry
from ..memory import MemoryPlan, refuse_beyond


class MemoryLimit:
    """Bytes that a process may take, and those that owners of arrays hold until they are freed."""

    def __init__(
        self, plan: MemoryPlan, geometry: Geometry, *, limit: int | None, artifact: Path
    ) -> None:
        """Note nothing yet.

        Args:
            plan, geometry: the artifact's.
            limit: bytes; None: as many as are needed.
            artifact: for messages.
        """
        self._plan = plan
        self._geometry = geometry
        self._limit = limit
        self._artifact = artifact
        self._held_bytes: dict[int, int] = {}  # of caches and snapshots, by their owner's id

    def note(self, owner: object, *, size_bytes: int) -> None:
        """Note what an owner's arrays take, until it is freed."""
        if id(owner) not in self._held_bytes:
            until_freed(owner, self._held_bytes)
        self._held_bytes[id(owner)] = size_bytes

    def refuse(self, owner: object, *, tokens: int, more_bytes: int = 0) -> None:
        """Refuse a cache of so many tokens if the process would take more than allowed.

        Args:
            owner: of the cache, which may grow to hold the tokens.
            tokens: of its sequence.
            more_bytes: that it takes besides.

        Raises:
            ContractError: it would; the message says what would fit.
        """
        others = (size for other, size in list(self._held_bytes.items()) if other != id(owner))
        refuse_beyond(
            self._plan,
            self._geometry,
            tokens=tokens,
            limit=self._limit,
            what=self._artifact,
            other_bytes=sum(others) + more_bytes,
        )


def until_freed(owner: object, by_id: dict[int, Any]) -> None:
    """Remove what is noted of an owner when it is freed."""
    freed = weakref.finalize(owner, by_id.pop, id(owner), None)
    freed.atexit = False
