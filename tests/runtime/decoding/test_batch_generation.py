"""Prompts that are continued together, compared with each continued alone."""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as draw
from tramontane.runtime import Model, Result, Sampler
from tramontane.runtime.decoding.processors import Logits
from tramontane.runtime.errors import ContractError

from ..sequences.guarded_sessions import SEQUENCE

FREELY = Sampler(temperature=1, seed=3)
PROMPTS = ["def f(x):", SEQUENCE[:30], [5], SEQUENCE[40:140]]


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model.load(folder, threads=1)


def untimed(result: Result) -> Result:
    """A result whose times do not differ from run to run."""
    return dataclasses.replace(result, prefill_seconds=0, decode_seconds=0)


def alone(model: Model, prompts: Sequence[Any], sampler: Sampler, **options: Any) -> list[Result]:
    """The results of each prompt in a session of its own, with the next seed each."""
    return [
        untimed(
            model.generate(
                prompt, sampler=dataclasses.replace(sampler, seed=sampler.seed + index), **options
            ).finish()
        )
        for index, prompt in enumerate(prompts)
    ]


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    prompts=draw.lists(
        draw.lists(draw.integers(3, 2047), min_size=1, max_size=60), min_size=1, max_size=5
    ),
    count=draw.integers(0, 70),
    temperature=draw.sampled_from([0, 1]),
    stop=draw.sampled_from([(), ("e",), ("a", "in")]),
    logprobs=draw.sampled_from([None, 0, 2]),
)
def test_together_each_prompt_has_the_result_that_it_has_alone(
    model: Model,
    prompts: list[list[int]],
    count: int,
    temperature: float,
    stop: tuple[str, ...],
    logprobs: int | None,
) -> None:
    options: dict[str, Any] = {"max_new_tokens": count, "stop": stop, "logprobs": logprobs}
    sampler = Sampler(temperature=temperature, repetition_penalty=1.1, seed=5)
    made = model.generate_batch(prompts, sampler=sampler, **options)
    pieces: dict[int, str] = {}
    for index, piece in made:
        assert piece
        pieces[index] = pieces.get(index, "") + piece
    results = [untimed(result) for result in made.results]
    assert results == alone(model, prompts, sampler, **options)
    assert {index: one.text for index, one in enumerate(results) if one.text} == pieces


def test_each_ends_by_its_own_end_token_and_the_others_go_on(model: Model) -> None:
    def ending_after(count: int) -> Sampler:
        def end(logits: Logits, history: Any) -> Logits:
            is_due = (np.arange(len(logits)) == 2) & (len(history.new_tokens) == count)
            return np.where(is_due, 1e9, logits)

        return Sampler(temperature=1, processors=[end], seed=count)

    samplers = [ending_after(count) for count in (50, 3, 0, 20)]
    made = model.generate_batch(PROMPTS, sampler=samplers, max_new_tokens=40).finish()
    assert [len(one.tokens) for one in made] == [40, 3, 0, 20]
    assert [one.finish_reason for one in made] == ["length", *["end_token"] * 3]
    for prompt, sampler, one in zip(PROMPTS, samplers, made, strict=True):
        expected = model.generate(prompt, sampler=sampler, max_new_tokens=40).finish()
        assert untimed(one) == untimed(expected)


def test_tokens_that_all_prompts_begin_with_are_computed_once(model: Model) -> None:
    shared = SEQUENCE[:100]
    prompts = [[*shared, *rest] for rest in ([5, 6, 7], [8], [5, 6, 7, 9], SEQUENCE[120:170])]
    read = []
    made = model.generate_batch(
        prompts,
        sampler=FREELY,
        max_new_tokens=30,
        progress=lambda done, every: read.append((done, every)),
    ).finish()
    assert [one.prompt_tokens for one in made] == [103, 1, 4, 50]
    assert read == [(n, 158) for n in (100, 103, 104, 108, 158)]
    expected = alone(model, prompts, FREELY, max_new_tokens=30)
    assert [one.tokens for one in made] == [one.tokens for one in expected]
    again = model.generate_batch([shared] * 2, sampler=FREELY, max_new_tokens=30).finish()
    assert [one.prompt_tokens for one in again] == [100, 1]


def test_the_first_piece_of_a_prompt_does_not_wait_for_the_next_prompt(model: Model) -> None:
    read: list[int] = []
    made = model.generate_batch(
        [SEQUENCE[:30], SEQUENCE[40:90]],
        sampler=FREELY,
        progress=lambda done, _: read.append(done),
    )
    assert next(made)[0] == 0
    assert read == [30]


def test_one_can_be_cancelled_and_the_others_go_on(model: Model) -> None:
    made = model.generate_batch(PROMPTS, sampler=FREELY, max_new_tokens=40)
    expected = alone(model, PROMPTS, FREELY, max_new_tokens=40)
    given = [next(made) for _ in range(len(PROMPTS) + 2)]
    assert given
    made.cancel(1)
    results = made.finish()
    assert results[1].finish_reason == "cancelled"
    assert results[1].tokens == expected[1].tokens[: len(results[1].tokens)]
    assert len(results[1].tokens) <= 4
    for index in (0, 2, 3):
        assert untimed(results[index]) == expected[index]
    with pytest.raises(
        ContractError, match=r"cancel\(4\); expected 0 to 3, the index of a prompt"
    ):
        made.cancel(4)


def test_cancelled_while_a_prompt_is_read_all_end(model: Model) -> None:
    cancel = threading.Event()
    made = model.generate_batch(
        PROMPTS, cancel=cancel, progress=lambda done, _: done > 20 and cancel.set()
    )
    results = made.finish()
    assert [one.finish_reason for one in results] == ["cancelled"] * 4
    assert [one.tokens for one in results][1:] == [[], [], []]
    assert sum(one.prompt_tokens for one in results) < 130


def test_there_are_no_results_before_the_end_and_closing_ends_it(model: Model) -> None:
    made = model.generate_batch(PROMPTS, max_new_tokens=20)
    next(made)
    with pytest.raises(ContractError, match=r"has not ended, .*; read it to its end, call finish"):
        _ = made.results
    with made:
        pass
    made.close()
    assert list(made) == []
    assert [one.finish_reason for one in made.results] == ["cancelled"] * 4


def test_after_an_error_it_is_refused_and_the_model_goes_on(model: Model) -> None:
    def fail(logits: Logits, history: Any) -> Logits:
        if len(history.new_tokens) == 3:
            raise ZeroDivisionError
        return logits

    made = model.generate_batch(PROMPTS, sampler=Sampler(processors=[fail]))
    with pytest.raises(ZeroDivisionError):
        made.finish()
    with pytest.raises(
        ContractError, match=r"failed before it ended, .*; start a new generate_ba"
    ):
        next(made)
    with pytest.raises(ContractError, match="was interrupted or failed, expected results"):
        _ = made.results
    made.close()
    with pytest.raises(ContractError, match="was interrupted or failed, expected results"):
        _ = made.results
    assert model.generate_batch(PROMPTS, max_new_tokens=2).finish()


def test_a_second_thread_is_refused_while_one_is_inside(model: Model) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_: int) -> None:
        inside.set()
        assert go_on.wait(30)

    made = model.generate_batch(PROMPTS, progress=wait, max_new_tokens=2)
    worker = threading.Thread(target=made.finish)
    worker.start()
    assert inside.wait(30)
    for use in (made.__next__, made.close, model.close):
        with pytest.raises(ContractError, match="is in use by thread"):
            use()
    go_on.set()
    worker.join()
    assert [len(one.tokens) for one in made.results] == [2] * 4


def test_closing_the_model_ends_it(folder: Path) -> None:
    model = Model.load(folder, threads=1)
    made = model.generate_batch(PROMPTS, max_new_tokens=20)
    for _ in range(len(PROMPTS) + 3):
        next(made)
    model.close()
    assert list(made) == []
    assert [one.finish_reason for one in made.results] == ["cancelled"] * 4


def test_all_caches_are_planned_before_any_is_allocated(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    """The hand-made manifest plans 1100 bytes besides the cache, and a byte for each token."""
    folder = make(tmp_path / "tiny")
    of_session = 2 * 2 * 24 * 16 * 4
    of_batch = 3 * (of_session + 4 * 2048)
    limit = 1100 + 24 + of_batch + of_session - 1  # the batch reads prompts in a session
    model = Model.load(folder, threads=1, max_memory=limit)
    read: list[int] = []
    made = model.generate_batch([[5]] * 3, max_new_tokens=9)
    with pytest.raises(ContractError, match=r"needs .* of memory .*, allowed are"):
        model.session().prefill([5])
    made.finish()
    model.session().prefill([5])  # it is freed at the end
    gc.collect()
    with pytest.raises(ContractError, match=r"needs .* of memory .*, allowed are"):
        model.generate_batch([[5]] * 4, progress=lambda done, _: read.append(done))
    assert not read


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "prompts: no prompt; expected a list of one prompt or more"),
        ("def f", {}, "prompts: a text; expected a list of one prompt or more"),
        ([[5], []], {}, "no tokens; expected at least one"),
        ([[5], [2048]], {}, "token 2048; expected 0 to 2047, the vocabulary"),
        ([[5], [5] * 590], {"max_new_tokens": 11}, "the artifact has 600 positions, so ask for"),
        ([[5]] * 3, {"sampler": [FREELY] * 2}, "sampler: 2 for 3 prompts; expected one for each"),
        ([[5]], {"stop": ""}, "expected strings of one character or more"),
        ([[5]], {"sampler": {"seed": 1}}, "sampler is 'seed'; expected a Sampler"),
        ([5, 6], {}, "tokens: 5 .*expected a list of whole numbers"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    model: Model, prompts: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        model.generate_batch(prompts, **options)
