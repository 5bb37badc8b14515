"""The parity gate: prepares texts and settings, runs all checks on an artifact, gathers notes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..console.progress import track
from ..console.text_file import read_text
from ..export.formats.checkpoint import Checkpoint
from ..runtime.cache import by_layer
from ..runtime.errors import ContractError
from ..runtime.sizes import counted
from .can_measure import refuse_bad_options
from .graph_under_test import GraphUnderTest
from .layer_checks.findings import LayerChecks
from .layer_checks.layer_checks import check_layers
from .measurement import GateOptions, Measurement
from .reference.reference import Reference
from .reference.reference_cache import Store
from .sequences.check_sequences import check_sequences
from .sequences.tokens import (
    LARGE_WINDOW,
    SAMPLE,
    TokenText,
    at_most,
    chunks,
    random_tokens,
    spans,
)
from .tokenizer.check_tokenizer import check_tokenizer
from .tokenizer.checked_files import CheckedFiles
from .tolerance import MAX_KL_OF_HALF, tolerance_for
from .verdict import POOR, Check, closer, judged, word_for

FIGURES = {
    "weights": "weight_error",
    "rounding": "rounding_error",
    "operators": "operator_error",
    "rows": "row_error",
}
_PIECE = 1024  # tokens that operators are observed over at once; bounds the memory of all layers
_MANY_PARAMETERS = 10**9  # beyond it, default runs check the operators of three layers only


class Gate:
    """An artifact and its reference."""

    def __init__(
        self,
        tested: GraphUnderTest,
        checkpoint: Checkpoint,
        options: GateOptions,
        *,
        checked: CheckedFiles | None = None,
    ) -> None:
        """Read texts and settings; nothing is run yet.

        Args:
            tested: the artifact.
            checkpoint: what it was exported from.
            options: how to measure.
            checked: of the tokenizer; not checked again where the artifact has the same files.

        Raises:
            ContractError: a missing text, an invalid bound, or a folder for the reference's
                results that cannot be created.
            CheckpointError: the checkpoint's tokenizer is unreadable.
        """
        refuse_bad_options(text=options.text, seed=options.seed)
        self.tested, self.options, self.checked = tested, options, checked
        rounds_rows_alone = tested.has_half_cache and not tested.recipe.is_quantized
        self.tolerance = tolerance_for(
            tested.recipe.weight_errors,
            int8_cache=tested.has_int8_cache,
            half_cache=tested.has_half_cache,
            scale=options.tolerance,
            max_kl=min(options.max_kl, MAX_KL_OF_HALF) if rounds_rows_alone else options.max_kl,
            min_agreement=options.min_agreement,
        )
        self.words = TokenText(checkpoint)
        self.text = read_text(options.text, flag="--text")
        self.words.count(self.text)
        self.reference = Reference(
            tested.config, checkpoint, store=Store(options.store), track=track
        )
        config = tested.config
        self.spans = spans(
            tested.edges, positions=config.max_position_embeddings, thorough=options.thorough
        )

    def measure(self) -> Measurement:
        """Run every check.

        Raises:
            ContractError: the graph cannot be run by its names.
            CheckpointError: a weight of the checkpoint is unreadable.
        """
        notes = [*self._of_the_window(), *self._of_the_text(), *self._of_a_large_window()]
        sequences = check_sequences(
            self.tested,
            self.reference,
            self._sequences(),
            spans=self.spans,
            tolerance=self.tolerance,
            track=track,
        )
        notes += [*sequences.notes, *self._of_the_distance(sequences.checks[0])]
        checks = list(sequences.checks)
        layer_checks = self._layer_checks(notes)
        if layer_checks is not None:
            checks += checks_of_layers(layer_checks)
        checks += self._tokenizer(notes)
        return Measurement(
            runs=sequences.runs,
            tested=self.tested,
            checkpoint=self.reference.checkpoint,
            options=self.options,
            words=self.words,
            tolerance=self.tolerance,
            spans=self.spans,
            checks=checks,
            curve=sequences.curve,
            layer_checks=layer_checks,
            notes=notes,
        )

    def check_layers(self, tokens: np.ndarray, cuts: Sequence[int]) -> LayerChecks:
        """Check weights and operators on a given sequence, in all layers."""
        return check_layers(
            self.tested,
            self.reference,
            tokens,
            cuts,
            layers=range(self.tested.config.num_hidden_layers),
            tolerance=self.tolerance,
            track=track,
        )

    def how_to_get_closer(self) -> str:
        """What to try where the artifact is too far from the float32 model."""
        tested = self.tested
        published = self.reference.checkpoint.config.windows
        return closer(
            tested.recipe,
            text="our own" if self.options.text == SAMPLE else self.options.text.name,
            block=tested.block,
            rounds_cache=tested.has_int8_cache or tested.has_half_cache,
            has_other_window=tested.config.windows != published,
        )

    def _of_the_window(self) -> list[str]:
        """A note if the artifact's window is not the checkpoint's."""
        own = self.tested.config.windows
        published = self.reference.checkpoint.config.windows
        if own == published:
            return []
        shown, theirs = (by_layer(windows, none="none") for windows in (own, published))
        return [
            f"the artifact's window is {shown}, the checkpoint's {theirs}: "
            "it was exported with --window, and is measured with it"
        ]

    def _of_the_text(self) -> list[str]:
        """A note if the user's text had to be repeated."""
        count, longest = self.words.count(self.text), self.spans.longest
        if self.options.text == SAMPLE or count >= longest:
            return []
        return [
            f"the text has {counted(count, 'token')}, "
            f"repeated to {longest}; a longer text measures more"
        ]

    def _of_a_large_window(self) -> list[str]:
        """A note if the window is too large to feed all of both sequences."""
        if not self.spans.shared:
            return []
        return [
            f"the window has more than {LARGE_WINDOW} tokens: the random tokens follow "
            f"{self.spans.shared} tokens of the text, and both sequences end after the first "
            "eviction; --thorough feeds each over three windows"
        ]

    def _of_the_distance(self, check: Check) -> list[str]:
        """A note where the artifact is far from the float32 model over the text."""
        far = check.figures
        if word_for(mean_kl=far["mean_kl"], same_top=far["same_top"]) != POOR:
            return []
        return [
            f"the artifact's outputs are far from the float32 model's: {self.how_to_get_closer()}"
        ]

    def _sequences(self) -> dict[str, np.ndarray]:
        length, seed, shared = self.spans.longest, self.options.seed, self.spans.shared
        text = self.words.tokens(self.text, length, skipped=97 * seed)
        random = random_tokens(self.tested.config.vocab_size, length, seed=seed)
        return {"text": text, "random": np.concatenate([text[:shared], random[shared:]])}

    def _tokenizer(self, notes: list[str]) -> list[Check]:
        """Compare the tokenizer and chat templates of an artifact of ours."""
        artifact, manifest = self.tested.artifact, self.tested.manifest
        if artifact is None or manifest is None:
            return []
        vocabulary, checked = manifest.vocabulary, self.checked
        if checked is not None and checked.fits(artifact, vocabulary):
            found = checked.found
        else:
            found = check_tokenizer(artifact, vocabulary, self.reference.checkpoint)
        notes += found.notes
        return found.checks

    def _layer_checks(self, notes: list[str]) -> LayerChecks | None:
        config, length = self.tested.config, self.spans.layers_checked
        last = config.num_hidden_layers - 1
        layers = list(range(last + 1))
        if config.num_parameters > _MANY_PARAMETERS and not self.options.thorough:
            layers = sorted({0, last // 2, last})
            notes.append(
                f"operators of layers {', '.join(map(str, layers))} of {last + 1} were checked, "
                "and the weights of all layers; --thorough checks the operators of all layers"
            )
        tokens = self.words.tokens(self.text, length, skipped=97 * self.options.seed)
        try:
            return check_layers(
                self.tested,
                self.reference,
                tokens,
                at_most(_PIECE, chunks(self.tested.edges, length)),
                layers=layers,
                tolerance=self.tolerance,
                track=track,
            )
        except ContractError as error:
            if self.tested.manifest is not None:
                raise
            notes.append(f"weights and operators were not checked one by one: {error}")
            return None


def checks_of_layers(layer_checks: LayerChecks) -> list[Check]:
    """One check per kind of finding, on the one that is furthest out of bounds."""
    checks = []
    for kind, figure in FIGURES.items():
        found = [one for one in layer_checks.findings if one.kind == kind]
        if not found:
            continue
        worst = max(found, key=lambda one: np.nan_to_num(one.error / one.bound, nan=np.inf))
        broken = sum(one.is_broken for one in found)
        check = judged(
            name=f"{len(found)} {kind}, one by one",
            kind=kind,
            figures={figure: worst.error, "broken": broken, "looked_at": len(found)},
            bounds={figure: worst.bound},
            where=f"{worst}; {broken} of {len(found)} are out of bounds",
        )
        checks.append(check)
    return checks
