"""The parity gate: runs all checks on an artifact."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..console.progress import track
from ..console.text_file import read_text
from ..export.formats.checkpoint import Checkpoint
from ..runtime.cache import by_layer
from ..runtime.errors import ContractError
from .artifact_under_test import Subject
from .figures import Positions, by_position, summarize
from .layer_checks.findings import LayerChecks
from .layer_checks.layer_checks import check_layers
from .preflight import refuse_bad_options
from .reference.kernel_rounding import KernelRounding
from .reference.recipe_reference import Expected, RecipeReference
from .reference.reference import Reference, ReferenceRun
from .reference.reference_cache import Store, default_folder
from .reference.weights import ArtifactWeights, CheckpointWeights, Weights
from .sequences.batches import batch_checks
from .sequences.sequences import (
    Feed,
    check_feed,
    distance_check,
    feeds,
    greedy_check,
    greedy_tokens,
)
from .sequences.tokens import SAMPLE, Spans, TokenText, chunks, random_tokens, spans
from .tolerance import MAX_KL, MIN_AGREEMENT, Tolerance, tolerance_for
from .verdict import POOR, Check, closer, judged, word_for

FIGURES = {"weights": "weight_error", "operators": "operator_error", "rows": "row_error"}
_MANY_PARAMETERS = 10**9  # beyond it, default runs look into three layers alone


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOptions:
    """How to measure."""

    text: Path = SAMPLE  # UTF-8, of the kind that the model knows
    seed: int = 0  # of the random tokens, and of where in the text to begin
    tolerance: float = 1.0  # scales the bounds on what the recipe says
    max_kl: float = MAX_KL  # nats from the float32 model, mean over the text, at most
    min_agreement: float = MIN_AGREEMENT  # top-1 agreement with it over the text, at least
    thorough: bool = False  # all lengths and layers, however long it takes
    store: Path = field(default_factory=default_folder)  # keeps what the reference made


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """All that was found."""

    subject: Subject
    checkpoint: Checkpoint
    options: GateOptions
    words: TokenText
    tolerance: Tolerance
    spans: Spans
    checks: list[Check]
    runs: dict[str, ReferenceRun]  # of the reference, on text and on random tokens
    curve: Positions  # over the text, fed in chunks
    layer_checks: LayerChecks | None  # None: the graph cannot be looked into
    notes: list[str]  # what was not measured, and why

    @property
    def passed(self) -> bool:
        """Whether every check kept its bounds."""
        return not any(check.failures for check in self.checks)


class Gate:
    """An artifact beside its reference."""

    def __init__(self, subject: Subject, checkpoint: Checkpoint, options: GateOptions) -> None:
        """Read texts and settings; nothing is run yet.

        Raises:
            ContractError: a text that is not there, a bound that is none, or a folder for the
                reference's work that cannot be made.
            CheckpointError: the checkpoint's tokenizer is unreadable.
        """
        refuse_bad_options(text=options.text, seed=options.seed)
        self.subject, self.options = subject, options
        self.tolerance = tolerance_for(
            int8_cache=subject.has_int8_cache,
            scale=options.tolerance,
            max_kl=options.max_kl,
            min_agreement=options.min_agreement,
        )
        self.words = TokenText(checkpoint)
        self.text = read_text(options.text, flag="--text")
        self.words.count(self.text)
        self.reference = Reference(
            subject.config, checkpoint, store=Store(options.store), track=track
        )
        config = subject.config
        self.spans = spans(
            subject.edges, positions=config.max_position_embeddings, thorough=options.thorough
        )

    def measure(self) -> Measurement:
        """Run every check.

        Raises:
            ContractError: the graph cannot be run as its names promise.
            CheckpointError: a weight of the checkpoint is unreadable.
        """
        notes = [*self._of_the_window(), *self._of_the_text()]
        runs, checks, curve = self._sequence_checks(notes)
        layer_checks = self._layer_checks(notes)
        if layer_checks is not None:
            checks += checks_of_layers(layer_checks)
        return Measurement(
            runs=runs,
            subject=self.subject,
            checkpoint=self.reference.checkpoint,
            options=self.options,
            words=self.words,
            tolerance=self.tolerance,
            spans=self.spans,
            checks=checks,
            curve=curve,
            layer_checks=layer_checks,
            notes=notes,
        )

    def check_layers(self, tokens: np.ndarray, cuts: Sequence[int]) -> LayerChecks:
        """Look into the graph on a sequence of one's choice, at all layers."""
        return check_layers(
            self.subject,
            self.reference,
            tokens,
            cuts,
            layers=range(self.subject.config.num_hidden_layers),
            tolerance=self.tolerance,
            track=track,
        )

    def how_to_get_closer(self) -> str:
        """What to try where the artifact is too far from the float32 model."""
        subject = self.subject
        published = self.reference.checkpoint.config.windows
        return closer(
            subject.quant,
            text="our own" if self.options.text == SAMPLE else self.options.text.name,
            block=subject.block,
            has_int8_cache=subject.has_int8_cache,
            has_other_window=subject.config.windows != published,
        )

    def _of_the_window(self) -> list[str]:
        """A note where the artifact was given another window than the checkpoint has."""
        own = self.subject.config.windows
        published = self.reference.checkpoint.config.windows
        if own == published:
            return []
        shown, theirs = (by_layer(windows, none="none") for windows in (own, published))
        return [
            f"the artifact's window is {shown}, the checkpoint's {theirs}: "
            "it was exported with --window, and is measured with it"
        ]

    def _of_the_text(self) -> list[str]:
        """A note where a text of the user's had to be repeated."""
        count, longest = self.words.count(self.text), self.spans.longest
        if self.options.text == SAMPLE or count >= longest:
            return []
        return [f"the text has {count} tokens, repeated to {longest}; a longer text measures more"]

    def _sequences(self) -> list[np.ndarray]:
        length, seed = self.spans.longest, self.options.seed
        return [
            self.words.tokens(self.text, length, skipped=97 * seed),
            random_tokens(self.subject.config.vocab_size, length, seed=seed),
        ]

    def _sequence_checks(
        self, notes: list[str]
    ) -> tuple[dict[str, ReferenceRun], list[Check], Positions]:
        """All checks of whole sequences; the session that they need is closed afterwards.

        Returns:
            The float32 reference's runs on text and on random tokens; the checks; how the
            artifact differs from it over the text, fed in chunks.
        """
        feeder = self.subject.feeder()
        text, random = self._sequences()
        prompt = self.spans.greedy_prompt
        greedy = greedy_tokens(feeder, text[:prompt], self.spans.greedy_steps)
        names, sequences = ("text", "random", "greedy"), [text, random, greedy]
        runs = dict(zip(names, self.reference.runs(sequences), strict=True))
        expected = dict(zip(names, self._expected(runs, notes), strict=True))
        curves: dict[str, Positions] = {}

        def check(way: Feed) -> list[Check]:
            found, logits = check_feed(
                feeder, expected[way.source], way, self.subject.layouts, self.tolerance
            )
            if way.mode == "chunked":
                run = runs[way.source]
                curves[way.source] = by_position(run.logits, logits, run.tokens)
            return found

        sources = ("text", "random")
        jobs: list[Callable[[], Iterable[Check]]] = [
            functools.partial(check, way)
            for source in sources
            for way in feeds(source, self.subject.edges, self.spans)
        ]
        jobs.append(
            lambda: [
                greedy_check(
                    runs["greedy"], expected["greedy"], prompt=prompt, tolerance=self.tolerance
                )
            ]
        )
        both = [expected[source] for source in sources]
        jobs.append(lambda: batch_checks(self.subject, both, self.tolerance))
        checks: list[Check] = []
        for job in track(jobs, "checking parity"):
            checks += job()
        distances = [
            distance_check(source, summarize(curves[source]), self.tolerance) for source in sources
        ]
        far = distances[0].figures
        if word_for(mean_kl=far["mean_kl"], same_top=far["same_top"]) == POOR:
            notes.append(
                f"the artifact's outputs are far from the float32 model's: "
                f"{self.how_to_get_closer()}"
            )
        return {source: runs[source] for source in sources}, distances + checks, curves["text"]

    def _expected(self, runs: dict[str, ReferenceRun], notes: list[str]) -> list[Expected]:
        """What each sequence must come out as: what the recipe makes of it, and the noise."""
        own = self._own_weights(notes)
        if own is None:
            return [Expected(run=run, floor=None) for run in runs.values()]
        recipe = RecipeReference(self.subject, self.reference, own)
        return recipe.runs([run.tokens for run in runs.values()])

    def _own_weights(self, notes: list[str]) -> Weights | None:
        """The artifact's weights and rounding; None, and a note, where they are not known."""
        checkpoint = self.reference.checkpoint
        try:
            roles = self.subject.graph.tensor_roles(self.subject.config.num_hidden_layers)
        except ContractError:
            if self.subject.graph.bits == 32:
                return CheckpointWeights(checkpoint=checkpoint)
            notes.append(
                "sequences are compared with the float32 model only: the graph's weights are "
                "quantized, and their names are not known"
            )
            return None
        linears = [roles.head, *(linear for layer in roles.layers for linear in layer.values())]
        if not all(linear.is_rounding_known for linear in linears):
            notes.append(
                "sequences are compared with the float32 model only: the graph quantizes "
                "activations by an unknown rule"
            )
            return None
        rounding = KernelRounding(self.subject)
        return ArtifactWeights(
            subject=self.subject, roles=roles, checkpoint=checkpoint, rounding=rounding
        )

    def _layer_checks(self, notes: list[str]) -> LayerChecks | None:
        config, length = self.subject.config, self.spans.layers_checked
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
                self.subject,
                self.reference,
                tokens,
                chunks(self.subject.edges, length),
                layers=layers,
                tolerance=self.tolerance,
                track=track,
            )
        except ContractError as error:
            if self.subject.manifest is not None:
                raise
            notes.append(f"weights and operators were not checked one by one: {error}")
            return None


def checks_of_layers(layer_checks: LayerChecks) -> list[Check]:
    """One check for each kind of finding: of the finding that is furthest beyond its bound."""
    checks = []
    for kind, figure in FIGURES.items():
        found = [one for one in layer_checks.findings if one.kind == kind]
        if not found:
            continue
        worst = max(found, key=lambda one: np.nan_to_num(one.error / one.bound, nan=np.inf))
        broken = sum(one.is_broken for one in found)
        check = judged(
            name=f"{kind} one by one, {len(found)}",
            kind=kind,
            figures={figure: worst.error, "broken": broken, "looked_at": len(found)},
            bounds={figure: worst.bound},
            where=f"{worst}; {broken} of {len(found)} are out of bounds",
        )
        checks.append(check)
    return checks
