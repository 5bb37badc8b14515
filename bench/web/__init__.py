"""Speed of each recipe in a browser's WASM."""
