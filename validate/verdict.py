"""A check's figures, bounds and verdict; how near the artifact is to the float32 model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..graphs.quantization.recipes.recipe import Recipe
from ..runtime.errors import ParityError

FIGURE_LABELS = {
    "max_logit_difference": "max |Δlogit|",
    "mean_kl": "mean KL",
    "same_top": "top-1 agreement",
    "greedy_gap": "largest logit minus the chosen token's",
    "cache_error": "drift of a cached row",
    "mean_cache_error": "mean drift of cached rows",
    "weight_error": "error of a weight",
    "rounding_error": "error by rounding, over that of rounding to nearest",
    "operator_error": "error of an operator",
    "row_error": "error of a cached row",
    "differing": "strings and tokens that differ",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison and its verdict; ``failures`` name figure, value and bound."""

    name: str
    kind: str  # distance, logits, cache, greedy, batch, weights, rounding, operators, rows
    # or tokenizer
    figures: dict[str, float]
    bounds: dict[str, float] = field(default_factory=dict)  # by figure
    failures: tuple[str, ...] = ()

    @property
    def broken_figures(self) -> list[str]:
        """Figures out of bounds; one that is not a number always is."""
        return [
            name
            for name, bound in self.bounds.items()
            if not (self.figures[name] >= bound if is_share(name) else self.figures[name] <= bound)
        ]


def judged(
    *, name: str, kind: str, figures: dict[str, float], bounds: Mapping[str, float], where: str
) -> Check:
    """Compare figures with bounds: least values of shares and counts, largest of errors.

    Args:
        name, kind, figures: of the check.
        bounds: on some of the figures, by name.
        where: what the worst figure belongs to, for the message.
    """
    check = Check(name=name, kind=kind, figures=figures, bounds=dict(bounds))
    failures = []
    for figure in check.broken_figures:
        sign = "<" if is_share(figure) else ">"
        text = f"{FIGURE_LABELS[figure]} {figures[figure]:.3g} {sign} {bounds[figure]:.3g}"
        failures.append(f"{text} ({where})" if where else text)
    return dataclasses.replace(check, failures=tuple(failures))


def checks_of(report: Mapping[str, Any]) -> list[Check]:
    """The checks of a report."""
    return [
        Check(
            **{
                **content,
                "figures": {n: number_of(value) for n, value in content["figures"].items()},
                "failures": tuple(content["failures"]),
            }
        )
        for content in report["checks"]
    ]


def number_of(value: float | None) -> float:
    """A figure of a report, where null stands for one that is not a number."""
    return math.nan if value is None else value


def judged_checks(checks: Sequence[Check]) -> list[Check]:
    """The checks that can fail, or did. The others, without a bound, are informational."""
    return [check for check in checks if check.bounds or check.failures]


def closest_to_bound(checks: Sequence[Check]) -> tuple[Check, str] | None:
    """The check, and its figure, that would fail first if all bounds were tightened alike.

    None: no check has a bound, as one that fails before anything is measured.
    """

    def share(pair: tuple[Check, str]) -> float:
        check, figure = pair
        found, bound = check.figures[figure], check.bounds[figure]
        over, under = (bound, found) if is_share(figure) else (found, bound)
        return math.inf if math.isnan(found) or not under else over / under

    bounded = ((check, figure) for check in checks for figure in check.bounds)
    return max(bounded, key=share, default=None)


def headline(checks: Sequence[Check]) -> dict[str, Any]:
    """How far the artifact is from the float32 model; means are those on text."""
    text, random = (check.figures for check in checks if check.kind == "distance")
    greedy = next(check.figures for check in checks if check.kind == "greedy")
    found = {
        "max_logit_difference": max(text["max_logit_difference"], random["max_logit_difference"]),
        "mean_kl": text["mean_kl"],
        "mean_kl_on_random_tokens": random["mean_kl"],
        "same_top": text["same_top"],
        "perplexity_ratio": text["artifact_perplexity"] / text["reference_perplexity"],
    }
    counts = {name: greedy[name] for name in ("same_greedy_tokens", "greedy_tokens")}
    word = word_for(mean_kl=text["mean_kl"], same_top=text["same_top"])
    return {
        "distance": word,
        **{name: float(f"{value:.4g}") for name, value in found.items()},
        **counts,
    }


# From the closest to the furthest: a word, its largest mean KL and its least top-1 agreement.
# llama.cpp's own table of 7B and 8B models has Q8_0 at 0.0004 to 0.0014 nats and
# 97.7 to 98.9 %, Q4_K_M at 0.013 to 0.031 nats and 91.9 to 94.7 %.
POOR = "poor"
_WORDS = (("close", 0.01, 0.95), ("usable", 0.2, 0.8))
WORDS = (
    "close: mean KL at most 0.01 nats and top-1 agreement at least 95%; usable: at most 0.2 nats "
    "and at least 80%; poor: otherwise"
)
COMPARED = (
    "for comparison, llama.cpp's published figures for 7B and 8B models: Q8_0 0.0004 to 0.0014 "
    "nats and 98 to 99%, Q4_K_M 0.013 to 0.031 nats and 92 to 95%"
)


def word_for(*, mean_kl: float, same_top: float) -> str:
    """How near an artifact is to the float32 model, in a word.

    >>> [word_for(mean_kl=kl, same_top=top) for kl, top in ((7e-4, 0.98), (0.04, 0.9), (0.6, 0.6))]
    ['close', 'usable', 'poor']
    """
    for word, most, least in _WORDS:
        if mean_kl <= most and same_top >= least:
            return word
    return POOR


def closer(
    recipe: Recipe,
    *,
    text: str,
    block: int | None = None,
    rounds_cache: bool = False,
    has_other_window: bool = False,
) -> str:
    """What to try where an artifact is too far from the float32 model.

    Args:
        recipe: of the artifact.
        text: name of the file that it was measured on.
        block: weights that share a scale; None: not known.
        rounds_cache: whether keys and values are rounded as well.
        has_other_window: whether the window is not the checkpoint's own.

    >>> from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
    >>> closer(find_recipe("fp32"), text="a.txt")
    'measure on a text like the training data (--text; this was a.txt)'
    """
    tries = ["--block 32"] * (recipe.has_blocks and (block is None or block > 32))
    tries += [f"--quant {recipe.finer}"] * (recipe.finer is not None)
    tries += ["--kv float32"] * rounds_cache
    tries += ["the checkpoint's own window (omit --window)"] * has_other_window
    text = f"measure on a text like the training data (--text; this was {text})"
    return f"{text}, or export with {', or '.join(tries)}" if tries else text


def raise_if_broken(checks: Sequence[Check], *, artifact: Path, explanation: str = "") -> None:
    """Raise unless every check passed.

    Raises:
        ParityError: naming each failed check and figure, and the explanation if there is one.
    """
    broken = [f"{check.name}: {'; '.join(check.failures)}" for check in checks if check.failures]
    if broken:
        lines = "\n  ".join([*broken, *([explanation] if explanation else [])])
        raise ParityError(
            f"{artifact}: {len(broken)} of {len(judged_checks(checks))} parity checks failed:\n"
            f"  {lines}\nno artifact was written"
        )


def is_share(figure: str) -> bool:
    """Whether a larger figure is better."""
    return figure.startswith("same")
