"""Lint rules on inputs and outputs: names, cache, logits, config files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...runtime.contract import INPUT_IDS, LOGITS, NUM_LOGITS_TO_KEEP, past, present
from ...runtime.sizes import format_bytes
from ..weights import bits_of
from .attention import cache_inputs
from .facts import Facts, LintFinding, dimension, listing, number

_TOKENS = 1000
# Inputs that select the positions whose logits are computed.
_ASK_FOR_LOGITS = {NUM_LOGITS_TO_KEEP, "logits_to_keep", "logits_indices"}


def config_unreadable(facts: Facts) -> Iterator[LintFinding]:
    """A config beside the graph is not a JSON object."""
    for why in facts.unreadable:
        name, _, reason = why.partition(": ")
        yield LintFinding(
            rule="config-unreadable",
            severity="warning",
            where=name,
            found=reason,
            consequence="the graph's window and positions were not checked",
            advice="copy the checkpoint's own file again",
        )


def names_unusual(facts: Facts) -> Iterator[LintFinding]:
    """Inputs and outputs do not have the names that runtimes expect."""
    graph = facts.model.graph
    inputs, outputs = ({str(v.name) for v in side} for side in (graph.inputs, graph.outputs))
    missing = [] if inputs & {INPUT_IDS, "inputs_embeds"} else [INPUT_IDS]
    missing += [] if LOGITS in outputs else [LOGITS]
    held = [str(value.name) for value in cache_inputs(facts)]
    for names, usual in ((held, past), (sorted(outputs) if held else [], present)):
        kinds = [re.escape(usual(0, kind)).replace("0", r"\d+") for kind in ("key", "value")]
        if names and not any(re.fullmatch("|".join(kinds), name) for name in names):
            missing.append(usual(0, "key"))
    if missing:
        yield LintFinding(
            rule="names-unusual",
            severity="warning",
            where=facts.path.name,
            found=(
                f"no {', '.join(missing)}; inputs are {listing(sorted(inputs), 3) or 'none'}, "
                f"outputs {listing(sorted(outputs), 3) or 'none'}"
            ),
            consequence=(
                "transformers.js and optimum cannot run it; others need the names configured"
            ),
            advice="rename them, or map the names in genai_config.json",
        )


def cache_absent(facts: Facts) -> Iterator[LintFinding]:
    """The graph has no KV cache."""
    graph = facts.model.graph
    takes_tokens = any(value.name == INPUT_IDS for value in graph.inputs)
    gives_logits = any(value.name == LOGITS for value in graph.outputs)
    if takes_tokens and gives_logits and not cache_inputs(facts):
        yield LintFinding(
            rule="cache-absent",
            severity="warning",
            where=facts.path.name,
            found="no input holds past keys and values",
            consequence="each new token computes the whole text again",
            advice="export it with its cache (optimum: --task text-generation-with-past)",
        )


def logits_of_all(facts: Facts) -> Iterator[LintFinding]:
    """The graph computes logits of every position, also of those that are not needed."""
    graph = facts.model.graph
    inputs = {value.name: value for value in graph.inputs}
    logits = next((value for value in graph.outputs if value.name == LOGITS), None)
    V = dimension(logits, 2) or number(facts.config, "vocab_size")
    n, T = dimension(logits, 1), dimension(inputs.get(INPUT_IDS), 1)
    if _ASK_FOR_LOGITS & inputs.keys() or n in (None, 1) or n != T or not isinstance(V, int):
        return
    bits = bits_of(None if logits is None else logits.dtype) or 32
    yield LintFinding(
        rule="logits-of-all",
        severity="warning",
        where=LOGITS,
        found=f"(batch, {n}, {V}): logits of every position",
        consequence=(
            f"for one next token, a prompt of {_TOKENS} tokens computes {_TOKENS} rows of logits: "
            f"{format_bytes(_TOKENS * V * bits // 8)}"
        ),
        advice=(
            f"export with {NUM_LOGITS_TO_KEEP} (onnxruntime-genai's builder: prune_lm_head=true)"
        ),
    )
