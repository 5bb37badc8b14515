"""What did a check find, and does it keep its bounds?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ParityError

_LABELS = {
    "max_logit_difference": "max |Δlogit|",
    "mean_kl": "mean KL",
    "same_top": "same top",
    "same_greedy_tokens": "same greedy tokens",
    "cache_error": "drift of a cached row",
    "typical_cache_error": "drift of half of the cached rows",
    "weight_error": "error of a weight",
    "operator_error": "error of an operator",
    "row_error": "error of a cached row",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison and its verdict; ``failures`` name figure, value and bound."""

    name: str
    kind: str  # logits, cache, greedy, batch, weights, operators or rows
    figures: dict[str, float]
    bounds: dict[str, float] = field(default_factory=dict)  # by figure
    failures: tuple[str, ...] = ()

    @property
    def broken_figures(self) -> list[str]:
        """Those beyond their bounds; one that is not a number keeps none."""
        return [
            name
            for name, bound in self.bounds.items()
            if not (
                self.figures[name] >= bound if _is_share(name) else self.figures[name] <= bound
            )
        ]


def judged(
    *, name: str, kind: str, figures: dict[str, float], bounds: Mapping[str, float], where: str
) -> Check:
    """Hold figures against bounds; shares and counts must reach theirs, errors must not pass.

    Args:
        name, kind, figures: of the check.
        bounds: on some of the figures, by name.
        where: what the worst figure belongs to, for the message.
    """
    check = Check(name=name, kind=kind, figures=figures, bounds=dict(bounds))
    failures = []
    for figure in check.broken_figures:
        sign = "<" if _is_share(figure) else ">"
        text = f"{_LABELS[figure]} {figures[figure]:.3g} {sign} {bounds[figure]:.3g}"
        failures.append(f"{text} ({where})" if where else text)
    return dataclasses.replace(check, failures=tuple(failures))


def headline(checks: Sequence[Check]) -> dict[str, float]:
    """The worst of each figure; means are those on text, over the longest checks."""
    measured = [check for check in checks if check.kind == "logits"]
    longest = max(check.figures["positions"] for check in measured)
    telling = [check for check in measured if check.figures["positions"] == longest]
    text = [check.figures for check in telling if check.name.startswith("text")]
    random = [check.figures for check in telling if check.name.startswith("random")]
    greedy = next(check.figures for check in checks if check.kind == "greedy")
    ratios = [f["artifact_perplexity"] / f["reference_perplexity"] for f in text]
    found = {
        "max_logit_difference": max(check.figures["max_logit_difference"] for check in measured),
        "mean_kl": max(f["mean_kl"] for f in text),
        "mean_kl_on_random_tokens": max(f["mean_kl"] for f in random),
        "same_top": min(f["same_top"] for f in text),
        "perplexity_ratio": max(ratios, key=lambda ratio: abs(math.log(ratio))),
        "cache_error": max(c.figures["cache_error"] for c in checks if c.kind == "cache"),
    }
    rounded = {name: float(f"{value:.4g}") for name, value in found.items()}
    return {**rounded, **greedy}


def raise_if_broken(checks: Sequence[Check], *, artifact: Path, explanation: str = "") -> None:
    """Raise unless every check passed.

    Raises:
        ParityError: naming each broken check and figure, and the culprit where it was found.
    """
    broken = [f"{check.name}: {'; '.join(check.failures)}" for check in checks if check.failures]
    if broken:
        lines = "\n  ".join([*broken, *([explanation] if explanation else [])])
        raise ParityError(
            f"{artifact}: {len(broken)} of {len(checks)} parity checks failed:\n  {lines}\n"
            "nothing was written"
        )


def _is_share(figure: str) -> bool:
    """Whether more of it is better."""
    return figure.startswith("same")
