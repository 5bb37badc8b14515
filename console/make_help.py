"""What ``make help`` and ``make help-TARGET`` print, read from the Makefile. (stdlib only)"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_RULE = re.compile(r"^([a-z-]+):.*?##\s*([a-z ]+): (.*)$")
_MACRO = re.compile(r"^([a-z-]+) = (.*)$")
_DEFAULT = re.compile(r"^(?:([a-z-]+): )?([A-Z_]+) \??= (?:\$\(or \S+,([^)]*)\)|(.*))$")
_OPTION = re.compile(r"^#\? ([A-Z_]+)(?:/([a-z-]+))? +(.*)$")
_USED_MACRO = re.compile(r"\$\(([a-z-]+)\)")
_READ_OPTION = re.compile(r"[A-Z][A-Z_]+")
_MOST_DEPTH = 4  # of macros within macros


class Makefile:
    """The targets of a Makefile, what they do, and the options that they read."""

    def __init__(self, text: str) -> None:
        self.groups: dict[str, dict[str, str]] = {}  # text by target, by group
        self.recipes: dict[str, str] = {}  # by target, macros not expanded
        self.macros: dict[str, str] = {}
        self.options: dict[tuple[str, str], str] = {}  # text by option and target, or ""
        self.defaults: dict[tuple[str, str], str] = {}  # likewise
        target = ""
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("\t"):
                self.recipes[target] = self.recipes.get(target, "") + line
            elif found := _RULE.match(line):
                target, group, summary = found.groups()
                self.groups.setdefault(group, {})[target] = summary
                self.recipes.setdefault(target, "")
            elif found := _OPTION.match(line):
                self.options[found[1], found[2] or ""] = found[3]
            elif found := _DEFAULT.match(line):
                self.defaults[found[2], found[1] or ""] = found[3] or found[4]
            elif found := _MACRO.match(line):
                self.macros[found[1]] = found[2]
            else:
                target = line.partition(":")[0]

    def options_of(self, target: str) -> dict[str, str]:
        """What a target's recipe reads: explanation and default by option, in the file's order."""
        recipe = self.recipes[target]
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
    """A target and its options, one line each."""
    summary = next(texts[target] for texts in makefile.groups.values() if target in texts)
    options = makefile.options_of(target)
    if not options:
        return f"make {target}: {summary}\n  it has no options"
    width = max(map(len, options)) + 2
    lines = [f"  {name + '=':<{width}}{text}" for name, text in options.items()]
    return "\n".join([f"make {target}: {summary}", *lines])


def main(arguments: list[str]) -> int:
    """Print the help of all targets, or of one; 2 where there is no such target."""
    path = Path(__file__).parents[1] / "Makefile"
    makefile = Makefile(path.read_text(encoding="utf-8"))
    known = {name for targets in makefile.groups.values() for name in targets}
    if not arguments:
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
