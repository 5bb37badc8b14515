"""Sessions of one model share its weights, and each computes what it would compute alone."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from tramontane.runtime import Model, Sampler, Session
from tramontane.runtime.errors import ContractError

PROMPTS = ([5, 6, 7], [400, 3, 90, 12])
STEPS = 60  # several windows of the artifact in conftest.py


@pytest.fixture
def model(folder: Path) -> Model:
    return Model.load(folder, threads=1)


def decode(session: Session, prompt: list[int]) -> list[np.ndarray]:
    """Logits of a prompt and of some greedy steps after it."""
    logits = [session.prefill(prompt)]
    for _ in range(STEPS):
        logits.append(session.step(int(logits[-1].argmax())).copy())
    return logits


@pytest.fixture
def alone(folder: Path) -> list[list[np.ndarray]]:
    """Of each prompt, in a session that shares nothing."""
    return [decode(Session.load(folder, threads=1), prompt) for prompt in PROMPTS]


def test_sessions_share_the_graph_the_manifest_and_the_tokenizer(model: Model) -> None:
    first, second = Session(model), Session(model)
    assert first.model is second.model is model
    assert first._guarded.cached.graph is second._guarded.cached.graph is model.graph
    assert first.manifest is second.manifest
    assert first.tokenizer is second.tokenizer
    assert first.folder == second.folder == model.folder


def test_another_session_takes_the_memory_of_its_cache_alone(
    embedded_artifact: Callable[[str], Path],
) -> None:
    model = Model.load(embedded_artifact("fp32-ort"), threads=1)
    sessions = [Session(model)]
    sessions[0].prefill([5, 6])
    process, plan = psutil.Process(), model.manifest.memory
    before = process.memory_info().rss
    for _ in range(4):
        sessions.append(Session(model))
        sessions[-1].prefill([5, 6])
    grown = process.memory_info().rss - before
    assert grown < 4 * plan.cache_bytes_at_most + plan.resident_weights_bytes // 4


def test_interleaved_sequences_are_exactly_what_each_is_alone(
    model: Model, alone: list[list[np.ndarray]]
) -> None:
    sessions = [Session(model) for _ in PROMPTS]
    pairs = list(zip(sessions, PROMPTS, strict=True))
    logits = [[session.prefill(prompt)] for session, prompt in pairs]
    for _ in range(STEPS):
        for session, made in zip(sessions, logits, strict=True):
            made.append(session.step(int(made[-1].argmax())).copy())
    np.testing.assert_array_equal(logits[0], alone[0])
    np.testing.assert_array_equal(logits[1], alone[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_sequences_of_two_threads_are_exactly_what_each_is_alone(
    folder: Path, alone: list[list[np.ndarray]], threads: int
) -> None:
    model = Model.load(folder, threads=threads)
    barrier = threading.Barrier(len(PROMPTS))
    found: dict[int, list[list[np.ndarray]]] = {0: [], 1: []}

    def run(number: int) -> None:
        session = Session(model)
        barrier.wait()
        for _ in range(5):
            session.reset()
            found[number].append(decode(session, PROMPTS[number]))

    workers = [threading.Thread(target=run, args=(number,)) for number in found]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number, runs in found.items():
        assert len(runs) == 5
        for made in runs:
            np.testing.assert_array_equal(made, alone[number])


def test_texts_of_two_threads_are_what_each_is_alone(model: Model) -> None:
    prompts = ("def f(x):", "class Grüße:")
    sampler = Sampler(temperature=1, seed=3)
    expected = ["".join(Session(model).generate(text, sampler=sampler)) for text in prompts]
    found: dict[int, str] = {}

    def run(number: int) -> None:
        found[number] = "".join(Session(model).generate(prompts[number], sampler=sampler))

    workers = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [found[0], found[1]] == expected


def test_a_reset_of_one_session_changes_no_other(
    model: Model, alone: list[list[np.ndarray]]
) -> None:
    first, second = Session(model), Session(model)
    first.prefill(PROMPTS[0])
    second.prefill(PROMPTS[1])
    second.reset()
    made = [first.step(int(alone[0][0].argmax()))]
    np.testing.assert_array_equal(made[0], alone[0][1])
    assert (first.tokens, second.tokens) == (len(PROMPTS[0]) + 1, 0)


def test_the_limit_on_memory_counts_the_caches_of_all_sessions(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    """The hand-made manifest plans 1100 bytes besides the cache, and a byte for each token."""
    folder = make(tmp_path / "tiny")
    cache_bytes = 2 * 2 * 24 * 16 * 4
    model = Model.load(folder, threads=1, max_memory=1100 + 24 + cache_bytes)
    first = Session(model)
    first.prefill([5])
    second = Session(model)
    with pytest.raises(ContractError, match=r"needs 13\.41 kB of memory .*allowed are 7\.27 kB"):
        Session(model)
    del second
    gc.collect()
    Session(model).prefill([5])


def test_a_growing_cache_is_refused_rows_that_other_sessions_have(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "tiny", built=None)
    cache_bytes = 2 * 2 * 256 * 16 * 4
    model = Model.load(folder, threads=1, max_memory=1100 + 256 + cache_bytes)
    first, second = Session(model), Session(model)
    second.prefill([5] * 100)
    first.prefill([5] * 256)
    with pytest.raises(ContractError, match="what would fit: at most 256 tokens"):
        first.step(5)
    del second
    gc.collect()
    first.step(5)
    assert first.tokens == 257
