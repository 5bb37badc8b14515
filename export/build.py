"""How does a checkpoint become an artifact folder?"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..console.progress import say, track
from ..console.text_file import read_text
from ..graphs import pipeline
from ..graphs.quantization.recipe import (
    DEFAULT_BLOCK,
    WeightFormat,
    find_format,
    format_names,
)
from ..graphs.targets import known as known_targets
from ..graphs.targets.known import find_target
from ..graphs.writing import artifact
from ..graphs.writing.description import describe_tensors
from ..graphs.writing.external_data import refuse_full_disk
from ..graphs.writing.own_folders import target_of
from ..graphs.writing.partial_folder import partial_of
from ..graphs.writing.staging import note_of_replaced, refuse_occupied, staged
from ..runtime.cache import by_layer
from ..runtime.contract import CARD_FILE, MANIFEST_FILE
from ..runtime.errors import ConfigError, ContractError
from ..runtime.manifest import Manifest, Vocabulary, describe_file, write_manifest
from . import fingerprint
from .cache_choice import CacheChoice, choose_cache, geometry_of
from .calibrate.calibrate_subprocess import calibrate_apart
from .calibrate.tokens import TEXT
from .code_digest import code_digest
from .config import MistralConfig
from .formats.checkpoint import Checkpoint
from .formats.layouts import Layout
from .plan import Plan, plan
from .sidecars.card import render_card
from .sidecars.sidecars import write_companions
from .sidecars.upstream_metadata import copy_licenses, read_origin
from .tokenizer.tokenizer import read_vocabulary, write_tokenizer
from .trace.bind_weights import bind
from .trace.trace_subprocess import trace_apart

# Proves an artifact that has not got its name yet; returns the headline figures, or raises.
Gate = Callable[[Path, Checkpoint], dict[str, Any]]

HASHING = "hashing the checkpoint"  # what progress calls it
# Imported here for other files than the graph and its weights; their code decides no weight.
BESIDE_WEIGHTS = (
    "export.code_digest",
    "export.fingerprint",
    "export.plan",
    "export.sidecars",
    "export.tokenizer",
    "graphs.writing.description",
    "graphs.writing.own_folders",
    "graphs.writing.partial_folder",
    "graphs.writing.staging",
    "runtime.manifest",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """What to make of a checkpoint."""

    quant: str  # a weight format of ``recipe.FORMATS``
    target: str  # as in ``graphs/targets/known.py``
    block: int = DEFAULT_BLOCK  # weights that share a scale
    window: int | None = None  # keys a query sees, in place of the checkpoint's own
    cache: str = "windowed"  # as in ``cache_choice.CACHES``
    kv: str = "float32"  # what keys and values are held in, as in ``CACHE_DTYPES``
    max_shard_bytes: int | None = None  # no file of weights grows beyond it
    calibration_text: Path = TEXT  # UTF-8, to see on how large activations get

    @property
    def weight_format(self) -> WeightFormat:
        """What ``quant`` names.

        Raises:
            GraphError: an unknown one.
        """
        return find_format(self.quant)

    @property
    def is_calibrated(self) -> bool:
        """Whether the recipe is fitted to activations, or to keys and values."""
        return self.weight_format.is_calibrated(self.kv)


def recipe_named(name: str) -> ExportOptions:
    """Options by the name of their recipe: ``QUANT-TARGET``, or ``QUANT-TARGET-KV``.

    >>> options = recipe_named("int8-dynamic-ort")
    >>> options.quant, options.target, options.kv
    ('int8-dynamic', 'ort', 'float32')
    """
    target = next(target for target in known_targets.TARGETS if f"-{target}" in name)
    quant, _, kv = name.partition(f"-{target}")
    return ExportOptions(quant=quant, target=target, kv=kv.lstrip("-") or "float32")


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    options: ExportOptions,
    *,
    dump: Path | None = None,
    gate: Gate | None = None,
    resume: bool = True,
    replace: bool = True,
    base_model: str | None = None,
) -> Manifest:
    """Export a checkpoint to an artifact folder.

    Args:
        checkpoint: what ``Checkpoint.open`` takes.
        out: the artifact's folder; an artifact there is replaced when the new one is whole.
        options: the recipe.
        dump: folder for the graph as text after each pass.
        gate: proves the artifact before it takes its name.
        resume: go on with an earlier run that was interrupted.
        replace: whether an artifact that is there is replaced, or refused.
        base_model: the hub's name of the checkpoint, for the model card.

    Returns:
        The artifact's manifest.

    Raises:
        ConfigError, CheckpointError: the checkpoint is not one that is supported, or changed
            while it was exported.
        GraphError: the recipe is not one that is supported.
        ContractError: the artifact cannot be written there.
        ParityError: from the gate; nothing is left under ``out``.
    """
    ready = preflight(checkpoint, out, options, base_model=base_model, replace=replace)
    say(note_of_replaced(out, is_proved=gate is not None))
    with ready.weights:
        return _export(ready, out, options, dump=dump, gate=gate, resume=resume, replace=replace)


def _export(
    ready: Preflight,
    out: Path,
    options: ExportOptions,
    *,
    dump: Path | None,
    gate: Gate | None,
    resume: bool,
    replace: bool,
) -> Manifest:
    """Export a checkpoint that is open, and found to be one that can be exported."""
    weights, config, vocabulary = ready.weights, ready.config, ready.vocabulary
    hashing = fingerprint.in_background(weights.hashes)
    model = _traced(config, ready.cache, weights, options, dump=dump)
    for pending in track([hashing], HASHING):
        source = pending.result()
    tools = fingerprint.tool_versions()
    identity = fingerprint.identity(
        _asked(options), source=source, tools=tools, code=weights_code_digest()
    )
    with (
        _told_where(out),
        staged(out, identity=identity, resume=resume, replace=replace) as staging,
    ):
        say(staging.note)
        folder = staging.folder
        tensors = describe_tensors(model.graph, quant=options.quant)
        digests = artifact.write_graph(
            model,
            folder,
            journal=staging.journal,
            track=track,
            max_shard_bytes=options.max_shard_bytes or find_target(options.target).max_shard_bytes,
        )
        tokenizer_json = write_tokenizer(weights, folder, vocabulary)
        write_companions(
            weights,
            folder,
            config,
            vocabulary,
            target=find_target(options.target),
            cache=ready.cache,
        )
        copy_licenses(weights, folder, ready.origin.get("license_files", []))
        manifest = Manifest(
            quant=options.quant,
            target=options.target,
            geometry=geometry_of(config, ready.cache),
            vocabulary=vocabulary,
            memory=dataclasses.replace(
                ready.planned.memory, weights_bytes=_sizes(folder, digests)
            ),
            source=source,
            tools=tools,
            tensors=tensors,
            origin=ready.origin,
            tokenizer_json=tokenizer_json,
        )
        write_manifest(folder, manifest)
        weights.refuse_changed()
        if gate is not None:
            manifest = dataclasses.replace(manifest, parity=gate(folder, weights))
        (folder / CARD_FILE).write_text(render_card(manifest), encoding="utf-8")
        manifest = dataclasses.replace(manifest, files=_describe_files(folder, digests))
        write_manifest(folder, manifest)
        weights.refuse_changed()
    return manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Preflight:
    """What is known of an export before its model is traced."""

    weights: Checkpoint
    config: MistralConfig  # with the window that was asked for
    cache: CacheChoice
    vocabulary: Vocabulary
    origin: dict[str, Any]
    planned: Plan


def preflight(
    checkpoint: Path,
    out: Path,
    options: ExportOptions,
    *,
    base_model: str | None = None,
    replace: bool = True,
) -> Preflight:
    """Check all that can stop an export before its model is traced; nothing is written.

    Args:
        checkpoint, out, options, base_model, replace: as ``export_checkpoint`` takes them.

    Raises:
        ConfigError, CheckpointError: the checkpoint is not one that is supported.
        GraphError: the recipe is not one that is supported.
        ContractError: the artifact cannot be written there.
    """
    _refuse_overlap(checkpoint, out)
    refuse_occupied(out, replace=replace)
    _calibration_text(options)
    weights = Checkpoint.open(checkpoint)
    config = adapted(weights.config, window=options.window)
    cache = choose_cache(options.cache, kv=options.kv)
    _tell_of_no_window(weights, config)
    vocabulary, origin = read_vocabulary(weights), read_origin(weights, base_model=base_model)
    planned = plan(
        config, quant=options.quant, target=options.target, block=options.block, cache=cache
    )
    if not partial_of(out).exists():
        refuse_full_disk(target_of(out), planned.disk_bytes)
    return Preflight(
        weights=weights,
        config=config,
        cache=cache,
        vocabulary=vocabulary,
        origin=origin,
        planned=planned,
    )


def weights_code_digest() -> str:
    """One hash of the code that decides an artifact's graph and weights."""
    return code_digest(__file__, beside=BESIDE_WEIGHTS)


@contextlib.contextmanager
def _told_where(out: Path) -> Iterator[None]:
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


def _traced(
    config: MistralConfig,
    cache: CacheChoice,
    weights: Checkpoint,
    options: ExportOptions,
    *,
    dump: Path | None,
) -> ir.Model:
    """The finished graph; its weights are recipes."""
    calibration = None
    if options.is_calibrated:
        calibration = calibrate_apart(config, weights, _calibration_text(options))
    recipe = pipeline.passes(
        target=options.target,
        quant=options.quant,
        block=options.block,
        kv=options.kv,
        calibration=calibration,
    )
    for _ in track([config], "tracing"):
        model = trace_apart(config, cache)
        bind(model.graph, weights.read)
        pipeline.run(model, geometry_of(config, cache), recipe, dump=dump)
    return model


def _calibration_text(options: ExportOptions) -> str:
    """The text that a recipe is calibrated on; empty where it is not calibrated.

    Raises:
        ConfigError: it cannot be read, or was given where nothing would read it.
    """
    if options.is_calibrated:
        return read_text(options.calibration_text, flag="--calibration-text")
    if options.calibration_text != TEXT:
        formats = [n for n in format_names() if find_format(n).method.observes_activations]
        calibrated = " or ".join(f"--quant {name}" for name in formats)
        raise ConfigError(
            f"--calibration-text {options.calibration_text}: --quant {options.quant} --kv "
            f"{options.kv} is not calibrated, expected {calibrated} or --kv int8; leave it out"
        )
    return ""


def _asked(options: ExportOptions) -> dict[str, Any]:
    """Options as far as they decide the weights: of a text what it says, not where it lies."""
    text = _calibration_text(options).encode()
    return {
        **dataclasses.asdict(options),
        "calibration_text": hashlib.sha256(text).hexdigest() if text else "",
    }


def _tell_of_no_window(weights: Checkpoint, config: MistralConfig) -> None:
    """GGUF has no word for Mistral's window: what is silent there may have had one."""
    if weights.layout is Layout.GGUF and config.sliding_window is None:
        say(
            f"{weights.path}: has no window, expected one for Mistral-7B v0.1, whose window "
            "GGUF files omit; for that model pass --window 4096"
        )


def _refuse_overlap(checkpoint: Path, out: Path) -> None:
    if checkpoint.resolve().is_relative_to(out.resolve()):
        raise ContractError(f"{out}: --out is the checkpoint, or holds it; name another folder")


def adapted(config: MistralConfig, *, window: int | None) -> MistralConfig:
    """The architecture with another window; a Llama that gets a window is a Mistral.

    Raises:
        ConfigError: no window, or more than the checkpoint's or than the positions that the model
            has.
    """
    if window is None:
        return config
    if not 1 <= window <= config.max_position_embeddings:
        raise ConfigError(
            f"--window {window}: expected 1 to {config.max_position_embeddings}, "
            "the positions that the model has"
        )
    if config.layer_windows:
        raise ConfigError(
            f"--window {window}: the checkpoint's layers have windows of their own, "
            f"{by_layer(config.windows, none='none')}; leave --window out"
        )
    trained = config.sliding_window
    if trained is not None and window > trained:
        raise ConfigError(
            f"--window {window}: the checkpoint's window is {trained}, expected at most that: a "
            "larger one reads keys further back than the model was trained on; leave --window out"
        )
    return dataclasses.replace(config, sliding_window=window, architecture="MistralForCausalLM")


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
