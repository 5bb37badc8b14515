"""Command lines in messages, which work when pasted into the user's shell. (stdlib only)

With ``TRAMONTANE_CALLER=make`` the Makefile is the caller, and hints are calls of make.
``TRAMONTANE_CALLED_FROM`` is the folder where make was called, ``TRAMONTANE_OPTIONS`` the names of
its options.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..runtime.errors import ContractError
from ..runtime.untrusted import environment

CALLER, CALLED_FROM, OPTIONS = (
    f"TRAMONTANE_{name}" for name in ("CALLER", "CALLED_FROM", "OPTIONS")
)

# By subcommand: options of make that it takes as positional arguments, in order.
_POSITIONAL = {
    "export": ("MODEL",),
    "run": ("OUT", "PROMPT"),
    "validate": ("OUT",),
    "sign": ("OUT",),
    "verify": ("OUT",),
    "inspect": ("MODEL",),
    "recipes": ("RECIPE",),
    "budget": ("MODEL",),
    "synthesize": ("GEOMETRY", "OUT"),
}
_TARGETS = {"synthesize": "synthetic"}  # those of make whose subcommand has another name
# Other options have the same name in both, as WINDOW and --window.
_FLAGS = {"MODEL": "--reference"}
_NAMES = {flag: name for name, flag in _FLAGS.items()}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # ORG/NAME
_SWITCHES = ("NO_REPLACE", "NO_RESUME", "NO_VALIDATE", "THOROUGH")


def suggest(command: str, **values: str | Path | bool | Sequence[Path]) -> str:
    """A command line that runs a subcommand, quoted for the user's shell.

    Args:
        command: the subcommand.
        values: by the name of make's option, e.g. ``OUT``; True for a switch, a sequence for an
            option that is repeated. A call of make leaves out those that make has no option for,
            since its target always sets them.
    """
    if _is_made():
        options = _options()
        given = [
            f"{name}={' '.join(map(str, _each(value)))}"
            for name, value in values.items()
            if name in options
        ]
        return quoted([*_make(), _TARGETS.get(command, command), *given])
    places = _POSITIONAL[command]
    words = [str(values[name]) for name in places if name in values]
    for name, value in values.items():
        for one in _each(value) if name not in places else ():
            words.append(_FLAGS.get(name, f"--{name.lower().replace('_', '-')}"))
            words += [] if value is True else [str(one)]
    return quoted([*_program("tramontane", module="tramontane"), command, *words])


def refuse_unreadable() -> None:
    """Refuse what no Makefile of ours puts into the three variables.

    Raises:
        ConfigError: one of them cannot be read.
    """
    if _is_made():
        _options()
        _make()


def _each(value: str | Path | bool | Sequence[Path]) -> Sequence[str | Path | bool]:
    """The values of an option; those of a switch and of a single one are one."""
    if value is True:
        return ("1",)
    return (value,) if isinstance(value, (str, Path, bool)) else value


def instead_of(path: Path) -> str:
    """How to download a model of the Hugging Face Hub; empty where a path is no name of one.

    Where the path's first folder exists, the path was mistyped.
    """
    name = path.as_posix()
    if not _HUB_NAME.fullmatch(name) or Path(path.parts[0]).exists():
        return ""
    folder = Path("models") / path.name
    command = download(name, folder)
    return f"if it is a model on the Hugging Face Hub, download it: {command}, then name {folder}"


def download(name: str, folder: Path) -> str:
    """The command that downloads a model of the Hugging Face Hub, ``ORG/NAME``, to a folder."""
    program = _program("hf", module="huggingface_hub.cli.hf")
    return quoted([*program, "download", name, "--local-dir", str(folder)])


def install(extra: str = "export") -> str:
    """The command that installs an extra of ours, for this kind of installation.

    Args:
        extra: as in ``pyproject.toml``; what all commands need but the driver's own packages.
    """
    pip = [sys.executable, "-m", "pip", "install"]
    source = _source()
    if source is not None and source.is_dir():
        make = quoted(["make", "-C", str(source), "dev"])
        return f"{make}, or {quoted([*pip, '-e', f'{source}[{extra}]'])}"
    if source is not None:
        return quoted([*pip, f"{source}[{extra}]"])
    wheel = f"tramontane-{__version__}-py3-none-any.whl[{extra}]"
    clone = quoted([*pip, f".[{extra}]"])
    return f"in a clone: make dev, or {clone}; from a wheel: {quoted([*pip, wheel])}"


def names_in_make(message: str) -> str:
    """The names that make has for the flags in a message; empty where make is not the caller.

    >>> names_in_make("--window 5000: expected 1 to 4096")
    ''
    """
    if not _is_made():
        return ""
    options = _options()
    names = []
    for flag in dict.fromkeys(re.findall(r"--[a-z][a-z-]*[a-z]", message)):
        name = _NAMES.get(flag, flag.removeprefix("--").upper().replace("-", "_"))
        if name in options:
            names.append(f"{flag} is {name}={'1' if name in _SWITCHES else ''}")
    return f"with make, {', '.join(names)}" if names else ""


def quoted(words: Sequence[str]) -> str:
    """Words as one line for the user's shell.

    >>> print(quoted(["ls", "it's here"]))
    ls 'it'"'"'s here'
    """
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _is_made() -> bool:
    return environment.one_of(CALLER, ("make",)) == "make"


def _options() -> list[str]:
    return environment.words(OPTIONS, "[A-Z_]+", what="names of make's options")


def _make() -> list[str]:
    """The words that call make, with ``-C`` where the user is in another folder."""
    called_from = environment.folder(CALLED_FROM)
    if called_from is None or (called_from.is_dir() and called_from.samefile(".")):
        return ["make"]
    return ["make", "-C", os.getcwd()]


def _program(name: str, *, module: str) -> list[str]:
    """How a program of this Python's environment is called from a shell."""
    found, folder = shutil.which(name), Path(sysconfig.get_path("scripts"))
    scripts = [folder / name, folder / f"{name}.exe"]
    script = next((path for path in scripts if path.is_file()), None)
    if found and script and os.path.samefile(found, script):
        return [name]
    if script:
        return [_nearest(script)]
    return [_nearest(Path(sys.executable)), "-m", module]


def _nearest(path: Path) -> str:
    """A program's path, relative if it is below the working folder."""
    folder = Path.cwd()
    if not path.is_relative_to(folder):
        return str(path)
    relative = path.relative_to(folder)
    return str(relative) if len(relative.parts) > 1 else os.path.join(".", relative)


def _source() -> Path | None:
    """The clone or the wheel that this was installed from, where it is still there.

    Source: PEP 610, direct_url.json.
    """
    # A third of the time that the command takes to start, and only an error message needs them.
    from importlib import metadata
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    from ..runtime.untrusted.json_text import parse_object

    here = Path(__file__).parents[1]
    if (here / "pyproject.toml").is_file():
        return here
    try:
        text = metadata.distribution("tramontane").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    try:
        found = parse_object(text.encode(), what="direct_url.json").get("url") if text else None
        url = urlsplit(found) if isinstance(found, str) else None
    except (ContractError, ValueError):  # of urlsplit: a note is left out, and nothing else
        return None
    if url is None or url.scheme != "file":
        return None
    path = Path(url2pathname(url.path))
    return path if path.exists() else None
