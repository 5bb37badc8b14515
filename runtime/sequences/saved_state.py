"""The file of a saved session: its tokens and known cache rows, checked when it is read.

    tramontane session 1                      the format and its version
    {"artifact": ..., "payload": ...}         ``_Header`` as JSON, on one line
    sha256 of the two lines before
    payload                                   ids as int64, then keys and values, layer by layer

Numbers are little-endian. The payload has no sizes of its own: they follow from the header and the
geometry of the artifact, whose manifest's hash the header carries.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..contract import CACHE_DTYPES, KINDS, Geometry
from ..durable import replace_file
from ..errors import ContractError
from ..manifest import Manifest
from ..untrusted.fields import decode, shown
from ..untrusted.files import open_regular
from ..untrusted.json_text import parse_object
from .held_rows import lowest_end
from .snapshot import Snapshot

_FORMAT, _VERSION = "tramontane session", 1
_MOST_HEADER_BYTES = 1 << 20
_REMEDY = "save the session again"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """What the second line says."""

    artifact: str  # hash of its manifest
    tokens: int
    starts: tuple[int, ...]  # of each layer: the first position whose row is there
    payload: str  # its sha256
    cache_dtype: str | None = None  # of its rows; None: the one that the manifest names


def write_state(
    path: Path,
    *,
    artifact: str,
    cache_dtype: str,
    ids: npt.NDArray[np.int64],
    starts: tuple[int, ...],
    rows: Iterable[npt.NDArray[Any]],
) -> None:
    """Write a session; a file of that name is replaced at once, or stays as it is.

    Args:
        path: of the file.
        artifact: hash of its manifest.
        cache_dtype: of the rows.
        ids: the tokens (T,).
        starts: as ``Snapshot``'s, key and value of each layer.
        rows: as ``Snapshot``'s, one after the other.

    Raises:
        ContractError: the file cannot be written.
    """
    header = _Header(
        artifact=artifact,
        tokens=len(ids),
        starts=starts[:: len(KINDS)],
        payload="0" * 64,
        cache_dtype=cache_dtype,
    )
    unfinished: str | None = None
    try:
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(handle, "wb") as file:
            file.write(_head(header))
            digest = hashlib.sha256()
            for array in (ids, *rows):
                content = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
                digest.update(content.data)
                file.write(content.data)
            file.seek(0)
            file.write(_head(dataclasses.replace(header, payload=digest.hexdigest())))
        replace_file(Path(unfinished), path)
        unfinished = None
    except (OSError, ValueError) as error:  # ValueError: NUL in its name
        why = getattr(error, "strerror", error)
        raise ContractError(
            f"{path}: cannot be written ({why}), expected a file in a folder that is there, "
            "with room for the session; choose another name"
        ) from error
    finally:
        if unfinished is not None:
            Path(unfinished).unlink(missing_ok=True)


def read_state(path: Path, manifest: Manifest) -> Snapshot:
    """Read a session of the artifact that a manifest describes.

    Raises:
        ContractError: no such file, not a saved session, another version, another artifact's, or
            damaged; the message says which.
    """
    try:
        with open(open_regular(path), "rb") as file:
            header = _read_head(path, file)
            if header.artifact != manifest.sha256:
                raise ContractError(
                    f"{path}: is a session of the artifact whose manifest has sha256 "
                    f"{shown(header.artifact)}, expected {manifest.sha256}; load it with the "
                    "artifact that it was saved with"
                )
            geometry = manifest.geometry
            _refuse_sizes(path, header, geometry)
            return _read_payload(path, file, header, geometry)
    except OSError as error:
        raise ContractError(
            f"{path}: cannot be read ({error.strerror}), expected a file that session.save wrote"
        ) from error


def _head(header: _Header) -> bytes:
    """The three lines before the payload."""
    content = json.dumps(dataclasses.asdict(header), sort_keys=True)
    lines = f"{_FORMAT} {_VERSION}\n{content}\n".encode()
    return lines + f"{hashlib.sha256(lines).hexdigest()}\n".encode()


def _read_head(path: Path, file: BinaryIO) -> _Header:
    first, second, third = (file.readline(_MOST_HEADER_BYTES) for _ in range(3))
    name, _, version = first.strip().decode("ascii", errors="replace").rpartition(" ")
    if name != _FORMAT:
        raise ContractError(
            f"{path}: begins with {shown(first[:40])}, expected {_FORMAT!r}; name a file that "
            "session.save wrote"
        )
    if version != str(_VERSION):
        raise ContractError(
            f"{path}: version {shown(version)} of the format, expected {_VERSION}; load it with "
            f"the tramontane that wrote it, or {_REMEDY}"
        )
    digest = hashlib.sha256(first + second).hexdigest()
    if third != f"{digest}\n".encode():
        raise ContractError(
            f"{path}: its header is damaged (sha256 {digest}, expected {shown(third[:64])}); "
            f"{_REMEDY}"
        )
    content = parse_object(second, what=f"{path}: its header", remedy=_REMEDY)
    header: _Header = decode(_Header, content, where=f"{path}: header")
    return header


def _refuse_sizes(path: Path, header: _Header, geometry: Geometry) -> None:
    """Refuse tokens or rows that no session of the artifact can have."""
    if not 0 <= header.tokens <= geometry.max_positions:
        raise ContractError(
            f"{path}: {header.tokens} tokens, expected 0 to {geometry.max_positions}; {_REMEDY}"
        )
    if len(header.starts) != geometry.num_layers:
        raise ContractError(
            f"{path}: rows of {len(header.starts)} layers, expected {geometry.num_layers}; "
            f"{_REMEDY}"
        )
    if header.cache_dtype not in (None, *CACHE_DTYPES):
        raise ContractError(
            f"{path}: rows of {shown(header.cache_dtype)}, expected {' or '.join(CACHE_DTYPES)}; "
            f"{_REMEDY}"
        )
    for layer, (start, layout) in enumerate(zip(header.starts, geometry.layers, strict=True)):
        if not 0 <= start <= lowest_end(layout, start) <= header.tokens:
            raise ContractError(
                f"{path}: the rows of layer {layer} start at position {start}, expected one from "
                f"which {header.tokens} tokens can be continued; {_REMEDY}"
            )


def _read_payload(path: Path, file: BinaryIO, header: _Header, geometry: Geometry) -> Snapshot:
    G, D = geometry.num_key_value_heads, geometry.head_dim
    starts = tuple(start for start in header.starts for _ in KINDS)
    shapes = [(G, header.tokens - start, D) for start in starts]
    row_type = np.dtype(header.cache_dtype or geometry.cache_dtype)
    expected_bytes = 8 * header.tokens + row_type.itemsize * sum(
        G * rows * D for _, rows, _ in shapes
    )
    found_bytes = os.fstat(file.fileno()).st_size - file.tell()
    if found_bytes != expected_bytes:
        raise ContractError(
            f"{path}: {found_bytes} bytes follow its header, expected {expected_bytes}; it was "
            f"cut or something was added: copy it again, or {_REMEDY}"
        )
    digest = hashlib.sha256()
    ids, *rows = (
        _read_array(path, file, shape, kind, digest)
        for shape, kind in [
            ((header.tokens,), np.dtype(np.int64)),
            *((s, row_type) for s in shapes),
        ]
    )
    if digest.hexdigest() != header.payload:
        raise ContractError(
            f"{path}: its tokens and rows are damaged (sha256 {digest.hexdigest()}, expected "
            f"{shown(header.payload)}); copy it again, or {_REMEDY}"
        )
    if header.tokens and not -1 <= ids.min() <= ids.max() < geometry.vocab_size:
        raise ContractError(
            f"{path}: tokens from {ids.min()} to {ids.max()}, expected the vocabulary's, below "
            f"{geometry.vocab_size}; {_REMEDY}"
        )
    return Snapshot(
        artifact=header.artifact,
        ids=ids,
        rows=tuple(rows),
        starts=starts,
        lowest_end=max(
            (
                lowest_end(layout, start)
                for layout, start in zip(geometry.layers, header.starts, strict=True)
            ),
            default=0,
        ),
    )


def _read_array(
    path: Path, file: BinaryIO, shape: tuple[int, ...], kind: np.dtype[Any], digest: Any
) -> npt.NDArray[Any]:
    """Read one array; its bytes go into the digest."""
    array = np.empty(shape, kind.newbyteorder("<"))
    content = array.reshape(-1).view(np.uint8).data
    if file.readinto(content) != array.nbytes:  # type: ignore[attr-defined]
        raise ContractError(f"{path}: became shorter while it was read; {_REMEDY}")
    digest.update(content)
    return array.astype(kind, copy=False)
