"""What may lie on a disk after the power is lost between two system calls.

A disk keeps what was synced. Of the rest it keeps any part: a write without the name of its file,
a name without what the file holds, a later renaming without an earlier one. A write is synced by
an fsync of its file; a name by an fsync of each folder that the call changed. One call is whole or
not there. This allows at least what the systems of files do that are in use.

Source: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014, section 2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .system_calls import Call

Tree = dict[str, bytes | None]  # by relative path; None: a folder
_ROOT = 0


@dataclass(slots=True)
class _Step:
    """One call, on files and folders instead of paths."""

    data_of: int | None = None  # the file that it writes to, truncates or grows
    call: Call | None = None
    leaves: tuple[int, str] | None = None  # a name that goes: the folder, the name
    takes: tuple[int, str, int] | None = None  # a name that comes: also what gets it
    is_synced: bool = False

    def folders(self) -> set[int]:
        """Folders whose names it changes."""
        return {name[0] for name in (self.leaves, self.takes) if name is not None}


@dataclass(slots=True)
class _Disk:
    """Files and folders by number, as a program that runs sees them."""

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {_ROOT: {}})
    content: dict[int, bytearray] = field(default_factory=dict)

    def new(self, *, is_folder: bool) -> int:
        number = len(self.names) + len(self.content)
        if is_folder:
            self.names[number] = {}
        else:
            self.content[number] = bytearray()
        return number

    def find(self, path: str) -> int:
        number = _ROOT
        for name in filter(None, path.split("/")):
            number = self.names[number][name]
        return number

    def place(self, path: str) -> tuple[int, str]:
        """Folder and name of a path."""
        folder, _, name = path.rpartition("/")
        return self.find(folder), name

    def apply(self, step: _Step) -> None:
        """Do a step; a name that is not there need not go."""
        if step.leaves is not None:
            self.names[step.leaves[0]].pop(step.leaves[1], None)
        if step.takes is not None:
            folder, name, number = step.takes
            self.names[folder][name] = number
        if step.data_of is not None and step.call is not None:
            _write(self.content[step.data_of], step.call)

    def tree(self) -> Tree:
        found: Tree = {}
        self._add(_ROOT, "", found)
        return found

    def _add(self, folder: int, above: str, found: Tree) -> None:
        for name, number in self.names[folder].items():
            if number in self.names:
                found[above + name] = None
                self._add(number, f"{above}{name}/", found)
            else:
                found[above + name] = bytes(self.content[number])


def _write(content: bytearray, call: Call) -> None:
    if call.kind == "truncate":
        del content[call.offset :]
    end = call.offset + len(call.content)
    content.extend(bytes(max(0, end - len(content))))
    content[call.offset : end] = call.content


class Replay:
    """The calls of a program on a folder, and the states in which a power loss may leave it."""

    def __init__(self, before: Mapping[str, bytes | None], calls: Sequence[Call]) -> None:
        """Replay the calls on what was in the folder, and on the disk, before."""
        self._before = dict(before)
        disk = self._begun()
        self._steps: list[_Step] = []
        self._syncs: list[tuple[int, int]] = []  # number of a step, file or folder that is synced
        for call in calls:
            if call.kind == "fsync":
                self._syncs.append((len(self._steps), disk.find(call.path)))
            elif (step := _step(disk, call)) is not None:
                disk.apply(step)
                self._steps.append(step)
        self._files = disk

    def __len__(self) -> int:
        """Number of calls that change something."""
        return len(self._steps)

    def after(self) -> Tree:
        """What the program left, without a power loss."""
        return self._files.tree()

    def lost_at(self, moment: int, keeps: Callable[[bool], bool]) -> Tree:
        """What is there after a power loss.

        Args:
            moment: number of calls that were made.
            keeps: whether one that was not synced is kept, given whether it changes names.
        """
        disk = self._begun()
        for made in self._files.names.keys() - disk.names.keys():
            disk.names[made] = {}
        for made in self._files.content.keys() - disk.content.keys():
            disk.content[made] = bytearray()
        for number, step in enumerate(self._steps[:moment]):
            if self._is_synced(number, step, moment) or keeps(step.data_of is None):
                disk.apply(step)
        return disk.tree()

    def states(self, *, seeds: int) -> Iterator[tuple[int, Tree]]:
        """Moments and what may be there then: all kept, none, names alone, and at random."""
        ways: list[Callable[[bool], bool]] = [lambda _: True, lambda _: False, bool]
        for moment in range(len(self) + 1):
            seen: list[Tree] = []
            draws = [random.Random(f"{moment}/{seed}") for seed in range(seeds)]
            for keeps in (*ways, *(_at_random(draw) for draw in draws)):
                tree = self.lost_at(moment, keeps)
                if tree not in seen:
                    seen.append(tree)
                    yield moment, tree

    def _begun(self) -> _Disk:
        disk = _Disk()
        for path, content in sorted(self._before.items()):
            folder, name = disk.place(path)
            disk.names[folder][name] = number = disk.new(is_folder=content is None)
            if content is not None:
                disk.content[number][:] = content
        return disk

    def _is_synced(self, number: int, step: _Step, moment: int) -> bool:
        needed = step.folders() if step.data_of is None else {step.data_of}
        synced = {what for before, what in self._syncs if number < before <= moment}
        return needed <= synced


def _at_random(draw: random.Random) -> Callable[[bool], bool]:
    share = draw.random()
    return lambda _: draw.random() < share


def _step(disk: _Disk, call: Call) -> _Step | None:
    """A call on the files that its paths mean now; None where it changes nothing."""
    if call.kind in ("create", "mkdir"):
        folder, name = disk.place(call.path)
        if name in disk.names[folder]:
            return None
        return _Step(takes=(folder, name, disk.new(is_folder=call.kind == "mkdir")))
    if call.kind == "rename":
        return _Step(
            leaves=disk.place(call.path), takes=(*disk.place(call.to), disk.find(call.path))
        )
    if call.kind in ("unlink", "rmdir"):
        return _Step(leaves=disk.place(call.path))
    return _Step(data_of=disk.find(call.path), call=call)


def read_tree(folder: Path) -> Tree:
    """What is in a folder."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def write_tree(tree: Mapping[str, bytes | None], folder: Path) -> None:
    """Make a folder that holds this."""
    folder.mkdir(parents=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
