"""Going back: by the rows held, by rows kept, by snapshots; and prompts that share a prefix."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.runtime import Model, Sampler, Session, Snapshot
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.errors import ContractError
from tramontane.runtime.sequences.held_rows import HeldRows

from ..conftest import ROWS, WINDOW
from .guarded_sessions import SEQUENCE, Patched, V, close, tokens

E = ROWS - WINDOW + 1  # rows evicted at once
# Lengths before, at and after evictions, which come after 24, 41, 58 ... tokens.
LENGTHS = [1, WINDOW, ROWS, ROWS + 1, ROWS + E, ROWS + E + 1, 100, 200]


@pytest.fixture
def model(folder: Path) -> Model:
    return Model.load(folder, threads=1)


def is_windowed(session: Session) -> bool:
    return session.manifest.geometry.is_bounded


def continues_as_computed_anew(session: Session, ids: list[int], expected: np.ndarray) -> None:
    """What follows equals a plain computation from scratch: by steps and by a prefill, past evictions."""
    assert session.tokens == len(ids)
    position = len(ids)
    assert ids == SEQUENCE[:position]
    close(session.step(SEQUENCE[position]), expected[position])
    close(
        session.prefill(SEQUENCE[position + 1 : position + 40], all_logits=True),
        expected[position + 1 : position + 40],
    )


@pytest.mark.parametrize("keep", [0, 3, 30])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_rewind_that_is_possible_is_exact(
    model: Model, expected: np.ndarray, length: int, keep: int
) -> None:
    session = model.session(keep=keep)
    session.prefill(SEQUENCE[:length])
    most = session.rewindable
    assert most >= min(length, keep)
    for count in {0, 1, most // 2, most - 1, most} & set(range(most + 1)):
        session.reset()
        session.prefill(SEQUENCE[:length])
        session.rewind(count)
        continues_as_computed_anew(session, SEQUENCE[: length - count], expected)


@pytest.mark.parametrize("length", [ROWS + 1, ROWS + E, 100])
def test_a_rewind_too_far_is_refused_and_changes_nothing(
    model: Model, expected: np.ndarray, length: int
) -> None:
    session = model.session()
    session.prefill(SEQUENCE[:length])
    if not is_windowed(session):
        assert session.rewindable == length
        return
    held = session.manifest.geometry.layers[0].held(length)
    assert session.rewindable == held - WINDOW + 1 < length - 1
    with pytest.raises(
        ContractError,
        match=rf"rewind\({held}\) would end the sequence after \d+ tokens?, but the rows held reach "
        rf"back to {length - session.rewindable} and it has no snapshot; take back at most "
        rf"{session.rewindable}, make the session with keep={held} or more, take a snapshot\(\)",
    ):
        session.rewind(held)
    continues_as_computed_anew(session, SEQUENCE[:length], expected)


@pytest.mark.parametrize("count", [-1, 6])
def test_a_rewind_takes_back_no_more_tokens_than_there_are(model: Model, count: int) -> None:
    session = model.session()
    session.prefill(SEQUENCE[:5])
    with pytest.raises(ContractError, match=rf"rewind\({count}\), expected 0 to 5, the tokens"):
        session.rewind(count)


@pytest.mark.parametrize("length", LENGTHS)
def test_all_tokens_can_always_be_taken_back(
    model: Model, expected: np.ndarray, length: int
) -> None:
    session = model.session()
    session.prefill(SEQUENCE[:length])
    session.rewind(length)
    continues_as_computed_anew(session, [], expected)


def test_rewinds_follow_each_other_and_never_read_a_row_that_is_not_known(
    model: Model, expected: np.ndarray
) -> None:
    session = model.session(keep=5)
    session.prefill(SEQUENCE[:100])
    first = session.rewindable
    session.rewind(first)
    second = session.rewindable
    assert second == 0
    session.prefill(SEQUENCE[session.tokens : 103])
    session.rewind(session.rewindable)
    continues_as_computed_anew(session, SEQUENCE[: session.tokens], expected)


@pytest.mark.parametrize("target", [31, 33, 40, 99])
def test_a_rewind_beyond_the_rows_starts_from_the_nearest_snapshot(
    model: Model, expected: np.ndarray, target: int
) -> None:
    session = model.session()
    snapshots = []
    for stop in (31, 60, 90):
        session.prefill(SEQUENCE[session.tokens : stop])
        snapshots.append(session.snapshot())
    session.prefill(SEQUENCE[90:200])
    assert session.rewindable == 200 - (0 if not is_windowed(session) else snapshots[0].lowest_end)
    runs: list[int] = []
    with Patched(session, lambda: runs.append(session.tokens), at=1):
        session.rewind(200 - target)
    nearest = max(s for s in (31, 60, 90) if s <= target)
    assert runs == ([nearest] if is_windowed(session) and nearest < target else [])
    continues_as_computed_anew(session, SEQUENCE[:target], expected)


def test_a_snapshot_of_no_tokens_lets_every_token_be_taken_back(
    model: Model, expected: np.ndarray
) -> None:
    session = model.session()
    nothing = session.snapshot()
    session.prefill(SEQUENCE[:150])
    assert session.rewindable == 150
    session.rewind(140)
    continues_as_computed_anew(session, SEQUENCE[:10], expected)
    session.restore(nothing)
    continues_as_computed_anew(session, [], expected)


def test_a_snapshot_that_nobody_holds_frees_its_memory(model: Model) -> None:
    session = model.session()
    session.prefill(SEQUENCE[:30])
    snapshot = session.snapshot()
    session.prefill(SEQUENCE[30:150])
    by_rows = session.manifest.geometry.layers[0].held(150) - WINDOW + 1
    assert session.rewindable == (150 - snapshot.lowest_end if is_windowed(session) else 150)
    del snapshot
    gc.collect()
    assert session.rewindable == (by_rows if is_windowed(session) else 150)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_restored_sequence_continues_bit_for_bit(model: Model, length: int) -> None:
    session = model.session(keep=4)
    session.prefill(SEQUENCE[:length])
    snapshot, rewindable = session.snapshot(), session.rewindable
    after = SEQUENCE[length : length + 50]
    expected = session.prefill(after, all_logits=True, chunk=WINDOW)
    for other in (session, model.session(keep=4), model.session()):
        other.restore(snapshot)
        assert other.tokens == length
        # With keep, a prompt is cut into pieces of a window: sums are in another order then.
        found = other.prefill(after, all_logits=True, chunk=WINDOW)
        np.testing.assert_array_equal(found, expected)
    session.restore(snapshot)
    assert session.rewindable == rewindable


@pytest.mark.parametrize("keep", [0, 3])
def test_a_sequence_goes_back_to_before_the_end_of_a_snapshot_as_its_rows_allow(
    model: Model, expected: np.ndarray, keep: int
) -> None:
    session = model.session(keep=30)
    session.prefill(SEQUENCE[:100])
    snapshot = session.snapshot()
    other = model.session(keep=keep)
    other.restore(snapshot)
    other.prefill(SEQUENCE[100:200])
    other.prefill(SEQUENCE[: snapshot.lowest_end + 1], reuse=True)
    close(other.step(SEQUENCE[other.tokens]), expected[other.tokens - 1])
    continues_as_computed_anew(other, SEQUENCE[: other.tokens], expected)


def test_a_snapshot_holds_the_known_rows_alone_and_cannot_be_written(model: Model) -> None:
    session = model.session()
    session.prefill(SEQUENCE[:200])
    snapshot = session.snapshot()
    held = session.manifest.geometry.layers[0].held(200)
    assert snapshot.tokens == 200
    assert snapshot.size_bytes == 200 * 8 + 2 * held * 2 * 16 * 4
    with pytest.raises(ValueError, match="read-only"):
        snapshot.rows[0][:] = 0
    before = snapshot.rows[0].copy()
    session.prefill(SEQUENCE[200:])
    np.testing.assert_array_equal(snapshot.rows[0], before)


def test_a_snapshot_of_another_artifact_is_refused(
    make: Callable[..., Path], tmp_path: Path, model: Model
) -> None:
    other = Session.load(make(tmp_path / "other", max_positions=300), threads=1)
    other.prefill([5, 6])
    snapshot = other.snapshot()
    session = model.session()
    session.prefill([7])
    with pytest.raises(ContractError, match="the snapshot is of the artifact whose manifest has"):
        session.restore(snapshot)
    assert session.tokens == 1


def test_snapshots_and_kept_rows_count_for_the_limit_on_memory(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    """The hand-made manifest plans 1100 bytes besides the cache, and a byte for each token."""
    row = 2 * 2 * 16 * 4
    model = Model.load(make(tmp_path / "tiny"), threads=1, max_memory=1100 + 24 + 10 * row)
    with pytest.raises(ContractError, match="allowed are"):
        model.session(keep=11)
    session = model.session(keep=10)
    session.prefill([5] * 5)
    with pytest.raises(ContractError, match="allowed are"):
        session.snapshot()
    session.close()
    session = model.session(keep=4)
    session.prefill([5] * 5)
    snapshot = session.snapshot()
    with pytest.raises(ContractError, match="allowed are"):
        session.snapshot()
    del snapshot
    gc.collect()
    session.snapshot()


@pytest.mark.parametrize("keep", [-1, 601])
def test_a_number_of_kept_tokens_is_one_of_the_artifacts_positions(
    model: Model, keep: int
) -> None:
    with pytest.raises(ContractError, match=f"keep is {keep}; expected 0 to 600"):
        model.session(keep=keep)


@pytest.mark.parametrize("shared", [0, 1, 20, 60, 79, 80])
def test_a_prompt_that_shares_a_prefix_computes_only_the_rest(model: Model, shared: int) -> None:
    session, plain = model.session(keep=12), model.session()
    session.prefill(SEQUENCE[:80])
    lowest = 80 - session.rewindable
    prompt = [*SEQUENCE[:shared], *tokens(25, seed=7)]
    run: list[int] = []
    with Patched(session, lambda: run.append(session.tokens)):
        found = session.prefill(prompt, reuse=True, all_logits=True)
    usable = shared if shared >= lowest else 0
    assert run == [usable]
    assert found.shape == (len(prompt) - usable, V)
    close(found, plain.prefill(prompt, all_logits=True)[usable:])
    assert session.tokens == len(prompt)


def test_a_prompt_that_is_held_whole_computes_its_last_token_for_the_logits(
    session: Session, expected: np.ndarray
) -> None:
    session.prefill(SEQUENCE[:20])
    close(session.prefill(SEQUENCE[:20], reuse=True, all_logits=True), expected[19:20])
    close(session.prefill(SEQUENCE[:10], reuse=True), expected[9])


def test_a_prompt_finds_the_snapshot_of_the_longest_prefix_after_a_reset(
    model: Model, expected: np.ndarray
) -> None:
    session = model.session()
    session.prefill(SEQUENCE[:70])
    instructions = session.snapshot()
    session.prefill(SEQUENCE[70:90])
    turn = session.snapshot()
    session.reset()
    session.prefill(tokens(50, seed=9))
    # A snapshot whose rows all are known serves every shorter prefix too.
    first = 70 if is_windowed(session) else 74
    for target, held in ((75, first), (95, 90)):
        found = session.prefill(SEQUENCE[:target], reuse=True, all_logits=True)
        assert len(found) == target - held
        close(found, expected[held:target])
    assert isinstance(instructions, Snapshot)
    assert turn.tokens == 90


def test_tokens_that_were_skipped_are_never_taken_for_a_prompts(session: Session) -> None:
    session.prefill([5, 6])
    before = session.snapshot()
    session.seek(9)
    found = session.prefill([5, 6, 7], reuse=True, all_logits=True)
    assert len(found) == 1
    assert before.tokens == 2


def test_an_unfinished_call_refuses_going_back_until_reset(session: Session) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    session.prefill([5, 6, 7])
    snapshot = session.snapshot()
    with pytest.raises(KeyboardInterrupt), Patched(session, fail):
        session.step(8)
    for use in (
        session.snapshot,
        lambda: session.rewind(1),
        lambda: session.restore(snapshot),
        lambda: session.prefill([5], reuse=True),
    ):
        with pytest.raises(ContractError, match=r"call reset\(\)"):
            use()
    session.reset()
    session.restore(snapshot)
    assert session.tokens == 3


@pytest.mark.parametrize("keep", [0, 1, 2, 9])
@pytest.mark.parametrize(("window", "rows"), [(4, 6), (8, 24), (3, 3), (5, None), (None, None)])
def test_rows_are_those_of_the_positions_by_a_list(
    window: int | None, rows: int | None, keep: int
) -> None:
    """A row is its position: compared with a list of all positions, while tokens come and go."""
    layout = CacheLayout(window=window, rows=rows)
    array = np.full((1, 1, rows or 60, 1), -1, np.float32)
    held, tokens_now = HeldRows(layout, array, keep=keep), 0
    draw = np.random.default_rng(keep)
    for _ in range(200):
        if draw.random() < 0.7 or tokens_now <= held.lowest_end:
            until = min(tokens_now + 1 + int(draw.integers(0, window or 9)), 59)
            first = layout.first(until)
            held.keep_evicted(tokens_now, until=until)
            known = {p: array[0, 0, p - layout.first(tokens_now), 0] for p in range(layout.first(tokens_now), tokens_now)}  # fmt: skip
            for position in range(first, until):
                array[0, 0, position - first, 0] = known.get(position, position)
            held.note_evicted(until)
        else:
            until = int(draw.integers(held.lowest_end, tokens_now))
            held.shorten(tokens_now, until=until)
        tokens_now = until
        start = min(held.oldest, tokens_now)
        found = held.read(start, tokens_now, tokens=tokens_now)[0, :, 0]
        assert found.tolist() == list(range(start, tokens_now))
        needed = max(0, tokens_now - (window or tokens_now + 1) + 1)
        assert start <= needed


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_second_turn_gives_the_same_tokens_with_reuse_and_without(
    model: Model, temperature: float
) -> None:
    sampler = Sampler(temperature=temperature, repetition_penalty=1.1, seed=4)
    session, plain = model.session(keep=30), model.session()
    first = session.generate(SEQUENCE[:50], max_new_tokens=20).finish()
    prompt = [*SEQUENCE[:50], *first.tokens[:-3], *SEQUENCE[60:70]]
    options = {"max_new_tokens": 60, "sampler": sampler}
    reused = session.generate(prompt, reuse=True, **options).finish()
    expected = plain.generate(prompt, **options).finish()
    assert reused.tokens == expected.tokens
    assert (reused.prompt_tokens, expected.prompt_tokens) == (10, 77)
    assert session.tokens == plain.tokens


def test_a_generation_that_is_refused_leaves_the_sequence_as_it_is(session: Session) -> None:
    session.prefill(SEQUENCE[:20])
    with pytest.raises(ContractError, match="max_new_tokens is 999 after 10 tokens"):
        session.generate(SEQUENCE[:10], reuse=True, max_new_tokens=999)
    assert session.tokens == 20


def test_a_text_that_is_the_whole_sequence_begins_with_the_start_token(session: Session) -> None:
    expected = session.generate("def f(x):", max_new_tokens=9).finish()
    found = session.generate("def f(x):", max_new_tokens=9, reuse=True).finish()
    assert found.tokens == expected.tokens
    assert found.prompt_tokens == 1 < expected.prompt_tokens
