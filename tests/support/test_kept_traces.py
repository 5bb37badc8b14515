"""Commands that tests start are given the graphs that were traced before, and those alone."""

from __future__ import annotations

import subprocess

import pytest
from tramontane.console.processes.end_with_parent import command_of

from . import kept_traces
from .once import Once


def traced(asked: bytes) -> subprocess.CompletedProcess[bytes]:
    command = command_of("tramontane.export.trace.trace")
    return subprocess.run(command, input=asked, capture_output=True, check=False)


@pytest.mark.slow
def test_a_graph_that_is_kept_is_given_and_what_no_model_has_is_traced(once: Once) -> None:
    once.traces(kept_traces.name_of(b"[1]"), lambda path: path.write_bytes(b"a graph"))
    assert traced(b"[1]").stdout == b"a graph"
    refused = traced(b"[2]")
    assert refused.returncode == 1
    assert b"in main" in refused.stderr
    assert not (once.traces.folder / kept_traces.name_of(b"[2]")).exists()
