"""Does onnxruntime-genai run the native graph, set up as docs/native.md says?"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from tramontane.environments.errors import Absent
from tramontane.environments.python import python_with
from tramontane.export.build import export_checkpoint
from tramontane.export.cache_choice import CACHES
from tramontane.export.options import ExportOptions
from tramontane.export.sidecars.genai_config import GENAI_CONFIG_FILE
from tramontane.interop.runners.python import driver
from tramontane.interop.runtimes import GENAI
from tramontane.runtime.contract import NATIVE_MODEL_FILE

from ..support.once import Once

Copied = Callable[[Path], Path]
pytestmark = pytest.mark.slow
RUNNER = Path(driver.__file__).with_name("genai.py")


@pytest.mark.parametrize(("kv", "cache"), [*product(("float16", "int8"), CACHES)])
def test_it_gives_the_tokens_of_our_driver(
    kv: str, cache: str, once: Once, library: Path, stdlib_5m: Path, copied: Copied
) -> None:
    options = ExportOptions(quant="fp32", target="ort", kv=kv, native=True, cache=cache)
    made = once(f"genai-native-{kv}-{cache}", lambda o: export_checkpoint(stdlib_5m, o, options))
    compare(copied(made), library, "def fibonacci(")


def test_it_gives_them_where_some_layers_have_a_window(
    once: Once, library: Path, shared: Path, copied: Copied
) -> None:
    options = ExportOptions(
        quant="fp32", target="ort", kv="float16", native=True, window=(None, 32, 32)
    )
    stories = shared / "models" / "stories15M"
    made = once("genai-native-by-layer", lambda out: export_checkpoint(stories, out, options))
    compare(copied(made), library, "The little dog")


def compare(artifact: Path, library: Path, text: str) -> None:
    """Run an artifact's native graph in onnxruntime-genai and in the driver; it may be changed."""
    try:
        python = python_with("genai", GENAI)
    except Absent as absent:
        pytest.skip(str(absent))
    config = json.loads((artifact / GENAI_CONFIG_FILE).read_text(encoding="utf-8"))
    decoder = config["model"]["decoder"]
    decoder["filename"] = NATIVE_MODEL_FILE
    # It loads none from elsewhere: "custom_ops_library path is not within an allowed directory".
    shutil.copy(library, artifact)
    decoder["session_options"]["custom_ops_library"] = library.name
    (artifact / GENAI_CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    job = {
        "artifact": str(artifact),
        "texts": [text],
        "strings": [],
        "chat": None,
        "prompts": [[1, 5, 6, 7]],
        "new_tokens": 100,
    }
    path = artifact.with_suffix(".json")
    path.write_text(json.dumps(job), encoding="utf-8")
    said = subprocess.run([python, RUNNER, path], check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout.splitlines()[-1])
    expected = driver.do({**job, "native": True})
    assert (found["tokens"], found["texts"]) == (expected["tokens"], expected["texts"])
