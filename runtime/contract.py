"""The contract of an artifact: its files, and its tensors' names, types and shapes.

The names are those that transformers.js, onnxruntime-genai and optimum read already; the graph
lies in ``onnx``, where transformers.js looks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .cache import CacheLayout

MODEL_FILE = "onnx/model.onnx"
DATA_FILE = "onnx/model.onnx_data"
NATIVE_MODEL_FILE = "onnx/model_native.onnx"  # the same graph with our own attention kernel
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.model"  # SentencePiece's
TOKENIZER_JSON_FILE = "tokenizer.json"  # Hugging Face's
TOKENIZER_SETTINGS_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
CARD_FILE = "README.md"

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
NUM_LOGITS_TO_KEEP = "num_logits_to_keep"
LOGITS = "logits"

# How names of nodes begin that make float32 scales of stored bytes. onnxruntime computes them
# once, while it loads the graph: that is when kernels read scales, and a node's are zeros to them.
FOLDED = "folded_at_load."

KINDS = ("key", "value")  # what a layer holds of each token, in this order

Dimension = int | str
Shape = tuple[int, int, int, int]

# Types of keys and values in the cache, and the bytes of one number. Half precision is read by the
# native library alone.
HALF = "float16"
CACHE_DTYPES = {"float32": 4, HALF: 2, "int8": 1}

# The largest sizes that a config or a manifest may state: several times those of any published
# model, so that a wrong one is refused before anything of its size is allocated.
LARGEST = {
    "num_layers": 1 << 12,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "vocab_size": 1 << 24,
    "max_positions": 1 << 24,
    "windows": 1 << 24,
    "rows": (1 << 24) + (1 << 22),
}


def is_quantized_cache(dtype: str) -> bool:
    """Whether a type of ``CACHE_DTYPES`` holds codes; the graph then has a scale a channel."""
    return dtype == "int8"


@dataclass(frozen=True, slots=True)
class TensorPromise:
    """One input or output of the graph; names in a shape stand for sizes free at run time."""

    name: str
    dtype: str  # numpy's name
    shape: tuple[Dimension, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """The sizes that the shapes of inputs and outputs follow from."""

    num_key_value_heads: int  # G
    head_dim: int  # D
    vocab_size: int  # V
    layers: tuple[CacheLayout, ...]  # which rows each layer's cache holds
    max_positions: int  # rows of the rope tables: tokens that one sequence may have
    cache_dtype: str = "float32"  # numpy's name; as in ``CACHE_DTYPES``

    @property
    def has_quantized_cache(self) -> bool:
        """Whether the cache holds codes, with scales in the graph."""
        return is_quantized_cache(self.cache_dtype)

    @property
    def num_layers(self) -> int:
        """Layers, each with a cache of its own."""
        return len(self.layers)

    @property
    def shared_layout(self) -> CacheLayout | None:
        """The layout that all layers have; None where they differ."""
        return self.layers[0] if len(set(self.layers)) == 1 else None

    @property
    def is_bounded(self) -> bool:
        """Whether the cache of every layer has a fixed number of rows."""
        return all(layout.rows is not None for layout in self.layers)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Window of each layer; None where a query sees all keys before it."""
        return tuple(layout.window for layout in self.layers)

    @property
    def rows(self) -> tuple[int | None, ...]:
        """Rows of each layer's cache; None where it grows."""
        return tuple(layout.rows for layout in self.layers)

    @property
    def layer_row_bytes(self) -> int:
        """Bytes of one token's keys and values in one layer."""
        return 2 * self.num_key_value_heads * self.head_dim * CACHE_DTYPES[self.cache_dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return self.num_layers * self.layer_row_bytes


def past(layer: int, kind: str) -> str:
    """Name of a layer's cache input; kind is ``key`` or ``value``."""
    return f"past_key_values.{layer}.{kind}"


def present(layer: int, kind: str) -> str:
    """Name of a layer's cache output; kind is ``key`` or ``value``."""
    return f"present.{layer}.{kind}"


def cache_pairs(geometry: Geometry) -> list[tuple[str, str]]:
    """Every (past, present) pair of names, layer by layer, key before value."""
    return [
        (past(layer, kind), present(layer, kind))
        for layer in range(geometry.num_layers)
        for kind in KINDS
    ]


def empty_cache_shapes(geometry: Geometry, *, batch_size: int = 1) -> list[tuple[str, Shape]]:
    """Every cache input and its shape before the first token: no rows where the cache grows."""
    G, D = geometry.num_key_value_heads, geometry.head_dim
    return [
        (past(layer, kind), (batch_size, G, rows or 0, D))
        for layer, rows in enumerate(geometry.rows)
        for kind in KINDS
    ]


def inputs(geometry: Geometry) -> list[TensorPromise]:
    """The graph's inputs in order; the last is optional (0, its default, keeps all logits)."""
    return [
        TensorPromise(INPUT_IDS, "int64", ("batch_size", "sequence_length")),
        TensorPromise(ATTENTION_MASK, "int64", ("batch_size", "total_sequence_length")),
        *_cache(geometry, past, growing="past_sequence_length"),
        TensorPromise(NUM_LOGITS_TO_KEEP, "int64", ()),
    ]


def outputs(geometry: Geometry) -> list[TensorPromise]:
    """The graph's outputs in order."""
    return [
        TensorPromise(LOGITS, "float32", ("batch_size", "num_logits", geometry.vocab_size)),
        *_cache(geometry, present, growing="present_sequence_length"),
    ]


def _cache(
    geometry: Geometry, name: Callable[[int, str], str], *, growing: str
) -> Iterator[TensorPromise]:
    """The cache's inputs or outputs, in the order of ``cache_pairs``."""
    G, D = geometry.num_key_value_heads, geometry.head_dim
    for layer, rows in enumerate(geometry.rows):
        shape = ("batch_size", G, growing if rows is None else rows, D)
        for kind in KINDS:
            yield TensorPromise(name(layer, kind), geometry.cache_dtype, shape)
