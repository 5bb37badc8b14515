"""Token ids from a caller: whole numbers alone, where numpy would round, parse or wrap others."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import ContractError
from .untrusted.fields import shown

_MOST = 2**63 - 1


def as_ids(tokens: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Token ids as (1, T) int64.

    Raises:
        ContractError: no list of whole numbers, or an empty one.
    """
    if isinstance(tokens, np.ndarray) and tokens.ndim == 1 and tokens.dtype.kind in "iu":
        ids: list[int] = tokens.tolist()
    else:
        try:
            ids = [operator.index(token) for token in tokens]
        except TypeError as error:
            raise ContractError(
                f"tokens: {shown(tokens)} ({error}), expected a list of whole numbers"
            ) from error
    if not ids:
        raise ContractError("no tokens; expected at least one to decode from")
    for token in (min(ids), max(ids)):
        if abs(token) > _MOST:
            raise ContractError(f"token {shown(token)}; expected a number of the vocabulary")
    return np.array([ids], np.int64)


def as_id(token: int) -> int:
    """One token id.

    Raises:
        ContractError: not a whole number.
    """
    try:
        return operator.index(token)
    except TypeError as error:
        raise ContractError(f"token {shown(token)}; expected a whole number") from error
