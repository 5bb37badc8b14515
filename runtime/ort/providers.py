"""Execution providers of onnxruntime: which are asked for, and what each of them runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..errors import ContractError

CPU = "CPUExecutionProvider"
RECORD = (
    "session.record_ep_graph_assignment_info"  # a session's setting, which ``placement`` needs
)


def checked_providers(asked: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    """Providers in the order in which they are tried; the CPU's is always the last.

    Raises:
        ContractError: one is not among those that the installed onnxruntime has.

    >>> checked_providers(["CUDAExecutionProvider"], ["CUDAExecutionProvider", CPU])
    ['CUDAExecutionProvider', 'CPUExecutionProvider']
    """
    asked = [asked] if isinstance(asked, str) else list(asked or ())
    for name in asked:
        if name not in available:
            raise ContractError(
                f"providers has {name!r}; expected of {', '.join(available)}, which the installed "
                "onnxruntime has; install the onnxruntime package that brings the provider"
            )
    return [*(name for name in dict.fromkeys(asked) if name != CPU), CPU]


def placement(graph: Any) -> dict[str, dict[str, int]]:
    """How many nodes of each operator each provider runs."""
    found: dict[str, Counter[str]] = {}
    for part in graph.get_provider_graph_assignment_info():
        counts = found.setdefault(part.ep_name, Counter())
        counts.update(node.op_type for node in part.get_nodes())
    return {name: dict(counts.most_common()) for name, counts in found.items()}


def left_to_cpu(nodes: dict[str, dict[str, int]]) -> str:
    """The operators that the CPU runs, for people; empty where there are none.

    >>> left_to_cpu({"CUDAExecutionProvider": {"MatMul": 3}, CPU: {"Cast": 2, "Neg": 1}})
    '3 of 6 nodes: 2 Cast, 1 Neg'
    """
    own = nodes.get(CPU, {})
    if not own:
        return ""
    whole = sum(sum(counts.values()) for counts in nodes.values())
    listed = ", ".join(f"{count} {name}" for name, count in own.items())
    return f"{sum(own.values())} of {whole} nodes: {listed}"
