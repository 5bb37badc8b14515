"""The options of a measurement of parity, and all that it found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..export.formats.checkpoint import Checkpoint
from .figures import Positions
from .graph_under_test import GraphUnderTest
from .layer_checks.findings import LayerChecks
from .reference.reference import ReferenceRun
from .reference.reference_cache import default_folder
from .sequences.tokens import SAMPLE, Spans, TokenText
from .tolerance import MAX_KL, MIN_AGREEMENT, Tolerance
from .verdict import Check


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOptions:
    """How to measure."""

    text: Path = SAMPLE  # UTF-8, like the model's training data
    seed: int = 0  # of the random tokens, and of where in the text to begin
    tolerance: float = 1.0  # factor on the recipe's bounds
    max_kl: float = MAX_KL  # nats from the float32 model, mean over the text, at most
    min_agreement: float = MIN_AGREEMENT  # top-1 agreement with it over the text, at least
    thorough: bool = False  # all lengths and layers, however long it takes
    store: Path = field(default_factory=default_folder)  # stores the reference's results


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """All that was found."""

    tested: GraphUnderTest
    checkpoint: Checkpoint
    options: GateOptions
    words: TokenText
    tolerance: Tolerance
    spans: Spans
    checks: list[Check]
    runs: dict[str, ReferenceRun]  # of the reference, on text and on random tokens
    curve: Positions  # over the text, fed in chunks
    layer_checks: LayerChecks | None  # None: the graph's inside cannot be checked
    notes: list[str]  # what was not measured, and why

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not any(check.failures for check in self.checks)
