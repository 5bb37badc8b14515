"""The exception for a runtime that cannot be had on this machine."""

from __future__ import annotations


class Absent(Exception):  # noqa: N818 - a state, not an error
    """A runtime that cannot be had here; the message has the command or file that failed."""
