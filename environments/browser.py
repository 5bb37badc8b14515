"""Finds or installs a browser, and the tools that control it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..console.progress import say
from . import commands, node
from .errors import Absent

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_TOOLS = ("puppeteer-core@25.16.0", "axe-core@4.14.1")


def find() -> Path:
    """A browser; Debian's is installed where none is there and that is allowed.

    Raises:
        Absent: there is none.
    """
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        say("installing chromium")
        commands.run(["apt-get", "update"])
        commands.run(["apt-get", "install", "--yes", "--no-install-recommends", "chromium"])
        found = shutil.which("chromium")
    if found is None:
        raise Absent(f"{', '.join(_BROWSERS)}: none is on PATH")
    return Path(found)


def tools() -> Path:
    """The folder with what leads a browser.

    Raises:
        Absent: npm could not install it.
    """
    return node.node_with("browser", _TOOLS)
