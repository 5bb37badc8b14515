"""Who may import whom? Downward only, in the order of ``LAYERS`` from its end."""

from __future__ import annotations

import ast
import graphlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
    "torture",
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
    "distributed": {"console"},
    "atheris": {"fuzz"},
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


def test_every_folder_of_modules_is_installed() -> None:
    """``pip install .`` takes the packages that are listed, and no others."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {
        ".".join(["tramontane", *path.parent.relative_to(ROOT).parts])
        for path in modules()
        if path.name == "__init__.py" and path.parent.name != "optimum_command"
    }
    found = set(listed["tool"]["setuptools"]["packages"]) - {"optimum.commands.register"}
    assert found == packages


def readers_by_module() -> dict[str, set[str]]:
    """What each module imports of ours, also in a function, or for types alone; no ``__init__``."""
    named = {
        ".".join(["tramontane", *path.relative_to(ROOT).with_suffix("").parts]): path
        for path in modules()
        if path.name != "__init__.py"
    }
    return {
        module: {
            found
            for name in imports(path)
            if (found := name if name in named else name.rpartition(".")[0]) in named
        }
        for module, path in named.items()
    }


def siblings_that_import(readers: dict[str, set[str]]) -> dict[str, dict[str, set[str]]]:
    """By folder: which of its files and folders imports which other, itself or inside of it."""
    found: dict[str, dict[str, set[str]]] = {}
    for module, imported in readers.items():
        own = module.split(".")
        for other in imported - {module}:
            theirs = other.split(".")
            shared = next(n for n, (a, b) in enumerate(zip(own, theirs, strict=False)) if a != b)
            folder = found.setdefault(".".join(own[:shared]), {})
            folder.setdefault(own[shared], set()).add(theirs[shared])
    return found


def circle_in(graph: dict[str, set[str]]) -> str | None:
    """The first circle of a graph, for messages."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return " <- ".join(error.args[1])
    return None


@pytest.mark.slow
def test_no_module_imports_itself_through_others() -> None:
    readers = readers_by_module()
    assert "tramontane.runtime.loading.loaded_model" in readers["tramontane.runtime.model"]
    assert circle_in(readers) is None


@pytest.mark.slow
def test_files_and_folders_that_lie_side_by_side_import_one_way() -> None:
    """At every depth: of two siblings one is below the other, and no circle goes through more."""
    folders = siblings_that_import(readers_by_module())
    assert "published_tokenizer" in folders["tramontane.export"]["formats"]
    assert {name: found for name, graph in folders.items() if (found := circle_in(graph))} == {}


def test_folders_that_import_each_other_are_found_below_their_common_folder() -> None:
    folders = siblings_that_import(
        {"t.a.b.c": {"t.a.d.e"}, "t.a.d.f": {"t.a.b.g"}, "t.a.x": set()}
    )
    assert folders == {"t.a": {"b": {"d"}, "d": {"b"}}}
    assert circle_in(folders["t.a"]) is not None


def test_what_every_layer_may_import_imports_none_of_them() -> None:
    for leaf, allowed in (
        ("runtime/errors.py", set()),
        ("runtime/sizes.py", {"tramontane.runtime.errors.ConfigError"}),
    ):
        ours = {name for name in imports(ROOT / leaf) if name.startswith("tramontane")}
        assert ours == allowed, leaf


# Modules that read environment variables; others set them, or hand all of them on.
READ_THE_ENVIRONMENT = {
    "runtime/untrusted/environment.py",
    "__init__.py",  # a default that onnxruntime reads; before anything else is imported
}


def reads_environment(path: Path) -> bool:
    """Whether a module reads a variable: by get, by name, or by asking whether it is there."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in ("getenv", "getenvb", "environb"):
            return True
        read = (
            (
                isinstance(node, ast.Attribute)
                and node.attr in ("get", "items", "keys")
                and node.value
            )
            or (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and node.value)
            or (isinstance(node, ast.Compare) and node.comparators[0])
        )
        if read and ast.unparse(read) in ("os.environ", "environ"):
            return True
    return False


def test_environment_variables_are_read_in_one_place() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in modules() if reads_environment(path)}
    assert found == READ_THE_ENVIRONMENT


@pytest.mark.parametrize(
    "path", list(modules()), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_every_module_begins_by_saying_what_it_answers(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
