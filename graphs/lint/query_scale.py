"""A lint rule on queries that grow with their position."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, LintFinding, section

# ``model.type`` that onnxruntime-genai's builder writes for Ministral 3, Devstral 2 and Mistral
# Small 3. Source: onnxruntime-genai 0.18, models/builder.py.
_MISTRAL_3 = ("mistral3", "mistral3_text")
_NO_LOGARITHM = "no node of the graph computes a logarithm"
_BETA, _ORIGINAL = "llama_4_scaling_beta", "original_max_position_embeddings"


def query_scale_lost(facts: Facts) -> Iterator[LintFinding]:
    """The model scales queries by the logarithm of their position; the graph has no logarithm.

    Without a config.json, as the builder of onnxruntime-genai leaves it, the model may scale them.
    """
    kind = section(facts.genai, "model", "type")
    if not facts.config and kind in _MISTRAL_3 and not facts.of("Log"):
        yield LintFinding(
            rule="query-scale-lost",
            severity="warning",
            where="genai_config.json: model.type",
            found=f"{kind}, and {_NO_LOGARITHM}",
            consequence=(
                f"wrong from the original length on if rope_parameters of the checkpoint have a "
                f"{_BETA} above 0, as those of Ministral 3 have: queries are not multiplied by "
                "1 + beta * ln(1 + floor(position / original))"
            ),
            advice="copy the checkpoint's config.json beside the graph and inspect it again",
        )
        return
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
                f"{_BETA} is {beta:g}, and {_NO_LOGARITHM}: queries are not multiplied by "
                "1 + beta * ln(1 + floor(position / original))"
            ),
            consequence=(
                f"from {start} on, attention is flatter than the checkpoint's, the more "
                "the longer the text"
            ),
            advice="export with an exporter that scales queries; tramontane does",
        )
        return
