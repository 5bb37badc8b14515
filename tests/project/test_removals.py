"""Whatever removes or renames a file stands here, with the reason why that file is ours."""

from __future__ import annotations

import ast
from pathlib import Path

import tramontane

ROOT = Path(tramontane.__file__).parent
REMOVE = {"rmtree", "unlink", "rmdir", "rename", "renames", "removedirs"}
OF_DURABLE = {"rename", "replace_file"}  # of runtime/durable.py
OF_THE_SYSTEM = {"remove", "replace", "truncate"}  # other things have methods of these names
REASONS = {
    "bench/artifact/speed.py": "a job's file that mkstemp made",
    "faults/planted/in_tokenizer.py": "a file of a copy in a temporary folder",
    "faults/planting.py": "a copy in a temporary folder",
    "graphs/quantization/rounded_matrices.py": "its own file in a folder marked as not whole",
    "export/synthesize/atomic_folder.py": "its own sub-folder of a marked one; an empty OUT",
    "export/write_gguf.py": "a file in a temporary folder of its own, to the name asked for",
    "export/tokenizer/write_tokenizer.py": "a file that the same call wrote into an artifact that is not whole",
    "graphs/writing/external_data.py": "weights in a folder marked as an artifact that is not whole",
    "graphs/writing/journal.py": "its own file in such a folder",
    "graphs/writing/partial_folder.py": "a marked folder that this process has locked",
    "graphs/writing/staging.py": "a marked folder; an artifact that holds its manifest's files alone",
    "interop/judge.py": "a job's file beside an artifact in a temporary folder",
    "interop/cases.py": "logits beside an artifact in a temporary folder",
    "environments/debian.py": "packages that it fetched into a temporary folder",
    "interop/web_page.py": "a job's file beside an artifact in a temporary folder",
    "bench/artifact/stored_speeds.py": "its own table, written beside it first",
    "bench/export/__main__.py": "checkpoints and artifacts that it wrote itself, in a folder for them",
    "bench/peers/convert.py": "what it made in a marked folder, or in a temporary one",
    "export/budget/fit.py": "its own table in the user's cache, written beside it first",
    "fuzz/next_cases.py": "its own numbers, written beside them first",
    "fuzz/guided.py": "its own list of findings, in a folder for them",
    "runtime/durable.py": "what its callers give it, which stand here",
    "torture/__main__.py": "the folder of a case, in a temporary folder of its own",
    "torture/outcomes.py": "its own record, written beside it first",
    "fuzz/good_files.py": "a good file in a temporary folder of its own",
    "fuzz/trial.py": "a mutated file in a temporary folder",
    "cli/commands/budget.py": "a recipe and its plot in a temporary folder, to the names asked for",
    "deploy/signature.py": "a signature that it wrote in a temporary folder, to its name",
    "native/build.py": "a library that it built in a temporary folder, to its name",
    "runtime/sequences/saved_state.py": "a saved session, written beside its name first",
    "environments/folders.py": "a marked folder",
    "environments/qemu.py": "programs that it unpacked into a marked folder",
    "validate/reference/stored_array.py": "an array of its own in a marked folder",
    "validate/reference/unfinished.py": "its own file in a marked folder, written beside it first",
    "validate/reference/reference_cache.py": "its own files in marked folders",
}


def removes(path: Path) -> bool:
    """Whether a module calls anything that makes a file or folder lose its name or bytes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in OF_DURABLE:
            return True
        if not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        is_paths = owner != "dataclasses" and len(node.args) == 1  # a string's takes two
        if node.func.attr in REMOVE or (node.func.attr == "replace" and is_paths):
            return True
        if node.func.attr in OF_THE_SYSTEM and owner == "os":
            return True
    return False


def test_every_module_that_removes_or_renames_files_has_its_reason() -> None:
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith((".", "tests/", "models/")) and removes(path):
            found.add(name)
    assert found == set(REASONS)
