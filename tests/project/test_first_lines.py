"""Is it true what modules say of their imports in their first lines: (stdlib only), (no torch)?"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tramontane

ROOT = Path(tramontane.__file__).parent
CLAIMS = ("stdlib only", "numpy only", "no torch")
LISTED = """
import importlib, json, sys
before = {name.partition(".")[0] for name in sys.modules}
for name in sys.argv[1:]:
    importlib.import_module(name)
found = {name.partition(".")[0] for name in sys.modules} - before - sys.stdlib_module_names
print(json.dumps(sorted(found)))
"""


def claiming() -> dict[str, list[str]]:
    """The modules of each claim."""
    found: dict[str, list[str]] = {claim: [] for claim in CLAIMS}
    for path in sorted(ROOT.glob("*/**/*.py")):
        name = ".".join(["tramontane", *path.relative_to(ROOT).with_suffix("").parts])
        if path.relative_to(ROOT).parts[0] not in ("tests", "models", ".venv", ".ns", "build"):
            about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            for claim in re.findall(rf"\(({'|'.join(CLAIMS)})\)", about):
                found[claim].append(name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
def test_modules_import_what_their_first_lines_allow(claim: str) -> None:
    modules = claiming()[claim]
    assert modules
    done = subprocess.run(
        [sys.executable, "-c", LISTED, *modules], capture_output=True, encoding="utf-8", check=True
    )
    imported = set(json.loads(done.stdout)) - {"tramontane"}
    if claim == "no torch":
        assert "torch" not in imported
    else:
        assert imported <= ({"numpy"} if claim == "numpy only" else set())
