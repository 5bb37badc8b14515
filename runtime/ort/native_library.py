"""Finds the native library: the operator's own kernel, which is optional everywhere."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

from ..errors import ContractError

BUILT = Path(__file__).parents[2] / "native" / "built"  # where ``make native`` puts it
PACKAGE = "tramontane_native"  # of the wheels that bring it
_NAMES = {"Darwin": "libtramontane.dylib", "Windows": "tramontane.dll"}


def library_name(system: str) -> str:
    """Name of the library's file on a system, as Python's ``platform.system()`` names it."""
    return _NAMES.get(system, "libtramontane.so")


def find_library() -> Path | None:
    """The library's file; None where neither a wheel nor ``make native`` brought one."""
    found = importlib.util.find_spec(PACKAGE)
    folders = [Path(one) for one in (found.submodule_search_locations or [])] if found else []
    for folder in (*folders, BUILT):
        path = folder / library_name(platform.system())
        if path.is_file():
            return path
    return None


def required_library(graph: Path) -> Path:
    """The library's file, for a graph that needs it.

    Raises:
        ContractError: there is none.
    """
    found = find_library()
    if found is None:
        raise ContractError(
            f"{graph}: needs the native library, which is not installed; make native builds it, "
            "and the graph beside it runs without"
        )
    return found
