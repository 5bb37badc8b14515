"""A guard that refuses a second thread at once, and every use after a call that did not end.

No call waits for another: it enters, or raises ContractError. Entering and leaving take less than
a microsecond.
"""

from __future__ import annotations

import threading
from threading import get_ident

from ..errors import ContractError

_THREAD = "thread"


class Guard:
    """One thread at a time may be inside ``with guard:``, and none after ``close``.

    A call that changes what is guarded sets ``is_whole`` to false before its first change and to
    true after its last one. If an error or an interrupt comes between, every later use is refused
    until ``reopen``.
    """

    def __init__(self, what: str, *, remedy: str) -> None:
        """Guard something.

        Args:
            what: its name, for messages.
            remedy: what to do after a call that did not end.
        """
        self.changes = 0  # begun so far; a caller compares it to find changes of others
        self.is_whole = True
        self.is_closed = False
        self._what = what
        self._remedy = remedy
        self._inside: dict[str, int] = {}  # of a dict, setdefault is atomic

    def __enter__(self) -> None:
        """Enter, or be refused.

        Raises:
            ContractError: another call is inside, an earlier one did not end, or it is closed.
        """
        me = get_ident()
        if self._inside or self._inside.setdefault(_THREAD, me) != me:
            raise self._refusal()
        if not self.is_whole:
            self._inside.clear()
            raise self._unfinished()

    def __exit__(self, *_: object) -> None:
        self._inside.clear()

    def leave(self) -> None:
        """Leave after ``reopen`` or ``close``."""
        self._inside.clear()

    def begin(self) -> int:
        """Mark the first change of a call; returns ``changes``, which others' changes increase."""
        self.is_whole = False
        self.changes += 1
        return self.changes

    def reopen(self) -> None:
        """Enter after a call that did not end, as well as after one that did.

        Raises:
            ContractError: a call of another thread is inside, or it is closed.
        """
        self._enter_anew()
        if self.is_closed:
            self._inside.clear()
            raise self._unfinished()

    def close(self) -> None:
        """Enter as ``reopen`` does; every later use is refused.

        Raises:
            ContractError: a call of another thread is inside.
        """
        self._enter_anew()
        self.is_whole, self.is_closed = False, True
        self.changes += 1

    def _enter_anew(self) -> None:
        """Enter, also after a call of this thread that did not end.

        Raises:
            ContractError: a call of another thread is inside.
        """
        # A call of this thread that was interrupted while it left is still noted as inside.
        me = get_ident()
        if self._inside.get(_THREAD) == me:
            self._inside.clear()
        if self._inside.setdefault(_THREAD, me) != me:
            raise self._refusal()

    def _refusal(self) -> ContractError:
        by = self._inside.get(_THREAD)
        if by == get_ident():
            return self._unfinished()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return ContractError(
            f"{self._what} is in use by thread {names.get(by, 'unknown')!r} while thread "
            f"{threading.current_thread().name!r} calls it, expected one thread at a time; let "
            "one thread use it, or make a Session of the same Model for each thread"
        )

    def _unfinished(self) -> ContractError:
        if self.is_closed:
            return ContractError(
                f"{self._what} is closed, expected an open one; make another with model.session()"
            )
        return ContractError(
            f"{self._what}: an earlier call was interrupted or failed before it ended, so its "
            f"state is unknown; {self._remedy}"
        )
