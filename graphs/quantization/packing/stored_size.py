"""What a packer makes of one matrix, from its shape and its readers alone: scheme and bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ... import weights
from ..matrix_schemes import Role
from ..scheme import Scheme
from ..shared_scales import SharedScales
from .pack_matrices import PackMatrices


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSize:
    """Bytes of a matrix."""

    in_file: tuple[int, ...]  # of each weight that is stored of it
    in_memory: int  # as a session's kernels hold it


def stored_size(
    name: str, shape: Sequence[int], roles: Collection[Role], packer: PackMatrices | None
) -> StoredSize:
    """What a packer stores of a matrix, from its own description of it; no number is read.

    Args:
        name: of the matrix in the graph.
        shape: (N, K).
        roles: its readers.
        packer: the pass that quantizes matrices; None: all stay in float32.
    """
    matrix = _stand_in(name, shape)
    packed = None if packer is None else packer.pack(matrix, roles)
    held: dict[ir.Value, int] = {}  # how often it is in memory, by weight; shared ones once
    if packer is None or packed is None:
        # FoldTransposes stores one matrix for all readers. Where it is gathered, a session has it
        # as stored, beside what the multiplication's kernel packs.
        held[matrix] = len({role is Role.EMBEDDING for role in roles})
    else:
        named = [(role, weight) for role in roles for weight in packer.weights_for(role, packed)]
        for _, weight in named:
            owner = weights.owner(weight)
            readers = [role for role, other in named if weights.owner(other) is owner]
            held[owner] = packer.copies_in_memory(readers, weight)
    sizes = {weight: weights.num_bytes(weight) for weight in held}
    return StoredSize(
        in_file=tuple(sizes.values()),
        in_memory=sum(copies * sizes[weight] for weight, copies in held.items()),
    )


def scheme_of(
    name: str, shape: Sequence[int], roles: Collection[Role], packer: PackMatrices
) -> Scheme | None:
    """The scheme in which a packer stores a matrix; None: float. Arguments as ``stored_size``."""
    packed = packer.pack(_stand_in(name, shape), roles)
    return None if packed is None else packed.scheme


def shared_scales_of(
    name: str, shape: Sequence[int], roles: Sequence[Role], packer: PackMatrices
) -> SharedScales | None:
    """Which numbers share a scale where the first reader multiplies by a matrix; None: float."""
    packed = packer.pack(_stand_in(name, shape), roles)
    return None if packed is None else packer.shared_scales(roles[0], packed)


def _stand_in(name: str, shape: Sequence[int]) -> ir.Value:
    return weights.weight(name, _unread, shape=shape)


def _unread() -> np.ndarray:
    raise AssertionError("sizes are known without numbers")
