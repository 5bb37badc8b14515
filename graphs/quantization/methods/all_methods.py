"""The list of methods. A method is imported when it is asked for: the list needs no package."""

from __future__ import annotations

import importlib

from .method import Method

# Each a module of this folder that holds METHOD.
METHODS = ("round_to_nearest", "gptq", "smooth_then_round")


def find_method(name: str) -> Method:
    """The method of a name in ``METHODS``."""
    assert name in METHODS, f"{name}: a recipe names methods of the list"
    found = importlib.import_module(f"{__name__.rpartition('.')[0]}.{name}").METHOD
    assert isinstance(found, Method), f"{name}: METHOD is no Method"
    return found
