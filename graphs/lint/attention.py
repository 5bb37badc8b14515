"""Attentions of a graph: the window and cache rows of each, and the window that the model has."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from ..operator import group_query_attention, schema
from ..operator.group_query_attention import Slot
from .facts import (
    Facts,
    dimension,
    input_of,
    integer,
    label,
    listing,
    missing_bytes,
    number,
    readers,
    section,
)

_EVERY_LAYER = range(2**31)
# Models whose window applies to every layer if config.json lists no layer types.
# Source: transformers 5.23, the models' modeling files.
_WINDOW_EVERYWHERE = {"mistral", "mixtral", "phi3", "starcoder2", "ministral"}
_WINDOW_OFF_BY_DEFAULT = {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}
_WINDOW_IGNORED = {"llama"}

_ELEMENTWISE = {"Cast", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Identity"}
_AFTER_SOFTMAX = {"Cast", "Where", "DynamicQuantizeLinear", "Identity", "Dropout", "Mul"}
_MULTIPLY = {"MatMul", "MatMulInteger", "FusedMatMul", "Einsum"}
_CACHE_NAME = re.compile("past|cache|key|value|kv", re.IGNORECASE)
_DEEP = 16  # steps of arithmetic between a window and the comparison it is made for


@dataclass(frozen=True, kw_only=True, slots=True)
class LintedAttention:
    """One layer's attention: a kernel, or a Softmax with its mask."""

    name: str
    kind: str  # its operator; of Softmax where it is made of several
    layer: int
    windows: frozenset[int]  # keys a query sees, itself included; empty: all before it
    has_attribute: bool  # the kind has a window attribute; otherwise only a mask can hold it
    slides: bool  # its cache keeps a window's rows and no more
    past: ir.Value | None  # (B, G, C, D), the keys so far

    @property
    def rows(self) -> int | str | None:
        """C: a number, a symbolic name, or None if unspecified."""
        return dimension(self.past, 2)

    @property
    def is_bounded(self) -> bool:
        """Whether the cache keeps its size when tokens are appended."""
        return self.slides or (isinstance(self.rows, int) and not self.has_attribute)


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """The window in the files beside a graph."""

    window: int
    source: str
    layers: Collection[int] | None  # that have it; None: some, unspecified


def declared_window(facts: Facts) -> Declared | None:
    """The window in config.json, or else in genai_config.json; None: all keys are seen."""
    config = facts.config
    if config:
        window = number(config, "sliding_window")
        kind = str(config.get("model_type"))
        uses = config.get("use_sliding_window", kind not in _WINDOW_OFF_BY_DEFAULT)
        if window is None or window < 1 or not uses or kind in _WINDOW_IGNORED:
            return None
        return Declared(
            window=window, source="config.json: sliding_window", layers=_layers(config)
        )
    window = number(facts.decoder, "sliding_window", "window_size")
    if window is None or window < 1:
        return None
    return Declared(
        window=window,
        source="genai_config.json: sliding_window.window_size",
        layers=genai_layers(facts),
    )


def genai_layers(facts: Facts) -> Collection[int]:
    """The layers whose cache onnxruntime-genai bounds: those listed; none listed means all."""
    listed = section(facts.decoder, "sliding_window", "layers")
    return listed if isinstance(listed, list) and listed else _EVERY_LAYER


def attentions(facts: Facts) -> list[LintedAttention]:
    """All known attentions of the graph, layer by layer."""
    masks = _mask_windows(facts)
    found: list[LintedAttention] = []
    for node in facts.model.graph.all_nodes():
        attention = _attention(node, len(found), masks, facts)
        found += [attention] if attention is not None else []
    return found


def cache_inputs(facts: Facts) -> list[ir.Value]:
    """The graph's inputs that hold the cache so far."""
    return [
        value
        for value in facts.model.graph.inputs
        if _CACHE_NAME.search(str(value.name))
        and value.shape is not None
        and len(value.shape) == 4
    ]


def window_of(attention: LintedAttention, facts: Facts) -> int:
    """The keys that a windowed attention sees: of several comparisons, the model's own."""
    declared = declared_window(facts)
    if declared is not None and declared.window in attention.windows:
        return declared.window
    return max(attention.windows)


def names(found: Iterable[LintedAttention]) -> str:
    """The first one's name, and how many more there are."""
    return listing(each.name for each in found)


def _attention(
    node: ir.Node, order: int, masks: frozenset[int], facts: Facts
) -> LintedAttention | None:
    window, mask, past = 0, False, None
    has_attribute, slides = True, False
    match node.domain, node.op_type:
        case (
            schema.MICROSOFT | schema.NATIVE,
            group_query_attention.GROUP_QUERY_ATTENTION,
        ):
            window = integer(node, group_query_attention.WINDOW, -1)
            past = input_of(node, Slot.PAST_KEY)
            mask = input_of(node, Slot.ATTENTION_BIAS) is not None
            slides = integer(node, group_query_attention.EVICTS, 0) == 1
        case schema.DOMAIN, schema.SLIDING_WINDOW_ATTENTION:
            window = integer(node, "window", 0)
            past = input_of(node, schema.INPUTS.index("past_key"))
            slides = isinstance(dimension(past, 2), int)
        case "", "Attention":
            window, past = integer(node, "left_window_size", -1) + 1, input_of(node, 4)
            mask, has_attribute = input_of(node, 3) is not None, False
        case schema.MICROSOFT, "MultiHeadAttention":
            past, mask, has_attribute = input_of(node, 6), True, False
        case "", "Softmax" if readers(node, _MULTIPLY, _AFTER_SOFTMAX):
            mask, has_attribute = True, False
        case _:
            return None
    past = past if past is not None and past.is_graph_input() else None
    layer = None if past is None else _number_in(past)
    layer = order if layer is None else layer
    return LintedAttention(
        name=label(node),
        kind=node.op_type,
        layer=layer,
        windows=frozenset({window}) if window > 0 else masks if mask else frozenset(),
        has_attribute=has_attribute,
        slides=slides,
        past=past if past is not None else _past_of(facts, layer),
    )


def _past_of(facts: Facts, layer: int) -> ir.Value | None:
    """The first cache input of a layer: its keys, or its values of the same shape."""
    return next((value for value in cache_inputs(facts) if _number_in(value) == layer), None)


def _number_in(value: ir.Value) -> int | None:
    found = re.search(r"\d+", str(value.name))
    return int(found[0]) if found else None


def _layers(config: dict[str, object]) -> Collection[int] | None:
    kinds, first = config.get("layer_types"), number(config, "max_window_layers")
    if isinstance(kinds, list):
        return [layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"]
    if first is not None:
        return range(first, _EVERY_LAYER.stop)
    return _EVERY_LAYER if str(config.get("model_type")) in _WINDOW_EVERYWHERE else None


def _mask_windows(facts: Facts) -> frozenset[int]:
    """Windows of comparisons of positions, the query's own key included.

    Every way to write ``i - window < j``, or its opposite, moves to one number beside i or j.
    """
    strict = {"Greater": (0, 1), "LessOrEqual": (0, 1), "GreaterOrEqual": (1, 0), "Less": (1, 0)}
    found = set()
    for node in facts.of(*strict):
        (left, bases), (right, other_bases) = (_offset(input_of(node, i)) for i in (0, 1))
        distance = right - left
        if bases + other_bases >= 2 and abs(distance) >= 2:
            found.add(abs(distance) + strict[node.op_type][distance > 0])
    for node in facts.of("Trilu"):
        distance, _ = _offset(input_of(node, 1))
        if distance <= -2:
            found.add(-distance + (integer(node, "upper", 1) == 1))
    return frozenset(found)


def _offset(value: ir.Value | None, depth: int = 0) -> tuple[int, int]:
    """The number that is added to a tensor, and how many tensors it is added to."""
    if value is None or depth > _DEEP:
        return 0, 1
    constant = _scalar(value)
    if constant is not None:
        return constant, 0
    node = value.producer()
    if node is not None and node.op_type in _ELEMENTWISE:
        return _offset(input_of(node, 0), depth + 1)
    if node is not None and node.op_type in ("Add", "Sub") and len(node.inputs) == 2:
        (left, bases), (right, other_bases) = (_offset(v, depth + 1) for v in node.inputs)
        return left + (right if node.op_type == "Add" else -right), bases + other_bases
    return 0, 1


def _scalar(value: ir.Value) -> int | None:
    """A whole number that the graph itself holds."""
    node = value.producer()
    tensor = value.const_value
    if node is not None and node.op_type == "Constant":
        attribute = next(iter(node.attributes.values()), None)
        if attribute is None or attribute.is_ref():
            return None
        if attribute.type == ir.AttributeType.INT:
            return int(attribute.value)
        if attribute.type == ir.AttributeType.INTS:
            return int(attribute.value[0]) if len(attribute.value) == 1 else None
        tensor = attribute.value if attribute.type == ir.AttributeType.TENSOR else None
    if tensor is None or tensor.size != 1 or missing_bytes(tensor):
        return None
    held = float(tensor.numpy().item())
    return int(held) if math.isfinite(held) and held == int(held) else None
