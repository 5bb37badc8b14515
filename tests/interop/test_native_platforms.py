"""Is the table of platforms right about what was built, loaded and run, and is a fault found?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tramontane
from tramontane.environments import commands
from tramontane.environments.errors import Absent
from tramontane.export.options import ExportOptions
from tramontane.interop import native_platforms, native_trial
from tramontane.interop.cases import Exported, MatrixCase
from tramontane.interop.native_trial import Machine, Trial
from tramontane.native.platforms import PLATFORMS
from tramontane.runtime.errors import ConfigError, ParityError

PAGE = "# A page\n\n| platform | old |\n| --- | --- |\n| plan9 | yes |\n\nAfterwards.\n"
RAN = Trial(
    platform="linux-aarch64",
    library_bytes=52_849,
    is_emulated=True,
    num_calls=150,
    kernels="neon",
    differences={"float32": 2.1e-5},
)


def test_a_platform_that_cannot_be_run_here_says_so() -> None:
    found = native_platforms.table([Trial(platform="ios-arm64", library_bytes=104_900), RAN])
    assert found[2].endswith("| 105 kB | yes | no | no |")
    assert found[3] == (
        "| linux-aarch64 | wheel | 53 kB | yes | yes, emulated | yes, emulated: neon; 150 random "
        "calls right; same tokens as onnxruntime's kernel, logits within 2e-05 (float32) |"
    )


def test_only_the_page_s_table_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "native.md"
    page.write_text(PAGE)
    assert native_platforms.with_table(page, ["| new |"]) == (
        "# A page\n\n| new |\n\nAfterwards.\n"
    )
    page.write_text("# Another\n")
    with pytest.raises(ConfigError, match=r"has no table that begins with '\| platform \|'"):
        native_platforms.with_table(page, ["| new |"])


def test_the_page_has_a_row_of_every_platform() -> None:
    page = Path(tramontane.__file__).parent / "docs" / "native.md"
    rows = [line.split(" | ") for line in page.read_text(encoding="utf-8").splitlines()]
    found = {row[0].removeprefix("| "): row for row in rows if len(row) == 6}
    assert set(PLATFORMS) < set(found)
    for name in PLATFORMS:
        assert 10 < int(found[name][2].removesuffix(" kB")) < 300
        assert found[name][3] == "yes"
        is_run = name in ("linux-x86_64", "linux-aarch64")
        assert found[name][5].startswith("yes" if is_run else "no")


def test_an_unknown_platform_is_named() -> None:
    with pytest.raises(ConfigError, match="--only plan9: expected one of linux-x86_64"):
        native_platforms.main(["model", "--only", "plan9"])


def test_what_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise Absent("pip: no network")

    monkeypatch.setattr(native_trial, "build", absent)
    with pytest.raises(ConfigError, match="native platforms: pip: no network"):
        native_platforms.main(["model", "--only", "ios-arm64"])


def machine(*, says: str = "", emulated: bool = True) -> Machine:
    """Runs the runner in this Python, and a program that prints these lines."""
    program = [sys.executable, "-c", f"print({says!r})"]
    return Machine(
        is_emulated=emulated,
        python=lambda site: ["env", f"PYTHONPATH={site}", sys.executable],
        programs=lambda _: {"one": program, "two": program},
    )


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("plain: compared\n25 of 25 as expected", r"compared \['plain'\], expected all kernels"),
        ("plain: compared\nneon: compared\n49 of 50 as expected", "49 of 50"),
        ("neon: compared\n0 of 0 as expected", "0 of 0"),
    ],
)
def test_a_kernel_that_is_wrong_or_was_left_out_is_found(
    says: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native_trial, "_build", lambda *_: None)
    with pytest.raises(ParityError, match=message):
        native_trial.run_checks("linux-aarch64", machine(says=says), tmp_path)
    right = machine(says="plain: compared\nneon: compared\n50 of 50 as expected")
    assert native_trial.run_checks("linux-aarch64", right, tmp_path) == 100


LIBRARY = {"path": "SITE/tramontane_native/x.so", "version": tramontane.__version__}


@pytest.mark.parametrize(
    ("logits", "tokens", "library", "message"),
    [
        ([[0.0, 1.001]], [[1]], {}, "logits differ by 0.001 from the other graph's"),
        ([[0.0, 1.0]], [[2]], {}, r"tokens \[\[2\]\], expected \[\[1\]\]"),
        ([[0.0, 1.0]], [[1]], {"path": "/usr/lib/x.so"}, "loaded .*/usr/lib/x.so"),
        ([[0.0, 1.0]], [[1]], {"version": "0.0.1"}, "loaded .*0.0.1"),
        ([[0.0, np.nan]], [[1]], {}, "logits differ by nan"),
        ([[0.0, 1.0]], [[1]], {"kernels": "plain"}, "computed by the plain kernels"),
    ],
)
def test_other_answers_are_found(
    logits: list[list[float]],
    tokens: list[list[int]],
    library: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    options = ExportOptions(quant="fp32", target="ort", native=True)
    case = MatrixCase(name="tiny", checkpoint=tmp_path, options=options, prompt="", text=tmp_path)
    exported = Exported(case=case, folder=tmp_path, manifest=Any, job={})  # type: ignore[arg-type]
    right = ([[1]], np.array([[0.0, 1.0]], np.float32))
    there = {**LIBRARY, "path": LIBRARY["path"].replace("SITE", str(tmp_path)), "kernels": "neon"}

    def ask(*_: object) -> tuple[dict[str, Any], np.ndarray]:
        answer = {"tokens": tokens, "library": {**there, **library}}
        return answer, np.array(logits, np.float32)

    monkeypatch.setattr(native_trial, "ask", ask)
    with pytest.raises(ParityError, match=message):
        native_trial.compare(exported, right, machine(), tmp_path)
    monkeypatch.setattr(
        native_trial, "ask", lambda *_: ({"tokens": [[1]], "library": there}, right[1])
    )
    assert native_trial.compare(exported, right, machine(), tmp_path) == ("neon", 0.0)


def test_a_job_is_given_to_a_runner_and_its_last_line_is_read(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> str:
        ran.append(command)
        return 'a warning\n{"tokens": [[1]]}\n'

    monkeypatch.setattr(commands, "run", run)
    answer, logits = native_trial.ask(["python", "runner.py"], exported)
    assert answer == {"tokens": [[1]]}
    assert logits.shape == (0, exported.manifest.geometry.vocab_size)
    job = json.loads(Path(ran[0][-1]).read_text(encoding="utf-8"))
    assert len(job["score"]) == native_trial.NUM_SCORED
    assert len(job["prompts"][0]) + job["new_tokens"] == native_trial.NUM_SCORED
