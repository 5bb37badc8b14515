"""A clone as small as make needs it, whose commands are stubs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
_STUB = f"""#!{sys.executable} -IS
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if "--print-out" in sys.argv:
    print("artifacts/default")
"""


class Clone:
    """A folder with our Makefile; each command that it calls writes down its words instead."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._calls = folder, folder / "calls"
        (folder / "console").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copy(ROOT / "console" / "make_help.py", folder / "console")
        for name in ("pyproject.toml", "constraints.txt"):
            (folder / name).touch()
        for name in ("tramontane", "python", "ruff", "mypy"):
            self.program(name, _STUB)
        (folder / ".venv" / ".ready").touch()

    def program(self, name: str, text: str) -> None:
        """Write a program of the environment."""
        path = self.folder / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def make(
        self, *words: str, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run make, as from a shell in ``cwd``; nothing of a make that runs these tests is left."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        folder = str(cwd or self.folder)
        return subprocess.run(
            ["make", *words],
            cwd=folder,
            env={**kept, "PWD": folder, "CALLS": str(self._calls), **(env or {})},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    def calls(self) -> list[list[str]]:
        """Program and words of every call since the last time."""
        lines = self._calls.read_text(encoding="utf-8").splitlines()
        self._calls.unlink()
        return [json.loads(line) for line in lines]

    def called(
        self, words: Sequence[str], *, env: dict[str, str] | None = None
    ) -> list[list[str]]:
        """Calls of one run of make that succeeds, but for those that ask for a name."""
        done = self.make(*words, env=env)
        assert done.returncode == 0, done.stderr
        return [call for call in self.calls() if "--print-out" not in call]

    def pasted(self, line: str) -> list[list[str]]:
        """Calls of a command line that a shell runs here, but for those that ask for a name."""
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "CALLS": str(self._calls)},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        if not self._calls.exists():  # as after make help
            return []
        return [call for call in self.calls() if "--print-out" not in call]
