"""What ``inspect`` prints of a checkpoint: its sizes, and the plan by each recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.table import Table

from ...console.rich_console import rich_console
from ...console.rows import print_rows
from ...runtime.cache import by_layer
from ...runtime.sizes import counted, format_bytes
from ..cache_choice import CacheChoice, geometry_of
from ..config import MistralConfig
from ..rope_parameters import KIND
from .plan import Plan


def print_plan(config: MistralConfig, cache: CacheChoice, plans: dict[str, Plan]) -> None:
    """Print the model's sizes, and a table with a row for each recipe."""
    memory = next(iter(plans.values())).memory
    is_bounded = geometry_of(config, cache).is_bounded
    grows = "bounded by the window" if is_bounded else "grows with the tokens"
    rows = {
        "architecture": config.architecture,
        "layers": config.num_hidden_layers,
        "hidden, intermediate": f"{config.hidden_size}, {config.intermediate_size}",
        "heads": f"{counted(config.num_attention_heads, 'query head')}, "
        f"{counted(config.num_key_value_heads, 'key/value head')}, head size {config.head_dim}",
        "vocabulary": f"{config.vocab_size}{', tied' if config.tie_word_embeddings else ''}",
        "positions": config.max_position_embeddings,
        "rope theta": f"{config.rope_theta:g}{_scaling(config)}",
        "parameters": f"{config.num_parameters:_}".replace("_", " "),
        "window": by_layer(config.windows, none="none"),
        "cache": f"{format_bytes(memory.cache_bytes_at_most)} at most, {grows}",
        "parity check": f"{format_bytes(next(iter(plans.values())).reference_bytes)} of memory "
        "for PyTorch",
    }
    print_rows(rows)
    table = Table(
        "QUANT", "weights", "bits per\nweight", "free disk", "RAM\nto run", "RAM\nto export"
    )
    for quant, found in plans.items():
        sizes = (
            found.disk_bytes,
            found.memory.resident_bytes,
            found.export_peak_bytes,
        )
        bits = f"{found.bits_per_weight:.2f}"
        weights = format_bytes(found.memory.weights_bytes)
        table.add_row(quant, weights, bits, *map(format_bytes, sizes))
    rich_console().print(table)


def plan_json(config: MistralConfig, cache: CacheChoice, plans: dict[str, Plan]) -> dict[str, Any]:
    """The same for programs."""
    described = dataclasses.asdict(config)
    for name in ("layer_windows", "other_windows"):
        if not described[name]:
            del described[name]
    return {
        **described,
        "cache_grows": cache.grows,
        "cache_dtype": cache.dtype,
        "num_parameters": config.num_parameters,
        "plans": {quant: dataclasses.asdict(found) for quant, found in plans.items()},
    }


def _scaling(config: MistralConfig) -> str:
    """The kind and factor of a rope that is scaled."""
    scaling = config.rope_scaling
    return f", {scaling[KIND]} scaling by {scaling.get('factor', 1):g}" if scaling else ""
