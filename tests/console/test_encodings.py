"""Does no file and no output of a process depend on the user's locale?"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] not in (".venv", ".ns", "tests", "artifacts", "build")
]


def of_the_locale(tree: ast.AST) -> Iterator[int]:
    """Lines where a file, or the output of a process, is text in the locale's encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {keyword.arg for keyword in node.keywords}
        if given & {"encoding", "errors", "flag"}:  # flag: our own read_text
            continue
        is_method = isinstance(node.func, ast.Attribute)
        modes = [one.value for one in node.args if isinstance(one, ast.Constant)]
        is_opened = name == "open" and (not is_method or modes) and "b" not in str(modes[-1:])
        is_read = is_method and name == "read_text" and not node.args
        is_written = is_method and name == "write_text"
        is_taken = "text" in given and bool(given & {"stdout", "capture_output"})
        if is_opened or is_read or is_written or is_taken:
            yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_has_an_encoding_wherever_it_is_read_or_written(path: Path) -> None:
    assert list(of_the_locale(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_what_depends_on_the_locale_is_found() -> None:
    for line in (
        "open(path)",
        "open(path, 'w')",
        "path.open('w')",
        "path.read_text()",
        "path.write_text('x')",
        "subprocess.run(words, capture_output=True, text=True)",
    ):
        assert list(of_the_locale(ast.parse(line))) == [1], line
    for line in ("open(path, 'rb')", "path.open('wb')", "Image.open(path)", "path.read_bytes()"):
        assert list(of_the_locale(ast.parse(line))) == [], line
