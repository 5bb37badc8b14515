"""The weight formats: for each, the bits of every kind of matrix and how they are rounded.

One list, ``FORMATS``. It needs no package, so that the command line can offer its names; a
method's module is imported when the method is asked for.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...runtime.contract import is_quantized_cache
from ...runtime.errors import GraphError
from .methods.method import Method
from .scheme import Scheme

if TYPE_CHECKING:
    from .activation_ranges import Calibration
    from .methods.method import Rounder

DEFAULT_BLOCK = 128


class Role(enum.Enum):
    """What reads a matrix of weights."""

    LAYER = "a linear layer inside the model"
    AFTER_PRODUCT = "the linear layer that reads the gated product, which has outliers"
    HEAD = "the linear layer that makes the logits"
    EMBEDDING = "the gather of the tokens' rows"


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixSchemes:
    """The scheme of each kind of matrix, and what rounds them."""

    linear: Scheme
    embedding: Scheme
    head: Scheme  # its rounding reaches the logits undiluted
    rounder: Rounder

    def scheme_for(self, roles: Iterable[Role]) -> Scheme:
        """The scheme of a matrix with these readers: of several, the one of most bits."""
        schemes = {Role.EMBEDDING: self.embedding, Role.HEAD: self.head}
        return max((schemes.get(role, self.linear) for role in roles), key=lambda one: one.bits)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFormat:
    """What ``--quant`` names."""

    name: str
    bits: tuple[int, int, int] | None  # of the layers, the embedding, the head; None: float32
    method_name: str = "round_to_nearest"  # the module in ``methods/`` that rounds
    # Bytes multiply bytes: activations are rounded as they come, with a scale for a position.
    is_dynamic: bool = False
    finer: str | None = None  # the format to take where this one is too coarse

    @property
    def is_quantized(self) -> bool:
        """Whether any matrix is rounded."""
        return self.bits is not None

    @property
    def has_blocks(self) -> bool:
        """Whether ``--block`` decides how far weights are rounded."""
        return self.is_quantized and not self.is_dynamic

    @property
    def fewest_bits(self) -> int:
        """Bits of a weight where it has the fewest; 32 in float."""
        return 32 if self.bits is None else min(self.bits)

    @property
    def method(self) -> Method:
        """How its weights are rounded, where they are."""
        package = __name__.rpartition(".")[0]
        found = importlib.import_module(f"{package}.methods.{self.method_name}").METHOD
        assert isinstance(found, Method), f"{self.method_name}: METHOD is no Method"
        return found

    def is_calibrated(self, kv: str) -> bool:
        """Whether it, with keys and values held as ``kv``, needs a calibration."""
        return self.method.observes_activations or is_quantized_cache(kv)

    def schemes(self, block: int, calibration: Calibration | None = None) -> MatrixSchemes | None:
        """The scheme of each kind of matrix; None where all stays in float.

        Args:
            block: weights that share a scale.
            calibration: what was observed of activations, for methods that ask.
        """
        if self.bits is None:
            return None
        linear, embedding, head = (Scheme(bits=bits, block=block) for bits in self.bits)
        rounder = self.method.rounder(calibration)
        return MatrixSchemes(linear=linear, embedding=embedding, head=head, rounder=rounder)


# A format is an entry here; a new method is a module in ``methods/`` that an entry names.
FORMATS: tuple[WeightFormat, ...] = (
    WeightFormat(name="fp32", bits=None),
    WeightFormat(name="int8", bits=(8, 8, 8)),
    WeightFormat(name="int4", bits=(4, 4, 8), method_name="gptq", finer="int8"),
    WeightFormat(name="int4-rtn", bits=(4, 4, 8), finer="int8"),  # quick, nothing is observed
    WeightFormat(
        name="int8-dynamic",
        bits=(8, 8, 8),
        method_name="smooth_then_round",
        is_dynamic=True,
        finer="int8",
    ),
)


def format_names() -> tuple[str, ...]:
    """What ``--quant`` may be."""
    return tuple(one.name for one in FORMATS)


def find_format(quant: str) -> WeightFormat:
    """The weight format of a name.

    Raises:
        GraphError: there is none.
    """
    found = next((one for one in FORMATS if one.name == quant), None)
    if found is None:
        raise GraphError(f"--quant {quant}: unknown; expected one of {', '.join(format_names())}")
    return found


def format_of_bits(bits: int) -> WeightFormat:
    """The format whose bounds fit another exporter's graph, by the fewest bits of its weights."""
    plain = [one for one in FORMATS if not one.method.observes_activations]
    coarsest = min(plain, key=lambda one: one.fewest_bits)
    return next((one for one in plain if one.fewest_bits == bits), coarsest)
