"""Models and sessions that are closed, the memory plan, and the public names."""

from __future__ import annotations

import logging
import pydoc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import tramontane.runtime
from tramontane.runtime import Model, Sampler, Session
from tramontane.runtime.errors import ConfigError, ContractError
from tramontane.runtime.manifest import read_manifest

from .sequences.guarded_sessions import USES, Patched

CLOSED = r"this session is closed, expected an open one; make another with model.session\(\)"


def test_a_closed_session_refuses_every_call_and_can_be_closed_again(folder: Path) -> None:
    model = Model.load(folder, threads=1)
    with model.session() as session:
        session.prefill([5, 6])
        unread = session.generate([7])
    session.close()
    for use in [*USES.values(), Session.reset, lambda _: next(unread)]:
        with pytest.raises(ContractError, match=CLOSED):
            use(session)
    assert model.session().prefill([5]).shape == (2048,)  # others of the model go on


def test_a_closed_model_closes_its_sessions_and_frees_the_graph(folder: Path) -> None:
    with Model.load(folder, threads=1) as model:
        session, graph = model.session(), weakref.ref(model.graph)
        session.prefill([5, 6])
    assert graph() is None
    model.close()
    with pytest.raises(ContractError, match=CLOSED):
        session.step(5)
    with pytest.raises(ContractError, match="this model is closed.*load it again with Model.load"):
        model.session()


def test_closing_a_session_that_loaded_its_model_frees_the_graph(folder: Path) -> None:
    with Session.load(folder, threads=1) as session:
        graph = weakref.ref(session.model.graph)
    assert graph() is None
    session.close()


def test_a_session_in_use_by_another_thread_is_not_closed(folder: Path) -> None:
    model = Model.load(folder, threads=1)
    session, refused = model.session(), []

    def close() -> None:
        for each in (session.close, model.close):
            with pytest.raises(ContractError, match="is in use by thread") as error:
                each()
            refused.append(error)

    def close_in_another_thread() -> None:
        other = threading.Thread(target=close)
        other.start()
        other.join()

    with Patched(session, close_in_another_thread):
        session.prefill([5])
    assert len(refused) == 2
    assert session.step(5).shape == (2048,)


def test_closed_sessions_leave_their_memory_to_others(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    cache_bytes = 2 * 2 * 24 * 16 * 4  # that of one session, as conftest.py writes the artifact
    model = Model.load(make(tmp_path / "tiny"), threads=1, max_memory=1100 + 24 + cache_bytes)
    first, _ = model.session(), model.session()
    with pytest.raises(ContractError, match="needs 13.41 kB of memory"):
        model.session()
    first.close()
    model.session()


def test_the_plan_is_the_one_of_the_manifest_and_loads_nothing(
    folder: Path, make: Callable[..., Path], tmp_path: Path
) -> None:
    assert Model.plan(folder) == read_manifest(folder).memory
    (folder / "onnx" / "model.onnx").rename(tmp_path / "model.onnx")
    try:
        assert Model.plan(str(folder)).resident_bytes == 1100 + 600
    finally:
        (tmp_path / "model.onnx").rename(folder / "onnx" / "model.onnx")


def test_the_limit_on_memory_may_be_text(folder: Path) -> None:
    Model.load(folder, threads=1, max_memory="1GB")
    with pytest.raises(ContractError, match=r"allowed are 500 bytes|allowed are 0\.50 kB|500"):
        Session.load(folder, threads=1, max_memory="500B")
    with pytest.raises(ConfigError, match="max_memory much: not a size"):
        Model.load(folder, max_memory="much")


def test_help_shows_every_public_name() -> None:
    shown = pydoc.render_doc(tramontane.runtime, renderer=pydoc.plaintext)
    for name in tramontane.runtime.__all__:
        assert f"class {name}" in shown, name
        assert getattr(tramontane.runtime, name).__name__ == name
    assert "begins a sequence of tokens" in shown
    with pytest.raises(AttributeError, match="no attribute 'Modell'"):
        tramontane.runtime.Modell  # noqa: B018


def test_what_an_app_is_given_and_may_catch_has_a_public_name(folder: Path) -> None:
    model = Model.load(folder, threads=1)
    session = model.session()
    of_processors: list[object] = []
    sampler = Sampler(processors=[lambda logits, seen: (of_processors.append(seen), logits)[1]])
    made = session.generate([5, 6], max_new_tokens=2, logprobs=1, sampler=sampler)
    given = [model, session, made, made.finish().logprobs[0], made.result, session.snapshot()]
    given += of_processors
    given += [model.generate_batch([[5, 6]], max_new_tokens=1), model.memory]
    given.append(session.astream([5, 6], max_new_tokens=1))
    names = {type(one).__name__ for one in given}
    assert names | {"Tokenizer", "Sampler", "ContractError", "ConfigError"} == {
        *tramontane.runtime.__all__
    }


def test_the_contract_is_read_without_onnxruntime() -> None:
    code = (
        "import sys, tramontane.runtime.contract\n"
        "assert 'Model' in dir(tramontane.runtime)\n"
        "sys.exit('onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loading_prints_nothing_and_tells_the_logger(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="tramontane.runtime"):
        Session.load(folder, threads=1).prefill([5])
    assert any("loaded in" in record.getMessage() for record in caplog.records)
    assert capfd.readouterr() == ("", "")
