"""Files of a checkpoint, each opened once and held open, so that what is hashed is what is read.

A file that another one replaces under the same name is still read as it was. Bytes that are
written into a held file do show: ``refuse_changed`` compares device, inode, size and time of
writing with those at opening, and is asked before anything that was made of the files is kept.
What it cannot see is a write that sets the time back afterwards, or one within the same tick of
the file system's clock as the opening.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import weakref
from pathlib import Path

from ...runtime.errors import CheckpointError
from ...runtime.sizes import format_bytes
from ...runtime.untrusted.files import open_regular
from ...runtime.untrusted.json_text import LARGE_BYTES

_CHUNK_BYTES = 1 << 20
Identity = tuple[int, int, int, int]  # device, inode, size in bytes, nanoseconds of the last write


class HeldFile:
    """One file, open until ``close`` or until nothing refers to it; threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            CheckpointError: it cannot be opened.
        """
        self.path = path
        self._place = path.absolute()  # whatever the working folder becomes
        try:
            descriptor = open_regular(path)
        except OSError as error:
            raise CheckpointError(
                f"{path}: unreadable ({error.strerror}), expected a file of the checkpoint; check "
                "its permissions, or download it again"
            ) from error
        self._close = weakref.finalize(self, os.close, descriptor)
        self._lock = threading.Lock()
        self._stream = io.FileIO(descriptor, "rb", closefd=False)
        self.identity = _identity(os.fstat(descriptor))
        self._sha256: str | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def place(self) -> str:
        """The file's path, equal in all processes; its last part may be a link."""
        return str(self._place.parent.resolve() / self._place.name)

    def stream(self) -> io.FileIO:
        """A stream over the file for a library that maps it; no thread may read meanwhile."""
        return self._stream

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer of bytes from an offset on; return how many there were.

        Raises:
            OSError: it cannot be read, or is closed.
        """
        filled = 0
        with self._lock:
            if not self._close.alive:
                raise OSError(f"{self.path}: closed")
            self._stream.seek(offset)
            while filled < len(buffer) and (count := self._stream.readinto(buffer[filled:])):
                filled += count
        return filled

    def read_bytes(
        self, size: int | None = None, *, offset: int = 0, most: int = LARGE_BYTES
    ) -> bytes:
        """So many bytes from an offset on, or those that are left; of a small file all of them.

        Raises:
            CheckpointError: it cannot be read, or would be read whole and has more than ``most``.
        """
        left = max(0, self.identity[2] - offset)
        if size is None and left > most:
            raise CheckpointError(
                f"{self.path}: is larger than {format_bytes(most)}, expected a smaller file; "
                "download it again"
            )
        content = bytearray(left if size is None else min(size, left))
        try:
            count = self.read_into(memoryview(content), offset)
        except OSError as error:
            raise CheckpointError(f"{self.path}: unreadable ({error}); copy it again") from error
        return bytes(content[:count])

    def sha256(self) -> str:
        """The hash of the file, read in small pieces, once.

        Raises:
            CheckpointError: it cannot be read.
        """
        if self._sha256 is None:
            digest, offset = hashlib.sha256(), 0
            buffer = memoryview(bytearray(_CHUNK_BYTES))
            try:
                while count := self.read_into(buffer, offset):
                    digest.update(buffer[:count])
                    offset += count
            except OSError as error:
                raise CheckpointError(
                    f"{self.path}: unreadable ({error}); copy it again"
                ) from error
            self._sha256 = digest.hexdigest()
        return self._sha256

    def refuse_changed(self) -> None:
        """Refuse a file that is another now, or holds other bytes, than when it was opened.

        Raises:
            CheckpointError: naming what became of it.
        """
        if what := self._change():
            raise CheckpointError(
                f"{self.path}: {what} while it was being read, expected it to stay as it was; run "
                "the command again when nothing writes to the checkpoint"
            )

    def _change(self) -> str:
        """What became of it since it was opened; empty where nothing did."""
        try:
            named = _identity(os.stat(self._place))
        except OSError:
            return "was removed"
        if named[:2] != self.identity[:2]:
            return "was replaced by another file"
        with self._lock:
            held = _identity(os.fstat(self._stream.fileno())) if self._close.alive else named
        for now in (held, named):
            if now != self.identity:
                return f"was written to ({self.identity[2]} bytes before, {now[2]} now)"
        return ""

    def close(self) -> None:
        """Close it; what was hashed stays known."""
        with self._lock:
            self._close()


class HeldFiles:
    """Files by path, each opened when it is first asked for."""

    def __init__(self) -> None:
        self._files: dict[Path, HeldFile] = {}

    def hold(self, path: Path) -> HeldFile:
        """A file, the same one whenever it is asked for.

        Raises:
            CheckpointError: it cannot be opened.
        """
        if path not in self._files:
            self._files[path] = HeldFile(path)
        return self._files[path]

    def find(self, path: Path) -> HeldFile | None:
        """Likewise; None where there is no such file."""
        return self.hold(path) if path in self._files or path.is_file() else None

    def identities(self) -> dict[str, Identity]:
        """Identity of each file, by its place."""
        return {file.place: file.identity for file in self._files.values()}

    def refuse_others(self, expected: dict[str, Identity]) -> None:
        """Refuse files that are not those which another process holds.

        Raises:
            CheckpointError: naming the first.
        """
        for file in self._files.values():
            if file.place in expected and file.identity != tuple(expected[file.place]):
                raise CheckpointError(
                    f"{file.path}: was replaced or written to between two readings, expected it "
                    "to stay as it was; run the command again when nothing writes to the "
                    "checkpoint"
                )

    def refuse_changed(self) -> None:
        """Refuse what changed since it was opened.

        Raises:
            CheckpointError: naming the first such file.
        """
        for file in list(self._files.values()):
            file.refuse_changed()

    def close(self) -> None:
        """Close all of them."""
        for file in self._files.values():
            file.close()


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
