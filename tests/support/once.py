"""Artifacts, traces and calibrations that all tests of a run share: each is made once."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import onnx
import onnx_ir as ir
import pytest
from tramontane.export import build
from tramontane.export.cache_choice import CacheChoice
from tramontane.export.calibrate.calibrate_subprocess import Rounding
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.graphs.quantization.activation_ranges import Calibration
from tramontane.graphs.quantization.rounded_matrices import RoundedMatrices
from tramontane.graphs.quantization.shared_scales import SharedScales
from tramontane.runtime.ort import ort_session

from . import kept_traces


@dataclass(frozen=True)
class Once:
    """Files and folders of one run of the tests, each made once."""

    folder: Path

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The file or folder of a name; ``make`` writes it where it is not there yet."""
        path = self.folder / name
        with filelock.FileLock(self.folder / f"{name}.lock"):
            if not path.exists():
                with tempfile.TemporaryDirectory(dir=self.folder) as unfinished:
                    make(Path(unfinished) / name)
                    (Path(unfinished) / name).rename(path)
        return path

    @property
    def traces(self) -> Once:
        """Graphs that were traced, in this process or another; see ``kept_traces``."""
        return Once(self.folder / "traces")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a file or a folder once for the whole run; nobody may change it."""
    own = tmp_path_factory.getbasetemp()  # of one process, in the run's where there are several
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "once"
    folder.mkdir(exist_ok=True)
    return Once(folder)


@pytest.fixture(scope="session", autouse=True)
def own_cache(once: Once) -> Iterator[None]:
    """Let what the reference makes be kept for this run alone, and by all its tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(once.folder / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def kept_by_commands(once: Once) -> Iterator[None]:
    """Let commands that run as a process of their own read the graphs that this run traced."""
    folder = once.traces.folder
    folder.mkdir(exist_ok=True)
    once.traces("sitecustomize.py", lambda path: shutil.copy(kept_traces.__file__, path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture
def traces_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes trace what the run has traced already: for tests of that."""
    monkeypatch.delenv("PYTHONPATH")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread: threads that wait for each other's part of a tiny model do so busily.

    Where the tests run in several processes, each has a processor to itself then.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort_session, "physical_cores", lambda: 1)
        yield


@pytest.fixture
def all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute with as many threads as users do."""
    monkeypatch.setattr(ort_session, "physical_cores", _physical_cores)


_physical_cores = ort_session.physical_cores


@pytest.fixture(scope="session", autouse=True)
def exports_in_one_process(once: Once) -> Iterator[None]:
    """Let exports trace and calibrate in the test's process, once for equal inputs.

    An export does so in a process of its own, which imports torch anew. Tests of that process call
    it by its name, and killed exports start one. See ``kept_by_commands`` for other commands.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "trace_in_subprocess", lambda *asked: traced(once, *asked))
        patch.setattr(build, "calibrate_in_subprocess", functools.partial(_calibrated, once))
        yield


def traced(once: Once, config: Any, cache: CacheChoice) -> ir.Model:
    """The graph of an architecture, traced once in this process or in another of the run."""
    from tramontane.export.trace.trace import trace

    keep_torchlib()
    cache = CacheChoice(grows=cache.grows)  # numbers of another type come by a pass
    asked = json.dumps([dataclasses.asdict(one) for one in (config, cache)])
    graph = once.traces(
        kept_traces.name_of(asked.encode()),
        lambda path: path.write_bytes(ir.to_proto(trace(config, cache)).SerializeToString()),
    )
    return ir.from_proto(onnx.load_model_from_string(graph.read_bytes()))


@functools.cache
def keep_torchlib() -> None:
    """Let torch's exporter list its operators and torchlib's once, not at each trace of this process."""
    from torch.export import decomp_utils, exported_program
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = functools.cache(ONNXRegistry.from_torchlib)

    def copied(opset_version: int) -> ONNXRegistry:
        registry = copy.copy(read(opset_version))
        registry.functions = {name: [*found] for name, found in registry.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = staticmethod(copied)
    of_torch = functools.cache(exported_program._collect_all_valid_cia_ops)
    for module in (decomp_utils, exported_program):
        module._collect_all_valid_cia_ops = of_torch


def _calibrated(
    once: Once,
    config: Any,
    checkpoint: Checkpoint,
    texts: tuple[str, ...],
    *,
    tokens: int,
    rounding: Rounding | None = None,
    smoothing: Mapping[str, SharedScales] | None = None,
) -> Calibration:
    from tramontane.export.calibrate.calibrate import calibrate
    from tramontane.export.calibrate.tokens import calibration_tokens

    def make(folder: Path) -> None:
        folder.mkdir()
        kept = None if rounding is None else dataclasses.replace(rounding, folder=folder)
        sequences = calibration_tokens(config, checkpoint, texts, most=tokens)
        found = calibrate(config, checkpoint, sequences, kept, smoothing)
        (folder / "maxima").write_bytes(found.to_bytes())

    schemes = None if rounding is None else dict(rounding.schemes)
    key = repr((config, checkpoint.hashes(), texts, tokens, schemes, smoothing)).encode()
    made = once(f"calibration-{hashlib.sha256(key).hexdigest()}", make)
    found = Calibration.from_bytes((made / "maxima").read_bytes())
    if rounding is None:
        return found
    shutil.copytree(made, rounding.folder, dirs_exist_ok=True)
    return found.with_rounded(RoundedMatrices(rounding.folder))
