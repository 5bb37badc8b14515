"""Builds an artifact folder from a checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..console.progress import say, track
from ..graphs import pipeline
from ..graphs.operator.schema import NATIVE_VERSION
from ..graphs.quantization.activation_ranges import Calibration
from ..graphs.quantization.rounding_errors import RoundingErrors
from ..graphs.quantization.scheme import Scheme
from ..graphs.targets.all_targets import find_target
from ..graphs.writing import artifact
from ..graphs.writing.description import describe_tensors, refuse_in_float, with_errors
from ..graphs.writing.native_graph import write_native_graph
from ..graphs.writing.partial_folder import partial_of
from ..graphs.writing.staging import Claim, claimed, note_of_replaced
from ..runtime.contract import CARD_FILE, MANIFEST_FILE
from ..runtime.errors import ConfigError
from ..runtime.manifest import Manifest, NativeGraph, describe_file, write_manifest
from ..runtime.sizes import bits_per_weight
from ..runtime.tokenizers.vocabulary import Vocabulary
from ..runtime.untrusted.files import refuse_impossible
from . import fingerprint
from .cache_choice import geometry_of
from .calibrate.calibrate_subprocess import Rounding, calibrate_in_subprocess
from .code_digest import code_digest
from .formats.checkpoint import Checkpoint
from .formats.tensor_names import EMBEDDING
from .options import ExportOptions, calibrated_on, decisive, read_calibration_texts
from .planning.planned_weights import PlannedWeights
from .planning.preflight import Preflight, preflight
from .sidecars.card import render_card
from .sidecars.sidecars import write_sidecars
from .sidecars.upstream_metadata import copy_licenses
from .tokenizer.write_tokenizer import write_tokenizer
from .trace.bind_weights import bind
from .trace.trace_subprocess import trace_in_subprocess

# Proves an artifact that has not got its name yet; returns the headline figures, or raises.
Gate = Callable[[Path, Checkpoint], dict[str, Any]]
# Proves a folder of the new artifact's tokenizer files, or raises.
TokenizerGate = Callable[[Path, Vocabulary, Checkpoint], None]

# What progress calls them.
HASHING, CHECKING_TOKENIZER = "hashing the checkpoint", "checking the tokenizer"
# Imported here for other files than the graph and its weights; their code decides no weight.
BESIDE_WEIGHTS = (
    "export.code_digest",
    "export.fingerprint",
    "export.planning.preflight",
    "export.sidecars",
    "export.tokenizer",
    "graphs.writing.description",
    "graphs.writing.partial_folder",
    "graphs.writing.staging",
    "runtime.manifest",
)


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    options: ExportOptions,
    *,
    adapters: Sequence[Path] = (),
    dump: Path | None = None,
    gate: Gate | None = None,
    tokenizer_gate: TokenizerGate | None = None,
    resume: bool = True,
    replace: bool = True,
    base_model: str | None = None,
) -> Manifest:
    """Export a checkpoint to an artifact folder.

    Args:
        checkpoint: what ``Checkpoint.open`` takes.
        out: the artifact's folder; an artifact there is replaced when the new one is whole.
        options: what to make of it.
        adapters: folders of LoRA adapters, merged into the checkpoint in this order.
        dump: folder for the graph as text after each pass.
        gate: proves the artifact before it takes its name.
        tokenizer_gate: proves its tokenizer before the model is traced.
        resume: go on with an earlier run that was interrupted.
        replace: whether an artifact that is there is replaced, or refused.
        base_model: the hub's name of the checkpoint, for the model card.

    Returns:
        The artifact's manifest.

    Raises:
        ConfigError, CheckpointError: the checkpoint is not one that is supported, or changed
            while it was exported.
        GraphError: the recipe does not fit the model or the target.
        ContractError: the artifact cannot be written there.
        ParityError: from a gate; nothing is left under ``out``.
    """
    if dump is not None:
        refuse_impossible(dump, error=ConfigError, option="--dump")
    ready = preflight(
        checkpoint, out, options, adapters=adapters, base_model=base_model, replace=replace
    )
    say(note_of_replaced(out, is_proved=gate is not None))
    with (
        ready.weights,
        _print_how_to_resume(out),
        claimed(out, replace=replace) as claim,
    ):
        # Before the long work: whatever is wrong with the tokenizer's files is found here.
        tokenizer_json = write_tokenizer(ready.weights, claim.early, ready.vocabulary)
        if tokenizer_gate is not None:
            for prove in track([tokenizer_gate], CHECKING_TOKENIZER):
                prove(claim.early, ready.vocabulary, ready.weights)
        return _export(ready, claim, options, tokenizer_json, dump=dump, gate=gate, resume=resume)


def _export(
    ready: Preflight,
    claim: Claim,
    options: ExportOptions,
    tokenizer_json: str,
    *,
    dump: Path | None,
    gate: Gate | None,
    resume: bool,
) -> Manifest:
    """Export a checkpoint that is open, and found to be one that can be exported."""
    weights, config, vocabulary = ready.weights, ready.config, ready.vocabulary
    hashing = fingerprint.in_background(weights.hashes)
    for _ in track([config], "tracing"):
        model = trace_in_subprocess(config, ready.cache)
    for pending in track([hashing], HASHING):
        source = pending.result()
    tools = fingerprint.tool_versions()
    identity = fingerprint.identity(
        decisive(options), source=source, tools=tools, code=weights_code_digest()
    )
    staging = claim.begin(identity=identity, resume=resume)
    say(staging.note)
    folder = staging.folder
    calibration = _calibrated(ready, options, staging.scratch)
    errors = RoundingErrors(staging.scratch)
    _lower(model, ready, options, calibration, errors, dump=dump)
    tensors = describe_tensors(model.graph, recipe=options.recipe)
    refuse_in_float(tensors, options.recipe, _quantized(ready, options))
    digests = artifact.write_graph(
        model,
        folder,
        journal=staging.journal,
        track=track,
        max_shard_bytes=options.max_shard_bytes or find_target(options.target).max_shard_bytes,
    )
    rounded = None if calibration is None else calibration.rounded
    tensors = with_errors(tensors, errors.read(), rounded)
    if options.native:
        write_native_graph(folder, cache_dtype=ready.cache.native_dtype)
    shutil.copytree(claim.early, folder, dirs_exist_ok=True)
    write_sidecars(
        weights,
        folder,
        config,
        vocabulary,
        target=find_target(options.target),
        cache=ready.cache,
    )
    copy_licenses(weights, folder, ready.origin.get("license_files", []))
    weights_bytes = _sizes(folder, digests)
    manifest = Manifest(
        quant=options.recipe.name,
        recipe=options.recipe.text,
        budget=options.budget,
        target=options.target,
        geometry=geometry_of(config, ready.cache),
        vocabulary=vocabulary,
        memory=dataclasses.replace(ready.planned.memory, weights_bytes=weights_bytes),
        bits_per_weight=bits_per_weight(weights_bytes, config.num_parameters),
        source=source,
        tools=tools,
        tensors=tensors,
        origin={**ready.origin, **calibrated_on(options)},
        tokenizer_json=tokenizer_json,
        native=(
            NativeGraph(operator_version=NATIVE_VERSION, cache_dtype=ready.cache.native_dtype)
            if options.native
            else None
        ),
    )
    write_manifest(folder, manifest)
    weights.refuse_changed()
    if gate is not None:
        manifest = dataclasses.replace(manifest, parity=gate(folder, weights))
    (folder / CARD_FILE).write_text(render_card(manifest, config), encoding="utf-8")
    manifest = dataclasses.replace(manifest, files=_describe_files(folder, digests))
    write_manifest(folder, manifest)
    weights.refuse_changed()
    return manifest


def weights_code_digest() -> str:
    """One hash of the code that decides an artifact's graph and weights."""
    return code_digest(__file__, beside=BESIDE_WEIGHTS)


@contextlib.contextmanager
def _print_how_to_resume(out: Path) -> Iterator[None]:
    """On an interrupt, print where the weights are kept, and how to resume or start anew."""
    try:
        yield
    except KeyboardInterrupt:
        if partial_of(out).is_dir():
            say(
                f"\n{partial_of(out)}: what was written is kept here; run the same command "
                "again to go on with it, with --no-resume to start anew"
            )
        raise


def _calibrated(ready: Preflight, options: ExportOptions, scratch: Path) -> Calibration | None:
    """What was observed of activations; the matrices that were rounded are in ``scratch``."""
    if not options.is_calibrated:
        return None
    rounding = None
    if options.recipe.rounds_in_calibration:
        rounding = Rounding(schemes=_schemes(ready, options), folder=scratch)
    return calibrate_in_subprocess(
        ready.config,
        ready.weights,
        read_calibration_texts(options),
        tokens=options.tokens_to_observe,
        rounding=rounding,
        smoothing=_planned(ready, options).smoothed(),
    )


def _schemes(ready: Preflight, options: ExportOptions) -> dict[str, Scheme]:
    """The scheme of each matrix of the checkpoint that does not stay in float."""
    return _planned(ready, options).schemes_by_parameter()


def _planned(ready: Preflight, options: ExportOptions) -> PlannedWeights:
    return PlannedWeights(
        config=ready.config,
        target=find_target(options.target),
        recipe=options.recipe,
        block=options.block,
        cache=ready.cache,
    )


def _quantized(ready: Preflight, options: ExportOptions) -> list[str]:
    """Names of the matrices that must not stay in float; the graph has a tied one as the head."""
    names = list(_schemes(ready, options))
    return [n for n in names if n != EMBEDDING or not ready.config.tie_word_embeddings]


def _lower(
    model: ir.Model,
    ready: Preflight,
    options: ExportOptions,
    calibration: Calibration | None,
    errors: RoundingErrors,
    *,
    dump: Path | None,
) -> None:
    """Run the passes on the traced graph; its weights are read when they are written."""
    steps = pipeline.passes(
        target=options.target,
        quant=options.quant,
        block=options.block,
        kv=options.kv,
        calibration=calibration,
        errors=errors,
    )
    bind(model.graph, ready.weights.read, ready.weights.rows_of)
    pipeline.run(model, geometry_of(ready.config, ready.cache), steps, dump=dump)


def _sizes(folder: Path, names: Iterable[str]) -> int:
    return sum((folder / name).stat().st_size for name in names)


def _describe_files(folder: Path, digests: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file; those of the weights are known from writing them."""
    return {
        name: (
            {"bytes": path.stat().st_size, "sha256": digests[name]}
            if name in digests
            else describe_file(path)
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name := path.relative_to(folder).as_posix()) != MANIFEST_FILE
    }
