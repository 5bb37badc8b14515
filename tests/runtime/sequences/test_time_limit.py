"""A run of the graph that takes longer than allowed is stopped."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from tramontane.runtime import Model, Session
from tramontane.runtime.errors import ContractError

from .guarded_sessions import SEQUENCE, UNFINISHED

LATE = r"took longer than 1e-06 s, the time_limit, and was stopped; call reset\(\)"


def test_a_run_that_takes_too_long_is_stopped_and_the_session_asks_for_a_reset(
    folder: Path,
) -> None:
    session = Model.load(folder, threads=1).session(time_limit=1e-6)
    with pytest.raises(ContractError, match=LATE):
        session.prefill(SEQUENCE * 2)
    with pytest.raises(ContractError, match=UNFINISHED):
        session.step(5)
    session.reset()
    with pytest.raises(ContractError, match=LATE):
        session.generate(SEQUENCE * 2).finish()


def test_runs_that_end_in_time_are_what_they_are_without_a_limit(folder: Path) -> None:
    model = Model.load(folder, threads=1)
    limited, free = model.session(time_limit=60), model.session()
    np.testing.assert_array_equal(limited.prefill(SEQUENCE), free.prefill(SEQUENCE))
    made = [session.generate([5], max_new_tokens=9).finish().tokens for session in (limited, free)]
    assert made[0] == made[1]
    for timer in [one for one in threading.enumerate() if isinstance(one, threading.Timer)]:
        timer.join(5)  # cancelled ones end at once, not after a minute
        assert not timer.is_alive()


class AtOnce(threading.Timer):
    """A timer whose time is over when it starts: nothing depends on who is scheduled when."""

    def start(self) -> None:
        self.function()

    def cancel(self) -> None:
        pass


def test_whatever_begins_a_sequence_takes_a_limit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.load(folder, threads=1)
    session = model.session()
    session.prefill([5])
    session.save(tmp_path / "saved")
    monkeypatch.setattr(threading, "Timer", AtOnce)
    with pytest.raises(ContractError, match=LATE):
        model.generate(SEQUENCE * 2, time_limit=1e-6).finish()
    with pytest.raises(ContractError, match=LATE):
        model.generate_batch([SEQUENCE, SEQUENCE * 2], time_limit=1e-6).finish()
    with pytest.raises(ContractError, match=LATE):
        Session.load(folder, threads=1, time_limit=1e-6).prefill(SEQUENCE * 2)
    with pytest.raises(ContractError, match=LATE):
        Session.load_state(tmp_path / "saved", model, time_limit=1e-6).prefill(SEQUENCE * 2)


def test_a_step_of_a_batch_that_takes_too_long_is_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, slow = Model.load(folder, threads=1), threading.Event()

    def progress(read: int, to_read: int) -> None:
        if read == to_read:
            slow.set()

    made = model.generate_batch([[5], [6]], time_limit=60, progress=progress, max_new_tokens=40)
    while not slow.is_set():
        next(made)
    monkeypatch.setattr(threading, "Timer", AtOnce)
    with pytest.raises(ContractError, match="took longer than 60 s, the time_limit"):
        made.finish()
    with pytest.raises(ContractError, match=r"start a new generate_batch\(\)"):
        next(made)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_no_time_at_all_is_refused(folder: Path, seconds: float) -> None:
    with pytest.raises(ContractError, match=f"time_limit is {seconds}; expected more than 0"):
        Model.load(folder, threads=1).session(time_limit=seconds)
    with pytest.raises(ContractError, match=f"time_limit is {seconds}; expected more than 0"):
        Model.load(folder, threads=1).generate_batch([[5]], time_limit=seconds)
