"""Prompt lookup: the tokens of plain decoding, fewer runs where the text repeats itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import chisquare
from tramontane.runtime import Model, Sampler, Session
from tramontane.runtime.decoding.history import History
from tramontane.runtime.decoding.processors import Logits
from tramontane.runtime.speculation.draft_account import ALLOWANCE, SHARE, DraftAccount
from tramontane.runtime.speculation.prompt_lookup import PromptLookup
from tramontane.runtime.speculation.run_times import RunTimes
from tramontane.runtime.speculation.speculation import Speculation

from .free_runs import Counted, Free

ROUNDING = 0.4  # of logits: those of a run and of single steps differ by about half of it in int8
COPIED = "def area(width, height):\n    return width * height\n\n\n"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tramontane.runtime.sequences.guarded_sequence.RunTimes", Free)


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


class Clock:
    """Decodes a given text with drafts; a run takes a given time, whatever is in it."""

    def __init__(self, cost_of_draft: float, *, times: RunTimes | None = None) -> None:
        self.cost, self.times, self.account = cost_of_draft, times or RunTimes(), DraftAccount()

    def gain(self, prompt: Sequence[int], text: Sequence[int]) -> float:
        """How many times faster than one by one the text is decoded."""
        speculation, ids, seconds = Speculation(self.times, self.account), [*prompt], 0.0
        for changes, token in enumerate(text):
            seconds += timed(
                speculation,
                token,
                after=ids,
                most=min(16, len(text) - changes - 1),
                seconds_of=lambda drafts: 1 + self.cost * drafts,
            )
            ids.append(token)
        return len(text) / seconds


def timed(
    speculation: Speculation,
    token: int,
    *,
    after: Sequence[int],
    most: int,
    seconds_of: Callable[[int], float],
    search_seconds: float = 0.0,
) -> float:
    """Append a token as ``GuardedSequence.step_ahead`` does; the time that it takes."""
    if not speculation.is_searching:
        speculation.note_token()
        return 1.0
    changes = len(after)
    found = speculation.ahead(token, changes=changes)
    speculation.append(token, after=np.array(after, np.int64))
    if not speculation._account.is_open:  # nothing is looked for
        search_seconds = 0.0
    if found is not None:
        speculation.note_search(search_seconds)
        return search_seconds
    drafts = speculation.drafts(most=most) if speculation.is_ready else []
    if not drafts:
        speculation.note_plain(1.0, search_seconds=search_seconds)
        return 1.0 + search_seconds
    seconds = seconds_of(len(drafts)) + search_seconds
    logits = np.zeros((len(drafts) + 1, 1), np.float32)
    speculation.begin(drafts, logits, seconds=seconds, changes=changes + 1)
    return seconds


FUNCTION = [*range(100, 160)] * 2  # nothing in it tells which of its two halves comes
EDITED = [*range(100, 112), 7, 8, *range(112, 130), 9, *range(131, 160)]


def test_an_edited_copy_is_at_least_twice_as_fast_where_a_draft_costs_a_fifth_of_a_step() -> None:
    clock = Clock(0.2)
    assert clock.gain(FUNCTION, EDITED) > 1.7  # times of runs are not known yet
    assert clock.gain(FUNCTION, EDITED) > 2


@pytest.mark.parametrize("cost", [0.02, 0.1, 0.2, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("tokens", [2, 4, 8, 50])
def test_a_text_that_copies_by_chance_loses_no_more_than_three_percent(
    tokens: int, cost: float
) -> None:
    """Of few different tokens, three have always occurred before and mean nothing."""
    for seed in range(3):
        random = np.random.default_rng(seed)
        prompt, text = random.integers(0, tokens, (2, 400)).tolist()
        assert Clock(cost).gain(prompt, text) > 0.97


@pytest.mark.parametrize("cost", [0.1, 0.2, 0.5, 1.0, 3.0])
def test_a_copy_that_ends_over_and_over_loses_no_more_than_three_percent(cost: float) -> None:
    """Each time that drafts look certain, the text turns away."""
    prompt = [*range(200)]
    text = [token for start in range(0, 180, 9) for token in (*range(start, start + 6), -start)]
    assert Clock(cost).gain(prompt, text * 3) > 0.97


def test_a_machine_that_becomes_faster_at_runs_is_found_out() -> None:
    times = RunTimes()
    assert Clock(3.0, times=times).gain(FUNCTION, EDITED) > 0.9
    for _ in range(12):
        Clock(0.1, times=times).gain(FUNCTION, EDITED)
    assert Clock(0.1, times=times).gain(FUNCTION, EDITED) > 2


@settings(max_examples=60, deadline=None)
@given(
    comes=st.lists(st.booleans(), min_size=1, max_size=400),
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    factors=st.lists(st.floats(0.3, 3.0), min_size=1, max_size=20),
    search=st.floats(0.0, 0.1),
)
def test_whatever_comes_drafts_lose_no_more_than_their_account_has(
    comes: list[bool], lengths: list[int], factors: list[float], search: float
) -> None:
    """Tokens come as predicted or not, and runs take up to three times what was expected."""
    adversary = Adversary(factors, search=search)
    tokens = 0
    for length in lengths:
        seconds_before, since = adversary.seconds, tokens
        adversary.begin()
        for _ in range(length):
            adversary.append(comes=comes[tokens % len(comes)])
            tokens += 1
        most = (1 + SHARE) * (tokens - since) + ALLOWANCE + adversary.largest_excess
        assert adversary.seconds - seconds_before <= most + 1e-6
    assert adversary.seconds <= (1 + SHARE) * tokens + ALLOWANCE + adversary.largest_excess + 1e-6


@pytest.mark.parametrize("cost", [0.02, 0.1, 0.3, 0.8])
def test_a_text_that_turns_away_from_every_draft_loses_no_more_than_three_percent(
    cost: float,
) -> None:
    """It comes as predicted until there are drafts, none of which is right."""
    adversary = Adversary([1.0])
    adversary.times.note_step(1.0)
    for drafts in (1, 2, 4, 8, 16):
        adversary.times.note_run(drafts, 1 + cost * drafts)
    adversary.begin()
    for _ in range(4000):
        adversary.append(comes=not adversary.has_drafts)
    assert adversary.runs > 20
    assert 4000 / adversary.seconds > 0.97


class Adversary:
    """Appends tokens that are the predicted ones or others, in runs that take any time."""

    def __init__(self, factors: Sequence[float], *, search: float = 0.0) -> None:
        """Runs take what is expected of them, times the factors in turn."""
        self.times, self.account = RunTimes(), DraftAccount()
        self.seconds, self.largest_excess, self.runs = 0.0, search, 0
        self._factors, self._search = factors, search
        self.has_drafts = False  # whether the next token may be one that was computed
        self._ids = [5, 6, 7] * 9
        self._speculation = Speculation(self.times, self.account)

    def begin(self) -> None:
        """Begin a generation after the tokens so far."""
        self._speculation = Speculation(self.times, self.account)
        self._lookup = PromptLookup(np.array(self._ids, np.int64))

    def append(self, *, comes: bool) -> None:
        """Append the predicted token, or one that begins a prediction; or one that is new."""
        number = len(self._ids)
        known = [*self._lookup.next(1), 5 + number % 3]
        token = known[0] if comes else 1000 + number
        self._lookup.append(token)
        self.has_drafts = self.has_drafts and comes
        self.seconds += timed(
            self._speculation,
            token,
            after=self._ids,
            most=16,
            seconds_of=self._seconds_of,
            search_seconds=self._search,
        )
        self._ids.append(token)

    def _seconds_of(self, drafts: int) -> float:
        expected = self.times.steps(drafts)
        seconds = max(1.0, expected * self._factors[self.runs % len(self._factors)] - self._search)
        self.largest_excess = max(self.largest_excess, seconds + self._search - expected)
        self.runs += 1
        self.has_drafts = True
        return seconds


class Mistaken(RunTimes):
    """Says that runs take little time; they take as much as nine steps."""

    def note_run(self, drafts: int, seconds: float) -> float:
        return 9.0

    def steps(self, drafts: int) -> float:
        return 1.1


def test_after_a_loss_drafts_pause_until_plain_steps_have_earned_it_back() -> None:
    speculation, ids = Speculation(Mistaken(), DraftAccount()), np.array([5, 6, 7] * 9)
    speculation.note_plain(1.0, search_seconds=0.0)
    pauses = []
    for turn in range(3):
        steps = 0
        speculation.append(5, after=ids)
        while not speculation.drafts(most=4):
            steps += 1
            speculation.note_plain(1.0, search_seconds=0.0)
            speculation.append([6, 7, 5][(steps - 1) % 3], after=ids)
        pauses.append(steps)
        speculation.begin([6], np.zeros((2, 1), np.float32), seconds=9.0, changes=turn)
    assert pauses == [0, *[pytest.approx(8 / SHARE, abs=2)] * 2]


def test_there_are_no_more_drafts_than_there_is_room_for() -> None:
    speculation = Speculation(Free(), DraftAccount())
    speculation.append(7, after=np.array([5, 6, 7, 8, 9, 5, 6]))
    assert speculation.drafts(most=1) == [8]
    assert speculation.drafts(most=0) == []
    assert speculation.drafts(most=-1) == []


def test_the_first_step_of_a_session_is_plain() -> None:
    times = RunTimes()
    speculation = Speculation(times, DraftAccount())
    speculation.append(7, after=np.array([5, 6, 7, 5, 6]))
    assert not speculation.is_ready
    times.note_step(1.0)
    assert speculation.is_ready


def test_logits_ahead_are_not_given_after_another_change() -> None:
    speculation = Speculation(Free(), DraftAccount())
    speculation.begin([5, 6], np.zeros((3, 4), np.float32), seconds=1.0, changes=7)
    assert speculation.ahead(5, changes=8) is None
    assert speculation.ahead(5, changes=7) is not None
    assert speculation.ahead(6, changes=7) is None


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_sampled_tokens_have_the_distribution_of_the_model(
    embedded_artifact: Callable[[str], Path],
) -> None:
    """Three tokens of three, drawn with many seeds, against softmax of plain logits."""
    model = Model.load(embedded_artifact("fp32-ort"), threads=1)
    session = model.session(keep=8)
    sampler = Sampler(temperature=2.0, processors=(_only_three,))
    prompt = np.random.default_rng(0).choice(THREE, 90).tolist()  # any three of them occur in it
    draws = 400
    counts: Counter[tuple[int, ...]] = Counter()
    graph = Counted(session)
    for seed in range(draws):
        drawn = replace(sampler, seed=seed)
        made = session.generate(
            prompt, max_new_tokens=3, sampler=drawn, reuse=True, speculate=True
        ).finish()
        counts[tuple(made.tokens)] += 1
    plain = model.session(keep=8)
    expected = {
        (a, b, c): draws * p * q * r
        for a, p in _distribution(plain, prompt)
        for b, q in _distribution(plain, [*prompt, a])
        for c, r in _distribution(plain, [*prompt, a, b])
    }
    assert set(counts) <= set(expected)
    assert graph.runs < 3.9 * draws  # of four plain ones: drafts were chosen ...
    assert graph.runs > 2.2 * draws  # ... and not chosen
    cells = [cell for cell, number in expected.items() if number >= 5]
    observed = [*(counts[cell] for cell in cells)]
    wanted = [*(expected[cell] for cell in cells)]
    rest = [draws - sum(observed)], [draws - sum(wanted)]
    assert chisquare(observed + rest[0], wanted + rest[1]).pvalue > 0.01


THREE = (300, 301, 302)


def _only_three(logits: Logits, history: History) -> Logits:
    """A processor that rules out all tokens but three."""
    changed = np.full_like(logits, -np.inf)
    changed[[*THREE]] = logits[[*THREE]]
    return changed


def _distribution(session: Session, tokens: list[int]) -> list[tuple[int, float]]:
    """The three tokens and their probabilities at temperature 2."""
    logits = session.prefill(tokens, reuse=True)[[*THREE]]
    return list(zip(THREE, softmax(logits / 2.0).tolist(), strict=True))
