"""Prompt lookup: the tokens of plain decoding, fewer runs where the text repeats itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.runtime import Model, Sampler, Session
from tramontane.runtime.decoding.speculation import Speculation

ROUNDING = 0.4  # of logits: those of a run and of single steps differ by about half of it in int8
COPIED = "def area(width, height):\n    return width * height\n\n\n"


class Counted:
    """A graph that counts its runs."""

    def __init__(self, session: Session) -> None:
        self.graph, self.runs = session._guarded.cached.graph, 0
        session._guarded.cached.graph = self

    def run_with_iobinding(self, binding: Any) -> None:
        self.runs += 1
        self.graph.run_with_iobinding(binding)


class Eager(Speculation):
    """Drafts at every step, as if they cost nothing."""

    def note_plain(self, seconds: float) -> None:
        self._plain_seconds = 1e9


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    where = "tramontane.runtime.decoding.generating_session.Speculation"
    monkeypatch.setattr(where, Eager)


@pytest.fixture(scope="module", params=["fp32-ort", "fp32-portable"])
def model(request: pytest.FixtureRequest, embedded_artifact: Callable[[str], Path]) -> Model:
    return Model.load(embedded_artifact(request.param), threads=1)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("temperature", [0, 0.7])
@pytest.mark.parametrize("penalty", [1.0, 1.05])
def test_tokens_are_those_of_plain_decoding_past_evictions(
    model: Model, temperature: float, penalty: float
) -> None:
    """The window is 64: 200 tokens after the prompt evict rows many times."""
    sampler = Sampler(temperature=temperature, repetition_penalty=penalty, seed=5)
    options: dict[str, Any] = {"max_new_tokens": 200, "sampler": sampler}
    plain, ahead = model.session(), model.session(keep=9)
    expected = plain.generate(COPIED * 3, **options).finish()
    graph = Counted(ahead)
    found = ahead.generate(COPIED * 3, speculate=True, **options).finish()
    assert found.tokens == expected.tokens
    assert ahead._guarded.cached.ids.tolist() == plain._guarded.cached.ids.tolist()
    if penalty == 1 and not temperature:
        assert graph.runs < 0.8 * len(found.tokens)
    np.testing.assert_allclose(ahead.step(5), plain.step(5), rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("recipe", ["int8-ort", "int8-ort-int8", "int8-dynamic-ort"])
def test_with_rounded_activations_each_token_is_the_likeliest_up_to_rounding(
    embedded_artifact: Callable[[str], Path], recipe: str
) -> None:
    model = Model.load(embedded_artifact(recipe), threads=1)
    prompt = model.tokenizer.encode(COPIED * 3)
    made = model.session().generate(prompt, speculate=True, max_new_tokens=200).finish().tokens
    logits = model.session().prefill([*prompt, *made], all_logits=True)[len(prompt) - 1 : -1]
    chosen = logits[np.arange(len(made)), made]
    assert (logits.max(axis=1) - chosen).max() < ROUNDING


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_drafts_that_are_not_chosen_leave_nothing_behind(
    embedded_artifact: Callable[[str], Path],
) -> None:
    model = Model.load(embedded_artifact("fp32-ort"), threads=1)
    plain, ahead = model.session(), model.session()
    new = ahead.generate(COPIED * 3, speculate=True)
    for _ in range(6):
        next(new)
    new.close()
    ids = ahead._guarded.cached.ids.tolist()
    for token in (7, 8, 9):
        expected = plain.prefill([*ids, token], reuse=True)
        ids.append(token)
        np.testing.assert_allclose(ahead.step(token), expected, rtol=0, atol=1e-4)


def test_drafts_are_what_followed_the_last_tokens_before() -> None:
    speculation = Eager()
    speculation.note_plain(1.0)
    ids = np.array([5, 6, 7, 8, 9, 5, 6, 7])
    assert speculation.drafts(ids[:5], most=9) == []
    assert speculation.drafts(ids, most=2) == [8, 9]
    assert speculation.drafts(ids, most=1) == [8]
    longer = np.append(ids, [4, 5, 6, 7])
    assert speculation.drafts(longer, most=2) == [4, 5]  # of two places, the later


def test_drafts_grow_while_they_are_chosen_and_pause_when_they_cost_more_than_they_save() -> None:
    speculation = Speculation()
    ids = np.array([5, 6, 7] * 20)
    assert speculation.drafts(ids[:-17], most=99) == []  # the first step is plain
    speculation.note_plain(1.0)
    for length in (2, 4, 8, 16, 16):
        drafts = speculation.drafts(ids[:-17], most=99)
        assert drafts == ([5, 6, 7] * 9)[(len(ids) - 17) % 3 :][:length]
        speculation.begin(drafts, np.zeros((length + 1, 4), np.float32), seconds=1.5, changes=1)
        for place, token in enumerate(drafts):
            assert speculation.ahead(token, changes=1 + place) is not None
        assert speculation.ahead(5, changes=1 + length) is None
        speculation.settle()
    pauses = []
    for _ in range(3):
        steps = 0
        while not (drafts := speculation.drafts(ids[:-17], most=99)):
            steps += 1
        pauses.append(steps)
        logits = np.zeros((len(drafts) + 1, 4), np.float32)
        speculation.begin(drafts, logits, seconds=9.0, changes=1)
        assert speculation.ahead(999, changes=1) is None
        speculation.settle()
    assert pauses == [0, 16, 64]


def test_logits_ahead_are_not_given_after_another_change() -> None:
    speculation = Speculation()
    speculation.begin([5, 6], np.zeros((3, 4), np.float32), seconds=1.0, changes=7)
    assert speculation.ahead(5, changes=8) is None
    assert speculation.ahead(5, changes=7) is not None
    assert speculation.ahead(6, changes=7) is None
