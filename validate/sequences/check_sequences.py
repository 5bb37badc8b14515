"""Runs whole sequences through an artifact in every way and compares them with the references."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime.errors import ContractError
from ..figures import Positions, by_position, summarize
from ..graph_under_test import GraphUnderTest
from ..reference.kernel_rounding import KernelRounding
from ..reference.recipe_reference import Expected, RecipeReference
from ..reference.reference import Reference, ReferenceRun
from ..reference.weights import ArtifactWeights, CheckpointWeights, Weights
from ..tolerance import Tolerance
from ..verdict import Check
from .batches import batch_checks
from .beginnings import Beginnings
from .sequences import (
    Feed,
    check_feed,
    distance_check,
    feeds,
    greedy_check,
    greedy_tokens,
    pieces_of,
)
from .tokens import Spans

Track = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceChecks:
    """All checks of whole sequences; those of the distance from float32 come first."""

    runs: dict[str, ReferenceRun]  # of the float32 reference, on text and on random tokens
    checks: list[Check]
    curve: Positions  # how the artifact differs from float32 over the text, fed in chunks
    notes: list[str]  # what was not compared, and why


def check_sequences(
    tested: GraphUnderTest,
    reference: Reference,
    sequences: Mapping[str, np.ndarray],
    *,
    spans: Spans,
    tolerance: Tolerance,
    track: Track,
) -> SequenceChecks:
    """Run every check of whole sequences; the session that they need is closed afterwards.

    Args:
        tested: the graph under test.
        reference: the float32 model.
        sequences: ``text`` and ``random``, (T,) int64 each.
        spans: lengths to feed.
        tolerance: the recipe's.
        track: hands on checks while showing how far the work is.

    Raises:
        ContractError: the graph cannot be run by its names.
        CheckpointError: a weight of the checkpoint is unreadable.
    """
    runner, prompt = tested.runner(), spans.greedy_prompt
    ways = [way for source in sequences for way in feeds(source, tested.edges, spans)]
    begun = pieces_of("text", [prompt], spans.shared)
    beginnings = Beginnings([begun, *(way.pieces(spans.shared) for way in ways)])
    greedy = greedy_tokens(
        runner, sequences["text"][:prompt], spans.greedy_steps, begun, beginnings
    )
    fed = {**sequences, "greedy": greedy}
    runs = dict(zip(fed, reference.runs(list(fed.values())), strict=True))
    weights, notes = _weights_of(tested, reference)
    expected = dict(zip(fed, _expected(tested, reference, runs, weights), strict=True))
    curves: dict[str, Positions] = {}

    def check(way: Feed) -> list[Check]:
        found, logits = check_feed(
            runner,
            expected[way.source],
            way,
            way.pieces(spans.shared),
            tested.layouts,
            tolerance,
            beginnings,
        )
        if way.mode == "chunked":
            run = runs[way.source]
            curves[way.source] = by_position(run.logits, logits, run.tokens)
        return found

    def check_greedy() -> list[Check]:
        check = greedy_check(
            runs["greedy"], expected["greedy"], prompt=prompt, tolerance=tolerance
        )
        return [check]

    jobs: list[Callable[[], Iterable[Check]]] = [functools.partial(check, way) for way in ways]

    def check_batches() -> Iterable[Check]:
        runner.close()  # before the graph is loaded once more
        return batch_checks(tested, [expected[source] for source in sequences], tolerance)

    jobs += [check_greedy, check_batches]
    checks: list[Check] = []
    for job in track(jobs, "checking parity"):
        checks += job()
    distances = [
        distance_check(source, summarize(curves[source]), tolerance) for source in sequences
    ]
    return SequenceChecks(
        runs={source: runs[source] for source in sequences},
        checks=distances + checks,
        curve=curves["text"],
        notes=notes,
    )


def _expected(
    tested: GraphUnderTest,
    reference: Reference,
    runs: Mapping[str, ReferenceRun],
    weights: Weights | None,
) -> list[Expected]:
    """The expected result of each sequence: the recipe's reference, and the noise floor."""
    if weights is None:
        return [Expected(run=run, floor=None) for run in runs.values()]
    recipe = RecipeReference(tested, reference, weights)
    return recipe.runs([run.tokens for run in runs.values()])


def _weights_of(tested: GraphUnderTest, reference: Reference) -> tuple[Weights | None, list[str]]:
    """The artifact's weights and rounding; None, and a note, where they are not known."""
    checkpoint = reference.checkpoint
    try:
        roles = tested.graph.tensor_roles(tested.config.num_hidden_layers)
    except ContractError:
        if tested.graph.bits == 32:
            return CheckpointWeights(checkpoint=checkpoint), []
        return None, [
            "sequences are compared with the float32 model only: the graph's weights are "
            "quantized, and their names are not known"
        ]
    linears = [roles.head, *(linear for layer in roles.layers for linear in layer.values())]
    if not all(linear.is_rounding_known for linear in linears):
        return None, [
            "sequences are compared with the float32 model only: the graph quantizes "
            "activations by an unknown rule"
        ]
    rounding = KernelRounding(tested)
    return ArtifactWeights(
        tested=tested, roles=roles, checkpoint=checkpoint, rounding=rounding
    ), []
