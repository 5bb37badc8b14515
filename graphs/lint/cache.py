"""Lint rules on the KV cache: rows for the window, growth, slack."""

from __future__ import annotations

from collections.abc import Iterator

from ...runtime.cache import default_rows
from ...runtime.sizes import format_bytes
from ..weights import bits_of
from .attention import LintedAttention, attentions, genai_layers, names, window_of
from .facts import Facts, LintFinding, dimension, number, section

_GENAI_SLACK = 16  # rows of onnxruntime-genai 0.18 where genai_config.json gives no cache_slack


def cache_too_short(facts: Facts) -> Iterator[LintFinding]:
    """A fixed-size cache has fewer rows than the window."""
    short = [each for each in attentions(facts) if (_slack(each, facts) or 0) < 0]
    if short:
        window = window_of(short[0], facts)
        yield LintFinding(
            rule="cache-too-short",
            severity="error",
            where=names(short),
            found=f"the KV cache has {short[0].rows} rows, fewer than the window of {window}",
            consequence="keys inside the window are lost: GroupQueryAttention refuses to run",
            advice=f"export {default_rows(window)} rows: the window and slack",
        )


def cache_without_slack(facts: Facts) -> Iterator[LintFinding]:
    """A fixed-size cache has less than 16 rows more than the window."""
    if section(facts.decoder, "sliding_window"):
        return  # then genai-rows-differ checks the number of rows
    slack = {each: _slack(each, facts) for each in attentions(facts)}
    tight = [each for each, more in slack.items() if more is not None and 0 <= more < _GENAI_SLACK]
    if tight:
        window, rows = window_of(tight[0], facts), tight[0].rows
        yield LintFinding(
            rule="cache-without-slack",
            severity="warning",
            where=names(tight),
            found=f"the cache has {rows} rows for a window of {window}, expected 16 more",
            consequence=(
                f"onnxruntime-genai allocates {window + _GENAI_SLACK} rows and refuses the graph; "
                "rows are evicted every few tokens"
            ),
            advice=f"export {default_rows(window)} rows",
        )


def genai_rows_differ(facts: Facts) -> Iterator[LintFinding]:
    """onnxruntime-genai allocates another number of rows than the graph has."""
    rows = _genai_rows(facts)
    odd = [
        each
        for each in _in_genai(facts)
        if rows is not None and isinstance(each.rows, int) and each.rows != rows
    ]
    if odd and isinstance(odd[0].rows, int):
        window = number(facts.decoder, "sliding_window", "window_size") or 0
        yield LintFinding(
            rule="genai-rows-differ",
            severity="error",
            where=names(odd),
            found=f"the cache has {odd[0].rows} rows, genai_config.json makes it {rows}",
            consequence=f"onnxruntime-genai refuses: Got: {rows} Expected: {odd[0].rows}",
            advice=f"set cache_slack to {odd[0].rows - window} in genai_config.json",
        )


def genai_cache_overflows(facts: Facts) -> Iterator[LintFinding]:
    """onnxruntime-genai bounds a cache that the graph lets grow."""
    rows = _genai_rows(facts)
    growing = [each for each in _in_genai(facts) if not each.is_bounded]
    if rows is not None and growing and (facts.max_positions or rows + 1) > rows:
        yield LintFinding(
            rule="genai-cache-overflows",
            severity="error",
            where=names(growing),
            found=(
                f"genai_config.json has a sliding_window, so the cache gets {rows} rows; "
                f"{len(growing)} attentions ({growing[0].kind}) need a row for every token"
            ),
            consequence=(
                f"onnxruntime-genai fails at token {rows + 1}: present.0.key has {rows} rows "
                f"but the computed output shape has {rows + 1}"
            ),
            advice=(
                "export with sliding_window_cache = 1, or take sliding_window out of "
                "genai_config.json"
            ),
        )


def cache_grows(facts: Facts) -> Iterator[LintFinding]:
    """Attentions mask by a window, but their cache keeps all tokens."""
    growing = [each for each in attentions(facts) if each.windows and not each.is_bounded]
    if growing:
        window = window_of(growing[0], facts)
        sizes = [_row_bytes(facts, each) for each in growing]
        cost, kept = "memory and compute per step grow with the text", default_rows(window) or 0
        if facts.max_positions and all(sizes):
            token = sum(size or 0 for size in sizes)
            cost += (
                f": {format_bytes(token * facts.max_positions)} at {facts.max_positions} tokens; "
                f"{kept} rows would take {format_bytes(token * kept)}"
            )
        yield LintFinding(
            rule="cache-grows",
            severity="warning",
            where=names(growing),
            found=f"the window of {window} only masks scores; the KV cache keeps every token",
            consequence=cost,
            advice="export with GroupQueryAttention's sliding_window_cache = 1 and fixed rows",
        )


def cache_rows_unnamed(facts: Facts) -> Iterator[LintFinding]:
    """The cache of a window leaves its number of rows to the runtime."""
    named = [
        each
        for each in attentions(facts)
        if each.slides and each.windows and not isinstance(each.rows, int) and each.past
    ]
    if named:
        window = window_of(named[0], facts)
        yield LintFinding(
            rule="cache-rows-unnamed",
            severity="note",
            where=names(named),
            found=f"the cache has {named[0].rows} rows, expected a number of at least {window}",
            consequence=(
                "transformers.js reads a symbolic size as 0 rows, which GroupQueryAttention "
                "refuses: only a runtime that knows the number of rows can run it"
            ),
            advice=f"export a fixed number of rows, such as {default_rows(window)}",
        )


def _slack(attention: LintedAttention, facts: Facts) -> int | None:
    """Rows beyond the window; None without a window or with a growing cache."""
    rows = attention.rows
    if not isinstance(rows, int) or not attention.windows:
        return None
    return rows - window_of(attention, facts)


def _genai_rows(facts: Facts) -> int | None:
    """Rows that onnxruntime-genai allocates; None where it bounds no cache.

    Source: tried with onnxruntime-genai 0.18.
    """
    sliding = section(facts.decoder, "sliding_window")
    window = number(sliding, "window_size")
    if window is None or window < 1 or section(sliding, "slide_key_value_cache"):
        return None
    slack = number(sliding, "cache_slack") or _GENAI_SLACK
    return window + max((number(facts.genai, "search", "chunk_size") or 1) - 1, slack)


def _in_genai(facts: Facts) -> list[LintedAttention]:
    layers = genai_layers(facts)
    return [each for each in attentions(facts) if each.layer in layers]


def _row_bytes(facts: Facts, attention: LintedAttention) -> int | None:
    """Bytes of one token's keys and values in one layer; None if a size is unspecified."""
    G, D = dimension(attention.past, 1), dimension(attention.past, 3)
    if not isinstance(D, int):
        D = number(facts.config, "head_dim") or number(facts.decoder, "head_size")
    bits = bits_of(None if attention.past is None else attention.past.dtype)
    if not isinstance(G, int) or D is None or bits is None:
        return None
    return 2 * G * D * bits // 8
