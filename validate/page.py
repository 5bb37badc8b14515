"""How does a report look to people? One page, with all that it needs inside."""

from __future__ import annotations

from typing import Any


def render_page(report: dict[str, Any]) -> str:
    """Render a report as HTML."""
    return f"<!doctype html><title>{report['artifact']['name']}</title>"
