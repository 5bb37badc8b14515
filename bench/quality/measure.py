"""Scores each format of both families on the same tokens, and compares it with the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...console.progress import say, track
from ...environments.errors import Absent
from ...export.budget.asked import Asked
from ...export.formats.checkpoint import Checkpoint
from ...runtime.errors import ContractError, ParityError, TramontaneError
from ...validate.figures import Figures, compare
from ...validate.reference.reference import Reference
from ...validate.reference.reference_cache import Store
from ..peers.convert import PROOF_KL
from . import llama_cpp, ours, weights_alone
from .passages import Passages
from .rows import LLAMA_CPP, OURS, FormatRow, Weights


class Score(Protocol):
    """Scores one format."""

    def __call__(self, logits: Path, own_weights: Path) -> Weights:
        """Fill two files, of logits (N * T, V) float32, and return what ships.

        Args:
            logits: as the format's runtime computes them.
            own_weights: in float32, with the format's weights alone.
        """


class Measurement:
    """One model on one text: the reference's logits, then those of each format."""

    def __init__(
        self, checkpoint: Checkpoint, passages: Passages, work: Path, *, threads: int
    ) -> None:
        """Compute nothing yet.

        Args:
            checkpoint: the unquantized model.
            passages: what is scored.
            work: folder that keeps artifacts and files.
            threads: to compute with.
        """
        self.versions: dict[str, Any] = {}
        self._checkpoint, self._passages = checkpoint, passages
        self._work, self._threads = work, threads
        self._shape = passages.positions, checkpoint.config.vocab_size

    def run(self, names: Sequence[str]) -> list[FormatRow]:
        """Measure formats by their names; one that cannot be had says why.

        Raises:
            CheckpointError: a tensor is unreadable or holds a NaN or infinity.
            ParityError: llama.cpp computes another model.
        """
        self._work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            own = Path(folder)
            store = Store(own / "store")
            reference = Reference(
                self._checkpoint.config, self._checkpoint, store=store, track=track
            )
            expected = self._mapped(own / "reference.bin", mode="w+")
            runs = reference.runs(list(self._passages.sequences))
            for rows, run in zip(np.split(expected, len(runs)), runs, strict=True):
                rows[:] = run.logits
            found = []
            for name, (row, score) in self._formats(reference).items():
                if name in names:
                    say(f"{name}: scoring {self._passages.positions} positions")
                    found.append(self._row(row, score, expected, own))
            return found

    def _formats(self, reference: Reference) -> Mapping[str, tuple[dict[str, Any], Score]]:
        files = llama_cpp.LlamaFiles(
            self._checkpoint, reference, self._work, threads=self._threads
        )

        def score_ours(recipe: str, logits: Path, own_weights: Path) -> Weights:
            options = ours.options_for(ours.recipes()[recipe], self._checkpoint)
            folder = self._work / f"ours-{recipe.replace(' ', '-')}"
            artifact = ours.make_artifact(self._checkpoint, options, folder)
            filled = self._mapped(logits, mode="w+")
            ours.score(artifact, self._passages.sequences, filled, threads=self._threads)
            runs = weights_alone.of_artifact(artifact, reference, self._passages.sequences)
            self._fill(own_weights, runs)
            return ours.weights_of(artifact)

        def score_theirs(one: llama_cpp.LlamaFormat, logits: Path, own_weights: Path) -> Weights:
            file = files.path(one)
            self.versions |= files.score(file, self._passages.sequences, logits)
            runs = weights_alone.of_gguf(file, reference, self._passages.sequences)
            self._fill(own_weights, runs)
            return llama_cpp.weights_of(file, one)

        found: dict[str, tuple[dict[str, Any], Score]] = {}
        for recipe, options in ours.recipes().items():
            is_quantized = isinstance(options, Asked) or options.recipe.is_quantized
            about = {"family": OURS, "is_quantized": is_quantized}
            found[f"{OURS} {recipe}"] = about, partial(score_ours, recipe)
        for one in llama_cpp.FORMATS:
            about = {"family": LLAMA_CPP, "is_quantized": one.kind is not None}
            found[f"{LLAMA_CPP} {one.name}"] = about, partial(score_theirs, one)
        return {name: ({"name": name, **about}, score) for name, (about, score) in found.items()}

    def _row(
        self, about: dict[str, Any], score: Score, expected: np.ndarray, own: Path
    ) -> FormatRow:
        logits, own_weights = own / "logits.bin", own / "own-weights.bin"
        try:
            weights = score(logits, own_weights)
        except Absent as why:
            return FormatRow(**about, why=str(why))
        except TramontaneError as why:
            return FormatRow(**about, why=f"not supported: {why}")
        figures, alone = (
            compare(expected, self._mapped(path, mode="r"), self._passages.targets)
            for path in (logits, own_weights)
        )
        self._refuse_other_model(about, figures)
        return FormatRow(**about, weights=weights, figures=figures, weights_kl=alone.mean_kl)

    def _fill(self, path: Path, runs: Sequence[np.ndarray]) -> None:
        """Write the logits of all sequences, (T, V) float32 each, to a file."""
        filled = self._mapped(path, mode="w+")
        for rows, run in zip(np.split(filled, len(runs)), runs, strict=True):
            rows[:] = run

    def _refuse_other_model(self, about: dict[str, Any], figures: Figures) -> None:
        if not about["is_quantized"] and not figures.mean_kl <= PROOF_KL:
            raise ParityError(
                f"{about['name']}: mean KL {figures.mean_kl:.1e} where nothing is quantized, "
                f"expected at most {PROOF_KL:.0e}; it computes another model than "
                f"{self._checkpoint.path}"
            )

    def _mapped(self, path: Path, *, mode: Any) -> np.ndarray:
        return np.memmap(path, "<f4", mode=mode, shape=self._shape)


def format_names() -> list[str]:
    """All formats, ours first."""
    theirs = (f"{LLAMA_CPP} {one.name}" for one in llama_cpp.FORMATS)
    return [*(f"{OURS} {recipe}" for recipe in ours.recipes()), *theirs]


def chosen(only: Sequence[str] | None) -> list[str]:
    """The formats whose names contain one of some words; None: all.

    Raises:
        ContractError: there is none.
    """
    names = format_names()
    found = [name for name in names if only is None or any(word in name for word in only)]
    if not found:
        raise ContractError(
            f"--only {' '.join(only or ())}: no format, expected parts of {'; '.join(names)}"
        )
    return found
