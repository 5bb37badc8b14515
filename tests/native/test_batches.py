"""Does the graph for the native library take batches, padding, rewinding and reserved rows?

Every case is compared with sequences that are computed alone, each from its own tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.export.build import export_checkpoint
from tramontane.export.options import ExportOptions
from tramontane.runtime import contract
from tramontane.runtime.decoding.sampler import Sampler
from tramontane.runtime.model import Model
from tramontane.runtime.ort.ort_session import open_graph, ort

from ..runtime.speculation.free_runs import Counted, Free
from ..support.once import Once

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("library")]

OPTIONS = {
    "evicts": ExportOptions(quant="fp32", target="ort", native=True),
    "half": ExportOptions(quant="fp32", target="ort", kv="float16", native=True),
    "grows": ExportOptions(quant="fp32", target="ort", cache="growing", native=True),
}
BOUND = 2e-4  # of logits of size 1; the same sums in another order


class Graph:
    """The graph for the native library of an artifact, with a cache that is carried."""

    def __init__(self, artifact: Path) -> None:
        with Model.load(artifact, native=True) as model:
            self.geometry = model.geometry
        self.session = open_graph(artifact / contract.NATIVE_MODEL_FILE, threads=1)
        self.names = contract.cache_pairs(self.geometry)

    def empty(self, batch: int, *, rows: int = 0) -> list[np.ndarray]:
        one = self.geometry
        layouts = [layer for layer in one.layers for _ in contract.KINDS]
        shapes = [
            (batch, one.num_key_value_heads, layer.rows or rows, one.head_dim) for layer in layouts
        ]
        return [np.zeros(shape, one.cache_dtype) for shape in shapes]

    def run(
        self, ids: np.ndarray, mask: np.ndarray, cache: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits (B, T, V) and the next cache."""
        pasts = {name: rows for (name, _), rows in zip(self.names, cache, strict=True)}
        fed = {contract.INPUT_IDS: ids, contract.ATTENTION_MASK: mask, **pasts}
        outputs = [contract.LOGITS, *(present for _, present in self.names)]
        logits, *presents = self.session.run(outputs, fed)
        return logits, presents

    def alone(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (T, V) of one sequence in one call."""
        ones = np.ones((1, len(tokens)), np.int64)
        return self.run(tokens[None], ones, self.empty(1))[0][0]

    def play(self, turns: list[list[np.ndarray]], *, side: str) -> list[np.ndarray]:
        """Feed a batch turn by turn, each padded to its longest: logits of every sequence."""
        B = len(turns[0])
        mask, cache = np.zeros((B, 0), np.int64), self.empty(B)
        found: list[list[np.ndarray]] = [[] for _ in range(B)]
        for turn in turns:
            T = max(map(len, turn))
            ids, new = np.zeros((2, B, T), np.int64)
            places = [slice(T - len(t), T) if side == "left" else slice(len(t)) for t in turn]
            for b, place in enumerate(places):
                ids[b, place], new[b, place] = turn[b], 1
            mask = np.concatenate([mask, new], axis=1)
            logits, cache = self.run(ids, mask, cache)
            for b, place in enumerate(places):
                found[b].append(logits[b, place])
        return [np.concatenate(each) for each in found]


@pytest.fixture
def artifact(once: Once, two_layers: Path, library: Path) -> Callable[[str], Path]:
    """Artifacts of the tiny model, not proved, by a name of ``OPTIONS``."""

    def of(name: str) -> Path:
        return once(
            f"native-batches-{name}", lambda out: export_checkpoint(two_layers, out, OPTIONS[name])
        )

    return of


@pytest.fixture(params=OPTIONS)
def graph(artifact: Callable[[str], Path], request: pytest.FixtureRequest) -> Graph:
    return Graph(artifact(request.param))


@pytest.fixture
def bound(graph: Graph) -> float:
    return 0.02 if graph.geometry.cache_dtype == contract.HALF else BOUND


def tokens(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(sum(lengths))
    return [random.integers(3, 250, count) for count in lengths]


@pytest.mark.parametrize(
    ("side", "lengths"),
    [
        ("left", [(3, 5), (7, 2), (1, 1), (4, 30), (1, 1)]),
        ("left", [(41, 1), (1, 1), (2, 9), (1, 1)]),
        ("right", [(3, 41), (1, 1), (1, 1)]),
    ],
    ids=str,
)
def test_each_sequence_of_a_batch_gets_what_it_gets_alone(
    graph: Graph, bound: float, lengths: list[tuple[int, int]], side: str
) -> None:
    turns = [tokens(*counts) for counts in lengths]
    for b, found in enumerate(graph.play(turns, side=side)):
        expected = graph.alone(np.concatenate([turn[b] for turn in turns]))
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=f"sequence {b}")


def test_rows_of_tokens_that_are_taken_back_are_overwritten(graph: Graph, bound: float) -> None:
    begin, rejected, instead, end = tokens(11, 4, 3, 20)
    cache = graph.empty(1)
    for kept, new in ((0, begin), (11, rejected), (12, instead), (15, end)):
        mask = np.ones((1, kept + len(new)), np.int64)
        logits, cache = graph.run(new[None], mask, cache)
    expected = graph.alone(np.concatenate([begin, rejected[:1], instead, end]))[-len(end) :]
    np.testing.assert_allclose(logits[0], expected, rtol=0, atol=bound)


def test_a_reserved_cache_is_neither_copied_nor_cleared(artifact: Callable[[str], Path]) -> None:
    graph = Graph(artifact("grows"))
    cache = graph.empty(1, rows=64)
    for rows in cache:
        rows[:, :, 20:] = np.nan
    (fed,) = tokens(20)
    logits = np.empty((1, 1, graph.geometry.vocab_size), np.float32)
    found = []
    for begin in range(20):
        binding = graph.session.io_binding()
        mask = np.ones((1, begin + 1), np.int64)
        arrays = {contract.INPUT_IDS: fed[None, begin : begin + 1], contract.ATTENTION_MASK: mask}
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for (past, present), rows in zip(graph.names, cache, strict=True):
            value = ort.OrtValue.ortvalue_from_numpy(rows)
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)
        binding.bind_ortvalue_output(contract.LOGITS, ort.OrtValue.ortvalue_from_numpy(logits))
        graph.session.run_with_iobinding(binding)
        found.append(logits[0, 0].copy())
    np.testing.assert_allclose(found, graph.alone(fed), rtol=0, atol=BOUND)
    assert all(np.isnan(rows[:, :, 20:]).all() for rows in cache)
    assert not any(np.isnan(rows[:, :, :20]).any() for rows in cache)


@pytest.mark.parametrize("keep", [0, 6])
def test_sessions_go_back_as_with_the_other_graph(
    artifact: Callable[[str], Path], keep: int
) -> None:
    first, second = tokens(60, 25)
    found = []
    for native in (True, False):
        with Model.load(artifact("evicts"), native=native) as model:
            assert model.is_native == native
            session = model.session(keep=keep)
            session.prefill(first)
            session.rewind(min(session.rewindable, 7))
            found.append((session.tokens, session.prefill(second, all_logits=True)))
    assert found[0][0] == found[1][0] < 60
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=BOUND)


@pytest.mark.parametrize("name", ["evicts", "grows"])
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_drafts_that_are_taken_back_leave_the_tokens_of_plain_decoding(
    once: Once, stdlib_5m: Path, name: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window is 64: rows leave the cache many times."""
    made = once(
        f"native-drafts-{name}", lambda out: export_checkpoint(stdlib_5m, out, OPTIONS[name])
    )
    monkeypatch.setattr("tramontane.runtime.sequences.guarded_sequence.RunTimes", Free)
    prompt = "def area(width, height):\n    return width * height\n\n\n" * 3
    sampler = Sampler(temperature=temperature, seed=5)
    with Model.load(made, native=True) as model:
        plain, ahead = model.session(), model.session(keep=9)
        expected = plain.generate(prompt, sampler=sampler, max_new_tokens=200).finish()
        graph = Counted(ahead)
        found = ahead.generate(
            prompt, sampler=sampler, max_new_tokens=200, speculate=True
        ).finish()
        assert found.tokens == expected.tokens
        assert temperature or graph.runs < 0.8 * len(found.tokens)
        np.testing.assert_allclose(ahead.step(5), plain.step(5), rtol=0, atol=1e-3)


def test_prompts_are_continued_together_as_alone(artifact: Callable[[str], Path]) -> None:
    prompts = [one.tolist() for one in tokens(50, 3, 17)]
    with Model.load(artifact("evicts"), native=True) as model:
        sampler = Sampler(seed=1)
        batch = model.generate_batch(prompts, sampler=sampler, max_new_tokens=20)
        together = [result.tokens for result in batch.finish()]
        alone = [
            model.generate(prompt, sampler=sampler, max_new_tokens=20).finish().tokens
            for prompt in prompts
        ]
    assert together == alone
