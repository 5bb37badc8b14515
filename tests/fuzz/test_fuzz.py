"""The fuzzer finds what it should find, and its cases follow from a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.fuzz.readers import READERS, Reader
from tramontane.fuzz.trial import READ, TYPED, UNTYPED, Case, Folder
from tramontane.runtime.errors import ContractError

GOOD = b"good" * 64


def reader(read: Callable[[bytes], object]) -> Reader:
    return Reader(
        file="file",
        content=lambda _: GOOD,
        read=lambda folder: read((folder / "file").read_bytes()),
    )


def cases(folder: Folder, count: int) -> list[str]:
    numbers = (Case(reader="file", seed=0, number=number) for number in range(count))
    return [folder.try_(case.mutations(folder.size)).kind for case in numbers]


def test_a_case_follows_from_its_seed(tmp_path: Path) -> None:
    folder = Folder(reader(len), tmp_path)
    one, same, other = (
        folder.mutated(Case(reader="file", seed=seed, number=7).mutations(folder.size))
        for seed in (0, 0, 1)
    )
    assert one == same != other
    assert one != GOOD


def test_an_untyped_error_is_found_and_a_typed_one_is_not(tmp_path: Path) -> None:
    def refuse(content: bytes) -> None:
        if content != GOOD:
            raise ContractError("file: changed, expected good; copy it again")

    def fail(content: bytes) -> None:
        if content != GOOD:
            raise ValueError("no")

    assert set(cases(Folder(reader(refuse), tmp_path), 50)) <= {TYPED, READ}
    assert UNTYPED in cases(Folder(reader(fail), tmp_path), 5)


def test_a_reader_that_refuses_a_good_file_is_no_proof(tmp_path: Path) -> None:
    def refuse(_: bytes) -> None:
        raise ContractError("never")

    with pytest.raises(AssertionError, match="a good file ends as"):
        Folder(reader(refuse), tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_mutated_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    folder = Folder(READERS[name], tmp_path)
    for number in range(100):
        outcome = folder.try_(Case(reader=name, seed=1, number=number).mutations(folder.size))
        assert outcome.kind in (READ, TYPED), (number, outcome)
