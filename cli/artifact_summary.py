"""What ``export`` and ``inspect`` print about an artifact. (stdlib only)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..runtime.cache import by_layer
from ..runtime.sizes import format_bytes

if TYPE_CHECKING:
    from ..runtime.manifest import Manifest


def summarize(manifest: Manifest) -> dict[str, Any]:
    """The recipe, the sizes and the memory of an artifact: text by label."""
    geometry, memory = manifest.geometry, manifest.memory
    rows = by_layer(geometry.rows, none="growing")
    bits = [
        entry["bits"]
        for entry in manifest.tensors
        if "block" in entry or entry.get("why_float", "").startswith("QUANT=")
        if len(entry["shape"]) > 1
    ]
    return {
        "recipe": f"{manifest.quant} for {manifest.target}",
        "weights": format_bytes(memory.weights_bytes),
        **(
            {}
            if manifest.bits_per_weight is None
            else {"bits per weight": manifest.bits_per_weight}
        ),
        "bits": f"matrices: {', '.join(f'{bits.count(b)} {b}-bit' for b in sorted(set(bits)))}",
        "window": by_layer(geometry.windows, none="none"),
        "cache": f"{format_bytes(memory.cache_bytes_at_most)} at most, "
        + (f"{rows} rows" if any(geometry.rows) else "grows with the tokens")
        + f", {geometry.cache_dtype}",
        "estimated RAM to run": f"{format_bytes(memory.resident_bytes)} at most",
    }
