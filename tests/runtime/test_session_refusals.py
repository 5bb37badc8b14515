"""What does a session refuse, and what does it leave as it was?"""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tramontane.runtime import Model, Sampler, Session
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.errors import ContractError

from .conftest import write_artifact
from .sequences.guarded_sessions import GREEDY, POSITIONS, V, tokens


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.prefill([]), "no tokens; expected at least one"),
        (lambda s: s.prefill([3, V]), f"token {V}; expected 0 to {V - 1}"),
        (lambda s: s.step(-1), "token -1; expected 0"),
        (lambda s: s.step(1.7), "token 1.7; expected a whole number"),
        (lambda s: s.step("5"), "token '5'; expected a whole number"),
        (lambda s: s.step(2**63), "token 9223372036854775808; expected 0"),
        (lambda s: s.prefill([1.7]), r"tokens: \[1\.7\] .*expected a list of whole numbers"),
        (lambda s: s.prefill(["5"]), r"tokens: \['5'\] .*expected a list of whole numbers"),
        (lambda s: s.prefill("5"), "tokens: '5' .*expected a list of whole numbers"),
        (lambda s: s.prefill(5), "tokens: 5 .*expected a list of whole numbers"),
        (lambda s: s.prefill([[1, 2], [3, 4]]), "tokens: .*expected a list of whole numbers"),
        (lambda s: s.prefill(np.ones((1, 2), int)), "tokens: .*expected a list of whole numbers"),
        (lambda s: s.prefill(np.ones(2)), "tokens: .*expected a list of whole numbers"),
        (lambda s: s.prefill([2**63]), "token 9223372036854775808; expected a number of the"),
        (lambda s: s.prefill(["x" * 10**6]), r"tokens: .{,200}expected a list"),
        (lambda s: s.prefill(tokens(POSITIONS + 1)), f"the artifact has {POSITIONS} positions"),
        (lambda s: s.prefill(range(10**12)), f"the artifact has {POSITIONS} positions|token {V}"),
        (lambda s: s.prefill(itertools.repeat(1)), f"the artifact has {POSITIONS} positions"),
        (lambda s: s.save("a\0b"), "cannot be written .*null byte"),
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
        ({"num_layers": 0}, r"num_layers is 0, expected 1 to 4096"),
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
        Session.load(folder, max_memory=500)
    with pytest.raises(ContractError, match="missing"):
        Session.load(folder, max_memory=10_000)


def test_tokens_that_a_growing_cache_may_not_hold_are_refused_and_fewer_run(
    make: Callable[..., Path],
    tmp_path: Path,
) -> None:
    session = Session.load(make(tmp_path / "tiny", built=None), max_memory=1100 + 300)
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


def test_whole_numbers_of_numpy_are_tokens(session: Session) -> None:
    expected = session.prefill([3, 4])
    session.reset()
    np.testing.assert_array_equal(session.prefill(np.array([3, 4], np.uint16)), expected)
    session.prefill([np.int32(3)])
    session.step(np.int64(4))
    assert session.tokens == 4


def test_what_onnxruntime_cannot_run_is_one_line_and_the_log_has_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_artifact(
        tmp_path / "short", max_positions=2 * POSITIONS
    )  # than its rope tables
    session = Session.load(folder)
    said = r"short: onnxruntime cannot run it on 1 new token \(.*GroupQueryAttention"
    with (
        caplog.at_level(logging.INFO, logger="tramontane.runtime"),
        pytest.raises(ContractError, match=said),
    ):
        for _ in range(POSITIONS + 1):
            session.step(3)
    assert "GroupQueryAttention" in caplog.text
    # Its own lines would bring names of the graph unescaped; so would a record of level WARNING,
    # which logging prints where nobody asked for logs.
    assert capfd.readouterr().err == ""
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with pytest.raises(ContractError, match="an earlier call was interrupted or failed"):
        session.step(3)


@pytest.mark.parametrize("threads", [0, -1, 10**6, 2**31])
def test_threads_beyond_any_machine_are_refused(folder: Path, threads: int) -> None:
    with pytest.raises(ContractError, match=f"threads is {threads}; expected 1 to 1024"):
        Model.load(folder, threads=threads)


def test_a_session_takes_no_memory_for_positions_that_it_has_not_reached(tmp_path: Path) -> None:
    session = Session.load(write_artifact(tmp_path / "long", max_positions=1 << 24))
    assert session._guarded.cached.binding._ones.nbytes < 1 << 20
    session.prefill(tokens(POSITIONS - 1))
    assert session._guarded.cached.binding._ones.nbytes < 1 << 20
