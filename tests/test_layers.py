"""Who may import whom? Downward only, in the order of ``LAYERS`` from its end."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    "runtime",
    "console",
    "graphs",
    "export",
    "validate",
    "faults",
    "native",
    "environments",
    "deploy",
    "interop",
    "bench",
    "cli",
    "fuzz",
    "__main__",
    "optimum_command",
)
ALLOWED = {
    "torch": {"export", "validate", "interop"},  # a runner of other people's code
    "safetensors": {"export"},
    "gguf": {"export"},
    "onnx": {"graphs", "export", "faults", "bench", "fuzz"},
    "onnxscript": {"graphs", "export"},
    "onnx_ir": {"graphs", "export"},
    "onnxruntime": {"runtime", "validate", "interop", "bench"},
    "transformers": {"validate", "interop"},
    "optimum": {"interop", "optimum_command"},
    "model_signing": {"deploy"},
    "cyclonedx": {"deploy"},
}


def modules() -> Iterator[Path]:
    yield from sorted(ROOT.glob("*.py"))
    for layer in LAYERS:
        yield from sorted((ROOT / layer).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all that a module imports, wherever it stands in the file."""
    package = ["tramontane", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*prefix, alias.name]) for alias in node.names)


@pytest.mark.parametrize(
    "path", list(modules()), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_imports_point_downward_and_packages_stay_in_their_layer(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "tramontane" and rest[0] in LAYERS:
            assert LAYERS.index(rest[0]) <= LAYERS.index(layer), name
        if top in ALLOWED:
            assert layer in ALLOWED[top], name


def test_what_every_layer_may_import_imports_none_of_them() -> None:
    for leaf, allowed in (
        ("runtime/errors.py", set()),
        ("runtime/sizes.py", {"tramontane.runtime.errors.ConfigError"}),
    ):
        ours = {name for name in imports(ROOT / leaf) if name.startswith("tramontane")}
        assert ours == allowed, leaf


@pytest.mark.parametrize(
    "path", list(modules()), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_every_module_begins_by_saying_what_it_answers(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
