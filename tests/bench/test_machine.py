"""Do figures name what the speed depends on: the processor's instructions, memory, versions?"""

from __future__ import annotations

from pathlib import Path

import pytest
from tramontane.bench import machine as machines
from tramontane.bench.machine import describe_machines, machine

from .a_machine import MACHINE


@pytest.mark.parametrize(
    ("line", "instructions"),
    [
        ("flags\t\t: sse2 avx2 avx512f avx512_vnni", "AVX-512 VNNI"),
        ("flags\t\t: sse2 avx2 avx_vnni", "AVX-VNNI"),
        ("flags\t\t: sse2 avx2", "AVX2"),
        ("Features\t: fp asimd asimddp", "NEON with dot products"),
        ("flags\t\t: sse2", ""),
    ],
)
def test_the_instructions_are_those_of_the_system(
    line: str, instructions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\n", encoding="utf-8")
    monkeypatch.setattr(machines, "_CPUINFO", path)
    assert machine(2)["instructions"] == instructions


def test_a_system_without_that_file_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "_CPUINFO", tmp_path / "absent")
    assert machine(2)["instructions"] == ""


def test_a_machine_is_the_same_after_the_kernel_took_some_of_its_memory() -> None:
    assert machine(2)["memory_bytes"] % (1 << 30) == 0


def test_two_machines_that_differ_in_instructions_alone_are_both_named() -> None:
    with_avx2 = {**MACHINE, "instructions": "AVX2"}
    assert describe_machines([MACHINE, with_avx2, MACHINE]) == (
        "Measured on: a chip, 2 cores, 2 threads, 24 GiB, Linux, onnxruntime 1.2; and on "
        "a chip (AVX2), 2 cores, 2 threads, 24 GiB, Linux, onnxruntime 1.2."
    )
