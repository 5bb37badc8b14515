"""The list of targets. A target is imported when it is asked for: the list needs no package."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ...runtime.errors import GraphError

if TYPE_CHECKING:
    from .target import Target

TARGETS = ("ort", "portable", "web")  # each a module of this folder that holds TARGET
DEFAULT_TARGET = TARGETS[0]


def find_target(name: str) -> Target:
    """The target of a name.

    Raises:
        GraphError: there is none.
    """
    if name not in TARGETS:
        raise GraphError(f"--target {name}: unknown; expected one of {', '.join(TARGETS)}")
    found: Target = importlib.import_module(f"{__name__.rpartition('.')[0]}.{name}").TARGET
    return found
