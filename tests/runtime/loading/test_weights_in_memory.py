"""``Model.load(copy=True)``: what happens to the files afterwards does not matter."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.runtime import Model
from tramontane.runtime.contract import DATA_FILE
from tramontane.runtime.errors import ContractError

TOKENS = [1, 300, 301]
CODE = """
import os, sys
from tramontane.runtime import Model
folder, copy = sys.argv[1], sys.argv[2] == "copy"
model = Model.load(folder, threads=1, copy=copy)
os.truncate(f"{folder}/onnx/model.onnx_data", 0)
if copy:
    os.truncate(f"{folder}/tokenizer.model", 0)
print(model.generate("def f(", max_new_tokens=9).finish().text)
"""


@pytest.fixture
def artifact(embedded_artifact: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the bundled demo model's, which a test may damage."""
    return shutil.copytree(embedded_artifact("int8-ort"), tmp_path / "artifact")


@pytest.mark.slow
def test_files_that_are_truncated_afterwards_change_nothing(artifact: Path) -> None:
    expected = Model.load(artifact, threads=1).generate("def f(", max_new_tokens=9).finish().text
    command = [sys.executable, "-c", CODE, artifact, "copy"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, f"{expected}\n"), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how a system ends the process differs")
def test_without_a_copy_the_system_ends_the_process(artifact: Path) -> None:
    command = [sys.executable, "-c", CODE, artifact, "map"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGBUS


def test_a_copy_gives_the_logits_of_the_files(artifact: Path) -> None:
    expected = Model.load(artifact, threads=1).session().prefill(TOKENS)
    found = Model.load(artifact, threads=1, copy=True).session().prefill(TOKENS)
    np.testing.assert_array_equal(found, expected)


def test_weights_that_differ_from_the_manifest_are_refused_while_they_are_read(
    artifact: Path,
) -> None:
    data = artifact / DATA_FILE
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    Model.load(artifact, threads=1)
    with pytest.raises(ContractError, match=r"model\.onnx_data: .* expected .*; copy"):
        Model.load(artifact, threads=1, copy=True)
    data.write_bytes(content[:-1])
    with pytest.raises(ContractError, match=r"model\.onnx_data: .* expected .*; copy"):
        Model.load(artifact, threads=1, copy=True)
    data.unlink()
    with pytest.raises(ContractError, match=r"model\.onnx_data: cannot be read"):
        Model.load(artifact, threads=1, copy=True)


def test_the_plan_counts_the_files_twice(artifact: Path) -> None:
    plan = Model.plan(artifact)
    limit = plan.resident_bytes + plan.weights_bytes
    assert Model.load(artifact, threads=1, copy=True, max_memory=limit).memory.resident_bytes == (
        limit
    )
    Model.load(artifact, threads=1, max_memory=limit - 1)
    with pytest.raises(ContractError, match="of memory .*, allowed are"):
        Model.load(artifact, threads=1, copy=True, max_memory=limit - 1)
