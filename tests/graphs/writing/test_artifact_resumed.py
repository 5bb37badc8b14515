"""Does interrupted writing go on where it ended, to the same bytes?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.graphs import weights
from tramontane.runtime.contract import DATA_FILE, MODEL_FILE

every_sharding = pytest.mark.parametrize(
    "max_shard_bytes", [None, 3400, 1680], ids=["one file", "two files", "three files"]
)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class Interrupted:
    """A weight whose first computation is interrupted."""

    def __init__(self, array: np.ndarray, *, by: BaseException | None = None) -> None:
        self.array, self.by, self.calls = array, by, 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        if self.by is not None and self.calls == 1:
            raise self.by
        return self.array


class Track:
    """Shows no progress, but keeps labels and numbers of weights."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int]] = []

    def __call__(self, values: Sequence[Any], label: str) -> Sequence[Any]:
        self.shown.append((label, len(values)))
        return values


@pytest.fixture
def track() -> Track:
    return Track()


@every_sharding
@pytest.mark.parametrize("k", ["u", "v", "w"])
def test_interrupted_writing_goes_on_to_the_same_bytes_and_computes_no_weight_again(
    three_layers: Callable,
    tmp_path: Path,
    write: Callable,
    folder: Path,
    max_shard_bytes: int | None,
    k: str,
) -> None:
    whole = tmp_path / "whole" / "artifact"
    whole.mkdir(parents=True)
    expected = write(three_layers(), whole, max_shard_bytes=max_shard_bytes)
    numbers = {n: weights.read(v) for n, v in three_layers().graph.initializers.items()}
    computes = {
        name: Interrupted(array, by=KeyboardInterrupt() if name == k else None)
        for name, array in numbers.items()
    }
    with pytest.raises(KeyboardInterrupt):
        write(three_layers(**computes), folder, max_shard_bytes=max_shard_bytes)
    assert not (folder / MODEL_FILE).exists()
    found = write(three_layers(**computes), folder, max_shard_bytes=max_shard_bytes)
    assert found == expected
    assert contents(folder) == contents(whole)
    assert {n: c.calls for n, c in computes.items()} == {n: 1 + (n == k) for n in numbers}


@every_sharding
def test_weight_that_was_changed_meanwhile_is_written_again(
    three_layers: Callable, write: Callable, folder: Path, max_shard_bytes: int | None
) -> None:
    expected = write(three_layers(), folder, max_shard_bytes=max_shard_bytes)
    before = contents(folder)
    first = (folder / DATA_FILE).read_bytes()
    (folder / DATA_FILE).write_bytes(b"\xff" + first[1:])
    assert write(three_layers(), folder, max_shard_bytes=max_shard_bytes) == expected
    assert contents(folder) == before


def test_whole_writing_computes_nothing_the_second_time(
    three_layers: Callable, write: Callable, folder: Path
) -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("asked for its numbers")

    expected = write(three_layers(), folder)
    assert write(three_layers(u=refuse, v=refuse, w=refuse), folder) == expected


def test_label_tells_what_is_there_already(
    three_layers: Callable, write: Callable, folder: Path, track: Track
) -> None:
    stopped = Interrupted(np.zeros((20, 21), np.float32), by=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write(three_layers(v=stopped), folder, track=track)
    write(three_layers(v=stopped), folder, track=track)
    assert track.shown == [("writing weights", 3), ("writing weights, 1 of 3 already there", 2)]


def test_label_tells_of_a_weight_that_was_changed_meanwhile(
    three_layers: Callable, write: Callable, folder: Path, track: Track
) -> None:
    write(three_layers(), folder)
    content = bytearray((folder / DATA_FILE).read_bytes())
    content[1600] ^= 1  # the first byte of v
    (folder / DATA_FILE).write_bytes(content)
    write(three_layers(), folder, track=track)
    assert track.shown == [
        ("writing weights, 1 of 3 already there, the next one changed since", 2)
    ]
