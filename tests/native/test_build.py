"""Is the library built from its sources, small, and right in every instruction set?"""

from __future__ import annotations

import ctypes
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tramontane
from tramontane.native import build, platforms, wheels
from tramontane.runtime.errors import ConfigError
from tramontane.runtime.ort import native_library

from ..support import clone
from ..support.once import Once


@pytest.mark.slow
def test_it_is_small_needs_the_c_library_alone_and_says_its_version(library: Path) -> None:
    assert library.stat().st_size < 300_000
    if sys.platform == "linux":
        needed = set(re.findall(rb"lib[\w+-]+\.so", library.read_bytes()))
        assert needed <= {b"libc.so", b"libm.so"}  # no C++ library, and not onnxruntime
    loaded = ctypes.CDLL(str(library))
    loaded.tramontane_version.restype = loaded.tramontane_kernels.restype = ctypes.c_char_p
    assert loaded.tramontane_version().decode() == tramontane.__version__
    assert loaded.tramontane_kernels(128).decode() in platforms.KERNEL_FLAGS
    assert loaded.tramontane_kernels(2) == b"plain"  # fewer numbers than any vector has


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["of this machine", "zig"])
def test_the_widest_kernels_that_the_processor_runs_are_chosen(
    compiler: str, library: Path, tmp_path: Path
) -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if platforms.this_platform() != "linux-x86_64" or not cpuinfo.is_file():
        pytest.skip("no x86 under Linux")
    if compiler == "zig":
        pytest.importorskip("ziglang")
        library = build.build(tmp_path, platform_name="linux-x86_64")
    assert library.stat().st_size < 300_000
    flags = set(re.findall(r"\w+", cpuinfo.read_text()))
    has_avx2 = {"avx2", "fma", "f16c"} <= flags
    has_avx512 = has_avx2 and {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= flags
    loaded = ctypes.CDLL(str(library))
    loaded.tramontane_kernels.restype = ctypes.c_char_p
    expected = "avx512" if has_avx512 else "avx2" if has_avx2 else "plain"
    assert loaded.tramontane_kernels(64).decode() == expected


@pytest.fixture
def checks(once: Once, built: Path) -> Path:
    """The folder of the programs that test the library, built with sanitizers."""
    return once("native-checks", build.build_checks)


def ran(program: Path, seed: int, calls: int) -> str:
    done = subprocess.run(
        [program, str(seed), str(calls)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_random_calls_equal_double_precision_under_sanitizers(checks: Path, seed: int) -> None:
    assert ran(checks / "checks", seed, 25).endswith("as expected\n")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_shapes_are_refused_or_computed_under_sanitizers(checks: Path, seed: int) -> None:
    found = re.fullmatch(
        r"(\d+) computed, (\d+) refused\n", ran(checks / "random_shapes", seed, 2000)
    )
    assert found is not None
    assert min(int(found[1]), int(found[2])) > 500


def test_a_platform_without_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms.platform, "machine", lambda: "riscv64")
    with pytest.raises(ConfigError, match="on riscv64: the native library is not built for it"):
        platforms.this_platform()
    with pytest.raises(ConfigError, match="--platform plan9: expected one of linux-x86_64"):
        platforms.find_platform("plan9")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler found; pip install ziglang"):
        build.find_compiler(None)


def test_a_compiler_that_no_shell_could_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "'c++")
    with pytest.raises(ConfigError, match=r'CXX="\'c\+\+": No closing quotation, expected'):
        build.find_compiler(None)


def test_what_the_compiler_printed_is_in_the_error() -> None:
    with pytest.raises(ConfigError, match="status 1"):
        build.run(["false"])


@pytest.mark.slow
def test_the_library_has_the_same_bytes_wherever_it_is_built(
    library: Path, tmp_path: Path
) -> None:
    again = build.build(tmp_path / "deep" / "er")
    assert again.read_bytes() == library.read_bytes()
    assert str(Path(build.__file__).parents[1]).encode() not in library.read_bytes()


@pytest.mark.slow
def test_libraries_for_phones_are_for_their_processor_and_need_what_is_there(
    tmp_path: Path,
) -> None:
    pytest.importorskip("ziglang")
    android = build.build(tmp_path / "android", platform_name="android-arm64")
    content = android.read_bytes()
    assert content[:5] == b"\x7fELF\x02"
    assert int.from_bytes(content[18:20], "little") == 183  # EM_AARCH64, ELF's registry
    assert b"RegisterCustomOps\0" in content
    assert set(re.findall(rb"lib\w+\.so", content)) == {b"libc.so", b"libm.so"}
    ios = build.build(tmp_path / "ios", platform_name="ios-arm64")
    assert (android.name, ios.name) == ("libtramontane.so", "libtramontane.a")
    archive = ios.read_bytes()
    assert archive[:8] == b"!<arch>\n"
    assert b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01" in archive  # Mach-O, arm64
    assert max(len(content), len(archive)) < 300_000


@pytest.mark.slow
def test_a_function_that_the_system_would_lack_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    whole = platforms.PLATFORMS["android-arm64"]
    lacking = dataclasses.replace(whole, imports={"libc.so": whole.imports["libc.so"]})
    compiler = build.find_compiler(lacking)
    objects = build.compile_sources(compiler, lacking, build.OTHER_SOURCES, tmp_path)
    with pytest.raises(ConfigError, match="expf"):
        build.link(compiler, lacking, objects, tmp_path / lacking.library)


def test_a_platform_without_wheels_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="ios-arm64: pip installs nothing there, expected one of"
    ):
        wheels.build_wheel(tmp_path, "ios-arm64")


@pytest.mark.slow
def test_a_wheel_brings_the_library_to_where_it_is_found(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = f"py3-none-{platforms.PLATFORMS[platforms.this_platform()].wheel_tag}"
    made = [wheels.pack(tmp_path / name, library, tag=tag) for name in "ab"]
    assert made[0].read_bytes() == made[1].read_bytes()
    target = tmp_path / "installed"
    pip = ["-m", "pip", "install", "--no-index", "--no-deps", "--target", target, made[0]]
    subprocess.run([sys.executable, *pip], check=True, capture_output=True)
    monkeypatch.setattr(native_library, "BUILT", tmp_path)
    monkeypatch.syspath_prepend(target)
    found = native_library.find_library()
    assert found == target / "tramontane_native" / library.name
    assert found.read_bytes() == library.read_bytes()
    asked = ["--dry-run", "--no-index", "--no-build-isolation", "--find-links", tmp_path / "a"]
    pip = ["-m", "pip", "install", *asked, f"{clone.ROOT}[native]"]
    told = subprocess.run([sys.executable, *pip], check=True, capture_output=True, text=True)
    assert f"tramontane-native-{tramontane.__version__}" in told.stdout.splitlines()[-1]
