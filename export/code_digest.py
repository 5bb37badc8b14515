"""One hash of the code behind a module: its own file and all of ours that it imports.

A cached result is valid for the code that computed it. That code is found by following imports
from the module that computes, so a new pass is covered as soon as something imports it, and code
that is not imported, such as the linter or the model card, is not.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Collection
from pathlib import Path

_NAME = "tramontane"
_PACKAGE = Path(__file__).parents[1]
_PRINTS_ONLY = "console"  # changes what users see, and no result


def code_digest(
    module: Path | str, *, beside: Collection[str] = (), package: Path = _PACKAGE
) -> str:
    """Hash a module and all of our modules that it imports, directly or through others.

    Args:
        module: the path of the module that computes, usually the caller's ``__file__``.
        beside: modules or packages, such as ``export.sidecars``, that the module imports for
            something else. Its own imports of them are not followed; those of the others are.
        package: the folder that holds all of our code.

    Returns:
        sha256 of paths, relative to ``package``, and contents.
    """
    digest = hashlib.sha256()
    for path in sorted(imported_files(Path(module), beside=beside, package=package)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def imported_files(
    module: Path, *, beside: Collection[str] = (), package: Path = _PACKAGE
) -> set[Path]:
    """The files that ``code_digest`` hashes; its arguments are the same."""
    found = {module}
    named = {name for name in imported_names(module, package) if not _is_in(name, beside)}
    waiting = [*named]
    while waiting:
        path = _file_of(waiting.pop(), package)
        if path is None or path in found:
            continue
        found.add(path)
        names = set(imported_names(path, package)) - named
        named |= names
        waiting += names
    return found


def imported_names(module: Path, package: Path = _PACKAGE) -> tuple[str, ...]:
    """Names of all of ours that a module imports or starts, such as ``export.config.number``.

    A module that is started as a process (``python -m``) is named by a string. A module that calls
    ``import_module``, as lists of variations do, imports all modules of its folder.
    """
    content = module.read_bytes()
    names = _names_in(content, module.relative_to(package).parts[:-1])
    if b"import_module(" not in content:
        return names
    beside = (path.relative_to(package).with_suffix("") for path in module.parent.rglob("*.py"))
    return (*names, *sorted(".".join(path.parts) for path in beside if path.name != "__init__"))


@functools.cache
def _names_in(content: bytes, folders: tuple[str, ...]) -> tuple[str, ...]:
    try:
        tree = ast.parse(content)
    except SyntaxError:  # half edited: the process computes with the code that it loaded before
        return ()
    found = []
    for node in ast.walk(tree):
        prefix, names = "", [""]
        if isinstance(node, ast.ImportFrom):
            base = [_NAME, *folders[: len(folders) - node.level + 1]] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names = [f".{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]
        for name in names:
            top, _, rest = f"{prefix}{name}".partition(".")
            if top == _NAME and rest and not _is_in(rest, (_PRINTS_ONLY,)):
                found.append(rest)
    return tuple(found)


def _is_in(name: str, packages: Collection[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _file_of(name: str, package: Path) -> Path | None:
    """The file of a module, or of the module that an imported name is defined in."""
    for part in (name, name.rpartition(".")[0]):
        path = package / f"{part.replace('.', '/')}.py"
        if part and path.is_file():
            return path
    return None
