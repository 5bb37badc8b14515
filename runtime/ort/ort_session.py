"""Opens a graph in onnxruntime; errors say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from ..contract import FOLDED, NATIVE_MODEL_FILE
from ..errors import ContractError, printable
from ..log import logger
from ..sizes import counted
from . import stopping
from .cpu_features import EXACT_INT8, multiplies_int8, saturates
from .native_library import required_library
from .providers import CPU, RECORD

__all__ = [
    "MOST_THREADS",
    "OLDEST_ONNXRUNTIME",
    "first_line",
    "open_graph",
    "ort",
    "physical_cores",
    "run_bound",
    "run_options",
]

OLDEST_ONNXRUNTIME = "1.32"  # as pyproject.toml asks for

MOST_THREADS = 1024  # each takes memory, and time to start
_SPIN_US = 1000  # how long threads wait busily between operators: not after a run
_LONGEST = 400  # characters of what onnxruntime says of a graph
_LONGEST_IN_LOG = 10_000
_ERRORS = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def run_options() -> ort.RunOptions:
    """Options of a run with which it can be stopped.

    The entry is the default, written out: onnxruntime's Python looks for it at each run, and takes
    40 us to find that it is missing.
    """
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "0")
    return options


_OPTIONS = run_options()  # of all runs, so that all can be stopped
stopping.add(_OPTIONS)


def open_graph(
    path: Path,
    *,
    threads: int | None = None,
    changed: bytes | None = None,
    made_with: str | None = None,
    providers: Sequence[str] = (CPU,),
    weights: Mapping[str, bytes] | None = None,
) -> ort.InferenceSession:
    """Load a graph; one with operators of the native library loads that too.

    Args:
        path: the graph, or a link to it; its external data lies beside it.
        threads: for one operator; None for as many as there are physical cores.
        changed: a graph made from the one at ``path``, to load in its place; it names external
            data as the folder of the graph's own file does.
        made_with: version of the onnxruntime that the graph was made for, if known.
        providers: execution providers, in the order in which they are tried.
        weights: the files of external data by their names, which onnxruntime copies; None: it maps
            the files themselves.

    Raises:
        ContractError: onnxruntime cannot load it, or would run it without its scales.
    """
    options = ort.SessionOptions()
    # Nothing is logged, whose lines would bring names of the graph to the terminal as they are:
    # errors are raised too, and of each load there is a warning about num_logits_to_keep.
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or physical_cores()
    # A memory plan would be kept for every length of a sequence: 2 KB a step, never freed.
    options.enable_mem_pattern = False
    # Weights are prepacked one by one, each letting its file's pages go: in parallel, all of them
    # stay resident beside the copies until the last is done.
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    options.add_session_config_entry(RECORD, "1")
    if saturates() and multiplies_int8(_contents(path, made_with) if changed is None else changed):
        options.add_session_config_entry(*EXACT_INT8)
    if changed is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.resolve().parent)
        )
    if weights:
        names, contents = list(weights), list(weights.values())
        options.add_external_initializers_from_files_in_memory(
            names, contents, [len(content) for content in contents]
        )
    if path.name == Path(NATIVE_MODEL_FILE).name:
        library = required_library(path)
        try:
            options.register_custom_ops_library(_as_utf8(library))
        except _ERRORS as error:
            said = printable(" ".join(str(error).split()), most=_LONGEST)
            raise ContractError(
                f"{library}: onnxruntime cannot load it ({said}); make native builds it again"
            ) from error
    try:
        session = ort.InferenceSession(
            _as_utf8(path) if changed is None else changed,
            options,
            providers=list(providers),
        )
    except _ERRORS as error:
        raise _refusal(path, error, made_with=made_with) from error
    _refuse_unfolded(path, session)
    return session


def _contents(path: Path, made_with: str | None) -> bytes:
    """The bytes of a graph.

    Raises:
        ContractError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _refusal(path, error, made_with=made_with) from error


def _refuse_unfolded(path: Path, session: ort.InferenceSession) -> None:
    """Refuse a graph whose kernels would take the scales of their weights for zeros.

    Raises:
        ContractError: scales are still computed by nodes.
    """
    unfolded = sorted(
        node.name
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if node.name.startswith(FOLDED)
    )
    if unfolded:
        first = printable(unfolded[0].removeprefix(FOLDED))
        raise ContractError(
            f"{path}: onnxruntime {ort.__version__} computes {len(unfolded)} scales of weights at "
            f"each step, {first} the first, expected all of them while it loads the graph: its "
            "kernels would multiply by zeros; load it with graph optimizations on, or export "
            "with --quant int4, whose scales are float32"
        )


def _refusal(path: Path, error: Exception, *, made_with: str | None) -> ContractError:
    """The error for a graph that does not load: old onnxruntime, link, or damaged file."""
    said = printable(" ".join(str(error).split()), most=_LONGEST)
    wanted = max(OLDEST_ONNXRUNTIME, made_with or "", key=_release)
    if _release(ort.__version__) < _release(wanted):
        made = ", with which the artifact was made" if wanted == made_with else ""
        return ContractError(
            f"{path}: cannot be loaded by onnxruntime {ort.__version__}, expected {wanted} or "
            f"newer{made}; pip install 'onnxruntime>={wanted}' (it said: {said})"
        )
    folder = path.resolve().parent
    for link in sorted(path.parent.iterdir()) if "External data path" in said else ():
        if link.is_symlink() and not link.resolve().is_relative_to(folder):
            return ContractError(
                f"{link}: is a link to {link.resolve()}, expected a file below {folder}, where "
                "onnxruntime reads weights; replace the link with a copy of that file"
            )
    return ContractError(
        f"{path}: onnxruntime cannot load it ({said}), expected a graph that it loads; copy the "
        "artifact again"
    )


def _release(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: 1.32.0.dev1 gives (1, 32, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _as_utf8(path: Path) -> str:
    """A path as onnxruntime takes it: in UTF-8, whatever the locale's encoding is.

    Raises:
        ContractError: its bytes are not UTF-8.
    """
    try:
        return str(path) if os.name == "nt" else os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise ContractError(
            f"{path}: its name is not UTF-8, which onnxruntime needs; rename it"
        ) from error


def run_bound(graph: Any, binding: Any, *, artifact: Path, num_tokens: int) -> None:
    """Run a graph on what is bound to it.

    Args:
        graph, binding: of onnxruntime.
        artifact, num_tokens: what messages name: its folder, and the new tokens that are bound.

    Raises:
        ContractError: onnxruntime cannot; the log has all that it said, at level INFO.
        KeyboardInterrupt: it was stopped by ``stopping``.
    """
    try:
        graph.run_with_iobinding(binding, _OPTIONS)
    except (*_ERRORS, RuntimeError) as error:
        # In the calls of this line Python calls the handler of a signal that waited for the run.
        logger.info("onnxruntime: %s", printable(str(error), most=_LONGEST_IN_LOG, keep="\n"))
        if _OPTIONS.terminate:
            raise KeyboardInterrupt from error
        first = first_line(error)
        raise ContractError(
            f"{artifact}: onnxruntime cannot run it on {counted(num_tokens, 'new token')} "
            f"({first}), expected logits; load the artifact with verify=True, or close other "
            "programs if memory is short"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of what onnxruntime says, printable and not long."""
    return printable(str(error).strip().partition("\n")[0], most=_LONGEST)


def physical_cores() -> int:
    """Cores that this process may use, hyperthreads counted once if Linux reports them."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text(encoding="ascii") if siblings.is_file() else str(cpu))
    return len(cores)
