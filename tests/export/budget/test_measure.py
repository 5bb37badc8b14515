"""Is the table of costs the same wherever its parts are measured, and is each measured once?"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tramontane.console.tasks.in_process import InProcess
from tramontane.console.tasks.on_dask import OnDask
from tramontane.console.tasks.scheduler import open_scheduler
from tramontane.export.budget import float_model, sensitivity
from tramontane.export.budget.measure import measure
from tramontane.export.budget.sensitivity import Costs
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.workers import refuse_other_versions
from tramontane.runtime.errors import CheckpointError, ConfigError

from ...support.kills_one import KillsOne

RNG = np.random.default_rng(3)
SEQUENCES = [RNG.integers(0, 2048, 64) for _ in range(2)]
needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="distributed is not installed"
)


def table(costs: Costs) -> str:
    return json.dumps(costs)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(num_hidden_layers=2)


@pytest.fixture(scope="module")
def expected(model: Path) -> str:
    with Checkpoint.open(model) as checkpoint:
        return table(measure(checkpoint.config, checkpoint, SEQUENCES))


@needs_dask
@pytest.mark.slow
def test_three_processes_of_which_one_is_killed_give_the_same_table(
    model: Path, expected: str
) -> None:
    with open_scheduler("local:3") as scheduler, Checkpoint.open(model) as checkpoint:
        assert isinstance(scheduler, OnDask)
        kills = KillsOne(scheduler)
        found = measure(checkpoint.config, checkpoint, SEQUENCES, scheduler=kills)
    assert kills.killed
    assert table(found) == expected


@needs_dask
@pytest.mark.slow
def test_workers_that_cannot_do_the_work_are_named_with_the_reason(model: Path) -> None:
    with open_scheduler("local:1") as scheduler, Checkpoint.open(model) as checkpoint:
        described = float_model.described(checkpoint, checkpoint.config, SEQUENCES, code="x")
        jobs = [sensitivity.PartOfModel(described, 0)]
        with pytest.raises(
            ConfigError, match=r"worker tcp://.*: found other code of tramontane, expected .*torch"
        ):
            list(scheduler.run(sensitivity.measure_part, jobs, "measuring"))


@pytest.mark.slow
def test_one_thread_or_many_give_the_same_table(model: Path, expected: str) -> None:
    class InThreads(InProcess):
        def run(self, task: Any, jobs: Any, label: str, **given: Any) -> Any:
            assert given["task_bytes"] > 0
            return super().run(task, jobs, label, task_bytes=1)

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with Checkpoint.open(model) as checkpoint:
            found = measure(checkpoint.config, checkpoint, SEQUENCES, scheduler=InThreads())
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert table(found) == expected
    assert float_model._Latest.model is None


@pytest.mark.slow
def test_run_that_was_interrupted_goes_on_with_the_parts_that_are_done(
    model: Path, expected: str, tmp_path: Path
) -> None:
    kept, seen = tmp_path / "kept", []

    class Stops(InProcess):
        most = 2

        def run(self, task: Any, jobs: Any, label: str, **given: Any) -> Any:
            for number, result in super().run(task, jobs, label):
                seen.append(jobs[number].part)
                yield number, result
                if len(seen) == self.most:
                    raise KeyboardInterrupt

    with Checkpoint.open(model) as checkpoint:
        with contextlib.suppress(KeyboardInterrupt):
            measure(checkpoint.config, checkpoint, SEQUENCES, scheduler=Stops(), kept=kept)
        with kept.open("a") as file:
            file.write('5\n[[], {}]\n["1", {"head.weight": [1]}]\n')
            file.write((kept.read_text().splitlines()[1] + "\n").replace('"0"', '"1"'))  # edited
            file.write('["1", {"layers.1.')  # cut off
        Stops.most = 100
        found = measure(checkpoint.config, checkpoint, SEQUENCES, scheduler=Stops(), kept=kept)
    assert table(found) == expected
    assert seen == ["embedding.weight", 0, 1, "head.weight"]


def test_worker_refuses_a_checkpoint_that_is_missing_or_another(
    model: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with Checkpoint.open(model) as checkpoint:
        described = float_model.described(checkpoint, checkpoint.config, SEQUENCES, code="")
    away = dataclasses.replace(described, path=tmp_path / "model")
    with pytest.raises(ConfigError, match="workers read it themselves: put it where every"):
        float_model.opened(away)
    other = dataclasses.replace(described, path=tiny_checkpoint(num_hidden_layers=2, tie=True))
    with pytest.raises(CheckpointError, match="other files than on the machine that began"):
        float_model.opened(other)
    tools = {**described.tools, "torch": "1.0"}
    with pytest.raises(ConfigError, match=r"found torch .*, expected .*torch 1\.0"):
        refuse_other_versions(tools, code="", expected_code="")
