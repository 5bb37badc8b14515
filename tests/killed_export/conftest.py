"""A server of exports, and what one makes that nobody interrupts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
from tramontane.export.cache_choice import WINDOWED
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.runtime.manifest import read_manifest, verify_files

from ..support.once import Once, traced
from .exports import Exports
from .left_behind import Whole, contents

SERVER = Path(__file__).with_name("killable_export.py")


@pytest.fixture(scope="session")
def checkpoint(once: Once, tiny_checkpoint: Callable[..., Path]) -> Path:
    """A random model of three layers, in the type in which models are published."""
    sizes = {"num_hidden_layers": 3, "hidden_size": 256, "intermediate_size": 256}
    return once("three-layers", lambda out: tiny_checkpoint(dtype="bfloat16", **sizes).rename(out))


@pytest.fixture(scope="module")
def exports(
    once: Once, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exports]:
    """Exports of that model."""
    graph = tmp_path_factory.mktemp("traced") / "model.onnx"
    ir.save(traced(once, Checkpoint.open(checkpoint).config, WINDOWED), graph)
    with subprocess.Popen(
        [sys.executable, SERVER, graph],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        found = Exports(server, tmp_path_factory.mktemp("logs"), checkpoint)
        yield found
        found.close()


@pytest.fixture(scope="module")
def whole(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Whole]:
    """Export a recipe without interruption, once."""
    known: dict[tuple[str, ...], Whole] = {}

    def export(*options: str, is_traced: bool = False) -> Whole:
        if options not in known:
            out = tmp_path_factory.mktemp("whole") / "artifact"
            start = time.monotonic()
            run = exports.finish(out, *options, is_traced=is_traced)
            verify_files(out, read_manifest(out))
            known[options] = Whole(contents(out), run.computed, time.monotonic() - start)
        return known[options]

    return export


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the artifact shall lie; its parent holds nothing else."""
    return tmp_path / "models" / "artifact"
