"""All faults, in the order in which they are tried and listed."""

from __future__ import annotations

from .planted import (
    in_attention,
    in_cache,
    in_calibration,
    in_int8_dynamic,
    in_native,
    in_operators,
    in_optional_parts,
    in_rope,
    in_tokenizer,
    in_web,
    in_weights,
)
from .planting import Fault

_KINDS = (
    in_attention,
    in_cache,
    in_operators,
    in_optional_parts,
    in_rope,
    in_weights,
    in_calibration,
    in_web,
    in_int8_dynamic,
    in_native,
    in_tokenizer,
)
FAULTS: list[Fault] = [fault for kind in _KINDS for fault in kind.FAULTS]
