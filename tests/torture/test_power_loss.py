"""An artifact survives a power loss between any two system calls of the run that replaces it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
from tramontane.graphs.writing.staging import staged
from tramontane.torture.power_loss import Replay, Tree, read_tree, write_tree
from tramontane.torture.system_calls import Call, can_record, record

needs_strace = pytest.mark.skipif(not can_record(), reason="strace is missing or may not trace")

NEW: Tree = {
    "onnx": None,
    "onnx/data": b"new" * 5000,
    "manifest.json": b'{"manifest_sha256": "1", "files": {"onnx/data": {}}}',
}
OLD: Tree = {
    "onnx": None,
    "onnx/data": b"old",
    "manifest.json": b'{"manifest_sha256": "0", "files": {"onnx/data": {}}}',
}
WRITE = f"""
    folder = getattr(begun, "folder", begun)
    (folder / "onnx").mkdir()
    (folder / "onnx/data").write_bytes({NEW["onnx/data"]!r})
    (folder / "manifest.json").write_bytes({NEW["manifest.json"]!r})
"""
STAGED = f"""
import sys
from pathlib import Path
from tramontane.graphs.writing.staging import staged
with staged(Path(sys.argv[1]), identity={{"quant": "int8"}}) as begun:{WRITE}"""
SYNTHESIZED = f"""
import sys
from pathlib import Path
from tramontane.export.synthesize.atomic_folder import new_checkpoint_folder
with new_checkpoint_folder(Path(sys.argv[1]), 1) as begun:{WRITE}"""

REPLACED = """
import sys
from pathlib import Path
from tramontane.runtime.durable import replace_file
path = Path(sys.argv[1])
path.with_name("unfinished").write_bytes(b"new" * 5000)
replace_file(path.with_name("unfinished"), path)"""
SAVED = """
import sys
from pathlib import Path
import numpy as np
from tramontane.runtime.sequences.saved_state import write_state
ids = np.arange(3000)
write_state(
    Path(sys.argv[1]), artifact="a", cache_dtype="float32", ids=ids, starts=(), rows=()
)"""
ROUNDED = """
import sys
from pathlib import Path
import numpy as np
from tramontane.graphs.quantization.rounded_matrices import write_whole
write_whole(Path(sys.argv[1]), matrix=np.arange(3000))"""


def below(name: str, tree: Tree) -> Tree:
    """What is in one folder of a tree."""
    start = f"{name}/"
    return {path[len(start) :]: what for path, what in tree.items() if path.startswith(start)}


def placed(name: str, tree: Tree) -> Tree:
    return {name: None, **{f"{name}/{path}": what for path, what in tree.items()}}


def replay(program: str, before: Tree, tmp_path: Path) -> Replay:
    """Record a program that writes ``models/artifact``, and check that all of it was recorded."""
    folder = tmp_path / "disk"
    write_tree(before, folder)
    command = [sys.executable, "-c", program, str(folder / "models/artifact")]
    calls = record(command, folder, log=tmp_path / "calls", env={**os.environ, "TMPDIR": "/tmp"})
    found = Replay(before, calls)
    assert found.after() == read_tree(folder)
    return found


def next_run(folder: Path) -> None:
    """Begin the next export to the folder, and interrupt it."""
    with (
        contextlib.suppress(KeyboardInterrupt),
        staged(folder / "models/artifact", identity={"quant": "int4"}),
    ):
        raise KeyboardInterrupt


@needs_strace
@pytest.mark.slow
def test_the_old_artifact_or_the_new_one_is_whole_after_any_power_loss(tmp_path: Path) -> None:
    before: Tree = {"models": None, **placed("models/artifact", OLD)}
    found = replay(STAGED, before, tmp_path)
    assert below("models/artifact", found.after()) == NEW
    outcomes = set()
    for number, (moment, tree) in enumerate(found.states(seeds=12)):
        folder = tmp_path / f"lost-{number}"
        write_tree(tree, folder)
        next_run(folder)
        left = below("models/artifact", read_tree(folder))
        assert left in (OLD, NEW), f"after {moment} of {len(found)} calls"
        outcomes.add("old" if left == OLD else "new")
        if moment == len(found):
            assert left == NEW
    assert outcomes == {"old", "new"}


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("program", [STAGED, SYNTHESIZED], ids=["artifact", "checkpoint"])
def test_a_new_folder_is_whole_or_absent_after_any_power_loss(
    tmp_path: Path, program: str
) -> None:
    found = replay(program, {}, tmp_path)
    for moment, tree in found.states(seeds=12):
        assert below("models/artifact", tree) in ({}, NEW), f"after {moment} calls"
        assert moment < len(found) or "models/artifact" in tree


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("program", [REPLACED, SAVED, ROUNDED], ids=["file", "session", "matrix"])
def test_a_file_that_is_replaced_is_the_old_one_or_the_new_after_any_power_loss(
    tmp_path: Path, program: str
) -> None:
    found = replay(program, {"models": None, "models/artifact": b"old"}, tmp_path)
    new, outcomes = found.after()["models/artifact"], set()
    for moment, tree in found.states(seeds=12):
        left = tree.get("models/artifact")
        assert left in (b"old", new), f"after {moment} of {len(found)} calls"
        outcomes.add(left)
        if moment == len(found):
            assert left == new
    assert outcomes == {b"old", new}


def test_what_was_not_synced_may_be_lost_in_any_order() -> None:
    calls = [
        Call(kind="create", path="new"),
        Call(kind="write", path="new", content=b"text"),
        Call(kind="rename", path="new", to="name"),
    ]
    seen = [tree for _, tree in Replay({"name": b"old"}, calls).states(seeds=20)]
    assert {"name": b""} in seen  # renamed before what it holds was written
    assert {"name": b"old"} in seen
    assert {"name": b"text"} in seen


def test_what_was_synced_stays() -> None:
    calls = [
        Call(kind="create", path="new"),
        Call(kind="write", path="new", content=b"text"),
        Call(kind="fsync", path="new"),
        Call(kind="rename", path="new", to="name"),
    ]
    safe = Replay({"name": b"old"}, calls)
    assert {tree.get("name") for _, tree in safe.states(seeds=20)} == {b"old", b"text"}
    durable = Replay({"name": b"old"}, [*calls, Call(kind="fsync", path="")])
    assert [tree for moment, tree in durable.states(seeds=20) if moment == 3][-1]
    assert durable.lost_at(3, lambda _: False) == {"name": b"text"}
