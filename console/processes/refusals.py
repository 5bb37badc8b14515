"""Our errors, handed from a process to the one that started it. (stdlib only)"""

from __future__ import annotations

import json
from typing import NoReturn

from ...runtime import errors
from ...runtime.errors import TramontaneError

REFUSED = 3  # exit status of a process whose standard output is one of our errors


def as_bytes(error: TramontaneError) -> bytes:
    """An error, for ``raise_refusal``."""
    return json.dumps([type(error).__name__, str(error)]).encode()


def raise_refusal(content: bytes) -> NoReturn:
    """Raise the error that the other process wrote.

    Raises:
        TramontaneError: of the same type, with the same message.
    """
    name, message = json.loads(content)
    refusal: type[TramontaneError] = getattr(errors, name)
    raise refusal(message)
