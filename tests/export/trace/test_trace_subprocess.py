"""Is a model traced in a process of its own the one that is traced here?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.export.cache_choice import GROWING, CacheChoice
from tramontane.export.known_models import find_geometry, shorten
from tramontane.export.trace import trace_subprocess
from tramontane.export.trace.trace import trace
from tramontane.export.trace.trace_subprocess import trace_in_subprocess
from tramontane.graphs import weights
from tramontane.graphs.operator.schema import ROPE_FREQUENCIES
from tramontane.runtime.errors import TraceError

CONFIG = shorten(find_geometry("stdlib-5m"), 2)


@pytest.fixture(autouse=True)
def nothing_is_kept(traces_anew: None) -> None:
    trace_subprocess.traced.cache_clear()


@pytest.mark.slow
def test_graph_is_the_one_that_is_traced_here() -> None:
    here, apart = trace(CONFIG), trace_in_subprocess(CONFIG)
    assert ir.to_proto(apart) == ir.to_proto(here)
    made = [weights.read(m.graph.initializers[ROPE_FREQUENCIES]) for m in (here, apart)]
    np.testing.assert_array_equal(*made)
    quantized = trace(CONFIG, CacheChoice(dtype="int8", native_dtype="int8"))
    assert ir.to_proto(quantized) == ir.to_proto(here)


def test_words_of_a_tracer_that_fails_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_subprocess, "_MODULE", "tramontane.export.no_such_tracer")
    with pytest.raises(TraceError, match="(?s)status 1, expected 0.*No module named .*no_such"):
        trace_in_subprocess(CONFIG)


@pytest.mark.slow
def test_weights_are_written_without_torch(stdlib_5m: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from tramontane.cli import main as cli\n"
        f"done = cli.main(['export', {str(stdlib_5m)!r}, '--out', {str(tmp_path / 'out')!r}, "
        "'--no-validate'])\n"
        "assert done == 0 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_code_beside_the_weights_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    assert trace_in_subprocess(shorten(CONFIG, 1)).graph.name == "tramontane"


def test_an_architecture_is_traced_once_and_each_export_gets_a_graph_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[bytes] = []
    graph = ir.to_proto(ir.Model(ir.Graph([], [], nodes=[], name="kept"), ir_version=10))

    def run(_: object, *, input: bytes, **__: object) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        starts.append(input)
        return subprocess.CompletedProcess([], 0, stdout=graph.SerializeToString())

    monkeypatch.setattr(subprocess, "run", run)
    first, second = trace_in_subprocess(CONFIG), trace_in_subprocess(CONFIG)
    assert len(starts) == 1
    first.graph.name = "changed"
    assert second.graph.name == "kept"
    trace_in_subprocess(CONFIG, CacheChoice(dtype="int8", native_dtype="int8"))
    assert len(starts) == 1
    trace_in_subprocess(CONFIG, GROWING)
    trace_in_subprocess(shorten(CONFIG, 1))
    assert len(set(starts)) == len(starts) == 3


def test_tracer_that_was_killed_is_told_from_one_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run(killed, **options))
    with pytest.raises(TraceError, match="ended by signal 9, .* memory ran out"):
        trace_in_subprocess(CONFIG)
