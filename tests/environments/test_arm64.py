"""Is what the emulated Python finds on disk made as it must be, and is what lacks named?"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import filelock
import pytest
from tramontane.environments import arm64, folders, qemu
from tramontane.environments.errors import Absent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "home", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def unpacked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as after the downloads, of empty files."""

    def make(folder: Path) -> None:
        for processor in arm64.PROCESSORS:
            binaries = folder / processor.name / "usr" / "bin"
            binaries.mkdir(parents=True)
            for name in ("python3", "python3.13", "python3.13-config"):
                (binaries / name).touch()

    monkeypatch.setattr(arm64, "_make", make)
    monkeypatch.setattr(qemu, "program", lambda name: f"/opt/{name}")
    return home / "arm64"


def test_every_core_says_who_it_is_and_what_it_can(tmp_path: Path) -> None:
    arm64.describe(arm64.I8MM, tmp_path, cpus=3)
    cores = (tmp_path / "proc" / "cpuinfo").read_text().split("\n\n")
    assert [core.splitlines()[0] for core in cores] == [f"processor\t: {n}" for n in range(3)]
    for core in cores:
        fields = dict(line.split(":") for line in core.splitlines())
        assert fields["CPU part\t"] == " 0xd40"
        assert {"fp", "asimd", "asimddp", "i8mm"} <= set(fields["Features\t"].split())


def test_a_processor_without_dot_product_does_not_claim_it(tmp_path: Path) -> None:
    arm64.describe(arm64.NEON, tmp_path, cpus=1)
    assert "asimddp" not in (tmp_path / "proc" / "cpuinfo").read_text()
    assert arm64.DOT_PRODUCT.part != arm64.NEON.part  # some features go by the core's number


@pytest.mark.parametrize(("cpus", "everyone"), [(1, "0"), (4, "0-3")])
def test_cores_share_the_last_cache_alone(tmp_path: Path, cpus: int, everyone: str) -> None:
    arm64.describe(arm64.DOT_PRODUCT, tmp_path, cpus=cpus)
    system = tmp_path / "sys" / "devices" / "system" / "cpu"
    for name in ("possible", "present", "online"):
        assert (system / name).read_text() == f"{everyone}\n"
    for cpu in range(cpus):
        caches = sorted((system / f"cpu{cpu}" / "cache").iterdir())
        shared = [(cache / "shared_cpu_list").read_text().strip() for cache in caches]
        assert shared == [str(cpu)] * 3 + [everyone]


def test_a_cache_is_as_large_as_its_sets_and_ways_make_it(tmp_path: Path) -> None:
    arm64.describe(arm64.NEON, tmp_path, cpus=1)
    for cache in (tmp_path / "sys/devices/system/cpu/cpu0/cache").iterdir():
        value = {path.name: path.read_text().strip() for path in cache.iterdir()}
        lines = int(value["ways_of_associativity"]) * int(value["number_of_sets"])
        assert int(value["size"][:-1]) * 1024 == lines * int(value["coherency_line_size"])


def test_the_command_names_qemu_the_processor_and_the_python_that_was_unpacked(
    unpacked: Path,
) -> None:
    root = unpacked / "dot-product"
    assert arm64.python()[-6:] == [
        *("/opt/qemu-aarch64-static", "-cpu", "cortex-a76", "-L"),
        *(str(root), str(root / "usr" / "bin" / "python3.13")),
    ]
    assert arm64.python(arm64.NEON)[-4] == "cortex-a72"


def test_the_emulated_python_imports_this_package_and_its_own_wheels(unpacked: Path) -> None:
    variables = dict(word.split("=", 1) for word in arm64.python() if "=" in word[:32])
    ours, wheels = variables["PYTHONPATH"].split(":")
    package = Path(arm64.__file__).resolve().parents[1]
    assert (Path(ours) / "tramontane").resolve() == package
    assert Path(wheels) == unpacked / "site"
    assert arm64.python()[1] == f"PYTHONPATH={ours}:{wheels}"  # the link is there: used again


def test_it_is_unpacked_once(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = arm64.python()
    monkeypatch.setattr(arm64, "_make", lambda _: pytest.fail("unpacked again"))
    assert arm64.python() == first


def test_nobody_else_unpacks_it_meanwhile(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = arm64._make

    def look(folder: Path) -> None:
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(unpacked.with_suffix(".lock")).acquire(timeout=0)
        make(folder)

    monkeypatch.setattr(arm64, "_make", look)
    arm64.python()
    filelock.FileLock(unpacked.with_suffix(".lock")).acquire(timeout=0).lock.release()


def test_wheels_are_those_that_this_python_runs() -> None:
    assert f"onnxruntime=={version('onnxruntime')}" in arm64.wheels()


def test_absent_without_dpkg_or_apt_get(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Absent, match=r"^dpkg: No such file or directory$"):
        arm64.python()
    dpkg = tmp_path / "dpkg"
    dpkg.write_text(f"#!{sys.executable}\nprint('amd64')\n")
    dpkg.chmod(0o755)
    with pytest.raises(Absent, match=r"^apt-get: No such file or directory$"):
        arm64.python()


def test_absent_where_the_distribution_has_no_such_package(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, lines in (
        ("dpkg", "print('amd64')"),
        (
            "apt-get",
            "import sys\nif 'install' in sys.argv:\n    sys.exit('E: Unable to locate package')",
        ),
    ):
        (tmp_path / name).write_text(f"#!{sys.executable}\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Absent, match=r"^apt-get install python3 .*Unable to locate"):
        arm64.python()


def test_absent_when_the_packages_hold_no_python(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "program", lambda _: home / "qemu-aarch64")
    monkeypatch.setattr(arm64, "_make", lambda _: None)
    with pytest.raises(Absent, match=r"no usr/bin/python3\.N in the packages for arm64"):
        arm64.python()
