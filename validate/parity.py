"""Do torch and the artifact agree, also past the window and across evictions?"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ContractError, ParityError
from ..export.model import Mistral
from ..runtime.contract import Geometry
from ..runtime.session import Session
from .figures import Figures, compare
from .tolerance import FEWEST_POSITIONS, Tolerance, tolerance_for

SAMPLE = Path(__file__).with_name("sample.txt")
GREEDY_STEPS = 256
_STAND_IN_WINDOW = 64  # lengths for a model that has no window
_TELLING_LENGTH = 1024  # positions over which a mean tells recipes apart
_SEED = 0

Track = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison and its verdict; ``failures`` name figure, value and bound."""

    name: str
    figures: dict[str, float]
    failures: tuple[str, ...]


def run_checks(session: Session, reference: Mistral, text: str, *, track: Track) -> list[Check]:
    """Run all checks: one shot over lengths around the window, in chunks, stepped, greedy.

    Args:
        session: the artifact; its sequence is reset.
        reference: the model that the artifact was exported from, float32.
        text: tokens come from its start, and again where it is too short.
        track: hands on the checks while showing how far they are.
    """
    geometry, quant = session.manifest.geometry, session.manifest.quant
    longest = lengths(geometry)[-1]
    jobs: list[Callable[[], Check]] = []
    for source, tokens in (
        ("text", text_tokens(session, text, longest)),
        ("random", random_tokens(geometry.vocab_size, longest)),
    ):
        expected = reference_logits(reference, tokens)
        feeds = [("one shot", [length]) for length in lengths(geometry)]
        feeds += [("chunked", chunks(geometry, longest)), ("stepped", [1] * longest)]
        for mode, cuts in feeds:
            jobs.append(
                functools.partial(
                    logits_check,
                    session,
                    tokens[: sum(cuts)],
                    expected[: sum(cuts)],
                    cuts=cuts,
                    label=f"{source}, {mode}",
                    tolerance=tolerance_for(quant, source),
                )
            )
    greedy_tolerance = tolerance_for(quant, "text")
    jobs.append(functools.partial(greedy_check, session, reference, text, greedy_tolerance))
    return [job() for job in track(jobs, "checking parity")]


def lengths(geometry: Geometry) -> list[int]:
    """Lengths that straddle the window, and one of three windows or more (where positions go)."""
    W = geometry.window or _STAND_IN_WINDOW
    wanted = {1, W - 1, W, W + 1, 3 * W, max(3 * W, _TELLING_LENGTH)}
    return sorted({min(max(n, 1), geometry.max_positions) for n in wanted})


def chunks(geometry: Geometry, length: int) -> list[int]:
    """Chunk sizes whose borders lie on, before and after the window's edge and an eviction."""
    W = geometry.window or _STAND_IN_WINDOW
    C = geometry.rows or W + 16
    evicted_at_once = C - W + 1
    cuts = {W - 1, W + 1, C - 1, C, C + 2, C + evicted_at_once + 1, 2 * W + 3}
    borders = [0, *sorted(cut for cut in cuts if 0 < cut < length), length]
    return [b - a for a, b in itertools.pairwise(borders)]


def read_text(path: Path) -> str:
    """Read a text to measure on.

    Raises:
        ContractError: no such file, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"--text {path}: {error}; name a UTF-8 text file") from error


def text_tokens(session: Session, text: str, length: int) -> np.ndarray:
    """The text's first tokens, repeated where it is too short: (length,) int64."""
    ids = session.tokenizer.encode(text)
    return np.resize(np.array(ids, dtype=np.int64), length)


def random_tokens(vocab_size: int, length: int) -> np.ndarray:
    """Seeded tokens from the whole vocabulary: (length,) int64."""
    return np.random.default_rng(_SEED).integers(0, vocab_size, length)


@torch.no_grad()
def reference_logits(reference: Mistral, tokens: np.ndarray) -> np.ndarray:
    """The reference's logits at every position, in one shot: (T, V) float32."""
    ids = torch.from_numpy(tokens)[None]
    logits, _ = reference(ids, torch.ones_like(ids), reference.empty_cache())
    return np.asarray(logits[0].numpy())


def artifact_logits(session: Session, tokens: np.ndarray, cuts: Sequence[int]) -> np.ndarray:
    """The artifact's logits at every position, fed in chunks of the given sizes: (T, V)."""
    session.reset()
    found, start = [], 0
    for size in cuts:
        piece = [int(token) for token in tokens[start : start + size]]
        found.append(
            session.step(piece[0]).copy()[None]
            if size == 1 and start > 0
            else session.prefill(piece, all_logits=True, chunk=size)
        )
        start += size
    return np.concatenate(found)


def logits_check(
    session: Session,
    tokens: np.ndarray,
    expected: np.ndarray,
    *,
    cuts: Sequence[int],
    label: str,
    tolerance: Tolerance,
) -> Check:
    """Feed tokens in chunks of the given sizes and compare the logits at every position."""
    figures = compare(expected, artifact_logits(session, tokens, cuts), tokens)
    return Check(
        name=f"{label}, {len(tokens)} tokens",
        figures=dataclasses.asdict(figures),
        failures=judge(figures, tolerance),
    )


def judge(figures: Figures, tolerance: Tolerance) -> tuple[str, ...]:
    """Which bounds do the figures break? Means count from enough positions on."""
    broken = []
    bound = tolerance.max_logit_difference
    if bound is not None and not figures.max_logit_difference <= bound:
        broken.append(
            f"max |Δlogit| {figures.max_logit_difference:.2e} > {bound:.0e} "
            f"(position {figures.worst_position})"
        )
    if figures.positions >= FEWEST_POSITIONS:
        if not figures.mean_kl <= tolerance.mean_kl:
            broken.append(f"mean KL {figures.mean_kl:.2e} > {tolerance.mean_kl:.0e} nats")
        if not figures.same_top >= tolerance.same_top:
            broken.append(f"same top {figures.same_top:.2%} < {tolerance.same_top:.2%}")
    return tuple(broken)


@torch.no_grad()
def greedy_check(session: Session, reference: Mistral, text: str, tolerance: Tolerance) -> Check:
    """Continue the start of the text greedily, each on its own, and compare the tokens."""
    prompt = text_tokens(session, text, 8)
    steps = min(GREEDY_STEPS, session.manifest.geometry.max_positions - len(prompt))
    ids = torch.from_numpy(prompt)[None]
    logits, cache = reference(ids, torch.ones_like(ids), reference.empty_cache())
    session.reset()
    found = session.prefill([int(token) for token in prompt])
    same = 0
    for step in range(steps):
        token = int(logits[0, -1].argmax())
        if int(found.argmax()) != token:
            break
        same += 1
        if step + 1 < steps:
            seen = torch.ones(1, len(prompt) + same, dtype=torch.int64)
            logits, cache = reference(torch.tensor([[token]]), seen, cache)
            found = session.step(token)
    is_broken = tolerance.greedy_is_identical and same < steps
    failures = (f"greedy tokens part after {same} of {steps}",) if is_broken else ()
    return Check(
        name=f"greedy, {steps} tokens",
        figures={"same_greedy_tokens": same, "greedy_tokens": steps},
        failures=failures,
    )


def headline(checks: Sequence[Check]) -> dict[str, float]:
    """The worst of each figure; means are those on text, over the longest checks."""
    measured = [check for check in checks if "mean_kl" in check.figures]
    longest = max(check.figures["positions"] for check in measured)
    telling = [check for check in measured if check.figures["positions"] == longest]
    text = [check.figures for check in telling if check.name.startswith("text")]
    random = [check.figures for check in telling if check.name.startswith("random")]
    greedy = next(check.figures for check in checks if "greedy_tokens" in check.figures)
    ratios = [f["artifact_perplexity"] / f["reference_perplexity"] for f in text]
    return {
        "max_logit_difference": _rounded(
            max(check.figures["max_logit_difference"] for check in measured)
        ),
        "mean_kl": _rounded(max(f["mean_kl"] for f in text)),
        "mean_kl_on_random_tokens": _rounded(max(f["mean_kl"] for f in random)),
        "same_top": _rounded(min(f["same_top"] for f in text)),
        "perplexity_ratio": _rounded(max(ratios, key=lambda ratio: abs(math.log(ratio)))),
        **greedy,
    }


def raise_if_broken(checks: Sequence[Check], *, artifact: Path) -> None:
    """Raise unless every check passed.

    Raises:
        ParityError: naming each broken check and figure.
    """
    broken = [f"{check.name}: {'; '.join(check.failures)}" for check in checks if check.failures]
    if broken:
        raise ParityError(
            f"{artifact}: {len(broken)} of {len(checks)} parity checks failed:\n  "
            + "\n  ".join(broken)
        )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
