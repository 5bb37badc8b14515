"""Explains a failure: the first tensor out of bounds, and its likely cause."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np

from ...runtime.sizes import counted
from ..figures import compare
from ..gate import Gate
from ..layer_checks.findings import SCALES, ComparedTensor, LayerChecks
from ..measurement import Measurement
from ..sequences.batches import feed_batches
from ..sequences.sequences import Feed, feeds
from ..tokenizer import check_tokenizer
from ..verdict import Check
from .of_operators import ROTATED, cause_of_operator
from .of_rounding import cause_of_rounding
from .of_rows import cause_of_rows
from .of_scales import cause_of_scales
from .of_tokenizer import cause_of_tokenizer
from .of_weights import cause_of_weights
from .rank_causes import Found

_EXPORT_AGAIN = "export again, and keep the artifact's files as they are written"
# Of a weight, relative to the largest of its block: GPTQ moves none further in the trained models,
# so blocks beyond it are those to look at, and what is nearer is alike.
_USUAL_BY_GPTQ = 0.6
_REPORT = "please report this, with the checkpoint's tokenizer files"


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """The first tensor out of bounds, and its likely cause."""

    place: str  # in the model, e.g. "layer 0, attention at position 64"
    error: float
    bound: float
    cause: str  # empty where no known pattern fits
    evidence: str  # what makes the cause likely, in figures
    advice: str = ""  # what to try; empty where the cause says it

    def __str__(self) -> str:
        cause = self.cause or "no known pattern fits"
        evidence = f" ({self.evidence})" if self.evidence else ""
        advice = f"; {self.advice}" if self.advice else ""
        found = f"found {self.error:.2g}, allowed {self.bound:.2g}"
        return f"first at fault: {self.place}: {found}; likely cause: {cause}{evidence}{advice}"


def explain(gate: Gate, measurement: Measurement) -> Explanation | None:
    """Find the first bad tensor and its likely cause; None if every check passed.

    If the graph's operators are correct on the short sequence that is checked by default, the
    sequence that failed is checked instead, fed in the same pieces.
    """
    if measurement.passed:
        return None
    layer_checks = measurement.layer_checks
    broken = [check for check in measurement.checks if check.failures]
    failed = [check for check in broken if check.kind != check_tokenizer.KIND]
    if not failed:
        return _of_tokenizer(gate, broken[0])
    if all(check.kind == "distance" for check in failed):
        return _of_distance(gate, failed[0])
    if layer_checks is not None and layer_checks.first_broken is None:
        layer_checks = _replayed(gate, measurement, failed) or layer_checks
    if layer_checks is not None and layer_checks.first_broken is not None:
        return _explained(gate, layer_checks, layer_checks.first_broken)
    return _from_outside(gate, measurement, failed)


def _explained(gate: Gate, layer_checks: LayerChecks, compared: ComparedTensor) -> Explanation:
    finding, config = compared.finding, gate.tested.config
    scale = gate.tolerance.scale
    if scale < 1 and finding.error <= finding.bound / scale:
        return Explanation(
            place=str(finding),
            error=finding.error,
            bound=finding.bound,
            cause=f"the bounds were tightened: --tolerance {scale:g}",
            evidence=f"by default {finding.bound / scale:.2g} is allowed",
        )
    layout = gate.tested.layouts[finding.layer or 0]  # read for findings of a layer alone
    found: Found | None
    if finding.name.endswith(SCALES):
        found = cause_of_scales(compared)
    elif finding.kind == "rounding":
        found = cause_of_rounding(compared)
    elif finding.kind == "weights":
        prefix = "" if finding.layer is None else f"layers.{finding.layer}."
        parameter, checkpoint = f"{prefix}{finding.name}.weight", gate.reference.checkpoint
        if gate.tested.is_rounded_in_calibration and finding.layer is not None:
            usual = dataclasses.replace(finding, bound=_USUAL_BY_GPTQ)
            compared = dataclasses.replace(compared, finding=usual)
        found = cause_of_weights(
            compared, parameter, config, checkpoint, is_smoothed=gate.tested.is_smoothed
        )
    else:
        found, checkpoint = None, gate.reference.checkpoint
        if finding.kind == "operators" or finding.name in ROTATED:
            found = cause_of_operator(compared, config, checkpoint, layout, layer_checks.cuts)
        if found is None and (finding.kind == "rows" or finding.name in ROTATED):
            run = gate.reference.runs([layer_checks.tokens])[0]
            found = cause_of_rows(
                compared,
                layout,
                run,
                is_attention_sound=not any(
                    one.is_broken and one.layer == finding.layer and one.name == "attention"
                    for one in layer_checks.findings
                ),
            )
    cause, evidence = found or ("", "")
    return Explanation(
        place=str(finding),
        error=finding.error,
        bound=finding.bound,
        cause=cause,
        evidence=evidence,
    )


def _of_distance(gate: Gate, check: Check) -> Explanation:
    """Every part does what the recipe says: the distance comes from recipe, model and text."""
    figure = check.broken_figures[0]
    return Explanation(
        place=check.name,
        error=check.figures[figure],
        bound=check.bounds[figure],
        cause=f"{gate.tested.quant} changes this model's outputs by this much on this text",
        evidence="every weight, operator and sequence is within its bound",
        advice=gate.how_to_get_closer(),
    )


def _of_tokenizer(gate: Gate, check: Check) -> Explanation:
    """An explanation where the graph is right, and the tokenizer or a chat template is not."""
    artifact, manifest = gate.tested.artifact, gate.tested.manifest
    found: Found | None = None
    if artifact is not None and manifest is not None:
        found = cause_of_tokenizer(check, artifact, manifest, gate.reference.checkpoint)
    cause, evidence = found or ("", "the artifact's file is the one that the export writes")
    return Explanation(
        place=check.name,
        error=check.figures[check_tokenizer.FIGURE],
        bound=0,
        cause=cause,
        evidence=evidence,
        advice=_EXPORT_AGAIN if found else _REPORT,
    )


def _replayed(gate: Gate, measurement: Measurement, failed: list[Check]) -> LayerChecks | None:
    """Check weights and operators on the shortest sequence that failed, fed in the same pieces."""
    names = {check.name.removeprefix("cache, ") for check in failed}
    ways = [
        way
        for source in measurement.runs
        for way in feeds(source, gate.tested.edges, gate.spans)
        if str(way) in names
    ]
    if not ways:
        return None
    way: Feed = min(ways, key=lambda one: (one.length, len(one.cuts)))
    return gate.check_layers(measurement.runs[way.source].tokens[: way.length], way.cuts)


def _from_outside(gate: Gate, measurement: Measurement, failed: list[Check]) -> Explanation:
    """An explanation if no inner tensor is at fault, or none can be checked."""
    check = failed[0]
    figure = check.broken_figures[0]
    cause, evidence = "", "every checked weight and operator is within its bound"
    if all("batch" in one.name for one in failed):
        cause, evidence = _padding(gate, measurement) or (cause, evidence)
    return Explanation(
        place=check.name,
        error=check.figures[figure],
        bound=check.bounds[figure],
        cause=cause,
        evidence=evidence,
        advice="" if cause else "--thorough checks every layer; please report this",
    )


def _padding(gate: Gate, measurement: Measurement) -> tuple[str, str] | None:
    """The explanation if the artifact reads a batch's padding as tokens."""
    runs = list(measurement.runs.values())
    for row, run in zip(feed_batches(gate.tested, runs), itertools.cycle(runs)):
        if not row.padding:
            continue
        zeros, length = np.zeros(row.padding, np.int64), row.length
        tokens = run.tokens[: len(row.logits)]
        own, parts = slice(length, None), [tokens[:length], zeros, tokens[length:]]
        if row.pads_left:  # what is cached of it is no longer a sequence
            own, parts = slice(length), [zeros, tokens[:length]]
        expected = gate.reference.runs([np.concatenate(parts)])[0].logits
        expected = expected[-len(tokens[own]) :]
        found = compare(expected, row.logits[own], tokens[own]).mean_kl
        plain = compare(run.logits[: len(tokens)][own], row.logits[own], tokens[own]).mean_kl
        if found < plain / 10:
            side = " on the left" if row.pads_left else ""
            return (
                f"the mask doesn't hide padding{side}: it is read as tokens",
                f"with {counted(row.padding, 'token')} of padding read, mean KL is {found:.1e} "
                f"and no longer {plain:.1e}",
            )
    return None
