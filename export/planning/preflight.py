"""All that can stop an export before its model is traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...console.progress import say
from ...graphs.quantization.recipes.recipe import DEFAULT_BLOCK
from ...graphs.targets.all_targets import find_target
from ...graphs.writing.external_data import refuse_full_disk
from ...graphs.writing.own_folders import target_of
from ...graphs.writing.partial_folder import partial_of
from ...graphs.writing.staging import refuse_occupied
from ...runtime.errors import ConfigError, ContractError
from ...runtime.ort.native_library import find_library
from ...runtime.tokenizers.vocabulary import Vocabulary
from ...runtime.untrusted.files import refuse_impossible
from ..cache_choice import CacheChoice
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from ..formats.published import Layout
from ..options import ExportOptions, read_calibration_texts
from ..sidecars.upstream_metadata import read_upstream_metadata
from ..tokenizer.in_transformers import note_of_transformers
from ..tokenizer.tokenizer import read_vocabulary
from ..tokenizer.two_files import refuse_two_tokenizers
from ..tokenizer.two_flags import refuse_two_flags
from ..window_choice import adapted, refuse_two_patterns
from .plan import Plan, plan


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
    adapters: Sequence[Path] = (),
    base_model: str | None = None,
    replace: bool = True,
) -> Preflight:
    """Check all that can stop an export before its model is traced; nothing is written.

    Args:
        checkpoint, out, options, adapters, base_model, replace: as ``export_checkpoint`` takes
            them.

    Raises:
        ConfigError, CheckpointError: the checkpoint is not one that is supported.
        GraphError: the recipe does not fit the model or the target.
        ContractError: the artifact cannot be written there.
    """
    for path in (checkpoint, *adapters):
        refuse_impossible(path, error=ConfigError)
    _refuse_overlap(out, checkpoint, *adapters)
    refuse_occupied(out, replace=replace)
    read_calibration_texts(options)
    weights = Checkpoint.open(checkpoint, adapters)
    for note in weights.notes:
        say(note)
    config = adapted(weights.config, window=options.window)
    refuse_two_patterns(config)
    cache = options.cache_choice
    _warn_of_no_window(weights, config)
    if options.native:
        _refuse_native(options)
    elif cache.dtype != cache.native_dtype:
        raise ConfigError(
            f"--kv {options.kv}: only the native library reads a cache of it; add --native "
            "(NATIVE=1 for make), or take --kv float32"
        )
    vocabulary, origin = (
        read_vocabulary(weights),
        read_upstream_metadata(weights, base_model=base_model),
    )
    refuse_two_tokenizers(weights)
    refuse_two_flags(weights)
    say(note_of_transformers(weights) or "")
    _refuse_block_without_use(options)
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


def _refuse_block_without_use(options: ExportOptions) -> None:
    recipe = options.recipe
    if options.block != DEFAULT_BLOCK and recipe.fixed_blocks and not recipe.has_blocks:
        raise ConfigError(
            f"--block {options.block}: {recipe.option} has blocks of its own for every matrix, "
            "expected lines without block; leave --block out"
        )


def _refuse_native(options: ExportOptions) -> None:
    """Refuse a graph for the native library where it has nothing to replace, or cannot be proved.

    Raises:
        ContractError: the target has another attention, or the library is not installed.
    """
    if not find_target(options.target).has_native_attention:
        raise ContractError(
            f"--native --target {options.target}: its attention is not the one that the native "
            "library computes, expected --target ort"
        )
    if find_library() is None:
        raise ContractError(
            "--native: the native library is not installed, which the parity check of that graph "
            "runs; make native builds it"
        )


def _warn_of_no_window(weights: Checkpoint, config: MistralConfig) -> None:
    """GGUF has no word for Mistral's window: what is silent there may have had one."""
    if weights.layout is Layout.GGUF and config.sliding_window is None:
        say(
            f"{weights.path}: has no window, expected one for Mistral-7B v0.1, whose window "
            "GGUF files omit; for that model pass --window 4096"
        )


def _refuse_overlap(out: Path, *sources: Path) -> None:
    target = target_of(out).resolve()
    if any(source.resolve().is_relative_to(target) for source in sources):
        raise ContractError(f"{out}: --out is the checkpoint, or holds it; name another folder")
