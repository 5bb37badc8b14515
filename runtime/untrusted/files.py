"""Opens and reads regular files alone, up to a size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PureWindowsPath

from ..errors import ContractError, TramontaneError
from ..sizes import format_bytes
from .fields import shown

# A fifo opened so does not wait for a writer; regular files are read as ever.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_AT_ONCE = 8  # bytes: /proc/PID/pagemap takes multiples of it

_IMPOSSIBLE = {
    errno.ENAMETOOLONG: "a path, and names in it, that are not too long for the system",
    errno.ELOOP: "a path without a link that leads to itself",
}


def open_regular(path: Path) -> int:
    """Open a file to read, never a folder, a fifo or a device; return its descriptor.

    Raises:
        OSError: it cannot be opened, or is no regular file; ``strerror`` says why.
    """
    try:
        descriptor = os.open(path, _FLAGS | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:  # a NUL in its name
        raise OSError(None, str(error), str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(None, "not a regular file", str(path))
    return descriptor


def read_file(
    path: Path,
    *,
    most: int,
    error: type[TramontaneError] = ContractError,
    remedy: str = "copy it again",
) -> bytes:
    """Read a regular file of at most so many bytes.

    Raises:
        error: it cannot be read, is no regular file, or is larger.
    """
    try:
        descriptor = open_regular(path)
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            content = file.read(min(size, most) + 1)  # as much as is asked for is allocated
            if len(content) > size:  # a file of the system, or one that grows
                content += file.read(most + 1 - len(content))
    except OSError as cause:
        raise error(
            f"{path}: cannot be read ({cause.strerror}), expected a regular file; {remedy}"
        ) from cause
    if len(content) > most:
        raise error(
            f"{path}: is larger than {format_bytes(most)}, expected a smaller file; {remedy}"
        )
    return content


def refuse_impossible(
    path: Path, *, error: type[TramontaneError] = ContractError, option: str = ""
) -> None:
    """Refuse a path that no file or folder can have; whether one has it is not asked.

    Args:
        path: as somebody gave it.
        error: the type of error that is raised.
        option: what messages call it.

    Raises:
        error: it has a NUL or half of a surrogate pair, is too long for the system, or leads
            through a link to itself.
    """
    try:
        os.stat(path)
    except ValueError:  # Python's own, of what it cannot give to the system
        expected = "a path without NUL and without half of a surrogate pair"
    except OSError as refused:
        if refused.errno not in _IMPOSSIBLE:
            return
        expected = _IMPOSSIBLE[refused.errno]
    else:
        return
    named = f"{option} {shown(str(path))}".strip()
    raise error(f"{named}: expected {expected}; name another one")


def is_file(path: Path) -> bool:
    """Whether a regular file has that name; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or NUL
        return False


def has_more_than_its_size(path: Path) -> bool:
    """Whether a regular file can be read beyond its size, as some files of the system.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open(open_regular(path), "rb", buffering=0) as file:
        file.seek(os.fstat(file.fileno()).st_size)
        return bool(file.read(_AT_ONCE))


def in_utf8(text: str) -> str:
    r"""A text as a document holds it: bytes of a file name that are not UTF-8 become escapes.

    >>> in_utf8("model\udcff.gguf")
    'model\\udcff.gguf'
    """
    return text.encode(errors="backslashreplace").decode()


def is_name_inside(name: str) -> bool:
    r"""Whether a name of a manifest is one of a file below its folder, on every system.

    >>> [is_name_inside(name) for name in ("onnx/model.onnx", "../a", "/a", "a\\b", "C:a", "a\n")]
    [True, False, False, False, False, False]
    """
    return (
        name.isprintable()
        and not {"", ".", ".."} & set(name.split("/"))  # absolute, upward, or not its one spelling
        and "\\" not in name
        and not PureWindowsPath(name).drive
    )
