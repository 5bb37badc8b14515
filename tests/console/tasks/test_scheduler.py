"""Is what ``--scheduler`` names found, or refused with what to start?"""

from __future__ import annotations

import sys

import psutil
import pytest
from tramontane.console.tasks import in_process, on_dask
from tramontane.console.tasks.in_process import InProcess
from tramontane.console.tasks.scheduler import open_scheduler
from tramontane.runtime.errors import CheckpointError, ConfigError, ContractError

from ...support.needs_dask import needs_dask


def square(job: int) -> int:
    if job < 0:
        raise CheckpointError("model: found none, expected one; name another")
    return job * job


def test_tasks_of_this_process_run_in_threads_where_their_memory_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(InProcess().run(square, [3, 2, 1], "counting")) == [(0, 9), (1, 4), (2, 1)]
    monkeypatch.setattr(in_process.ort_session, "physical_cores", lambda: 8)
    assert in_process._at_once(1) == 8
    assert in_process._at_once(psutil.virtual_memory().total) == 1
    found = dict(InProcess().run(square, [3, 2, 1], "counting", task_bytes=1))
    assert found == {0: 9, 1: 4, 2: 1}
    with pytest.raises(CheckpointError, match="model: found none"):
        list(InProcess().run(square, [0, -1, 2], "refusing", task_bytes=1))


@pytest.mark.parametrize(
    "name",
    [
        "local",
        "local:0",
        "local:x",
        "host:8786",
        "file:///x",
        "3",
        "tcp://h:0",
        "tcp://h:99999",
        "tcp://[h:1",
    ],
)
def test_what_names_no_scheduler_is_refused(name: str) -> None:
    with (
        pytest.raises(ConfigError, match=r"--scheduler .*: expected tcp://HOST:PORT .*local:N"),
        open_scheduler(name),
    ):
        pass


def test_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ContractError, match="needs the package distributed, .* extra distributed"),
        open_scheduler("local:2"),
    ):
        pass


@needs_dask
@pytest.mark.slow
def test_address_where_nothing_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_dask, "_CONNECT_S", 1)
    with (
        pytest.raises(ConfigError, match=r"tcp://127.0.0.1:9: no Dask scheduler .* dask sched"),
        open_scheduler("tcp://127.0.0.1:9"),
    ):
        pass


@needs_dask
@pytest.mark.slow
def test_scheduler_by_its_address_runs_tasks_once_it_has_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(on_dask, "_WORKERS_S", 1)
    with LocalCluster(
        n_workers=0, dashboard_address="127.0.0.1:0", threads_per_worker=1
    ) as cluster:
        address = cluster.scheduler_address
        with (
            pytest.raises(
                ConfigError, match=rf"{address}: has no workers .* dask worker {address}"
            ),
            open_scheduler(address),
        ):
            pass
        monkeypatch.setattr(on_dask, "_WORKERS_S", 60)
        cluster.scale(1)
        with open_scheduler(address) as scheduler:
            assert scheduler.about == address
            assert dict(scheduler.run(abs, [-3, 4], "counting")) == {0: 3, 1: 4}
