"""Has this machine the memory that measuring parity takes? (no torch)"""

from __future__ import annotations

import psutil

from ..errors import ContractError
from ..export.config import MistralConfig
from ..sizes import format_bytes


def refuse_large_reference(config: MistralConfig, *, session_bytes: int) -> None:
    """Refuse, before any work, a model that this machine cannot hold beside its reference.

    Args:
        config: the reference's, which is in float32.
        session_bytes: resident memory of the artifact's session.

    Raises:
        ContractError: the two take more memory than is free.
    """
    reference, free = 4 * config.num_parameters, psutil.virtual_memory().available
    if reference + session_bytes > free:
        raise ContractError(
            f"parity: the reference in float32 takes {format_bytes(reference)} of memory and the "
            f"artifact {format_bytes(session_bytes)}, {format_bytes(free)} are free; validate on "
            "a larger machine, and export here with --no-validate (the artifact says that it was "
            "not measured)"
        )
