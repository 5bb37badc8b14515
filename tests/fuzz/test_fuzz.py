"""The fuzzer finds what it should find, and its cases follow from a seed."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.fuzz import __main__ as command
from tramontane.fuzz import guided, trial
from tramontane.fuzz.next_cases import next_case
from tramontane.fuzz.readers import READERS, Reader
from tramontane.fuzz.trial import (
    LARGE,
    LIMIT_S,
    READ,
    TYPED,
    UNTYPED,
    Folder,
    FuzzCase,
    FuzzOutcome,
)
from tramontane.runtime.errors import ContractError

GOOD = b"good" * 64


def reader(read: Callable[[bytes], object]) -> Reader:
    return Reader(
        file="file",
        content=lambda _: GOOD,
        read=lambda folder: read((folder / "file").read_bytes()),
    )


def cases(folder: Folder, count: int) -> list[str]:
    numbers = (FuzzCase(reader="file", seed=0, number=number) for number in range(count))
    return [folder.try_(case.mutations(folder.size)).kind for case in numbers]


def test_a_case_follows_from_its_seed(tmp_path: Path) -> None:
    folder = Folder(reader(len), tmp_path)
    one, same, other = (
        folder.mutated(FuzzCase(reader="file", seed=seed, number=7).mutations(folder.size))
        for seed in (0, 0, 1)
    )
    assert one == same != other
    assert one != GOOD


CASES = sorted(
    path for path in Path(__file__).with_name("cases").glob("*/*") if path.parent.name in READERS
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Folder]:
    """A good folder of each reader, made when it is first asked for."""
    return functools.cache(lambda name: Folder(READERS[name], tmp_path_factory.mktemp("good")))


@pytest.mark.slow
@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_kept_file_is_read_or_refused(folders: Callable[[str], Folder], path: Path) -> None:
    begun = time.monotonic()
    outcome = folders(path.parent.name).try_head(path.read_bytes())
    assert outcome.kind in (READ, TYPED), outcome
    assert time.monotonic() - begun < LIMIT_S


def test_a_finding_is_made_small(tmp_path: Path) -> None:
    def fail(content: bytes) -> None:
        if b"\x07" in content and b"\x09" in content:
            raise ValueError("no")

    folder = Folder(reader(fail), tmp_path)
    large = b"a" * 500 + b"\x07" + b"b" * 500 + b"\x09" + b"c" * 500
    outcome = folder.try_head(large)
    assert outcome.kind == UNTYPED
    assert folder.smallest(large, outcome) == b"\x07\x09"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are of Linux")
def test_memory_beyond_the_limit_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LIMIT_BYTES", 10**7)
    folder = Folder(reader(lambda content: b"x" * (10**8 if content == b"large" else 1)), tmp_path)
    assert folder.try_head(b"large").kind == LARGE
    assert folder.try_head(b"small").kind == READ


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits are of Linux")
@pytest.mark.slow
def test_memory_that_is_asked_for_and_not_used_is_seen(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
import numpy as np
from tramontane.fuzz import trial
from tramontane.fuzz.readers import Reader
trial._limit_memory()
folder = trial.Folder(
    Reader(
        file="file",
        content=lambda _: b"good",
        read=lambda folder: np.empty(2**40 if (folder / "file").read_bytes() == b"bad" else 1),
    ),
    Path({str(tmp_path)!r}),
)
print(folder.try_head(b"bad").kind, folder.try_head(b"fine").kind, sep=", ")"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.decode().strip() == f"{LARGE}, {READ}"


@pytest.mark.slow
@pytest.mark.skipif(not guided.is_installed(), reason="atheris is not installed")
def test_coverage_leads_to_new_inputs(tmp_path: Path) -> None:
    counts = guided.guide_each(
        ["manifest.json"], seconds=45, seed=0, folder=tmp_path, most_runs=2000
    )
    assert counts["manifest.json"]["findings"] == 0
    assert counts["manifest.json"]["runs"] > 100
    assert len(list((tmp_path / "corpus" / "manifest.json").iterdir())) > 10


@pytest.mark.slow
@pytest.mark.skipif(not guided.is_installed(), reason="atheris is not installed")
def test_every_reader_is_guided_by_coverage(tmp_path: Path) -> None:
    for _ in range(2):  # the second starts from the corpora of the first
        counts = guided.guide_each(
            list(READERS), seconds=len(READERS), seed=0, folder=tmp_path, most_runs=100
        )
        assert counts.keys() == READERS.keys()
        for name, found in counts.items():
            assert found["runs"] > 1, name
            assert found["findings"] == 0, (name, sorted((tmp_path / "found").iterdir()))
            assert (tmp_path / "corpus" / name / "good").is_file()


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
        outcome = folder.try_(FuzzCase(reader=name, seed=1, number=number).mutations(folder.size))
        assert outcome.kind in (READ, TYPED), (number, outcome)


def test_the_next_run_goes_on_with_other_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[tuple[str, int]] = []

    class Tries:
        def try_(self, case: FuzzCase) -> tuple[FuzzOutcome, int, bytes]:
            tried.append((case.reader, case.number))
            if len(tried) == 4:
                raise KeyboardInterrupt
            return FuzzOutcome(kind=READ), 1, b""

        def close(self) -> None: ...

    monkeypatch.setattr(command, "Worker", Tries)
    monkeypatch.setattr(guided, "is_installed", lambda: False)
    options = ["--seconds=0", f"--kept={tmp_path}", "--only=artifact.sig"]
    for _ in range(2):
        assert command.main(options) == 0
    assert command.main([*options, "--seed=1"]) == 0
    with pytest.raises(KeyboardInterrupt):
        command.main(options)
    assert command.main(options) == 0  # the case that was interrupted
    assert command.main([*options, "--first=9"]) == 0
    assert [number for _, number in tried] == [0, 1, 0, 2, 2, 9]
    assert "Seed 0, cases 9 to 9 of each file, mutated." in capsys.readouterr().out
    assert next_case(tmp_path, ["artifact.sig"], seed=0) == 10
    assert next_case(tmp_path, ["artifact.sig", "key.pub"], seed=0) == 0


@pytest.mark.parametrize("content", ["[]", '{"0": []}', '{"0": {"a": -1}}', '{"0": {"a": "x"}}'])
def test_numbers_of_cases_that_are_none_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "next-cases.json"
    path.write_text(content)
    with pytest.raises(ContractError, match=f"^{path}: .*; remove it to begin with case 0$"):
        next_case(tmp_path, ["a"], seed=0)
