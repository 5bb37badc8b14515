"""What does an artifact's model card say? Everything in it comes from the manifest."""

from __future__ import annotations

from pathlib import Path

import jinja2

from ..runtime.manifest import Manifest

_TEMPLATE = Path(__file__).with_name("card.md.jinja")


def render_card(manifest: Manifest, *, name: str) -> str:
    """Render the card as Markdown; ``name`` is the checkpoint's."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(manifest=manifest, geometry=manifest.geometry, name=name)
