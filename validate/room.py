"""Has this machine the memory that measuring parity takes? (no torch)"""

from __future__ import annotations

import psutil

from ..errors import ContractError
from ..export.plan import Plan
from ..sizes import format_bytes


def refuse_little_memory(planned: Plan) -> None:
    """Refuse, before any work, an artifact that this machine cannot hold beside its reference.

    Raises:
        ContractError: the two take more memory than is free.
    """
    session, free = planned.memory.resident_bytes, psutil.virtual_memory().available
    if planned.reference_bytes + session > free:
        raise ContractError(
            f"parity: the reference takes {format_bytes(planned.reference_bytes)} of memory and "
            f"the artifact {format_bytes(session)}, {format_bytes(free)} are free; validate on "
            "a larger machine, and export here with --no-validate (the artifact says that it was "
            "not measured)"
        )
