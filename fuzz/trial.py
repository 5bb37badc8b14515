"""One case: mutate a file, read it, and say how that ended; each in a process that may die."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from ..console.processes.end_with_parent import end_with_parent
from ..runtime.errors import LONGEST, ParityError, TramontaneError
from .mutations import Mutation, apply, draw_mutations
from .readers import READERS, Reader

LIMIT_S = 10.0
LIMIT_BYTES = 10**9  # that one case may take beyond what the good files take
# Of address space that a worker may take beyond what it has at first. A case that asks for more
# without writing to it, which is no memory yet, is seen so; threads reserve some too.
_RESERVED_BYTES = 8 * LIMIT_BYTES
_SHORTENING_S = 0.5 * LIMIT_S  # that a finding is made smaller, at most
_HEADER_BYTES = 1 << 15  # of a file, in which mutations are: beyond are weights
READ, TYPED, UNTYPED, HUNG, CRASHED = "read", "typed", "untyped", "hung", "crashed"
LARGE = "beyond 1 GB"
_PEAK = re.compile(rb"VmHWM:\s+(\d+) kB")
_SIZE = re.compile(rb"VmSize:\s+(\d+) kB")


@dataclass(frozen=True, kw_only=True, slots=True)
class FuzzOutcome:
    """How one case ended."""

    kind: str
    detail: str = ""  # of an untyped error: its type and place


@dataclass(frozen=True, kw_only=True, slots=True)
class FuzzCase:
    """A mutated file: the reader's name, the seed and a number are all that it follows from."""

    reader: str
    seed: int
    number: int

    def mutations(self, size: int) -> list[Mutation]:
        """Those of this case."""
        return draw_mutations(random.Random(f"{self.seed}/{self.reader}/{self.number}"), size)


class Folder:
    """A good folder for one reader, whose file is replaced for each case."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self._reader, self._folder = reader, folder
        reader.make(folder)
        self._content = reader.content(folder)
        self.size = min(len(self._content), _HEADER_BYTES)
        found = self.try_([])
        assert found.kind == READ, f"{reader.file}: a good file ends as {found}"

    def mutated(self, mutations: Sequence[Mutation]) -> bytes:
        """The beginning of the file after some mutations."""
        return apply(self.head, mutations)

    @property
    def head(self) -> bytes:
        """The beginning of the good file; what follows it stays as it is."""
        return self._content[: self.size]

    def try_(self, mutations: Sequence[Mutation]) -> FuzzOutcome:
        """Read the folder with the mutated file."""
        return self.try_head(self.mutated(mutations))

    def try_head(self, head: bytes) -> FuzzOutcome:
        """Read the folder with a file that begins otherwise."""
        path = self._folder / self._reader.file
        path.unlink(missing_ok=True)
        path.write_bytes(self._reader.repair(head + self._content[self.size :]))
        before, begun = _peak_bytes(reset=True), time.monotonic()
        outcome = self._read()
        if (taken := _peak_bytes() - before) > LIMIT_BYTES:
            return FuzzOutcome(kind=LARGE, detail=f"{taken} bytes")
        if (seconds := time.monotonic() - begun) > LIMIT_S:
            return FuzzOutcome(kind=HUNG, detail=f"{seconds:.0f} s")
        return outcome

    def _read(self) -> FuzzOutcome:
        try:
            self._reader.read(self._folder)
        except TramontaneError as error:
            said = str(error)
            is_short = len(said) <= LONGEST and (said.isprintable() or type(error) is ParityError)
            return (
                FuzzOutcome(kind=TYPED)
                if is_short
                else FuzzOutcome(kind=UNTYPED, detail="message")
            )
        except MemoryError:
            return FuzzOutcome(kind=LARGE, detail="more than there is")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            name = Path(place.filename).name
            return FuzzOutcome(
                kind=UNTYPED, detail=f"{type(error).__name__} at {name}:{place.lineno}"
            )
        return FuzzOutcome(kind=READ)

    def smallest(self, head: bytes, outcome: FuzzOutcome) -> bytes:
        """A shorter beginning that ends alike: pieces are left out, each half the size before.

        Source: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002.
        """
        end, size = time.monotonic() + _SHORTENING_S, len(head) // 2
        while size and time.monotonic() < end:
            start = 0
            while start < len(head) and time.monotonic() < end:
                shorter = head[:start] + head[start + size :]
                if self.try_head(shorter) == outcome:
                    head = shorter
                else:
                    start += size
            size //= 2
        return head


def _work(calls: Connection, parent: int) -> None:
    """Try the cases that come, until the other end is closed."""
    end_with_parent(parent)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # notes about files, those of packages too
    os.dup2(null, 2)
    folders: dict[str, Folder] = {}
    _limit_memory()
    with tempfile.TemporaryDirectory() as temporary:
        while True:
            try:
                case, kept = calls.recv()
            except EOFError:
                return
            if case.reader not in folders:
                place = Path(temporary, str(len(folders)))
                place.mkdir()
                folders[case.reader] = Folder(READERS[case.reader], place)
            folder = folders[case.reader]
            mutations = case.mutations(folder.size)
            chosen = [mutations[i] for i in kept] if kept is not None else mutations
            outcome, content = folder.try_(chosen), b""
            if outcome.kind in (UNTYPED, LARGE) and kept is not None:
                content = folder.smallest(folder.mutated(chosen), outcome)
            calls.send((outcome, len(mutations), content))


def _peak_bytes(*, reset: bool = False) -> int:
    """The most memory that this process had since the last reset; 0 where the system says none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    found = _PEAK.search(status.read_bytes())
    return 0 if found is None else int(found[1]) * 1024


def _limit_memory() -> None:
    """Let this process reserve no more than cases need, where the system can limit it."""
    status = Path("/proc/self/status")
    found = _SIZE.search(status.read_bytes()) if status.exists() else None
    if found is not None:
        import resource  # not on Windows

        most = int(found[1]) * 1024 + _RESERVED_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


class Worker:
    """A process that tries cases, started anew where one ended it."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._calls, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()
        self._warm: set[str] = set()  # readers whose good folder it has

    def try_(
        self, case: FuzzCase, kept: Sequence[int] | None = None
    ) -> tuple[FuzzOutcome, int, bytes]:
        """How a case ends, with all of its mutations or those ``kept``, and their number.

        Where some are kept, also the shortest beginning of the file that ends alike.
        """
        # It measures the time of the case alone; at first it imports torch and makes good files.
        limit = 2 * LIMIT_S if case.reader in self._warm else 12 * LIMIT_S
        try:
            self._calls.send((case, kept))
            if self._calls.poll(limit):
                found: tuple[FuzzOutcome, int, bytes] = self._calls.recv()
                self._warm.add(case.reader)
                return found
            outcome = FuzzOutcome(kind=HUNG, detail=f"over {limit:.0f} s")
        except (EOFError, OSError):
            self._process.join(1)
            outcome = FuzzOutcome(kind=CRASHED, detail=f"exit status {self._process.exitcode}")
        self.close()
        self._start()
        return outcome, 0, b""

    def close(self) -> None:
        """End the process."""
        self._calls.close()
        self._process.kill()
        self._process.join()


def smallest(worker: Worker, case: FuzzCase, outcome: FuzzOutcome, count: int) -> bytes:
    """The shortest beginning of a file that ends alike, of those that were tried."""
    kept = list(range(count))
    for index in range(count):
        fewer = [each for each in kept if each != index]
        if fewer and worker.try_(case, fewer)[0] == outcome:
            kept = fewer
    return worker.try_(case, kept)[2]


def until(seconds: float) -> float:
    """The moment so many seconds from now, for ``time.monotonic``."""
    return time.monotonic() + seconds
