"""Labels of the parity figures that a manifest and a report carry, and how each is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from string import Formatter
from typing import Any

from ..runtime.untrusted.fields import decode

# By figure, in the order in which they are shown: its label, and its format.
PARITY_LABELS = {
    "mean_kl": ("mean KL on text, nats", "{:.1e}"),
    "same_top": ("top-1 agreement on text", "{:.2%}"),
    "perplexity_ratio": ("perplexity ratio on text", "{:.4f}"),
    "mean_kl_on_random_tokens": ("mean KL on random tokens, nats", "{:.1e}"),
    "max_logit_difference": ("max |Δlogit|, text and random tokens", "{:.1e}"),
    "same_greedy_tokens": ("greedy tokens that agree", "{} of {greedy_tokens}"),
}


def parity_rows(parity: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each figure.

    >>> parity_rows({"mean_kl": 6.3e-4, "same_top": 0.9843})[:2]
    [('mean KL on text, nats', '6.3e-04'), ('top-1 agreement on text', '98.43%')]
    """
    return [
        (label, figure_text(name, parity))
        for name, (label, _) in PARITY_LABELS.items()
        if name in parity
    ]


def figure_text(name: str, parity: Mapping[str, Any]) -> str:
    """One figure as it is shown; None in JSON stands for a figure that is not a number.

    Raises:
        ContractError: it is of another type.
    """
    value = parity[name]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not a number"
    pattern = PARITY_LABELS[name][1]
    fields = [each for _, each, _, _ in Formatter().parse(pattern) if each]
    for field in (name, *fields):
        decode(float, parity.get(field), where=f"parity.{field}")
    return pattern.format(value, **{field: parity[field] for field in fields})
