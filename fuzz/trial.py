"""One case: mutate a file, read it, and say how that ended; each in a process that may die."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from ..console.end_with_parent import end_with_parent
from ..runtime.errors import LONGEST, ParityError, TramontaneError
from .mutations import Mutation, apply, draw_mutations
from .readers import MODEL, READERS, Reader

LIMIT_S = 10.0
_HEADER_BYTES = 1 << 15  # of a file, in which mutations are: beyond are weights
READ, TYPED, UNTYPED, HUNG, CRASHED = "read", "typed", "untyped", "hung", "crashed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one case ended."""

    kind: str
    detail: str = ""  # of an untyped error: its type and place


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
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
        if reader.is_checkpoint:
            for path in MODEL.iterdir():
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
        self._content = reader.content(folder)
        self.size = min(len(self._content), _HEADER_BYTES)
        found = self.try_([])
        assert found.kind == READ, f"{reader.file}: a good file ends as {found}"

    def mutated(self, mutations: Sequence[Mutation]) -> bytes:
        """The file after some mutations."""
        head = apply(self._content[: self.size], mutations)
        return self._reader.repair(head + self._content[self.size :])

    def try_(self, mutations: Sequence[Mutation]) -> Outcome:
        """Read the folder with the mutated file."""
        path = self._folder / self._reader.file
        path.unlink(missing_ok=True)
        path.write_bytes(self.mutated(mutations))
        try:
            self._reader.read(self._folder)
        except TramontaneError as error:
            said = str(error)
            is_short = len(said) <= LONGEST and (said.isprintable() or type(error) is ParityError)
            return Outcome(kind=TYPED) if is_short else Outcome(kind=UNTYPED, detail="message")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            name = Path(place.filename).name
            return Outcome(kind=UNTYPED, detail=f"{type(error).__name__} at {name}:{place.lineno}")
        return Outcome(kind=READ)


def _work(calls: Connection, parent: int) -> None:
    """Try the cases that come, until the other end is closed."""
    end_with_parent(parent)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # notes about files
    folders: dict[str, Folder] = {}
    with tempfile.TemporaryDirectory() as temporary:
        while True:
            try:
                case, kept = calls.recv()
            except EOFError:
                return
            if case.reader not in folders:
                place = Path(temporary, case.reader)
                place.mkdir()
                folders[case.reader] = Folder(READERS[case.reader], place)
            folder = folders[case.reader]
            mutations = case.mutations(folder.size)
            chosen = [mutations[i] for i in kept] if kept is not None else mutations
            outcome = folder.try_(chosen)
            content = folder.mutated(chosen) if outcome.kind == UNTYPED else b""
            calls.send((outcome, len(mutations), content))


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
        self._is_warm = False

    def try_(self, case: Case, kept: Sequence[int] | None = None) -> tuple[Outcome, int, bytes]:
        """How a case ends, with all of its mutations or those ``kept``; their number; the file."""
        limit = LIMIT_S if self._is_warm else 12 * LIMIT_S  # at first it imports torch
        try:
            self._calls.send((case, kept))
            if self._calls.poll(limit):
                found: tuple[Outcome, int, bytes] = self._calls.recv()
                self._is_warm = True
                return found
            outcome = Outcome(kind=HUNG, detail=f"over {limit:.0f} s")
        except (EOFError, OSError):
            self._process.join(1)
            outcome = Outcome(kind=CRASHED, detail=f"exit status {self._process.exitcode}")
        self.close()
        self._start()
        return outcome, 0, b""

    def close(self) -> None:
        """End the process."""
        self._calls.close()
        self._process.kill()
        self._process.join()


def smallest(worker: Worker, case: Case, outcome: Outcome, count: int) -> bytes:
    """The file with the fewest mutations of a case that end alike."""
    kept = list(range(count))
    for index in range(count):
        fewer = [each for each in kept if each != index]
        if fewer and worker.try_(case, fewer)[0] == outcome:
            kept = fewer
    return worker.try_(case, kept)[2]


def until(seconds: float) -> float:
    """The moment so many seconds from now, for ``time.monotonic``."""
    return time.monotonic() + seconds
