"""May sequences of one batch be padded on the left?"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.passes.allow_left_padding import AllowLeftPadding
from tramontane.graphs.passes.attach_function import AttachFunction
from tramontane.graphs.passes.keep_last_logits import KeepLastLogits
from tramontane.graphs.passes.lower_attention import LowerAttention
from tramontane.runtime.errors import GraphError

# H 4, G 2, D 16, window 8; a cache of 24 rows, or of one a token.
DECODER = """(int64[b,t] input_ids, int64[b,s] attention_mask,
float[b,2,24,16] past_key, float[b,2,24,16] past_value)
=> (float[b,n,9] logits, float[b,2,24,16] present_key, float[b,2,24,16] present_value)
<float[9,128] embedding, float[9,64] head, float[256,8] cos, float[256,8] sin, int64[3] sizes> {
    x = Gather(embedding, input_ids)
    query, key, value = Split<axis = 2>(x, sizes)
    y, present_key, present_value = tramontane.SlidingWindowAttention<window = 8>
        (query, key, value, past_key, past_value, attention_mask, cos, sin)
    columns = Transpose<perm = [1, 0]>(head)
    logits = MatMul(y, columns)
}"""
GROWING = re.sub(r"(\w+)(\[b,2),24", r"\1\2,\1_rows", DECODER.replace("= 8>", "= 8, grows = 1>"))
BOUND = 2e-4  # of a logit; the same sums in another order


@pytest.fixture
def decoder(build: Callable[..., ir.Model], normal: Callable[..., np.ndarray]) -> Any:
    """Build the graph of a text, and apply passes to it."""
    angles = np.arange(256)[:, None] * 0.3 ** np.arange(8)
    numbers = {
        "embedding": 3 * normal(9, 128),
        "head": normal(9, 64),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }

    def make(text: str, *passes: ir.passes.PassBase, **others: np.ndarray) -> ir.Model:
        D = 16 if ",16]" in text else 8
        cut = {name: array[:, : array.shape[1] * D // 16] for name, array in numbers.items()}
        model = build(text, **cut, **others, sizes=np.array([4 * D, 2 * D, 2 * D]))
        split = next(node for node in model.graph if node.op_type == "Split")
        for value, heads in zip(split.outputs, (4, 2, 2), strict=True):
            value.shape = ir.Shape(("b", "t", heads * D))
        for step in passes:
            step(model)
        return model

    return make


def play(
    ask: Callable[..., dict[str, np.ndarray]],
    turns: list[list[np.ndarray]],
    *,
    rows: int,
    side: str = "left",
    D: int = 16,
) -> list[np.ndarray]:
    """Feed a batch turn by turn, each padded to its longest: logits of every sequence's tokens."""
    B = len(turns[0])
    mask = np.zeros((B, 0), np.int64)
    past = np.zeros((B, 2, rows, D), np.float32)
    cache = {"past_key": past, "past_value": past}
    logits: list[list[np.ndarray]] = [[] for _ in range(B)]
    for turn in turns:
        T = max(map(len, turn))
        ids, new = np.zeros((2, B, T), np.int64)
        places = [slice(T - len(t), T) if side == "left" else slice(len(t)) for t in turn]
        for b, tokens in enumerate(turn):
            ids[b, places[b]], new[b, places[b]] = tokens, 1
        mask = np.concatenate([mask, new], axis=1)
        found = ask(input_ids=ids, attention_mask=mask, **cache)
        cache = {name: found[name.replace("past", "present")] for name in cache}
        for b, place in enumerate(places):
            logits[b].append(found["logits"][b, place])
    return [np.concatenate(each) for each in logits]


def turns_of(rng: np.random.Generator, *lengths: list[int]) -> list[list[np.ndarray]]:
    """Random tokens for a batch: the lengths of its sequences in each turn."""
    return [[rng.integers(0, 9, n) for n in turn] for turn in lengths]


STEPS = [[1, 1]] * 6
BODIES = {
    "body": (DECODER, AttachFunction, 24),
    "body, growing": (GROWING, AttachFunction, 0),
    "kernel, growing": (GROWING, LowerAttention, 0),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("lengths", [[3, 5], [1, 40], [22, 9]], ids=str)
def test_padded_sequences_get_what_each_gets_alone(
    decoder: Any, evaluate: Callable, rng: np.random.Generator, case: str, lengths: list[int]
) -> None:
    text, lower, rows = BODIES[case]
    ask = functools.partial(evaluate, decoder(text, lower(), AllowLeftPadding()))
    alone = functools.partial(evaluate, decoder(text, lower()))
    turns = turns_of(rng, lengths, *STEPS)
    for side in ("left", "right"):
        found = play(ask, turns, rows=rows, side=side)
        for b, logits in enumerate(found):
            (expected,) = play(alone, [turn[b : b + 1] for turn in turns], rows=rows)
            assert np.abs(expected).max() > 100 * BOUND
            np.testing.assert_allclose(logits, expected, rtol=0, atol=BOUND, err_msg=side)


@pytest.mark.parametrize("side", ["left", "right"])
def test_heads_that_are_rotated_outside_of_the_kernel_get_the_same(
    decoder: Any, evaluate: Callable, rng: np.random.Generator, side: str
) -> None:
    text = re.sub(r"\b(128|64|16|8)\]", lambda size: f"{int(size[1]) // 2}]", GROWING)
    kernel, body = (
        functools.partial(evaluate, decoder(text, lower(), AllowLeftPadding()))
        for lower in (LowerAttention, AttachFunction)
    )
    turns = turns_of(rng, [3, 12], *STEPS)
    pairs = zip(*(play(ask, turns, rows=0, side=side, D=8) for ask in (kernel, body)), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND)


@pytest.mark.parametrize("case", ["body", "body, growing"])
def test_body_takes_padding_on_the_left_of_a_later_turn(
    decoder: Any, evaluate: Callable, rng: np.random.Generator, case: str
) -> None:
    text, lower, rows = BODIES[case]
    ask = functools.partial(evaluate, decoder(text, lower(), AllowLeftPadding()))
    turns = turns_of(rng, [3, 5], [7, 2], [1, 1], [4, 30], [1, 1])
    for b, logits in enumerate(play(ask, turns, rows=rows)):
        (expected,) = play(ask, [turn[b : b + 1] for turn in turns], rows=rows)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=BOUND)


@pytest.mark.parametrize("case", BODIES)
def test_padding_on_the_left_is_read_as_tokens_without_the_pass(
    decoder: Any, evaluate: Callable, rng: np.random.Generator, case: str
) -> None:
    text, lower, rows = BODIES[case]
    graphs = decoder(text, lower()), decoder(text, lower(), AllowLeftPadding())
    turns = turns_of(rng, [3, 5])
    wrong, right = (play(functools.partial(evaluate, g), turns, rows=rows)[0] for g in graphs)
    assert np.abs(wrong - right).max() > 100 * BOUND


def test_without_padding_no_bit_changes(
    decoder: Any, evaluate: Callable, rng: np.random.Generator
) -> None:
    graphs = decoder(GROWING, LowerAttention()), decoder(GROWING, LowerAttention())
    AllowLeftPadding()(graphs[1])
    turns = turns_of(rng, [200], [1], [7], [1])
    before, after = (play(functools.partial(evaluate, g), turns, rows=0)[0] for g in graphs)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("count", [1, 2])
def test_last_logits_are_those_of_the_last_columns(
    decoder: Any, evaluate: Callable, rng: np.random.Generator, count: int
) -> None:
    model = decoder(GROWING, LowerAttention(), AllowLeftPadding(), KeepLastLogits())
    turns = turns_of(rng, [3, 5])
    everything = play(functools.partial(evaluate, model), turns, rows=0)

    def last(**feeds: np.ndarray) -> dict[str, np.ndarray]:
        found = evaluate(model, num_logits_to_keep=np.array(count), **feeds)
        assert found["logits"].shape[1] == count
        blank = np.zeros((2, 5, 9), np.float32)
        blank[:, -count:] = found["logits"]
        return {**found, "logits": blank}

    for found, expected in zip(play(last, turns, rows=0), everything, strict=True):
        np.testing.assert_allclose(found[-count:], expected[-count:], rtol=0, atol=BOUND)


def test_embedding_and_head_are_gathered_once_each_by_eight_nodes_in_all(
    decoder: Any, op_types: Callable
) -> None:
    model = decoder(DECODER, AttachFunction())
    before = op_types(model)
    assert AllowLeftPadding()(model).modified
    added = Counter(op_types(model)) - Counter(before)
    del added["Constant"]
    assert added == {"Shape": 1, "Neg": 1, "Slice": 1, "Unsqueeze": 1, "TopK": 2, "GatherND": 2}
    assert model.graph.node(-1).inputs[0].producer().op_type == "GatherND"


def test_columns_of_a_smoothed_embedding_get_their_size_before_rows_are_moved(
    decoder: Any,
) -> None:
    """Checks compare the rows that the tokens gather, whatever the batch."""
    rows = "stored = Gather(embedding, input_ids) x = Mul(stored, factors)"
    text = GROWING.replace("x = Gather(embedding, input_ids)", rows)
    text = text.replace("float[9,128] embedding", "float[9,128] embedding, float[128] factors")
    model = decoder(text, AllowLeftPadding(), factors=np.ones(128, np.float32))
    moved = next(node for node in model.graph if node.op_type == "GatherND")
    assert moved.inputs[0].name == "x"
    assert not AllowLeftPadding()(model).modified


def test_rows_of_a_table_that_lies_as_the_head_multiplies_are_turned_before_they_are_moved(
    decoder: Any, rng: np.random.Generator, evaluate: Callable
) -> None:
    model = decoder(GROWING, LowerAttention())
    gather = next(node for node in model.graph if node.op_type == "Gather")
    table, gathered = gather.inputs[0], gather.outputs[0]
    table.const_value = ir.tensor(np.ascontiguousarray(table.const_value.numpy().T))
    table.shape = table.const_value.shape
    gather.attributes["axis"] = ir.AttrInt64("axis", 1)
    turn = ir.node("Transpose", [gathered], {"perm": [1, 2, 0]})
    gathered.replace_all_uses_with(turn.outputs[0])
    turn.replace_input_with(0, gathered)
    model.graph.insert_after(gather, turn)
    assert AllowLeftPadding()(model).modified
    moved = next(node for node in model.graph if node.op_type == "GatherND")
    assert moved.inputs[0] is turn.outputs[0]
    assert not AllowLeftPadding()(model).modified
    plain = decoder(GROWING, LowerAttention(), AllowLeftPadding())
    turns = turns_of(rng, [3, 5], *STEPS)
    found, right = (
        play(functools.partial(evaluate, graph), turns, rows=0) for graph in (model, plain)
    )
    for mine, theirs in zip(found, right, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_second_run_modifies_nothing(decoder: Any) -> None:
    model = decoder(DECODER, AttachFunction(), AllowLeftPadding())
    assert not AllowLeftPadding()(model).modified


def test_kernel_that_drops_rows_is_left_alone_and_refuses_padding(
    decoder: Any, evaluate: Callable, op_types: Callable, rng: np.random.Generator
) -> None:
    model = decoder(DECODER, LowerAttention())
    assert not AllowLeftPadding()(model).modified
    assert "GatherND" not in op_types(model)
    for side in ("left", "right"):
        with pytest.raises(Exception, match="seqlens_k.* is too small for sequence_length 5"):
            play(functools.partial(evaluate, model), turns_of(rng, [3, 5]), rows=24, side=side)


def test_graph_without_an_embedding_is_refused(decoder: Any) -> None:
    text = DECODER.replace(
        "Gather(embedding, input_ids)", "Gather<axis = 1>(embedding, input_ids)"
    )
    with pytest.raises(GraphError, match="logits: expected an embedding gathered by input_ids"):
        AllowLeftPadding()(decoder(text))
