"""Has this machine the memory that the reference takes? (no torch)"""

from __future__ import annotations

import psutil

from ..errors import ContractError
from ..export.config import MistralConfig
from ..sizes import format_bytes


def refuse_large_reference(config: MistralConfig) -> None:
    """Refuse, before any work, a model whose float32 reference this machine cannot hold.

    Raises:
        ContractError: it takes more memory than is free.
    """
    needed, free = 4 * config.num_parameters, psutil.virtual_memory().available
    if needed > free:
        raise ContractError(
            f"parity: the reference in float32 takes {format_bytes(needed)} of memory, "
            f"{format_bytes(free)} are free; validate on a larger machine, and export here with "
            "--no-validate (the artifact says that it was not measured)"
        )
