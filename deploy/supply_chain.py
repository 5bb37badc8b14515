"""The packages of the extra ``supply-chain``, and the error where one is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..console import hints
from ..runtime.errors import ContractError

EXTRA = "supply-chain"


@contextlib.contextmanager
def needs_packages(command: str, *modules: str) -> Iterator[None]:
    """Import packages of the extra in the block.

    Args:
        command: what needs them.
        modules: names that the block imports, directly or through another of them.

    Raises:
        ContractError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in modules:
            raise
        raise ContractError(
            f"{command} needs the package {error.name}, which is not installed; install the extra "
            f"{EXTRA}: {hints.install(EXTRA)}"
        ) from error
