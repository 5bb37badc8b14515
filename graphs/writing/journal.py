"""Records the weights that an export has written, so that it can resume.

A journal lies beside the weights' files: one line of JSON on what decides every byte of them, then
one line for each weight written, with the sha256 of its file's first bytes up to the weight's end.
Resuming re-hashes every file and keeps only what the hashes confirm.

Ours, since no library that writes ONNX or safetensors files can resume one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...runtime.durable import replace_file
from ...runtime.errors import ContractError
from ...runtime.untrusted.files import read_file
from ...runtime.untrusted.json_text import LARGE_BYTES, parse_object
from .external_data import Place

_READ_BYTES = 1 << 22

Identity = dict[str, Any]
Digests = dict[str, "hashlib._Hash"]  # running sha256 by file name


class Journal:
    """The journal of one set of weights' files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, identity: Identity) -> None:
        """Start anew: nothing is written yet."""
        self._replace([identity])

    def differences(self, identity: Identity) -> list[str] | None:
        """Names of what decided the bytes and is other now; None where there is no journal."""
        entries = self._entries()
        if not entries:
            return None
        before, now = entries[0], json.loads(_line(identity))
        return [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]

    @property
    def num_noted(self) -> int:
        """Weights that it has a line of, whether or not their files confirm it."""
        return max(0, len(self._entries()) - 1)

    def add(self, place: Place, digest: str) -> None:
        """Note that a weight is in its file, whose bytes so far have this sha256."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line({**_where(place), "sha256": digest}))

    def resume(self, folder: Path, laid_out: Sequence[Place]) -> tuple[int, Digests]:
        """Count the weights, from the first on, that are written and unchanged; forget the rest.

        Returns:
            The count, and each file's running sha256 up to the last of them.
        """
        entries = self._entries()
        digests = {place.file: hashlib.sha256() for place in laid_out}
        ends = dict.fromkeys(digests, 0)
        count = 0
        for place, entry in zip(laid_out, entries[1:], strict=False):
            running = digests[place.file].copy()
            for piece in _read(folder / place.file, ends[place.file], place.end):
                running.update(piece)
            if entry != {**_where(place), "sha256": running.hexdigest()}:
                break
            digests[place.file], ends[place.file] = running, place.end
            count += 1
        self._replace(entries[: 1 + count])
        return count, digests

    def _replace(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write all lines at once: a kill or a power loss meanwhile leaves the old ones."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text("".join(map(_line, entries)), encoding="utf-8")
        replace_file(fresh, self.path)

    def _entries(self) -> list[dict[str, Any]]:
        """All whole lines; the last may have been cut off.

        Raises:
            ContractError: it is larger than any journal, or cannot be read.
        """
        if not self.path.is_file():
            return []
        entries = []
        content = read_file(self.path, most=LARGE_BYTES, remedy="remove it to start over")
        for line in content.splitlines(keepends=True):
            try:
                entry = parse_object(line, what=self.path)
            except ContractError:
                break
            if not line.endswith(b"\n"):
                break
            entries.append(entry)
        return entries


def _where(place: Place) -> dict[str, Any]:
    return {
        "name": place.name,
        "file": place.file,
        "offset": place.offset,
        "length": place.length,
    }


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True) + "\n"


def _read(path: Path, start: int, stop: int) -> Iterable[bytes]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(start)
        while start < stop and (piece := file.read(min(_READ_BYTES, stop - start))):
            start += len(piece)
            yield piece
