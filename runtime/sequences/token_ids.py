"""Token ids from a caller: whole numbers of the vocabulary, as many as the artifact has positions.

Other numbers are refused, which numpy would round, parse or wrap.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..contract import Geometry
from ..errors import ContractError
from ..sizes import counted
from ..untrusted.fields import shown

_MOST = 2**63 - 1


def _as_ids(
    tokens: Sequence[int] | npt.NDArray[np.integer], *, most: int
) -> npt.NDArray[np.int64]:
    """Token ids as (1, T) int64; of more than ``most``, the first ``most + 1``."""
    if isinstance(tokens, (bytes, bytearray, memoryview)):
        raise ContractError(
            f"tokens: {shown(tokens)}, expected a text or a list of whole numbers; a text is made "
            "of bytes by their decode()"
        )
    if isinstance(tokens, np.ndarray) and tokens.ndim == 1 and tokens.dtype.kind in "iu":
        ids: list[int] = tokens[: most + 1].tolist()
    else:
        try:
            ids = [operator.index(token) for token in itertools.islice(tokens, most + 1)]
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


def checked_ids(tokens: Sequence[int], geometry: Geometry, *, after: int) -> npt.NDArray[np.int64]:
    """Token ids as (1, T) int64, if a sequence of ``after`` tokens can take them.

    Raises:
        ContractError: no tokens, one outside the vocabulary, or too many.
    """
    ids = _as_ids(tokens, most=max(0, geometry.max_positions - after))
    count = max(ids.shape[1], len(tokens) if isinstance(tokens, (list, np.ndarray)) else 0)
    refuse_tokens(int(ids.min()), int(ids.max()), geometry, count=count, after=after)
    return ids


def refuse_tokens(least: int, most: int, geometry: Geometry, *, count: int, after: int) -> None:
    """Refuse tokens that a sequence of ``after`` tokens cannot take.

    Raises:
        ContractError: the least or the greatest is outside the vocabulary, or too many.
    """
    V, limit = geometry.vocab_size, geometry.max_positions
    if least < 0 or most >= V:
        raise ContractError(
            f"token {least if least < 0 else most}; expected 0 to {V - 1}, the vocabulary"
        )
    if after + count > limit:
        raise ContractError(
            f"{counted(count, 'token')} after {after}: the artifact has {limit} positions; "
            "shorten the prompt or reset"
        )
