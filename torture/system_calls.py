"""Records the system calls of a program on the files below a folder, by strace."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import ContractError

_LONGEST = 1 << 25  # bytes of one write that are recorded
_TRACED = (
    *("open", "openat", "creat", "close", "lseek", "write", "pwrite64", "ftruncate", "fallocate"),
    *("mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("fsync", "fdatasync", "symlink", "symlinkat", "link", "linkat", "truncate"),
    *("writev", "pwritev", "pwritev2", "copy_file_range", "sendfile"),  # not replayed: refused
)
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_PAUSED, _GOES_ON = (
    re.compile(r"(.*) <unfinished \.\.\.>"),
    re.compile(r"<\.\.\. \w+ resumed>(.*)"),
)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FOLDER = re.compile(r"(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2}|[^>\\])*)>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One system call that changed or synced something below the folder; paths are relative."""

    kind: str  # create, mkdir, write, truncate, grow, rename, unlink, rmdir or fsync
    path: str
    to: str = ""  # of a rename
    offset: int = 0  # of a write; of a truncate or grow, the size
    content: bytes = b""


def can_record() -> bool:
    """Whether strace is installed and may trace a program."""
    if shutil.which("strace") is None:
        return False
    return not subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode


def record(
    command: Sequence[str], folder: Path, *, log: Path, env: Mapping[str, str] | None = None
) -> list[Call]:
    """Run a command, and list what it did to the files below a folder.

    Args:
        command: the program and its arguments.
        folder: whose files are followed; absolute and without links.
        log: a file for strace's journal.
        env: its environment; None: ours.

    Raises:
        ContractError: the command failed, or used a call that cannot be replayed.
    """
    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-xx", "-y", "--seccomp-bpf", "-s", str(_LONGEST)),
            *("-e", f"trace={','.join(_TRACED)}", "-e", "signal=none", "-o", str(log)),
            *command,
        ],
        check=False,
        capture_output=True,
        env=env,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise ContractError(f"{command[0]}: ended with {done.returncode} under strace ({said})")
    with log.open(encoding="ascii") as lines:
        return list(_calls(_whole(lines), _absolute(folder)))


def _absolute(folder: Path) -> str:
    return f"{folder.resolve()}/"


def _whole(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Thread and text of each call, put together where another thread's came between."""
    begun: dict[str, str] = {}
    for line in lines:
        thread, text = line.rstrip("\n").split(maxsplit=1)
        if paused := _PAUSED.fullmatch(text):
            begun[thread] = paused[1]
        elif goes_on := _GOES_ON.fullmatch(text):
            yield thread, begun.pop(thread) + goes_on[1]
        else:
            yield thread, text


def _calls(lines: Iterator[tuple[str, str]], root: str) -> Iterator[Call]:
    """Calls that succeeded, and that concern the folder."""
    places: dict[tuple[str, str], int] = {}  # of open files, by their descriptor and path
    for _, text in lines:
        found = _CALL.match(text)
        if found is None or int(found["result"]) < 0:
            continue
        name, arguments, result = found["name"], found["arguments"], int(found["result"])
        named = (f"{path}/" for path in _paths(name, arguments))
        paths = [path[len(root) : -1] for path in named if path.startswith(root)]
        if not paths:
            continue
        if name in ("open", "openat", "creat"):
            places[str(result), paths[0]] = 0
            if name == "creat" or "O_CREAT" in arguments:
                yield Call(kind="create", path=paths[0])
            if name == "creat" or "O_TRUNC" in arguments:
                yield Call(kind="truncate", path=paths[0])
            continue
        yield from _changes(name, arguments, result, paths, places)


def _changes(
    name: str,
    arguments: str,
    result: int,
    paths: list[str],
    places: dict[tuple[str, str], int],
) -> Iterator[Call]:
    path, key = paths[0], (arguments.split("<", 1)[0], paths[0])
    if name == "lseek":
        places[key] = result
    elif name in ("write", "pwrite64"):
        is_placed = name == "pwrite64"
        place = _last_number(arguments) if is_placed else places.get(key, 0)
        written = _bytes(_TEXT.findall(arguments)[-1])[:result]
        yield Call(kind="write", path=path, offset=place, content=written)
        if not is_placed:
            places[key] = place + result
    elif name in ("ftruncate", "truncate"):
        yield Call(kind="truncate", path=path, offset=_last_number(arguments))
    elif name == "fallocate":
        mode, offset, length = arguments.split(", ")[1:]
        if mode == "0":  # the size grows
            yield Call(kind="grow", path=path, offset=int(offset) + int(length))
    elif name != "close":
        yield _change_of_names(name, arguments, paths)


def _change_of_names(name: str, arguments: str, paths: list[str]) -> Call:
    if name in ("fsync", "fdatasync"):
        return Call(kind="fsync", path=paths[0])
    if name in ("mkdir", "mkdirat"):
        return Call(kind="mkdir", path=paths[0])
    if name.startswith("rename") and len(paths) == 2:
        return Call(kind="rename", path=paths[0], to=paths[1])
    if name in ("unlink", "unlinkat", "rmdir"):
        is_folder = name == "rmdir" or "AT_REMOVEDIR" in arguments
        return Call(kind="rmdir" if is_folder else "unlink", path=paths[0])
    raise ContractError(f"{paths[0]}: was changed by {name}, which is not replayed")


def _last_number(arguments: str) -> int:
    return int(arguments.rsplit(",", 1)[1])


def _paths(name: str, arguments: str) -> list[str]:
    """Absolute paths that a call names: of its descriptors, or relative to them."""
    if name in ("fsync", "fdatasync", "write", "pwrite64", "lseek", "ftruncate", "fallocate"):
        return [_text(found) for found in _FOLDER.findall(arguments)[:1]]
    folders = [_text(found) for found in _FOLDER.findall(arguments)]
    texts = [_text(found) for found in _TEXT.findall(arguments)]
    if not texts:
        return folders
    bases = folders + [""] * (len(texts) - len(folders))
    return [
        text if text.startswith("/") else f"{base}/{text}"
        for base, text in zip(bases, texts, strict=False)
    ]


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _text(escaped: str) -> str:
    return _bytes(escaped).decode() if escaped.startswith("\\x") else escaped
