"""Finds the native library: the operator's own kernel, which is optional everywhere."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
from pathlib import Path
from typing import Any

from ..errors import ContractError

BUILT = Path(__file__).parents[2] / "native" / "built"  # where ``make native`` puts it
PACKAGE = "tramontane_native"  # of the wheels that bring it
DOMAIN, OPERATOR = "tramontane.native", "GroupQueryAttention"  # what it computes
OPERATOR_VERSION = 1  # that graphs are written for; ``native/source/library.cpp`` has the same
_AGAIN = "make native builds it again"
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


def refuse_other_version(graph: Path, *, expected: int) -> None:
    """Refuse a library that computes another version of the operator than a graph needs.

    onnxruntime would let an older library compute a graph that needs a newer one.

    Raises:
        ContractError: it computes another version, or does not say which; or there is no library.
    """
    library = required_library(graph)
    try:
        found = int(ctypes.CDLL(str(library)).tramontane_operator_version())
    except (OSError, AttributeError) as error:
        raise ContractError(
            f"{library}: does not say which version of the operator it computes ({error}), "
            f"expected {expected}; {_AGAIN}"
        ) from error
    if found != expected:
        raise ContractError(
            f"{library}: computes version {found} of the operator, expected {expected}, which "
            f"{graph} needs; {_AGAIN}, or load the artifact with native=False"
        )


def refuse_other_kernel(path: Path, graph: Any) -> None:
    """Refuse a loaded graph whose attention the library does not compute.

    Raises:
        ContractError: another kernel computes it, in some layers or in all.
    """
    found = [
        node.domain
        for part in graph.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if node.op_type == OPERATOR
    ]
    others = sorted({domain for domain in found if domain != DOMAIN})
    if others or not found:
        raise ContractError(
            f"{path}: attention is computed by {', '.join(others) or 'other nodes'}, expected "
            f"{DOMAIN} in all layers; copy the artifact again"
        )
