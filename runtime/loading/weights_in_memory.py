"""The files of weights, read into memory: onnxruntime would map them, and they may change."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from ..contract import MODEL_FILE
from ..errors import ContractError, printable
from ..manifest import Manifest
from ..untrusted.files import read_file


def read_weights(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """The files of weights that lie beside the graph, by their names there.

    Raises:
        ContractError: naming the first one that cannot be read or differs from the manifest.
    """
    weights = {}
    for name, promised in manifest.files.items():
        path = PurePosixPath(name)
        if path.parent != PurePosixPath(MODEL_FILE).parent or path.suffix == ".onnx":
            continue
        content = read_file(folder / name, most=promised["bytes"])
        found = hashlib.sha256(content).hexdigest()
        if found != promised["sha256"]:
            raise ContractError(
                f"{folder / name}: {len(content)} bytes with sha256 {found}, expected "
                f"{promised['bytes']} bytes with {printable(promised['sha256'], most=64)}, as in "
                "the manifest; copy it again, or load it while no other program writes it"
            )
        weights[path.name] = content
    return weights
