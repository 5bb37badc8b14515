"""Does all that others wrote come through runtime/untrusted, and what is read beside it why?"""

from __future__ import annotations

import ast
from pathlib import Path

from .test_layers import ROOT, modules

DOOR = "runtime/untrusted/"
PARSERS = {
    *("json.load", "json.loads", "tomllib.load", "tomllib.loads", "yaml.load", "yaml.safe_load"),
    *("np.load", "pickle.load", "pickle.loads", "ast.literal_eval"),
}
_CHILD = "a message between one of our processes and the process that started it"
_WRITTEN = "a file that this process has just written"
_PACKAGE = "what a package gave back, which has read the file"
ELSEWHERE = {
    "bench/artifact/long_context.py": _WRITTEN,
    "bench/artifact/session_speed.py": _CHILD,
    "bench/artifact/speed.py": _CHILD,
    "bench/export/__main__.py": _CHILD,
    "bench/peers/genai_speed.py": _CHILD,
    "bench/peers/llama_quantize.py": _CHILD,
    "bench/peers/llama_speed.py": _CHILD,
    "bench/sweep/export_case.py": _CHILD,
    "console/processes/ask_module.py": _CHILD,
    "deploy/bill_of_materials.py": _PACKAGE,
    "export/budget/float_model.py": _WRITTEN,
    "export/sidecars/card_metadata.py": "YAML by a loader of its own, bounded, without tags",
    "export/published_tokenizer/byte_level/mistral_split_regex.py": _PACKAGE,
    "export/tokenizer/added_tokens.py": "a tokenizer.json; what is no JSON is refused elsewhere",
    "export/tokenizer/in_transformers.py": _PACKAGE,
    "export/tokenizer/read_natively.py": "a tokenizer.json that the package has read",
    "export/tokenizer/streamed.py": "a tokenizer.json, for a word in a message",
    "export/tokenizer/two_flags.py": _PACKAGE,
    "faults/planted/in_tokenizer.py": "an artifact that the same run exported",
    "fuzz/good_files.py": "the bundled demo model",
    "fuzz/good_tokenizers.py": _PACKAGE,
    "fuzz/guided.py": _CHILD,
    "fuzz/readers.py": "a mutated file, to make its own hash right",
    "graphs/quantization/recipes/read.py": "TOML, bounded by lines before it is parsed",
    "graphs/writing/journal.py": "a line that was written in the same call",
    "interop/rows.py": "an artifact that the same run exported",
    "interop/runners/python/driver.py": _CHILD,
    "interop/runners/python/genai.py": _CHILD,
    "interop/runners/python/native.py": _CHILD,
    "interop/runners/python/onnxruntime_alone.py": _CHILD,
    "interop/runners/python/pytorch.py": _CHILD,
    "interop/scaled_rope.py": "a model that the same run made",
    "torture/fork_server.py": _CHILD,
    "validate/tokenizer/checked_files.py": _CHILD,
}


def parses(path: Path) -> bool:
    """Whether a module calls a parser by itself."""
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func) in PARSERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_what_others_wrote_is_parsed_in_one_folder() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in modules() if parses(path)}
    assert {name for name in found if not name.startswith(DOOR)} == ELSEWHERE.keys()
    assert all(ELSEWHERE.values())
