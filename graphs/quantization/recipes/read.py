"""Reads the file of a recipe, TOML with one line for each pattern; errors name the line.

    finer = "int8"                                            # optional
    activations = "per_block"                                 # optional

    [matrices]
    "head" = { bits = 8, block = 32, method = "round_to_nearest", scales = "float32" }
    "*"    = { bits = 4, method = "gptq" }

The first pattern that matches a matrix decides. (stdlib only)
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ....console.text_file import read_text
from ....runtime.errors import ConfigError
from ....runtime.untrusted.fields import shown
from ..methods import all_methods
from ..methods.all_methods import find_method
from ..scheme import BITS, SCALE_TYPES
from .recipe import ACTIVATIONS, FLOAT_BITS, PER_BLOCK, Recipe, Rule

_TABLE = "matrices"
_SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 256
_MOST_LINES, _LONGEST_LINE = 4096, 1000  # a model of 200 layers has 1401 matrices
_DIGITS = 8  # of the digest in the name of one's own recipe


def read_recipe(path: Path) -> Recipe:
    """Read one's own file; its name is the file's, with some digits of a hash of its content.

    Raises:
        ConfigError: it cannot be read, or is no recipe.
    """
    text = read_text(path, flag="--recipe")
    found = parse_recipe(text, name=path.stem, path=str(path))
    return dataclasses.replace(found, name=f"{path.stem}-{found.digest()[:_DIGITS]}")


def parse_recipe(text: str, *, name: str, path: str | None = None) -> Recipe:
    """A recipe by the text of its file.

    Args:
        text: TOML.
        name: of the recipe.
        path: of the file, for messages; None: one of ours.

    Raises:
        ConfigError: naming the file and the line.
    """
    return _Reader(text, path or f"{name}.toml").recipe(name=name, path=path)


class _Reader:
    """One file."""

    def __init__(self, text: str, where: str) -> None:
        self._text, self._where = text, where

    def recipe(self, *, name: str, path: str | None) -> Recipe:
        self._refuse_large()
        try:
            content = tomllib.loads(self._text)
        except (ValueError, RecursionError) as error:  # also of 5000 digits or nested lists
            raise ConfigError(
                f"{self._where}: is no TOML ({error}), expected lines such as "
                '"layers.*" = { bits = 4 }; correct it'
            ) from error
        self._refuse_unknown(content, ("finer", "activations", _TABLE))
        table = content.get(_TABLE)
        if not isinstance(table, Mapping) or not table:
            raise self._error(
                _TABLE,
                "no table of patterns" if table is None else f"found {shown(table)}",
                f'[{_TABLE}] and lines such as "*" = {{ bits = 4 }}',
            )
        rules = tuple(self._rule(pattern, value) for pattern, value in table.items())
        recipe = Recipe(
            name=name,
            rules=rules,
            activations=self._one_of(content, "activations", ACTIVATIONS, PER_BLOCK),
            finer=self._finer(content),
            path=path,
            text=self._text,
        )
        if recipe.smooths_activations and recipe.rounds_in_calibration:
            names = " and ".join(dict.fromkeys(rule.method for rule in rules))
            raise ConfigError(
                f"{self._where}: methods {names}, expected either those that smooth activations "
                "or those that round in calibration: smoothing changes what calibration has "
                "rounded; take one of them"
            )
        return recipe

    def _refuse_large(self) -> None:
        """Refuse what no recipe needs, and what takes long to parse."""
        lines = self._text.splitlines()
        longest = max(map(len, lines), default=0)
        if len(lines) > _MOST_LINES or longest > _LONGEST_LINE:
            raise ConfigError(
                f"{self._where}: {len(lines)} lines, the longest of {longest} characters, "
                f"expected at most {_MOST_LINES} of {_LONGEST_LINE}; let a pattern "
                "match several matrices"
            )

    def _rule(self, pattern: str, value: Any) -> Rule:
        if not isinstance(value, Mapping):
            raise self._error(pattern, f"found {shown(value)}", "a table, such as { bits = 4 }")
        self._refuse_unknown(value, ("bits", "block", "method", "scales"), within=pattern)
        if "bits" not in value:
            raise self._error(pattern, "no bits", "bits, such as { bits = 4 }")
        bits = self._one_of(value, "bits", (*BITS, FLOAT_BITS), None, within=pattern)
        block = value.get("block")
        if block is not None and not (
            type(block) is int
            and _SMALLEST_BLOCK <= block <= _LARGEST_BLOCK
            and block & (block - 1) == 0
        ):
            blocks = "16, 32, 64, 128 or 256, or no block, so that --block decides"
            raise self._error(pattern, f"block = {shown(block)}", blocks)
        others = sorted({"block", "method", "scales"} & set(value))
        if bits == FLOAT_BITS and others:
            raise self._error(
                pattern, f"{others[0]} beside bits = {FLOAT_BITS}, which is float", "bits alone"
            )
        methods = all_methods.METHODS
        method = self._one_of(value, "method", methods, methods[0], within=pattern)
        if bits != FLOAT_BITS and bits not in find_method(method).weight_errors:
            raise self._error(
                pattern,
                f"{bits} bits by {method}",
                f"one of {_listed(find_method(method).weight_errors)} bits",
            )
        return Rule(
            pattern=pattern,
            bits=bits,
            block=block,
            method=method,
            scales=self._one_of(value, "scales", SCALE_TYPES, SCALE_TYPES[0], within=pattern),
            line=self._line_of(pattern),
        )

    def _finer(self, content: Mapping[str, Any]) -> str | None:
        found = content.get("finer")
        if found is not None and not isinstance(found, str):
            raise self._error("finer", f"found {shown(found)}", 'a recipe\'s name, such as "int8"')
        return found

    def _one_of(
        self,
        table: Mapping[str, Any],
        key: str,
        expected: Collection[Any],
        default: Any,
        *,
        within: str | None = None,
    ) -> Any:
        found = table.get(key, default)
        if type(found) is bool or found not in expected:
            raise self._error(
                within or key, f"{key} = {shown(found)}", f"one of {_listed(expected)}"
            )
        return found

    def _refuse_unknown(
        self, table: Mapping[str, Any], expected: Collection[str], *, within: str | None = None
    ) -> None:
        for key in table:
            if key not in expected:
                raise self._error(
                    within or key, f"unknown key {shown(key)}", f"one of {_listed(expected)}"
                )

    def _error(self, key: str, found: str, expected: str) -> ConfigError:
        line = self._line_of(key)
        where = self._where if line is None else f'{self._where}:{line}: "{key}"'
        return ConfigError(f"{where}: {found}, expected {expected}; correct it")

    def _line_of(self, key: str) -> int | None:
        """The line where a key is written: tomllib has no lines of what it parsed."""
        return self._lines.get(key)

    @functools.cached_property
    def _lines(self) -> dict[str, int]:
        """The first line of each key, from 1; of ``[table.key]`` the last key."""
        found: dict[str, int] = {}
        for number, line in enumerate(self._text.splitlines(), 1):
            found.setdefault(_key_of(line.strip()), number)
        return found


def _key_of(line: str) -> str:
    """The key that a line of TOML gives a value, or the last one of a heading; without quotes."""
    if line.startswith("["):
        words = line.rpartition("]")[0].lstrip("[").strip()
        quote = words[-1:] if words.endswith(("'", '"')) else ""
        start = words.rfind(quote or ".", 0, len(words) - len(quote))
        return words[start + 1 : len(words) - len(quote)].strip()
    quote = line[:1] if line.startswith(("'", '"')) else ""
    return line[len(quote) :].partition(quote or "=")[0].strip()


def _listed(values: Collection[Any]) -> str:
    return ", ".join(map(str, values))
