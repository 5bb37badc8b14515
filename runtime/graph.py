"""How is a graph opened in onnxruntime?"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ContractError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read while onnxruntime is imported
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from .exact import saturates

__all__ = ["open_graph", "ort", "physical_cores"]

_SPIN_US = 1000  # how long threads wait busily between operators: not after a run
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def open_graph(
    path: Path, *, threads: int | None = None, changed: bytes | None = None
) -> ort.InferenceSession:
    """Load a graph for the processor.

    Args:
        path: the graph; its external data lies beside it.
        threads: for one operator; None for as many as there are physical cores.
        changed: a graph made from the one at ``path``, to load in its place.

    Raises:
        ContractError: onnxruntime cannot load it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # a warning for each load about num_logits_to_keep
    options.intra_op_num_threads = threads or physical_cores()
    # A plan of memory would be kept for every length that a sequence has: 2 KB a step, for good.
    options.enable_mem_pattern = False
    # Weights are prepacked one by one, each letting its file's pages go: in parallel, all of them
    # stay resident beside the copies until the last is done.
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    if saturates():  # elsewhere it would take twice the time for nothing
        options.add_session_config_entry("session.x64quantprecision", "1")
    if changed is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.resolve().parent)
        )
    try:
        return ort.InferenceSession(
            str(path) if changed is None else changed, options, providers=["CPUExecutionProvider"]
        )
    except _LOAD_ERRORS as error:
        raise ContractError(
            f"{path}: onnxruntime cannot load it ({error}); copy the artifact again"
        ) from error


def physical_cores() -> int:
    """Cores that this process may use, hyperthreads counted once where Linux tells them."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.is_file() else str(cpu))
    return len(cores)
