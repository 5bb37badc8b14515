"""What ``make help`` and ``make help-TARGET`` print, and which options make refuses. (stdlib only)

All of it is read from the Makefile.
"""

from __future__ import annotations

import difflib
import re
import sys
import textwrap
from pathlib import Path

_RULE = re.compile(r"^([a-z-]+):.*?##\s*([a-z ]+): (.*)$")
_MACRO = re.compile(r"^([a-z-]+) = (.*)$")
_DEFAULT = re.compile(
    r"^(?:([a-z-]+): (?:export )?)?([A-Z_]+) \??= (?:\$\(or \S+,([^)]*)\)|(.*))$"
)
_OPTION = re.compile(r"^#\? ([A-Z_]+)(?:/([a-z-]+))? +(.*)$")
_MORE = re.compile(r"^#\? {2,}(\S.*)$")  # of the option's line before
_USED_MACRO = re.compile(r"\$\(([a-z-]+)\)")
_READ_OPTION = re.compile(r"[A-Z][A-Z_]+")
# Variables of make, the shell, Python, compilers and other programs that recipes start.
_OF_OTHERS = re.compile(
    r"\.?SHELL\w*|PATH|HOME|LANG|TERM|TMPDIR|NO_COLOR|AR|CC|CXX|CPP|LD|\w*FLAGS|\w+_(?:proxy|PROXY)|"
    r"(?:MAKE|PYTHON|VIRTUAL_ENV|(?:LC|XDG|PIP|UV|SSL|PYTEST|RUFF|MYPY|HF|OMP|MKL|OPENBLAS|KMP|CUDA|"
    r"TORCH|ORT|DASK|TRAMONTANE)_)\w*"
)
_COLUMNS = 99
_MOST_DEPTH = 4  # of macros within macros


class Makefile:
    """The targets of a Makefile, what they do, and the options that they read."""

    def __init__(self, text: str) -> None:
        self.groups: dict[str, dict[str, str]] = {}  # text by target, by group
        self.recipes: dict[str, str] = {}  # by target, macros not expanded
        self.macros: dict[str, str] = {}
        self.options: dict[tuple[str, str], str] = {}  # text by option and target, or ""
        self.defaults: dict[tuple[str, str], str] = {}  # likewise
        target, option = "", ("", "")
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("\t"):
                self.recipes[target] = self.recipes.get(target, "") + line
            elif found := _RULE.match(line):
                target, group, summary = found.groups()
                self.groups.setdefault(group, {})[target] = summary
                self.recipes.setdefault(target, "")
            elif found := _OPTION.match(line):
                option = found[1], found[2] or ""
                self.options[option] = found[3]
            elif found := _MORE.match(line):
                self.options[option] += f" {found[1]}"
            elif found := _DEFAULT.match(line):
                self.defaults[found[2], found[1] or ""] = found[3] or found[4]
            elif found := _MACRO.match(line):
                self.macros[found[1]] = found[2]
            else:
                target = line.partition(":")[0]

    def options_of(self, target: str) -> dict[str, str]:
        """What a target's recipe reads: explanation and default by option, in the file's order."""
        recipe = self.recipes[target] or self.recipes.get("$(READY)", "")
        for _ in range(_MOST_DEPTH):
            recipe = _USED_MACRO.sub(lambda used: self.macros.get(used[1], ""), recipe)
        read = set(_READ_OPTION.findall(recipe))
        names = dict.fromkeys(name for name, _ in self.options if name in read)
        return {name: self._explained(name, target) for name in names}

    def _explained(self, name: str, target: str) -> str:
        text = self.options.get((name, target), self.options.get((name, ""), ""))
        default = self.defaults.get((name, target), self.defaults.get((name, ""), ""))
        return f"{text} (default: {default})" if default else text


def describe(makefile: Makefile) -> str:
    """All targets, one line each, in groups."""
    width = max(map(len, makefile.recipes)) + 2
    lines = []
    for group, targets in makefile.groups.items():
        lines += [f"{group}:", *(f"  {name:<{width}}{text}" for name, text in targets.items()), ""]
    return "\n".join([*lines, "make help-export lists the options of make export, and so on."])


def describe_target(makefile: Makefile, target: str) -> str:
    """A target and its options, one line each, or more where it is longer than ``_COLUMNS``."""
    summary = next(texts[target] for texts in makefile.groups.values() if target in texts)
    options = makefile.options_of(target)
    if not options:
        return f"make {target}: {summary}\n  it has no options"
    width = max(map(len, options)) + 2
    lines = []
    for name, text in options.items():
        start, more = f"  {name + '=':<{width}}", " " * (width + 2)
        lines += textwrap.wrap(text, _COLUMNS, initial_indent=start, subsequent_indent=more)
    return "\n".join([f"make {target}: {summary}", *lines])


def refusal(makefile: Makefile, targets: list[str], given: list[str]) -> str:
    """One line about the first option that no target of a call reads; empty where there is none.

    Args:
        makefile: ours.
        targets: of one call of make; if one is not in ``makefile``, nothing is refused.
        given: names of the variables on the command line.
    """
    if not targets or not set(targets) <= makefile.recipes.keys():
        return ""
    read = ["PYTHON", *(name for target in targets for name in makefile.options_of(target))]
    known = {name for name, _ in makefile.options}
    for name in given:
        if name in read or _OF_OTHERS.fullmatch(name):
            continue
        found = f"it has no option {name}=" if name in known else f"unknown option {name}="
        near = difflib.get_close_matches(name.upper(), read, n=1)
        expected = f", expected {near[0]}=" if near else ""
        called, target = " ".join(targets), targets[0]
        return f"make {called}: {found}{expected}; make help-{target} lists its options"
    return ""


def main(arguments: list[str]) -> int:
    """Print the help of all targets, or of one; 2 where there is no such target.

    With ``--refuse TARGETS NAME...``: print why an option is refused, if one is.
    """
    path = Path(__file__).parents[1] / "Makefile"
    makefile = Makefile(path.read_text(encoding="utf-8"))
    known = {name for targets in makefile.groups.values() for name in targets}
    if arguments[:1] == ["--refuse"]:
        print(refusal(makefile, arguments[1].split(), arguments[2:]))
    elif not arguments:
        print(describe(makefile))
    elif arguments[0] in known:
        print(describe_target(makefile, arguments[0]))
    else:
        targets = ", ".join(sorted(known))
        print(f"make help-{arguments[0]}: no such target, expected one of {targets}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
