"""Is no more of an interrupted export believed than its files confirm?"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tramontane.graphs.writing import journal as journals
from tramontane.graphs.writing.external_data import Place, places
from tramontane.graphs.writing.journal import Identity, Journal
from tramontane.runtime.contract import DATA_FILE
from tramontane.runtime.errors import ContractError

IDENTITY: Identity = {
    "quant": "int4",
    "block": 32,
    "window": None,
    "files": {"a": "00", "b": "ff"},
}


class Written(NamedTuple):
    """Weights in their files, and the journal of it."""

    journal: Journal
    folder: Path
    laid_out: list[Place]


@pytest.fixture(params=[None, 3400], ids=["one file", "two files"])
def written(
    three_layers: Callable,
    rng: np.random.Generator,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Written:
    """Write three weights of random bytes, hashing whole files as a stranger would."""
    laid_out = places(three_layers().graph, max_shard_bytes=request.param)
    journal = Journal(tmp_path / "journal.jsonl")
    journal.begin(IDENTITY)
    folder = tmp_path / "artifact"
    (folder / DATA_FILE).parent.mkdir(parents=True)
    contents = dict.fromkeys({place.file for place in laid_out}, b"")
    for place in laid_out:
        gap = bytes(place.offset - len(contents[place.file]))
        contents[place.file] += gap + rng.bytes(place.length)
        (folder / place.file).write_bytes(contents[place.file])
        journal.add(place, hashlib.sha256(contents[place.file]).hexdigest())
    return Written(journal, folder, laid_out)


def flip(path: Path, offset: int) -> None:
    """Turn one bit of a file over."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def num_lines(journal: Journal) -> int:
    return len(journal.path.read_text().splitlines())


def test_all_weights_are_believed_while_no_byte_is_changed(written: Written) -> None:
    journal, folder, laid_out = written
    before = journal.path.read_text()
    count, digests = journal.resume(folder, laid_out)
    assert count == 3
    assert {name: digest.hexdigest() for name, digest in digests.items()} == {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("model*")
    }
    assert journal.path.read_text() == before


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1], ids=["first byte", "last byte"])
def test_flipped_byte_takes_its_weight_and_all_after_it(
    written: Written, k: int, end: int
) -> None:
    journal, folder, laid_out = written
    place = laid_out[k]
    flip(folder / place.file, place.offset + end % place.length)
    count, digests = journal.resume(folder, laid_out)
    assert count == k
    assert num_lines(journal) == 1 + k
    ends = {p.file: p.end for p in laid_out[:k]}
    for name, digest in digests.items():
        start = (folder / name).read_bytes()[: ends.get(name, 0)]
        assert digest.hexdigest() == hashlib.sha256(start).hexdigest()


@pytest.mark.parametrize("written", [None], indirect=True, ids=["one file"])
def test_flipped_byte_between_two_weights_takes_the_second(written: Written) -> None:
    journal, folder, laid_out = written
    assert laid_out[1].end < laid_out[2].offset
    flip(folder / laid_out[2].file, laid_out[1].end)
    assert journal.resume(folder, laid_out)[0] == 2


def test_bytes_after_the_last_weight_that_was_noted_may_be_anything(written: Written) -> None:
    journal, folder, laid_out = written
    lines = journal.path.read_text().splitlines(keepends=True)
    journal.path.write_text("".join(lines[:3]))
    flip(folder / laid_out[2].file, laid_out[2].offset)
    assert journal.resume(folder, laid_out)[0] == 2


@pytest.mark.parametrize("missing", [1, 2, 40])
def test_last_line_that_was_cut_off_is_ignored(written: Written, missing: int) -> None:
    journal, folder, laid_out = written
    journal.path.write_text(journal.path.read_text()[:-missing])
    assert journal.differences(IDENTITY) == []
    assert journal.resume(folder, laid_out)[0] == 2
    assert num_lines(journal) == 3


@pytest.mark.parametrize("field", ["name", "offset", "length", "file"])
def test_weight_at_another_place_is_not_believed(written: Written, field: str) -> None:
    journal, folder, laid_out = written
    second = laid_out[1]
    others = {
        "name": lambda: dataclasses.replace(second, values=laid_out[2].values),
        "offset": lambda: dataclasses.replace(second, offset=1664),
        "length": lambda: dataclasses.replace(second, length=1679),
        "file": lambda: dataclasses.replace(second, file="elsewhere"),
    }
    other = [laid_out[0], others[field](), laid_out[2]]
    assert journal.resume(folder, other)[0] == 1
    assert num_lines(journal) == 2


@pytest.mark.parametrize("length", [None, 0, 1599, 1600, 3279])
def test_file_that_is_short_or_gone_confirms_only_what_it_holds(
    written: Written, length: int | None
) -> None:
    journal, folder, laid_out = written
    path = folder / laid_out[0].file
    if length is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:length])
    assert journal.resume(folder, laid_out)[0] == ((length or 0) >= 1600)


def test_plan_of_fewer_weights_resumes_only_those_that_it_has(written: Written) -> None:
    journal, folder, laid_out = written
    assert journal.resume(folder, laid_out[:1])[0] == 1
    assert num_lines(journal) == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n",
        bytes(range(256)),
        b"[1, 2]\n",
        b"null\n",
        b'{"quant": "int4"',
        b"{" * 100,
        b"[" * 10**5,
    ],
    ids=["empty", "blank", "bytes", "list", "null", "cut off", "braces", "deep"],
)
def test_garbage_is_no_journal(written: Written, garbage: bytes) -> None:
    journal, folder, laid_out = written
    journal.path.write_bytes(garbage)
    assert journal.differences(IDENTITY) is None
    assert journal.resume(folder, laid_out)[0] == 0


def test_a_journal_that_is_too_large_is_named(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "LARGE_BYTES", 100)
    journal = written[0]
    with pytest.raises(
        ContractError,
        match=f"^{journal.path}: is larger than 100 B.*; remove it to start over",
    ):
        journal.differences(IDENTITY)


def test_line_of_garbage_ends_what_is_believed(written: Written) -> None:
    journal, folder, laid_out = written
    lines = journal.path.read_text().splitlines(keepends=True)
    journal.path.write_text("".join([*lines[:2], "garbage\n", *lines[2:]]))
    assert journal.resume(folder, laid_out)[0] == 1
    assert num_lines(journal) == 2


def test_reader_that_is_killed_while_it_forgets_leaves_what_was_noted(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    journal, folder, laid_out = written
    before = journal.path.read_text()
    flip(folder / laid_out[-1].file, laid_out[-1].offset)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", kill)
        journal.resume(folder, laid_out)
    assert journal.path.read_text() == before
    assert journal.num_noted == 3
    assert journal.resume(folder, laid_out)[0] == journal.num_noted == 2


def test_weights_noted_after_a_resumption_are_believed_the_next_time(written: Written) -> None:
    journal, folder, laid_out = written
    whole = journal.path.read_text()
    journal.path.write_text(whole[:-10])
    _, digests = journal.resume(folder, laid_out)
    last = laid_out[2]
    start = sum(p.length for p in laid_out[:2]) if last.offset else 0
    digests[last.file].update((folder / last.file).read_bytes()[start:])
    journal.add(last, digests[last.file].hexdigest())
    assert journal.path.read_text() == whole
    assert journal.resume(folder, laid_out)[0] == 3


def test_journal_that_begins_anew_forgets_what_was_noted(written: Written) -> None:
    journal, folder, laid_out = written
    journal.begin(IDENTITY)
    assert journal.resume(folder, laid_out)[0] == 0


def test_where_there_is_no_journal_there_is_nothing_to_differ_from(tmp_path: Path) -> None:
    assert Journal(tmp_path / "journal.jsonl").differences(IDENTITY) is None


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, []),
        ({"block": 64}, ["block"]),
        ({"window": 8, "quant": "int8"}, ["quant", "window"]),
        ({"files": {"a": "00", "b": "fe"}}, ["files"]),
        ({"numpy": "2.0"}, ["numpy"]),
    ],
)
def test_what_decides_the_bytes_and_is_other_now_is_named(
    tmp_path: Path, change: Identity, names: list[str]
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.begin(IDENTITY)
    assert journal.differences({**IDENTITY, **change}) == names
    journal.begin({**IDENTITY, **change})
    assert journal.differences(IDENTITY) == names
