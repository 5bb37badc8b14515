"""A lint rule on queries that grow with their position."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, LintFinding, section

_BETA, _ORIGINAL = "llama_4_scaling_beta", "original_max_position_embeddings"


def query_scale_lost(facts: Facts) -> Iterator[LintFinding]:
    """The model scales queries by the logarithm of their position; the graph has no logarithm."""
    for name in ("rope_parameters", "rope_scaling"):
        beta, original = (section(facts.config, name, key) for key in (_BETA, _ORIGINAL))
        if isinstance(beta, bool) or not isinstance(beta, int | float) or beta <= 0:
            continue
        if facts.of("Log"):
            return
        has_length = isinstance(original, int | float) and not isinstance(original, bool)
        start = f"position {original}" if has_length else "the original length"
        yield LintFinding(
            rule="query-scale-lost",
            severity="error",
            where=f"config.json: {name}",
            found=(
                f"{_BETA} is {beta:g}, and no node of the graph computes a logarithm: queries are "
                "not multiplied by 1 + beta * ln(1 + floor(position / original))"
            ),
            consequence=(
                f"from {start} on, attention is flatter than the checkpoint's, the more "
                "the longer the text"
            ),
            advice="export with an exporter that scales queries; tramontane does",
        )
        return
