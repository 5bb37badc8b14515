"""Is what the parity check took that of its process?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.bench import gate_run
from tramontane.bench.process import ProcessUsage
from tramontane.runtime.errors import ContractError


def test_a_summary_has_time_for_each_core_and_memory() -> None:
    found = ProcessUsage(
        status=0,
        seconds=3600,
        cpu_seconds=6000,
        peak_bytes=12_000_000_000,
        own_peak_bytes=9_000_000_000,
        lines=(),
        output="",
        was_stopped=False,
    )
    assert gate_run.summary(found, cores=2) == (
        "60.0 minutes; 100.0 minutes of processor time, 50.0 for each of 2 cores; peak memory "
        "9.00 GB, with mapped files 12.00 GB"
    )


@pytest.mark.slow
def test_the_check_of_a_small_model_is_run_and_its_table_printed(
    two_layers: Path,
    artifact_of: Callable[[Path, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--reference", str(two_layers), "--store", str(tmp_path / "store")]
    assert gate_run.main([str(artifact_of(two_layers, "fp32-ort")), *words]) == 0
    out = capsys.readouterr().out
    assert "passed" in out
    assert "minutes of processor time" in out
    with pytest.raises(ContractError, match="the parity check failed: .*no such"):
        gate_run.main([str(tmp_path / "nowhere"), *words])
