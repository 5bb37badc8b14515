"""The traced graph: its inputs, outputs, attention nodes and parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.export.cache_choice import GROWING, WINDOWED, CacheChoice, geometry_of
from tramontane.export.config import MistralConfig
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.model.model import Mistral
from tramontane.export.trace.bind_weights import bind
from tramontane.export.trace.trace import trace
from tramontane.graphs.operator import schema
from tramontane.runtime import contract

SIZES = {
    "architecture": "MistralForCausalLM",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 2048,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_ids": (2,),
}


def refuse_to_read(name: str) -> np.ndarray:
    raise AssertionError(f"{name} was read while tracing")


KINDS = [
    ({"sliding_window": 8, "tie_word_embeddings": False}, WINDOWED),
    ({"sliding_window": 8, "tie_word_embeddings": True}, WINDOWED),
    ({"sliding_window": None, "tie_word_embeddings": False}, WINDOWED),
    ({"sliding_window": 8, "tie_word_embeddings": False}, GROWING),
]
Traced = tuple[MistralConfig, CacheChoice, ir.Model]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def traced(request: pytest.FixtureRequest) -> Traced:
    sizes, cache = request.param
    config = MistralConfig(**SIZES, **sizes)
    model = trace(config, cache)
    bind(model.graph, refuse_to_read)
    return config, cache, model


@pytest.mark.slow
def test_inputs_and_outputs_are_the_contracts_in_order(traced: Traced) -> None:
    config, cache, model = traced
    geometry = geometry_of(config, cache)
    promised = contract.inputs(geometry)[:-1], contract.outputs(geometry)
    for values, tensors in zip((model.graph.inputs, model.graph.outputs), promised, strict=True):
        assert [value.name for value in values] == [tensor.name for tensor in tensors]
        for value, tensor in zip(values, tensors, strict=True):
            assert value.shape == ir.Shape(tensor.shape)
            assert value.dtype is not None
            assert value.dtype.numpy() == np.dtype(tensor.dtype)


def test_attention_is_one_node_a_layer_with_its_window(traced: Traced) -> None:
    config, cache, model = traced
    nodes = [node for node in model.graph if node.op_type == schema.SLIDING_WINDOW_ATTENTION]
    assert [node.domain for node in nodes] == [schema.DOMAIN] * config.num_hidden_layers
    for node in nodes:
        assert (len(node.inputs), len(node.outputs)) == (len(schema.INPUTS), len(schema.OUTPUTS))
        window = node.attributes.get("window")
        assert (None if window is None else window.as_int()) == config.sliding_window
        grows = node.attributes.get_int("grows", 0)
        assert grows == (cache.grows and config.sliding_window is not None)


def test_attention_reads_and_writes_the_cache_of_its_layer(traced: Traced) -> None:
    _, _, model = traced
    nodes = [node for node in model.graph if node.op_type == schema.SLIDING_WINDOW_ATTENTION]
    for layer, node in enumerate(nodes):
        for at, kind in enumerate(("key", "value")):
            past, present = node.inputs[3 + at], node.outputs[1 + at]
            assert past is not None
            assert past.name == contract.past(layer, kind)
            assert present.name == contract.present(layer, kind)


def test_every_parameter_is_in_the_graph_once_under_its_name(traced: Traced) -> None:
    config, _, model = traced
    reference = Mistral(config)
    held = {name for name, value in model.graph.initializers.items() if is_float(value)}
    held -= {schema.ROPE_FREQUENCIES}
    assert held <= set(reference.state_dict())
    assert len(held) == len(list(reference.parameters()))  # a tied head and embedding are one


def is_float(value: ir.Value) -> bool:
    """Leave out the shapes that the exporter folds into integer constants, and its scalars."""
    return value.dtype == ir.DataType.FLOAT and value.shape is not None and value.shape.rank() > 0


def test_graph_carries_nothing_of_the_machine_it_was_traced_on(traced: Traced) -> None:
    _, _, model = traced
    assert not model.metadata_props
    assert not model.graph.metadata_props
    for node in model.graph:
        assert not node.metadata_props, node
        assert not node.doc_string, node
    made = (value for node in model.graph for value in node.outputs)
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *made):
        assert not value.metadata_props, value
        assert not value.doc_string, value
    named = [node.name or "" for node in model.graph]
    assert not [name for name in named if "/" in name or "\\" in name]


@pytest.mark.slow
def test_weights_are_read_from_the_checkpoint_when_asked_for(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    folder = tiny_checkpoint()
    config = MistralConfig(**SIZES, sliding_window=8, tie_word_embeddings=False)
    checkpoint = Checkpoint.open(folder)
    model = trace(config)
    bind(model.graph, checkpoint.read)
    for name in checkpoint.parameters:
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), checkpoint.read(name))
