"""The driver's logger.

What a provider cannot run is logged at level WARNING, loading and all that onnxruntime says of a
failed run at INFO, changes of a session's cache at DEBUG.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("tramontane.runtime")
