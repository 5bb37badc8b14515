"""Is a command measured for what it did?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tramontane.bench.process import ProcessUsage, run

MOST = 4 << 30


def python(code: str, *, limit_bytes: int = MOST) -> ProcessUsage:
    return run([sys.executable, "-c", code], limit_bytes=limit_bytes)


def test_peak_is_that_of_the_command_and_not_of_its_end() -> None:
    small, large = (
        python(
            f"import time; x = b'1' * ({size} << 20); time.sleep(0.4); del x; time.sleep(0.2)"
        ).peak_bytes
        for size in (1, 200)
    )
    assert 150 << 20 < large - small < 250 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts mapped pages")
def test_a_mapped_file_is_no_memory_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(200 << 20))
    found = python(
        f"import mmap, time; f = open({str(path)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, "
        "prot=mmap.PROT_READ); sum(m[::4096]); time.sleep(0.4)"
    )
    assert found.peak_bytes > 200 << 20
    assert found.own_peak_bytes < 50 << 20


def test_output_status_and_lines_are_those_of_the_command() -> None:
    found = python(
        "import sys, time; print('first', file=sys.stderr, flush=True); time.sleep(0.3); "
        "print('second', file=sys.stderr); print('out'); sys.exit(3)"
    )
    assert (found.status, found.output) == (3, "out\n")
    (early, first), (late, second) = found.lines
    assert (first, second) == ("first", "second")
    assert late - early >= 0.2
    assert found.seconds >= late
    assert not found.was_stopped


def test_time_of_the_processor_is_not_that_of_waiting() -> None:
    waits = python("import time; time.sleep(0.5)")
    works = python(
        "import time; start = time.process_time()\nwhile time.process_time() < start + 0.5: pass"
    )
    assert works.cpu_seconds - waits.cpu_seconds == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("packing\ntramontane: no room\ntramontane: with make, --out is OUT=",
         "no room; with make, --out is OUT="),
        ("tramontane: first\nTraceback\nValueError: last", "ValueError: last"),
        ("", "status 3, and not a word"),
    ],
)  # fmt: skip
def test_last_words_are_the_error_and_its_hints(lines: str, words: str) -> None:
    found = python(f"import sys; sys.stderr.write({lines!r}); sys.exit(3)")
    assert found.last_words == words


def test_command_that_takes_too_much_memory_is_stopped() -> None:
    code = "import time; x = b'1' * (300 << 20); time.sleep(60)"
    found = python(code, limit_bytes=100 << 20)
    assert found.was_stopped
    assert found.status < 0


def test_memory_of_what_a_command_begins_is_counted_with_its_own() -> None:
    code = (
        "import subprocess, sys; x = b'1' * (100 << 20); "
        "child = 'import time; x = bytes([1]) * (200 << 20); time.sleep(0.5)'; "
        "subprocess.run([sys.executable, '-c', child])"
    )
    assert python(code).peak_bytes > 300 << 20
