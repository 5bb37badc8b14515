"""The runtimes of the matrix: how each is started, and what it must give."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ..deploy import web_server
from ..environments import arm64, browser, node, python, qemu
from ..graphs.targets.all_targets import DEFAULT_TARGET, find_target
from ..runtime import minimal_decode
from ..validate.tolerance import FEWEST_POSITIONS
from .cases import NEW_TOKENS, NUM_SCORED, MatrixCase
from .tokenized import ADDED_TOKENS

_RUNNERS = Path(__file__).with_name("runners")
_PYTHON = _RUNNERS / "python"
GENAI = ("onnxruntime-genai==0.18.0",)
_TRANSFORMERS_JS = ("@huggingface/transformers@4.3.1",)
# optimum-onnx needs an older transformers, so it has its own environment; torch comes first, so
# that the later step does not install another version.
_OPTIMUM = (
    ("torch==2.13.0",),
    ("optimum-onnx[onnxruntime]==0.1.0", "transformers<4.58", "sentencepiece"),
)
_DRIVER, _DRIVER_ON_ARM = "tramontane", "tramontane, arm64"
_WEB = "onnxruntime-web"


def _is_plain(case: MatrixCase) -> bool:
    """Whether an artifact has the default target and cache."""
    options = case.options
    return options.target == DEFAULT_TARGET and not options.cache_choice.grows


def _is_plain_and_quantized(case: MatrixCase) -> bool:
    return _is_plain(case) and case.options.recipe.is_quantized


def _is_usual(case: MatrixCase) -> bool:
    """Whether an app on a desktop or a phone would ship an artifact."""
    recipe = case.options.recipe
    return _is_plain(case) and not recipe.is_dynamic and not recipe.has_byte_scales


def _is_usual_on_the_web(case: MatrixCase) -> bool:
    return _runs_in_browsers(case) and (case.options.recipe.is_quantized or _is_plain(case))


def _runs_in_browsers(case: MatrixCase) -> bool:
    return find_target(case.options.target).runs_in_browsers(case.options.recipe)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the matrix: a runtime, and which artifacts it runs."""

    name: str
    takes: Callable[[MatrixCase], bool] = lambda _: True  # whether it can run the artifact at all
    usual: Callable[[MatrixCase], bool] = _is_usual  # tried when only some runtimes are asked for
    # With quantized weights: the runtime with the same kernels, whose tokens this one must give.
    # None: it has other kernels, so its logits are compared within bounds.
    rounds_like: str | None = _DRIVER
    seconds: int = 1  # typical, for one artifact on 2 cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime(Column):
    """A runtime whose job is given as a file."""

    start: Callable[[Path], Sequence[str | Path]]  # the command for a job; may raise Absent
    new_tokens: int = NEW_TOKENS
    num_scored: int = NUM_SCORED  # positions
    # Tokenizer probes that its own tokenizer encodes or decodes differently from SentencePiece.
    reads_otherwise: Callable[[str], bool] = lambda _: False
    writes_otherwise: Callable[[str], bool] = lambda _: False
    # Why its tokenizer cannot read an artifact's rules, so that strings may differ; empty: it can.
    reads_other_rules: Callable[[MatrixCase], str] = lambda _: ""


def _here(runner: str, job: Path) -> list[str | Path]:
    return [sys.executable, _PYTHON / runner, job]


def _onnxruntime_alone(job: Path) -> list[str | Path]:
    """A Python with only onnxruntime and numpy, in the versions of this one."""
    packages = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy")]
    return [
        python.python_with("bare", packages),
        _PYTHON / "onnxruntime_alone.py",
        job,
        minimal_decode.__file__,
    ]


def _genai(job: Path) -> list[str | Path]:
    return [python.python_with("genai", GENAI), _PYTHON / "genai.py", job]


def _transformers_js(job: Path) -> list[str | Path]:
    folder = node.node_with("node", _TRANSFORMERS_JS)
    return ["node", _RUNNERS / "transformers_js" / "in_node.mjs", job, folder]


def _transformers_page(job: Path) -> list[str | Path]:
    folder = node.node_with("node", _TRANSFORMERS_JS)
    return [
        "node",
        _RUNNERS / "transformers_js" / "in_browser.mjs",
        job,
        folder,
        browser.tools(),
        browser.find(),
    ]


def _onnxruntime_web(job: Path) -> list[str | Path]:
    runner = _RUNNERS / "onnxruntime_web" / "wasm.mjs"
    return ["node", runner, job, node.node_with("web", web_server.PACKAGES)]


def _webgpu(job: Path) -> list[str | Path]:
    web, tools = node.node_with("web", web_server.PACKAGES), browser.tools()
    return ["node", _RUNNERS / "onnxruntime_web" / "webgpu.mjs", job, web, tools, browser.find()]


def _optimum(job: Path) -> list[str | Path]:
    return [python.python_with("optimum", *_OPTIMUM), _PYTHON / "pytorch.py", job]


def _grows(case: MatrixCase) -> bool:
    return case.options.cache_choice.grows or not case.has_window


def _runs_in_optimum(case: MatrixCase) -> bool:
    # transformers 4.57, which optimum-onnx needs, has no Ministral 3.
    return _grows(case) and not case.is_ministral3


def _has_own_tokenizer(case: MatrixCase) -> bool:
    """Whether the model has the tokenizer that it was trained with."""
    return case.tokenizer is None


def _grows_as_published(case: MatrixCase) -> bool:
    return _grows(case) and _has_own_tokenizer(case)


def _spells_control(text: str) -> bool:
    return any(token in text for token in ("<s>", "</s>", "<unk>"))


def _begins_with_mark(text: str) -> bool:
    return text.startswith("\ufeff")  # byte order mark, which JavaScript's decoder drops


def _is_lost_in_genai(text: str) -> bool:
    is_special = re.fullmatch(r"(<\|\w+\|>)+", text) is not None  # text without characters
    is_lost = text == "" or is_special or "\uffff" in text or "\U0010ffff" in text
    return is_lost or _spells_control(text)


def _has_unread_rules_in_genai(case: MatrixCase) -> str:
    return "it does not read Metaspace" if case.tokenizer == ADDED_TOKENS else ""


REFERENCE = Runtime(name="transformers", start=lambda job: _here("pytorch.py", job))
DRIVER = Runtime(
    name=_DRIVER,
    start=lambda job: _here("driver.py", job),
    rounds_like=None,  # compared with PyTorch
)
OTHERS = (
    Runtime(name="onnxruntime", start=_onnxruntime_alone),
    Runtime(
        name="onnxruntime-genai",
        start=_genai,
        reads_otherwise=_spells_control,  # reads it as the token
        writes_otherwise=_is_lost_in_genai,  # text without characters, or only the start token
        reads_other_rules=_has_unread_rules_in_genai,
    ),
    Runtime(
        name="transformers.js",
        start=_transformers_js,
        writes_otherwise=_begins_with_mark,
    ),
    Runtime(
        name="transformers.js in Chromium",
        start=_transformers_page,
        rounds_like=None,
        takes=_runs_in_browsers,
        usual=_is_usual_on_the_web,
        seconds=15,
        writes_otherwise=_begins_with_mark,
    ),
    Runtime(
        name=_WEB,
        start=_onnxruntime_web,
        rounds_like=None,
        usual=_is_usual_on_the_web,
        seconds=5,
    ),
    Runtime(
        name="WebGPU in Chromium",
        start=_webgpu,
        rounds_like=None,
        new_tokens=6,  # on a software adapter each token takes seconds
        num_scored=FEWEST_POSITIONS,
        # Its attention has a window, but it cannot evict cache rows.
        takes=lambda case: _has_own_tokenizer(case) and case.options.cache_choice.grows,
        usual=lambda case: _has_own_tokenizer(case) and case.options.cache_choice.grows,
        seconds=60,
    ),
    Runtime(
        name="optimum",
        start=_optimum,
        takes=_runs_in_optimum,
        usual=_grows_as_published,
        seconds=10,
    ),
    Runtime(
        name=_DRIVER_ON_ARM,
        start=lambda job: [*arm64.python(), str(_PYTHON / "driver.py"), job],
        rounds_like=None,
        takes=_is_plain,
    ),
    Runtime(
        name="onnxruntime, arm64",
        start=lambda job: [
            *arm64.python(),
            str(_PYTHON / "onnxruntime_alone.py"),
            job,
            minimal_decode.__file__,
        ],
        rounds_like=_DRIVER_ON_ARM,
        takes=_is_plain,
    ),
    Runtime(
        name="tramontane, arm64 with i8mm",
        start=lambda job: [*arm64.python(arm64.I8MM), str(_PYTHON / "driver.py"), job],
        rounds_like=None,
        new_tokens=16,
        takes=_is_plain_and_quantized,  # where it matters
    ),
    Runtime(
        name="tramontane, x86 without VNNI",
        start=lambda job: [*qemu.python_without_vnni(), str(_PYTHON / "driver.py"), job],
        rounds_like=None,
        new_tokens=16,
        takes=_is_plain_and_quantized,
    ),
)

PAGE = Column(name="page in Chromium", rounds_like=_WEB, usual=_is_usual_on_the_web, seconds=40)
COLUMNS: tuple[Column, ...] = (DRIVER, *OTHERS, PAGE)
