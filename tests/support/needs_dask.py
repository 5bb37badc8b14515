"""The mark of tests that need Dask, which an extra installs."""

from __future__ import annotations

import importlib.util

import pytest

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="distributed is not installed"
)
