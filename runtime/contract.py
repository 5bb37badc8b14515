"""What does an artifact promise? Its files, and its tensors' names, types and shapes.

The names are those that transformers.js, onnxruntime-genai and optimum read already; the graph
lies in ``onnx``, where transformers.js looks for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cache import CacheLayout

MODEL_FILE = "onnx/model.onnx"
DATA_FILE = "onnx/model.onnx_data"
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.model"
CARD_FILE = "README.md"

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
NUM_LOGITS_TO_KEEP = "num_logits_to_keep"
LOGITS = "logits"

Dimension = int | str

# What keys and values may be held in, and the bytes of one number. Of int8, each channel has a
# scale of its own, which the graph keeps.
CACHE_DTYPES = {"float32": 4, "int8": 1}


@dataclass(frozen=True, slots=True)
class TensorPromise:
    """One input or output of the graph; names in a shape stand for sizes free at run time."""

    name: str
    dtype: str  # numpy's name
    shape: tuple[Dimension, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """The sizes that the shapes of inputs and outputs follow from."""

    num_layers: int
    num_key_value_heads: int  # G
    head_dim: int  # D
    vocab_size: int  # V
    window: int | None  # keys a query sees, itself included; None: all before it
    rows: int | None  # C; None: the cache grows
    max_positions: int  # rows of the rope tables: tokens that one sequence may have
    cache_dtype: str = "float32"  # numpy's name; as in ``CACHE_DTYPES``

    @property
    def layout(self) -> CacheLayout:
        """The rule by which the cache's rows are held."""
        return CacheLayout(window=self.window, rows=self.rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        numbers = 2 * self.num_layers * self.num_key_value_heads * self.head_dim
        return numbers * CACHE_DTYPES[self.cache_dtype]


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
        for kind in ("key", "value")
    ]


def inputs(geometry: Geometry) -> list[TensorPromise]:
    """The graph's inputs in order; the last is optional (0, its default, keeps all logits)."""
    cache = _cache_shape(geometry, "past_sequence_length")
    return [
        TensorPromise(INPUT_IDS, "int64", ("batch_size", "sequence_length")),
        TensorPromise(ATTENTION_MASK, "int64", ("batch_size", "total_sequence_length")),
        *(TensorPromise(name, geometry.cache_dtype, cache) for name, _ in cache_pairs(geometry)),
        TensorPromise(NUM_LOGITS_TO_KEEP, "int64", ()),
    ]


def outputs(geometry: Geometry) -> list[TensorPromise]:
    """The graph's outputs in order."""
    cache = _cache_shape(geometry, "present_sequence_length")
    return [
        TensorPromise(LOGITS, "float32", ("batch_size", "num_logits", geometry.vocab_size)),
        *(TensorPromise(name, geometry.cache_dtype, cache) for _, name in cache_pairs(geometry)),
    ]


def _cache_shape(geometry: Geometry, growing: str) -> tuple[Dimension, ...]:
    rows = growing if geometry.rows is None else geometry.rows
    return ("batch_size", geometry.num_key_value_heads, rows, geometry.head_dim)
