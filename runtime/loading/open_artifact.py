"""Opens an artifact: checks its manifest, the memory that it needs and its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import contract
from ..errors import ContractError
from ..log import logger
from ..manifest import Manifest, read_manifest, verify_files
from ..memory import MemoryPlan, refuse_beyond
from ..ort.check_interface import refuse_broken_promises
from ..ort.native_library import find_library, refuse_other_kernel, refuse_other_version
from ..ort.ort_session import MOST_THREADS, open_graph, ort
from ..ort.providers import CPU, checked_providers, left_to_cpu, placement
from .open_tokenizer import find_kind
from .weights_in_memory import read_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What a model is made of."""

    manifest: Manifest
    graph: ort.InferenceSession
    memory: MemoryPlan
    is_native: bool  # whether the native library computes attention


def open_artifact(
    folder: Path,
    *,
    threads: int | None,
    verify: bool,
    max_memory_bytes: int | None,
    providers: Sequence[str] | None,
    native: bool | None,
    copy: bool,
) -> Opened:
    """Open an artifact; arguments and what it raises are as ``Model.load``'s."""
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ContractError(f"threads is {threads}; expected 1 to {MOST_THREADS}")
    names = checked_providers(providers, ort.get_available_providers())
    manifest = read_manifest(folder)
    find_kind(folder, manifest.vocabulary)
    path = _choose_graph(folder, native=False if native is None and providers else native)
    is_native = path.name == Path(contract.NATIVE_MODEL_FILE).name
    geometry = manifest.geometry_of(is_native=is_native)
    memory = manifest.memory_of(is_native=is_native)
    if copy:
        memory = memory.with_copied_weights()
    refuse_beyond(memory, geometry, tokens=1, limit=max_memory_bytes, what=folder)
    if verify:
        verify_files(folder, manifest)
    if not path.is_file():
        raise ContractError(f"{path}: missing; copy the artifact again")
    if is_native and manifest.native is not None:
        refuse_other_version(path, expected=manifest.native.operator_version)
    made_with = manifest.tools.get("onnxruntime")
    graph = open_graph(
        path,
        threads=threads,
        made_with=made_with,
        providers=names,
        weights=read_weights(folder, manifest) if copy else None,
    )
    refuse_broken_promises(path, geometry, graph)
    if is_native:
        refuse_other_kernel(path, graph)
    if names != [CPU] and (left := left_to_cpu(placement(graph))):
        logger.warning("%s: %s leaves to the CPU %s", folder, ", ".join(names[:-1]), left)
    return Opened(manifest=manifest, graph=graph, memory=memory, is_native=is_native)


def _choose_graph(folder: Path, *, native: bool | None) -> Path:
    """The artifact's graph, or the one for the native library.

    Raises:
        ContractError: the latter is asked for and missing.
    """
    path, other = folder / contract.MODEL_FILE, folder / contract.NATIVE_MODEL_FILE
    if native or (native is None and other.is_file() and find_library() is not None):
        if not other.is_file():
            raise ContractError(
                f"{other}: missing; export the artifact with --native, or load it without native"
            )
        return other
    return path
