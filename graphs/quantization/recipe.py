"""Which matrix is packed into how many bits?"""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.errors import GraphError
from .methods.round_to_nearest import Scheme

TARGETS = ("ort", "portable", "web")
BLOCKS = (16, 32, 64, 128, 256)  # sizes that onnxruntime's kernels take
DEFAULT_BLOCK = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The scheme of each kind of matrix. One with two readers gets the scheme of more bits."""

    linear: Scheme
    embedding: Scheme
    head: Scheme  # its rounding reaches the logits undiluted


DYNAMIC = "int8-dynamic"  # bytes times bytes: activations are rounded as they come

# Bits of the layers' matrices, of the embedding and of the head.
_BITS = {"fp32": None, "int8": (8, 8, 8), "int4": (4, 4, 8), DYNAMIC: (8, 8, 8)}
QUANTS = tuple(_BITS)
_WITHOUT_KERNELS = {
    ("web", "int4"): (
        "browsers' WASM has no fast kernel for 4 bits; "
        "take --quant int8, or for WebGPU --target ort --cache growing"
    ),
    ("web", DYNAMIC): "--quant int8 multiplies bytes by bytes there already; take that",
    ("portable", DYNAMIC): "no standard operator scales such products; take --target ort",
}


def quants_for(target: str) -> tuple[str, ...]:
    """Quants that a target has kernels for."""
    return tuple(quant for quant in QUANTS if (target, quant) not in _WITHOUT_KERNELS)


def refuse_without_kernels(target: str, quant: str) -> None:
    """Refuse a quant that a target has no kernels for.

    Raises:
        GraphError: naming what to take instead.
    """
    if why := _WITHOUT_KERNELS.get((target, quant)):
        raise GraphError(f"--target {target} --quant {quant}: {why}")


def is_smoothed(quant: str) -> bool:
    """Whether the recipe makes loud channels of activations smaller, and their weights larger."""
    return quant == DYNAMIC


def is_calibrated(quant: str, kv: str) -> bool:
    """Whether a recipe, and what its cache is held in, must know how large activations get."""
    return is_smoothed(quant) or kv == "int8"


def recipe_for(quant: str, block: int = DEFAULT_BLOCK) -> Recipe | None:
    """The schemes behind ``QUANT=`` and ``BLOCK=``; None where all stays in float.

    Raises:
        GraphError: an unknown quant, or a block size that kernels do not take.
    """
    if quant not in _BITS:
        raise GraphError(f"--quant {quant}: unknown; expected one of {', '.join(QUANTS)}")
    if block not in BLOCKS:
        raise GraphError(f"--block {block}: expected one of {', '.join(map(str, BLOCKS))}")
    bits = _BITS[quant]
    if bits is None:
        return None
    linear, embedding, head = (Scheme(bits=b, block=block) for b in bits)
    return Recipe(linear=linear, embedding=embedding, head=head)
