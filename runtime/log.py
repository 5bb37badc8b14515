"""The driver's logger: loading at level INFO, changes of a session's cache at DEBUG."""

from __future__ import annotations

import logging

logger = logging.getLogger("tramontane.runtime")
