"""Texts that copy from their prompts as an assistant's answers do: an edited function, quotes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiedText:
    """A prompt, and the answer whose decoding is measured."""

    what: str
    prompt: str
    answer: str


_FUNCTION = '''def read_settings(path, defaults=None):
    """Read a file of settings: lines of a name, an equals sign and a value.

    Empty lines and lines that begin with # are left out. Names are in lower case.
    """
    settings = dict(defaults or {})
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, equals, value = line.partition("=")
            if not equals:
                raise ValueError(f"{path}, line {number}: no equals sign")
            settings[name.strip().lower()] = value.strip()
    return settings
'''
# Refuses a name that occurs twice.
_EDITED = _FUNCTION.replace(
    """            settings[name.strip().lower()] = value.strip()
""",
    """            name = name.strip().lower()
            if name in found:
                raise ValueError(f"{path}, line {number}: {name} occurs twice")
            found.add(name)
            settings[name] = value.strip()
""",
).replace(
    "    with open(path",
    """    found = set()
    with open(path""",
)

_PASSAGE = (
    "The harbour of the old town was built in three parts. The eastern wall is the oldest, and "
    "was laid by masons who came from the north with stones from their own quarries. A hundred "
    "years later the council added the long pier, because larger ships could no longer turn "
    "inside. The lighthouse at its end burned oil until the storm of the spring flood, which "
    "took the lamp room and half of the stairs. It was not built again for eleven years. In that "
    "time fishermen hung lanterns from the roof of the chapel, one for each boat that was still "
    "at sea. The new lighthouse stands on the hill, where no wave reaches it, and its light is "
    "seen from twenty miles away.\n"
)
_QUOTED = (
    ' It burned oil until a storm destroyed it. The text says: "The lighthouse at its end burned '
    "oil until the storm of the spring flood, which took the lamp room and half of the stairs. It "
    'was not built again for eleven years." Until then, "fishermen hung lanterns from the roof '
    'of the chapel, one for each boat that was still at sea." Today "the new lighthouse stands '
    'on the hill, where no wave reaches it, and its light is seen from twenty miles away."\n'
)

TEXTS = (
    CopiedText(
        what="an edited function",
        prompt=f"{_FUNCTION}\n\n# The same, which refuses a name that occurs twice:\n",
        answer=_EDITED,
    ),
    CopiedText(
        what="an answer with quotes",
        prompt=f"{_PASSAGE}\nWhat happened to the lighthouse?",
        answer=_QUOTED,
    ),
)
