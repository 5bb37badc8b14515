"""One prefill, then one step at a time: on a hand-made model of one layer."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import psutil
import pytest
import sentencepiece
from tramontane.runtime import Model, Sampler, Session
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.errors import ContractError

V, POSITIONS = 2048, 600  # of the artifact in conftest.py
TOLERANCE = 1e-5  # float32 sums in another order, of logits near 1
GREEDY = Sampler()


def tokens(count: int, seed: int = 1) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, V, count)]


def close(actual: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 24, 25, 300])
def test_chunks_and_steps_equal_one_prefill(session: Session, length: int) -> None:
    sequence = tokens(length)
    expected = session.prefill(sequence, all_logits=True)
    cache = session.cache()
    assert expected.shape == (length, V)
    for chunk in (1, 5, 50):
        session.reset()
        close(session.prefill(sequence, all_logits=True, chunk=chunk), expected)
    session.reset()
    close([session.step(token).copy() for token in sequence], expected)
    assert session.tokens == length
    for (key, value), (expected_key, expected_value) in zip(session.cache(), cache, strict=True):
        assert key.shape == (2, session.manifest.geometry.layers[0].held(length), 16)
        close(key, expected_key)
        close(value, expected_value)


def test_last_logits_are_the_last_of_all(session: Session) -> None:
    all_logits = session.prefill(tokens(30), all_logits=True)
    session.reset()
    close(session.prefill(tokens(30), chunk=7), all_logits[-1])


def test_turns_that_mix_prefill_and_steps_equal_one_prefill(session: Session) -> None:
    sequence = tokens(90)
    expected = session.prefill(sequence, all_logits=True)
    session.reset()
    close(session.prefill(sequence[:20]), expected[19])
    close([session.step(token).copy() for token in sequence[20:31]], expected[20:31])
    close(session.prefill(sequence[31:89], all_logits=True, chunk=9), expected[31:89])
    close(session.step(sequence[89]), expected[89])


def test_a_step_overwrites_the_logits_of_the_one_before_and_not_those_of_a_prefill(
    session: Session,
) -> None:
    prefilled = session.prefill(tokens(3))
    kept = prefilled.copy()
    first = session.step(5)
    assert session.step(6) is first
    np.testing.assert_array_equal(prefilled, kept)


def test_logits_of_a_step_cannot_be_written(session: Session) -> None:
    with pytest.raises(ValueError, match="read-only"):
        session.step(5)[0] = 1


@pytest.mark.slow
def test_steps_keep_no_memory(embedded_artifact: Callable[[str], Path]) -> None:
    session = Session.load(embedded_artifact("int8-ort"), threads=1)
    process = psutil.Process()
    for token in tokens(500):
        session.step(token)
    before = process.memory_info().rss
    for token in tokens(3000):
        session.step(token)
    assert process.memory_info().rss - before < 2 << 20


def test_a_step_leaves_the_rows_held_before_as_they_are(session: Session) -> None:
    session.prefill(tokens(10))
    before = session.cache()[0][0]
    session.step(9)
    assert before.any()
    np.testing.assert_array_equal(session.cache()[0][0][:, :10], before)


def test_reset_forgets_everything(session: Session) -> None:
    fresh = session.prefill(tokens(20))
    session.reset()
    session.prefill(tokens(100, seed=2))
    session.reset()
    assert session.tokens == 0
    assert session.cache()[0][0].shape == (2, 0, 16)
    np.testing.assert_array_equal(session.prefill(tokens(20)), fresh)


def test_greedy_generation_is_repeatable_and_appends_what_it_yields(session: Session) -> None:
    prompt = tokens(12)
    first = list(session.generate(prompt, max_new_tokens=40, sampler=GREEDY))
    assert session.tokens == 12 + len(first) == 52
    after = session.step(7).copy()
    session.reset()
    assert list(session.generate(prompt, max_new_tokens=40, sampler=GREEDY)) == first
    session.reset()
    logits = session.prefill([*prompt, *first, 7], all_logits=True)
    assert first == logits[11:51].argmax(axis=1).tolist()
    close(logits[-1], after)


def test_generation_stops_before_an_end_token(session: Session) -> None:
    prompt = tokens(12)
    first = list(session.generate(prompt, max_new_tokens=10, sampler=GREEDY))
    words = dataclasses.replace(session.manifest.vocabulary, eos_token_ids=(2, first[4]))
    stopped = Session(
        Model(
            folder=session.folder,
            manifest=dataclasses.replace(session.manifest, vocabulary=words),
            graph=session.model.graph,
        )
    )
    expected = first[: first.index(first[4])]
    assert list(stopped.generate(prompt, max_new_tokens=10, sampler=GREEDY)) == expected
    assert stopped.tokens == 12 + len(expected)


def test_streamed_pieces_are_the_text_of_the_generated_tokens(session: Session) -> None:
    sampler = Sampler(temperature=1, seed=3)
    text = "".join(session.stream("def f(x):", max_new_tokens=60, sampler=sampler))
    session.reset()
    words = session.tokenizer
    prompt = words.encode("def f(x):")
    new = list(session.generate(prompt, max_new_tokens=60, sampler=sampler))
    assert words.decode(prompt) + text == words.decode([*prompt, *new])


def test_a_stream_goes_on_past_tokens_that_have_no_piece(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    session = Session.load(make(tmp_path / "tiny"), threads=1)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["Once upon a time there was a tokenizer of few pieces"] * 9),
        model_prefix=str(tmp_path / "tiny" / "tokenizer"),
        vocab_size=290,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    assert len(session.tokenizer) == 290
    sampler = Sampler(temperature=1, seed=3)
    text = "".join(session.stream("Once", max_new_tokens=40, sampler=sampler))
    session.reset()
    prompt = session.tokenizer.encode("Once")
    new = list(session.generate(prompt, max_new_tokens=40, sampler=sampler))
    assert len(new) == 40
    assert max(new) >= 290 > min(new)
    words = session.tokenizer
    assert words.decode(prompt) + text == words.decode([*prompt, *new])


def test_text_is_handed_on_before_the_next_step(session: Session) -> None:
    new = session.generate([5], max_new_tokens=9, sampler=GREEDY)
    assert len(list(islice(new, 1))) == 1
    assert session.tokens == 1


@pytest.mark.parametrize("computed", [0, 1, 10, 30])
@pytest.mark.parametrize("position", [30, 40, 300, POSITIONS])
def test_seek_holds_the_rows_that_the_skipped_tokens_would_fill(
    session: Session, computed: int, position: int
) -> None:
    if computed:
        session.prefill(tokens(computed))
    before = [rows for pair in session.cache() for rows in pair]
    session.seek(position)
    assert session.tokens == position
    for key, value in session.cache():
        held = session.manifest.geometry.layers[0].held(position)
        assert key.shape == value.shape == (2, held, 16)
        assert all(rows.any(axis=(0, 2)).all() == bool(computed) for rows in (key, value))
    for rows, now in zip(before, session.cache()[0], strict=False):
        kept = min(rows.shape[1], now.shape[1])
        np.testing.assert_array_equal(rows[:, :kept], now[:, :kept])
    if position < POSITIONS:
        assert np.isfinite(session.step(5)).all()
        assert session.tokens == position + 1


def test_seek_changes_what_follows_and_reset_forgets_it(session: Session) -> None:
    sequence = tokens(20)
    expected = session.prefill(sequence)
    session.seek(20)  # where it is
    after = session.step(5).copy()
    session.reset()
    session.prefill(sequence)
    np.testing.assert_array_equal(session.step(5), after)
    session.seek(100)
    session.reset()
    np.testing.assert_array_equal(session.prefill(sequence), expected)


def test_seek_goes_forward_alone_and_no_further_than_the_last_position(session: Session) -> None:
    session.prefill(tokens(9))
    with pytest.raises(ContractError, match=r"position is 8, expected 9 or more.*reset\(\) first"):
        session.seek(8)
    with pytest.raises(ContractError, match=f"the artifact has {POSITIONS} positions"):
        session.seek(POSITIONS + 1)
    assert session.tokens == 9


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.prefill([]), "no tokens; expected at least one"),
        (lambda s: s.prefill([3, V]), f"token {V}; expected 0 to {V - 1}"),
        (lambda s: s.step(-1), "token -1; expected 0"),
        (lambda s: s.prefill(tokens(POSITIONS + 1)), f"the artifact has {POSITIONS} positions"),
        (lambda s: s.prefill([3], chunk=0), "chunk is 0; expected 1 or more"),
        (lambda s: s.generate([], max_new_tokens=1, sampler=GREEDY), "no tokens"),
        (lambda s: s.generate([3], max_new_tokens=-1, sampler=GREEDY), "max_new_tokens is -1"),
        (
            lambda s: s.generate([3], max_new_tokens=POSITIONS, sampler=GREEDY),
            f"ask for at most {POSITIONS - 1}",
        ),
    ],
)
def test_what_cannot_be_appended_is_refused_and_changes_nothing(
    session: Session, ask: Callable[[Session], object], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        ask(session)
    assert session.tokens == 0


def test_the_last_position_can_be_used_and_no_further(session: Session) -> None:
    session.prefill(tokens(POSITIONS - 1))
    session.step(3)
    with pytest.raises(ContractError, match=f"1 token after {POSITIONS}"):
        session.step(3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_layers": 2}, r"input past_key_values\.1\.key is missing"),
        ({"num_layers": 0}, r"input past_key_values\.0\.key is not promised"),
        ({"rows": 30}, r"past_key_values\.0\.key is float32 .*24, 16\].*promises.*30, 16"),
        ({"rows": None, "window": None}, r"24, 16\].*promises.*past_sequence_length"),
        ({"vocab_size": 99}, "output logits is float32 .*2048.*promises float32 .*99"),
    ],
)
def test_a_graph_other_than_promised_is_refused(
    make: Callable[..., Path], tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        Session.load(make(tmp_path / "other", **changed))


def test_num_logits_to_keep_without_default_is_refused(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    path = make(tmp_path / "other") / MODEL_FILE
    model = onnx.load(path)
    (default,) = (i for i in model.graph.initializer if i.name == "num_logits_to_keep")
    model.graph.initializer.remove(default)
    onnx.save(model, path)
    with pytest.raises(ContractError, match="num_logits_to_keep has no default"):
        Session.load(path.parent.parent)


def test_a_missing_or_damaged_graph_is_refused_by_name(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    path = make(tmp_path / "other") / MODEL_FILE
    content = path.read_bytes()
    for damaged in (content[:1000], b"", b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(ContractError, match=r"model\.onnx: onnxruntime cannot load it"):
            Session.load(path.parent.parent)
    path.unlink()
    with pytest.raises(ContractError, match=r"model\.onnx: missing"):
        Session.load(path.parent.parent)


def test_verify_notices_what_loading_alone_does_not(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "other")
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes() + b"!")
    Session.load(folder)
    with pytest.raises(ContractError, match=r"tokenizer\.model: .*the manifest promises"):
        Session.load(folder, verify=True)


def test_memory_beyond_what_is_allowed_is_refused_before_the_graph_is_loaded(
    make: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = make(tmp_path / "tiny")
    (folder / MODEL_FILE).unlink()
    with pytest.raises(ContractError, match=r"needs 1\.\d\d kB of memory .*, allowed are 500 B"):
        Session.load(folder, max_memory_bytes=500)
    with pytest.raises(ContractError, match="missing"):
        Session.load(folder, max_memory_bytes=10_000)


def test_tokens_that_a_growing_cache_may_not_hold_are_refused_and_fewer_run(
    make: Callable[..., Path],
    tmp_path: Path,
) -> None:
    session = Session.load(make(tmp_path / "tiny", built=None), max_memory_bytes=1100 + 300)
    sampler = Sampler(temperature=0)
    with pytest.raises(ContractError, match="what would fit: at most 256 tokens"):
        session.generate([1, 2, 3], max_new_tokens=300, sampler=sampler)
    with pytest.raises(ContractError, match="what would fit: at most 256 tokens"):
        session.prefill([1] * 257)
    session.prefill([1] * 256)
    with pytest.raises(ContractError, match="at most 256 tokens"):
        session.step(1)
    assert session.tokens == 256


def test_no_threads_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="threads is 0"):
        Session.load(tmp_path, threads=0)


def test_reading_the_contract_does_not_import_onnxruntime() -> None:
    code = (
        "import sys; import tramontane.runtime.contract; assert 'onnxruntime' not in sys.modules; "
        "from tramontane.runtime import Sampler; assert 'onnxruntime' not in sys.modules"
    )
    paths = f"import sys; sys.path[:] = {sys.path!r}; "
    subprocess.run([sys.executable, "-c", paths + code], check=True)
