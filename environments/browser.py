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
    """The path of a browser; where there is none, root installs Debian's with apt-get.

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
    """The folder with the Node packages that control a browser.

    Raises:
        Absent: npm could not install it.
    """
    return node.node_with("browser", _TOOLS)
