"""Good files of work that is kept from run to run, and what resumes it.

They are an export's journal, what its calibration has done, the costs of a budget, and the
reference's store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx

from ..export.budget.candidates import CANDIDATES
from ..export.budget.kept_costs import parts_of, read_parts, read_table
from ..export.calibrate import progress_file
from ..export.formats.layouts import read_config
from ..graphs.probing.read_graph import read_graph
from ..graphs.quantization.activation_ranges import LayerMaxima
from ..graphs.quantization.codes import Blocks
from ..graphs.quantization.rounded_matrices import RoundedMatrices
from ..graphs.quantization.scheme import Scheme
from ..graphs.writing.external_data import Place, places
from ..graphs.writing.journal import Identity, Journal
from ..validate.reference.reference_cache import RUN, Store, partial_name
from ..validate.reference.unfinished import read_progress
from .good_files import make_checkpoint

JOURNAL, COSTS, PARTS = "journal.jsonl", "costs.json", "costs.parts"
_MATRIX, _SCHEME = "matrix", Scheme(bits=4, block=32)
ROUNDED = f"{_MATRIX}.npz"
_IDENTITY: Identity = {"checkpoint": {"a": "0"}, "options": {"quant": "int8"}, "code": "1"}
_STORE, _KEY = "store", "a"
_SHAPES = {_KEY: {"keys": (2, 3), "logits": (2, 4)}}
_BY_LAYER = ("keys",)
COMPLETE, INTERRUPTED = f"{_STORE}/{_KEY}", f"{_STORE}/{partial_name([_KEY])}"
_GRAPH = """<ir_version: 10, opset_import: ["":23]> g (int64[B] x) => (float[B,16] z)
{ y = Gather(first, x) z = MatMul(y, second) }"""


def make_journal(folder: Path) -> None:
    """Write a graph of two weights, their file, and the journal of it."""
    graph = onnx.parser.parse_model(_GRAPH)
    for name, shape in (("first", (8, 64)), ("second", (64, 16))):
        weights = np.zeros(shape, np.float32)
        graph.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    (folder / "graph.onnx").write_bytes(graph.SerializeToString())
    journal, running = Journal(folder / JOURNAL), hashlib.sha256()
    journal.begin(_IDENTITY)
    for place in _laid_out(folder):
        piece = bytes(place.length)
        (folder / place.file).parent.mkdir(exist_ok=True)
        with (folder / place.file).open("ab") as file:
            file.write(piece)
        running.update(piece)
        journal.add(place, running.hexdigest())


def resume_export(folder: Path) -> None:
    """Read the journal as an export that resumes does."""
    journal = Journal(folder / JOURNAL)
    if journal.differences(_IDENTITY) is None:
        return
    count, _ = journal.resume(folder, _laid_out(folder))
    assert count <= journal.num_noted


def _laid_out(folder: Path) -> list[Place]:
    return places(read_graph(folder / "graph.onnx").graph)


def make_calibrated(folder: Path) -> None:
    """Write what a calibration of one layer has done."""
    rows = np.zeros((1, 4), np.float32)
    hidden = progress_file.split(np.zeros((3, 4), np.float32), np.array([3]))
    layers = (LayerMaxima(keys=rows, values=rows),)
    progress_file.save(folder, progress_file.Progress(layers, hidden, hidden))
    blocks = Blocks(np.zeros((2, 1, 16), np.uint8), rows[:, :2].T, np.zeros((2, 1), np.uint8))
    RoundedMatrices(folder).write(_MATRIX, blocks, _SCHEME, (0.0, 1.0))


def read_rounded(folder: Path) -> None:
    """Read the matrix that was rounded."""
    kept = RoundedMatrices(folder)
    kept.read(_MATRIX, _SCHEME)
    kept.output_error([_MATRIX])


def make_costs(folder: Path) -> None:
    """Write a checkpoint, the table of what rounding its matrices costs, and its parts."""
    make_checkpoint(folder)
    parts = {
        part: {name: [0.5] * len(CANDIDATES) for name in names}
        for part, names in parts_of(read_config(folder)).items()
    }
    table = {name: costs for part in parts.values() for name, costs in part.items()}
    (folder / COSTS).write_text(json.dumps(table), encoding="utf-8")
    lines = (json.dumps([str(part), costs]) for part, costs in parts.items())
    (folder / PARTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_costs(folder: Path) -> None:
    """Read the table of the checkpoint."""
    read_table(folder / COSTS, read_config(folder))


def read_kept_parts(folder: Path) -> None:
    """Read the parts of the table that were measured."""
    read_parts(folder / PARTS, read_config(folder))


class _Stop(BaseException):
    """An interrupt."""


def make_store(folder: Path) -> None:
    """Write a store with a complete run."""
    _fill(Store(folder / _STORE))


def make_interrupted_store(folder: Path) -> None:
    """Write a store whose run was interrupted behind its first layer."""
    with contextlib.suppress(_Stop):
        _fill(Store(folder / _STORE), stops=True)


def read_run(folder: Path) -> None:
    """Read the complete run."""
    Store(folder / _STORE).read(_KEY, _SHAPES[_KEY])


def read_interrupted(folder: Path) -> None:
    """Read how far the interrupted run came."""
    place = folder / INTERRUPTED
    read_progress(place, _SHAPES, kind=RUN, by_layer=_BY_LAYER)


def _fill(store: Store, *, stops: bool = False) -> None:
    with store.adding(_SHAPES, by_layer=_BY_LAYER) as made:
        for layer in range(2):
            made.arrays[0]["keys"][layer] = layer
            made.note(layer + 1, {"hidden": np.zeros(3, np.float32)})
            if stops:
                raise _Stop
        made.arrays[0]["logits"][:] = 1
