"""What an export is asked for: recipe, target, window, cache, the size of files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..console.text_file import read_text
from ..graphs.quantization.recipes.all_recipes import find_recipe, recipe_names
from ..graphs.quantization.recipes.recipe import DEFAULT_BLOCK, Recipe
from ..graphs.targets import all_targets
from ..runtime.budget_fit import BudgetFit
from ..runtime.errors import ConfigError
from .cache_choice import CacheChoice, choose_cache
from .calibrate.tokens import (
    DEFAULT_TOKENS,
    SEQUENCE_LENGTH,
    TEXT,
    TOKENS_FOR_MAXIMA,
    digest_of,
)
from .window_choice import WindowChoice

NATIVE_SUFFIX = "-native"  # of names of options


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """What to make of a checkpoint."""

    quant: str | Recipe  # one's own recipe, or the name of one of ours
    target: str  # as in ``graphs/targets/all_targets.py``
    block: int = DEFAULT_BLOCK  # weights that share a scale, where the recipe fixes none
    window: WindowChoice | None = None  # keys a query sees, in place of the checkpoint's own
    cache: str = "windowed"  # as in ``cache_choice.CACHES``
    kv: str = "float32"  # what keys and values are held in, as in ``CACHE_DTYPES``
    native: bool = False  # whether a second graph has our own attention kernel
    max_shard_bytes: int | None = None  # no file of weights grows beyond it
    # UTF-8, to observe activations on; none: a bundled one.
    calibration_texts: tuple[Path, ...] = ()
    calibration_tokens: int | None = None  # of those texts, at most; None: what the method needs
    budget: BudgetFit | None = None  # that the recipe was made for; for the manifest

    @property
    def recipe(self) -> Recipe:
        """What ``quant`` names.

        Raises:
            GraphError: an unknown one.
        """
        return find_recipe(self.quant)

    @property
    def cache_choice(self) -> CacheChoice:
        """What ``cache`` and ``kv`` name.

        Raises:
            ConfigError: one of them is unknown.
        """
        return choose_cache(self.cache, kv=self.kv)

    @property
    def is_calibrated(self) -> bool:
        """Whether weights are fitted to activations, or scales to keys and values."""
        return self.recipe.is_calibrated(self.kv)

    @property
    def tokens_to_observe(self) -> int:
        """Tokens of the calibration texts to run the model on, at most."""
        if not self.recipe.rounds_in_calibration:
            return TOKENS_FOR_MAXIMA
        return self.calibration_tokens or DEFAULT_TOKENS


def options_named(name: str) -> ExportOptions:
    """Options by a short name: ``QUANT-TARGET``, then ``-KV`` and ``-native`` if they are meant.

    >>> options = options_named("int8-dynamic-ort")
    >>> options.quant, options.target, options.kv
    ('int8-dynamic', 'ort', 'float32')
    >>> options = options_named("fp32-ort-float16-native")
    >>> options.quant, options.kv, options.native
    ('fp32', 'float16', True)
    """
    native = name.endswith(NATIVE_SUFFIX)
    name = name.removesuffix(NATIVE_SUFFIX)
    target = next(target for target in all_targets.TARGETS if f"-{target}" in name)
    quant, _, kv = name.partition(f"-{target}")
    return ExportOptions(quant=quant, target=target, kv=kv.lstrip("-") or "float32", native=native)


def read_calibration_texts(options: ExportOptions) -> tuple[str, ...]:
    """The texts that an export is calibrated on; none where it is not calibrated.

    Raises:
        ConfigError: one cannot be read, or was given where nothing would read it.
    """
    if options.calibration_tokens is not None:
        _refuse_calibration_tokens(options.calibration_tokens, options)
    if options.is_calibrated:
        return read_texts(options.calibration_texts)
    if options.calibration_texts:
        formats = [n for n in recipe_names() if find_recipe(n).observes_activations]
        calibrated = " or ".join(f"--quant {name}" for name in formats)
        raise ConfigError(
            f"--calibration-text {options.calibration_texts[0]}: {options.recipe.option} --kv "
            f"{options.kv} is not calibrated, expected {calibrated} or --kv int8; leave it out"
        )
    return ()


def read_texts(paths: Sequence[Path]) -> tuple[str, ...]:
    """The texts of ``--calibration-text``; without any, the bundled one.

    Raises:
        ConfigError: one cannot be read.
    """
    return tuple(read_text(path, flag="--calibration-text") for path in paths or (TEXT,))


def calibrated_on(options: ExportOptions) -> dict[str, Any]:
    """What ``origin`` of the manifest says of the calibration texts; empty where there is none."""
    if not options.is_calibrated:
        return {}
    found = decisive(options)
    return {
        "calibration_text": {
            "sha256": found["calibration_text"],
            "tokens": found["calibration_tokens"],
        }
    }


def _refuse_calibration_tokens(tokens: int, options: ExportOptions) -> None:
    if not options.recipe.rounds_in_calibration:
        formats = [n for n in recipe_names() if find_recipe(n).rounds_in_calibration]
        raise ConfigError(
            f"--calibration-tokens {tokens}: {options.recipe.option} is not rounded by a "
            f"calibration, expected --quant {' or '.join(formats)}; leave it out"
        )
    if tokens < SEQUENCE_LENGTH:
        raise ConfigError(
            f"--calibration-tokens {tokens}: expected at least {SEQUENCE_LENGTH}; "
            f"{DEFAULT_TOKENS} is the default"
        )


def decisive(options: ExportOptions) -> dict[str, Any]:
    """Options as far as they decide the weights: of files what they say, not where they lie."""
    texts = read_calibration_texts(options)
    content = dataclasses.asdict(options)
    del content["budget"]  # of which the recipe is all that decides
    del content["calibration_texts"]
    return {
        **content,
        "quant": options.recipe.content(),
        "calibration_text": digest_of(texts) if texts else "",
        "calibration_tokens": options.tokens_to_observe if options.is_calibrated else 0,
    }
