"""Imports the package gguf with mistral-common hidden.

gguf imports mistral-common if it is installed; that takes seconds and opens a socket, to see
whether the machine has IPv6.
"""

from __future__ import annotations

import sys
from typing import Any

_BESIDE = "mistral_common"
_modules: dict[str, Any] = sys.modules
_before = _modules.get(_BESIDE, ...)
_modules[_BESIDE] = None  # an import of it fails, as where it is not installed
try:
    import gguf
finally:
    if _before is ...:
        del _modules[_BESIDE]
    else:
        _modules[_BESIDE] = _before

__all__ = ["gguf"]
